"""`python -m containers mesh-init` and `python -m containers health-sync`: what the image runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

from containers.layout import HEALTH_SYNC, MESH_INIT

_USAGE: Final = f"""\
usage: python -m containers {MESH_INIT} | {HEALTH_SYNC}

  {MESH_INIT}    register the task's service and proxy with Consul, write Envoy's configuration
  {HEALTH_SYNC}  report the health of the task's containers to Consul until the task stops
"""
_WRONG_USAGE: Final = 2


def main(arguments: Sequence[str]) -> int:
    """Run the program that the arguments name and return its exit status."""
    # Each program loads what it needs, and nothing of the other.
    from containers.program import run_program  # noqa: PLC0415

    if list(arguments) == [MESH_INIT]:
        from containers import mesh_init  # noqa: PLC0415

        return run_program(mesh_init.run, os.environ, stop_interrupts=True)
    if list(arguments) == [HEALTH_SYNC]:
        from containers import health_sync  # noqa: PLC0415

        # A write that is broken off may still arrive, after the one that says critical.
        return run_program(health_sync.run, os.environ, stop_interrupts=False)
    sys.stderr.write(_USAGE)
    return _WRONG_USAGE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
