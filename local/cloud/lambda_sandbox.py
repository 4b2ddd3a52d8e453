"""The program inside the subprocess that Lambda functions run in.

Started by ``local.cloud.lambda_runtime``, once per code asset, as a script of its own: it imports
nothing of this project, and sees of the virtual environment only what AWS's Python runtime holds
(boto3, awslambdaric and what they need), so that a dependency missing in the asset is missed here
too. The asset comes first on the path, as on AWS.

It imports the expensive libraries once (boto3 alone takes most of a second) and then forks one
process per sandbox, which costs milliseconds. The parent asks over the socket that is this
process's standard input, in lines of JSON, one request at a time:

    parent → ``{"id": …, "handler": …, "environment": {…}, "clock": {…}, "hosts_file": …}`` and the
             descriptor for the output
    answer → ``{"id": …, "pid": …}``, and when the process ends ``{"id": …, "status": …}``

If the parent dies, however it dies, its end of the socket closes and everything here ends.
"""

from __future__ import annotations

import datetime
import importlib
import json
import os
import select
import signal
import socket
import ssl
import sys
import threading
import time
from typing import Any

# Worth importing before the fork, if the asset or the runtime has it. Neither reads its
# configuration from the environment on import.
_EXPENSIVE = ("boto3", "requests")
_CHUNK = 1 << 16
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of OpenSSL


def main() -> None:  # noqa: C901 - one loop, in the order in which things happen
    """Import what is expensive, say so, then fork a sandbox for each request until told to end."""
    task_root, runtime = sys.argv[1:3]
    # This script's own directory is no place to import from.
    sys.path[0:1] = [task_root, runtime]
    os.chdir(task_root)
    control = socket.socket(fileno=os.dup(0))
    for name in _EXPENSIVE:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            # Then the asset does without it, or its handler says so in the function's log.
            continue
    # Sandboxes hold the reading end of this pipe: it closes when this process is gone.
    alive_reader, alive_writer = os.pipe()
    child_reader, child_writer = os.pipe()
    os.set_blocking(child_writer, False)
    signal.set_wakeup_fd(child_writer)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    sandboxes: dict[int, str] = {}
    _send(control, {"ready": True})
    try:
        while True:
            watched: list[Any] = [control, child_reader]
            readable, _, _ = select.select(watched, [], [])
            if child_reader in readable:
                os.read(child_reader, 4096)
                _report_exits(control, sandboxes)
            if control in readable:
                received = _receive(control)
                if received is None:
                    return
                request, output = received
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for descriptor in (alive_writer, child_reader, child_writer):
                        os.close(descriptor)
                    control.close()
                    _become_sandbox(request, output, alive_reader)
                os.close(output)
                sandboxes[pid] = request["id"]
                _send(control, {"id": request["id"], "pid": pid})
    except (BrokenPipeError, ConnectionResetError):
        return
    finally:
        for pid in sandboxes:
            _kill_group(pid)
            # It may not have made its own group yet; the number is its own until it is waited for.
            os.kill(pid, signal.SIGKILL)
        # Who waits for the end of this process may take it for the end of them all.
        for pid in sandboxes:
            os.waitpid(pid, 0)


def _receive(control: socket.socket) -> tuple[dict[str, Any], int] | None:
    """Read one request and the descriptor that came with it; None when the parent is gone."""
    line, descriptors, _, _ = socket.recv_fds(control, _CHUNK, 1)
    while line and not line.endswith(b"\n"):
        more = control.recv(_CHUNK)
        if not more:
            return None
        line += more
    return (json.loads(line), descriptors[0]) if line else None


def _report_exits(control: socket.socket, sandboxes: dict[int, str]) -> None:
    while sandboxes:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        # What the handler itself started dies with it, as it does on AWS.
        _kill_group(pid)
        _send(control, {"id": sandboxes.pop(pid), "status": status})


def _send(control: socket.socket, message: dict[str, Any]) -> None:
    control.sendall(json.dumps(message).encode() + b"\n")


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        # Gone already, or not yet the leader of a group: then its watch ends it.
        return


def _become_sandbox(request: dict[str, Any], output: int, alive_reader: int) -> None:
    """Turn this forked process into one Lambda sandbox; never returns."""
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        os.environ.clear()
        os.environ.update(request["environment"])
        threading.Thread(target=_end_with_parent, args=(alive_reader,), daemon=True).start()
        if request["clock"] is not None:
            _set_clock(**request["clock"])
            _ignore_dates_of_certificates()
        if request["hosts_file"] is not None:
            _resolve_names_in(request["hosts_file"])
        # Only now: awslambdaric reads its environment when it is imported.
        entry = importlib.import_module("awslambdaric.__main__")
        entry.main(["bootstrap", request["handler"]])
    except SystemExit as exit_:
        _exit(exit_.code if isinstance(exit_.code, int) else 1)
    except BaseException:  # noqa: BLE001 - as the interpreter itself would have done
        sys.excepthook(*sys.exc_info())
        _exit(1)
    _exit(0)


def _set_clock(function: str, started: float, origin: float, speed: float) -> None:
    """Let a function of the asset tell the time of a cloud whose clock goes faster.

    It is ``CloudClock.now``, which can not be imported here.
    """
    module_name, name = function.split(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError:
        return  # another asset, which does without it

    def now() -> datetime.datetime:
        seconds = started + (time.monotonic() - origin) * speed
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC)

    setattr(module, name, now)


def _ignore_dates_of_certificates() -> None:
    """Let TLS take certificates that are dated by the cloud's clock: OpenSSL only knows ours."""
    wrap = ssl.SSLContext.wrap_socket

    def wrap_socket(context: ssl.SSLContext, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        context.verify_flags |= _NO_CHECK_TIME
        return wrap(context, *args, **kwargs)

    setattr(ssl.SSLContext, "wrap_socket", wrap_socket)  # noqa: B010 - mypy minds an assignment


def _resolve_names_in(hosts_file: str) -> None:
    """Let this process find the private names of its VPC, which are looked up each time."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> list[Any]:
        with open(hosts_file, encoding="utf-8") as file:  # noqa: PTH123 - no library but the least
            records = [line.split() for line in file]
        addresses = [address for address, name in records if name == host] or [host]
        return [found for each in addresses for found in resolve(each, *args, **kwargs)]

    socket.getaddrinfo = getaddrinfo


def _exit(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: the stack below belongs to the process this one was forked from.
    os._exit(code)


def _end_with_parent(alive_reader: int) -> None:
    os.read(alive_reader, 1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
