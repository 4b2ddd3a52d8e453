"""An ECS task on this machine: the containers of a task definition, run as local processes.

:class:`local.task.task.LocalTask` is what runs them, :mod:`local.task.images` what takes the place
of their images. Nothing is imported here: the stand-in for Consul's agent is in this package too,
and a task waits for it.
"""
