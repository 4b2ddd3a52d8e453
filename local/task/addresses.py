"""Addresses for tasks: on AWS each has a network interface, here an address of the loopback one.

Everything below 127.0.0.0/8 is this machine on Linux, without any setup. So each task has its own
127.x.y.z, and ports that are the same in every task (8500, 8502, 20000 and so on) clash with
nothing. Elsewhere only 127.0.0.1 is there without being root.
"""

from __future__ import annotations

import re
import secrets
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Taken by every mesh task: Consul's HTTP and gRPC, and Envoy's public listener. On 19000 Envoy has
# its administration, were it not for mesh-init; a test shows that nothing answers there. The others
# are a Consul server's.
_PORTS = (8300, 8301, 8500, 8501, 8502, 8600, 19000, 20000)
_ATTEMPTS = 20
# As a word of its own: not the end of 10.127.0.0.1, not a part of localhost.example.com. All
# addresses are the task's only one; 0.0.0.0/0 is a network.
_OWN = re.compile(r"(?<![\w.-])(?:127\.0\.0\.1|localhost|0\.0\.0\.0(?!/\d))(?![\w-]|\.\w)")

_taken: set[str] = set()
_lock = threading.Lock()


class UnsupportedMachineError(OSError):
    """Tasks cannot be run on this machine; the message says why."""


@contextmanager
def free_task_address() -> Iterator[str]:
    """Provide an address that no other task has.

    Raises
    ------
    UnsupportedMachineError
        This is not Linux, or its addresses are taken.
    """
    address = _reserve()
    try:
        yield address
    finally:
        with _lock:
            _taken.discard(address)


def _reserve() -> str:
    if not sys.platform.startswith("linux"):
        raise UnsupportedMachineError(
            f"A task needs an address of its own. {sys.platform} has only 127.0.0.1 unless root "
            "adds more; on Linux all of 127.0.0.0/8 is there."
        )
    for _ in range(_ATTEMPTS):
        # From 64 on: resolvers and virtual machines like to use low ones.
        parts = (64 + secrets.randbelow(190), secrets.randbelow(256), 1 + secrets.randbelow(254))
        address = "127.{}.{}.{}".format(*parts)
        with _lock:
            if address not in _taken and _is_free(address):
                _taken.add(address)
                return address
    raise UnsupportedMachineError(f"None of {_ATTEMPTS} addresses below 127.0.0.0/8 can be used.")


def _is_free(address: str) -> bool:
    for port in _PORTS:
        with socket.socket() as probe:
            # Connections of a task that has ended may linger; they are in nobody's way.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True


def at_task_address(text: str, address: str) -> str:
    """Put a task's address in the place of those that mean the task itself."""
    return _OWN.sub(address, text)
