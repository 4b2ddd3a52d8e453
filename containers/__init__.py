"""The programs that run beside an application in its ECS task, and what they share.

`mesh-init` registers the service and its sidecar proxy with the task's Consul agent and writes what
Envoy starts from; `health-sync` then tells Consul what ECS knows about the containers' health. Both
need the standard library only: the image holds Python and this package.
"""
