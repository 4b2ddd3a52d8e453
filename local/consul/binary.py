"""A real Consul server, started from a ``consul`` executable for the length of a run.

Not run for real by this project's tests: where they run there is no such executable, so they put
a stand-in in its place, which records its arguments and serves the embedded Consul from the
configuration file. What that does not show is whether a real ``consul`` takes this configuration;
its keys are those of Consul's documentation for 1.10 and newer.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import requests

READY_SECONDS = 60.0
"""How long a server may take: a fresh one needs 5 to 8 seconds until its ACL system is ready."""

STOP_SECONDS = 10.0
"""How long a server may take to end after SIGTERM, before SIGKILL."""

_POLL_SECONDS = 0.1
_REQUEST_SECONDS = 10
# Ports are looked for and then used, so somebody else may be faster.
_ATTEMPTS = 3
_PORT_TAKEN = "address already in use"
# From this version on a server also listens for gRPC with TLS, unless it is told not to.
_GRPC_TLS_SINCE = (1, 14)
_VERSION = re.compile(r"Consul v(\d+)\.(\d+)\.(\S+)")


class ConsulBinaryError(Exception):
    """The executable did not become a Consul server; the message says where its log is."""


class _PortTakenError(ConsulBinaryError):
    """The server ended because somebody else had taken one of its ports."""


@dataclass(frozen=True)
class BinaryConsul:
    """A Consul server that was started for this run. Its ACL system is new: not bootstrapped."""

    address: str
    version: str
    management_token: str | None = field(default=None, repr=False)
    kind: Literal["binary"] = "binary"
    gossip_address: str = ""
    """Where a client agent joins it."""


@contextmanager
def running_consul(
    executable: Path,
    *,
    workdir: Path,
    ready_seconds: float = READY_SECONDS,
    stop_seconds: float = STOP_SECONDS,
    host: str = "127.0.0.1",
    connect: bool = False,
) -> Iterator[BinaryConsul]:
    """Run a Consul server with ACLs on default deny, and stop it in the end.

    It listens on free ports of the loopback interface only. Its configuration, data and log are
    below ``workdir``. Nothing secret is passed to it, on the command line or otherwise.

    Parameters
    ----------
    executable
        The ``consul``.
    workdir
        See above.
    ready_seconds
        How long it may take to start.
    stop_seconds
        How long it may take to end.
    host
        The loopback address that it listens on.
    connect
        Whether it has a CA for a service mesh, which Consul has by default since 1.14 only.

    Raises
    ------
    ConsulBinaryError
        It ended, or did not get ready in time.
    """
    version = version_of(executable)
    with ExitStack() as stack:

        def start(attempt: int) -> tuple[str, str]:
            home = workdir / f"consul-{attempt}"
            config = _configuration(version, home, host, connect=connect)
            server = _server(executable, config, home, ready_seconds, stop_seconds)
            return stack.enter_context(server), f"{host}:{config['ports']['serf_lan']}"

        address, gossip_address = _with_free_ports(start)
        yield BinaryConsul(address=address, version=version, gossip_address=gossip_address)


def _with_free_ports(start: Callable[[int], tuple[str, str]]) -> tuple[str, str]:
    for attempt in range(1, _ATTEMPTS):
        with suppress(_PortTakenError):
            return start(attempt)
    return start(_ATTEMPTS)


@contextmanager
def _server(
    executable: Path,
    config: dict[str, Any],
    home: Path,
    ready_seconds: float,
    stop_seconds: float,
) -> Iterator[str]:
    home.mkdir(parents=True, exist_ok=True)
    config_file = home / "server.json"
    config_file.write_text(json.dumps(config, indent=2))
    log_file = home / "consul.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [executable, "agent", f"-config-file={config_file}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=home,
            env=_environment(),
        )
    try:
        address = f"http://{config['client_addr']}:{config['ports']['http']}"
        _wait_until_ready(process, address, log_file, ready_seconds)
        yield address
    finally:
        _stop(process, stop_seconds)


def _environment() -> dict[str, str]:
    """Our environment without what would steer Consul somewhere else, or tell it a token."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CONSUL_")}


def _configuration(version: str, home: Path, host: str, *, connect: bool) -> dict[str, Any]:
    http, server, serf_lan, serf_wan = _free_ports(4, host)
    ports = {
        "http": http,
        "server": server,
        "serf_lan": serf_lan,
        "serf_wan": serf_wan,
        "dns": -1,
        "grpc": -1,
    }
    match = _VERSION.match(f"Consul v{version}")
    if match and (int(match[1]), int(match[2])) >= _GRPC_TLS_SINCE:
        ports["grpc_tls"] = -1
    return {
        "server": True,
        "bootstrap_expect": 1,
        "node_name": "srv1",
        "datacenter": "dc1",
        "data_dir": str(home / "data"),
        "bind_addr": host,
        "client_addr": host,
        "ports": ports,
        "disable_update_check": True,
        "acl": {
            "enabled": True,
            "default_policy": "deny",
            "enable_token_persistence": True,
        },
        **({"connect": {"enabled": True}} if connect else {}),
    }


def _free_ports(count: int, host: str) -> list[int]:
    with ExitStack() as stack:
        # All at once, so that they differ.
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((host, 0))
        return [each.getsockname()[1] for each in sockets]


def version_of(executable: Path) -> str:
    """Return the version that an executable says.

    Raises
    ------
    ConsulBinaryError
        It does not run, or is not Consul.
    """
    try:
        output = subprocess.run(
            [executable, "version"],
            capture_output=True,
            text=True,
            timeout=_REQUEST_SECONDS,
            check=True,
            env=_environment(),
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise ConsulBinaryError(
            f"{executable} does not run ({type(error).__name__}). Repair it, or take it off PATH."
        ) from None
    match = _VERSION.search(output)
    if match is None:
        raise ConsulBinaryError(
            f"{executable} is not Consul: `{executable} version` does not say so."
        )
    return match[0].removeprefix("Consul v")


def _wait_until_ready(
    process: subprocess.Popen[bytes], address: str, log_file: Path, seconds: float
) -> None:
    deadline = monotonic() + seconds
    while not _is_ready(address):
        try:
            # Waits between two looks, but no longer than the server lives.
            process.wait(_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            if monotonic() < deadline:
                continue
            raise ConsulBinaryError(
                f"Consul at {address} was not ready after {seconds:g} s. Its log: {log_file}"
            ) from None
        taken = _PORT_TAKEN in log_file.read_text(errors="replace")
        msg = f"Consul ended with {process.returncode} before it was ready. Its log: {log_file}"
        raise _PortTakenError(msg) if taken else ConsulBinaryError(msg)


def _is_ready(address: str) -> bool:
    """Tell whether there is a leader and the ACL system refuses us for the right reason."""
    try:
        leader = requests.get(f"{address}/v1/status/leader", timeout=_REQUEST_SECONDS)
        if not leader.ok or not leader.json():
            return False
        tokens = requests.get(f"{address}/v1/acl/tokens", timeout=_REQUEST_SECONDS)
    except requests.RequestException:
        return False
    # Until it is ready, the server says that its ACL system is in legacy mode.
    return tokens.status_code == requests.codes.forbidden and "Permission denied" in tokens.text


def _stop(process: subprocess.Popen[bytes], seconds: float) -> None:
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
