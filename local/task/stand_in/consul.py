"""``consul agent -config-file=…`` and ``consul connect envoy … -bootstrap``, run by path.

In front of Consul's own arguments stand ``--server``, the HTTP address of the server that an agent
belongs to (empty for the one that it is to join), ``--hosts``, a file with the addresses of names
(or nothing), ``--dates``, with ``ignore`` for whatever certificates say of them, and ``--``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

VERSION = "1.10.1"


def main() -> int:
    """Run what the command line says."""
    _, _, server, _, hosts_file, _, dates, _, *arguments = sys.argv
    match arguments:
        case ["agent", *flags]:
            from local.task.stand_in.agent import run_agent  # noqa: PLC0415 - who needs it loads it

            return run_agent(flags, server, hosts_file, ignore_dates=dates == "ignore")
        case ["connect", "envoy", *flags]:
            from local.task.stand_in.bootstrap import run_connect_envoy  # noqa: PLC0415 - see above

            return run_connect_envoy(flags, os.environ)
        case ["version"]:
            print(f"Consul v{VERSION}\nThis is a stand-in.")
            return 0
    print("The stand-in for consul has only agent, connect envoy and version.", file=sys.stderr)
    return 127


if __name__ == "__main__":
    sys.exit(main())
