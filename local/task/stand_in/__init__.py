"""A stand-in for the ``consul`` program, as far as a task needs it, where there is no real one."""
