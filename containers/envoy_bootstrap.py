"""What Envoy starts from: made by `consul connect envoy -bootstrap`, written for the proxy alone.

The configuration holds the service's token, which is why only the user that the proxy runs as can
read the file, why it never exists half-written, and why what the command prints is never logged.

Envoy shows its configuration, token included, to everybody who can reach its administration, and
ends if told so there. Consul puts that on a port of the loopback interface, which all containers of
a task share; here it becomes a socket next to the file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from containers.errors import (
    BinaryNotThereYet,
    BootstrapDirUnusable,
    BootstrapFailed,
    BootstrapNotReady,
    Refused,
)
from containers.layout import (
    ADMIN_SOCKET,
    BOOTSTRAP_FILE,
    CONFIG_VARIABLE,
    CONSUL_BINARY,
    CONSUL_INJECT_DIR,
    DEFAULT_GRPC_ADDRESS,
    GRPC_ADDRESS_VARIABLE,
    TOKEN_VARIABLE,
)
from containers.redaction import redactor

# The command makes a handful of requests to the agent, each of which may hang for 7 s.
_TIMEOUT_SECONDS: Final = 30
_LONGEST_COMPLAINT: Final = 1000
_ONLY_OWNER_READS: Final = 0o400
_ONLY_OWNER_CONNECTS: Final = 0o600
# What Linux takes for a socket, less the zero at its end.
_LONGEST_SOCKET_PATH: Final = 107
# The kinds of address that Consul has for Envoy, in both spellings that JSON has for them.
_ADDRESS_KINDS: Final = frozenset({"socket_address", "socketAddress", "pipe"})
# Consul's name for Envoy itself, as the source of the metrics that Envoy's listeners offer.
_SELF_ADMIN: Final = "self_admin"

# What the command says, in Go's and in the agent's words, when another try may go better.
_PASSING: Final = re.compile(
    r"connection refused|connection reset|broken pipe|\bEOF\b|i/o timeout|deadline exceeded"
    r"|Unexpected response code: (?:404|429|5\d\d)|unknown service ID"
    r"|No cluster leader|No known Consul servers|legacy mode",
    re.IGNORECASE,
)
_REFUSED: Final = re.compile(
    r"Unexpected response code: 403|Permission denied|ACL not found", re.IGNORECASE
)


def find_consul(environment: Mapping[str, str], inject_dir: str = CONSUL_INJECT_DIR) -> str:
    """Return the path of the `consul` binary.

    Raises:
        BinaryNotThereYet: if there is none: the consul-client container copies it when it starts.

    """
    injected = f"{inject_dir}/{CONSUL_BINARY}"
    if os.access(injected, os.X_OK) and Path(injected).is_file():
        return injected
    found = shutil.which(CONSUL_BINARY, path=environment.get("PATH", ""))
    if found is None:
        raise BinaryNotThereYet(
            f"There is no consul binary, neither {injected} nor in PATH. The consul-client "
            "container copies it into the volume that both mount there: if this lasts, look at its "
            "log."
        )
    return found


def make_bootstrap(
    consul: str, proxy_id: str, environment: Mapping[str, str], directory: str
) -> str:
    """Let Consul make the bootstrap configuration of a proxy, and return it.

    The token reaches the command through its environment only: command lines can be read by all.

    Args:
        consul: the path of the `consul` binary.
        proxy_id: the proxy's ID, as it is registered.
        environment: the container's.
        directory: where Envoy is to have the socket of its administration.

    Raises:
        BootstrapNotReady: if the agent was not ready for it.
        Refused: if the agent refuses the token.
        BootstrapFailed: if the command fails otherwise, or prints something else.

    """
    grpc_address = environment.get(GRPC_ADDRESS_VARIABLE) or DEFAULT_GRPC_ADDRESS
    command = [
        consul,
        "connect",
        "envoy",
        "-proxy-id",
        proxy_id,
        "-bootstrap",
        f"-grpc-addr={grpc_address}",
    ]
    try:
        done = subprocess.run(  # noqa: S603 - the task's own binary, without a shell
            command,
            env={name: value for name, value in environment.items() if name != CONFIG_VARIABLE},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BootstrapNotReady(
            f"consul connect envoy did not end within {_TIMEOUT_SECONDS} s."
        ) from None
    except OSError as error:
        raise BootstrapFailed(
            f"{consul} cannot be run: {error.strerror}. It must be built for the task's CPU "
            "architecture: use images of consul-client and mesh-init of the same one."
        ) from None
    if done.returncode:
        _raise_complaint(done.returncode, done.stderr, environment)
    document = _checked(done.stdout)
    _move_administration(document, f"{directory}/{ADMIN_SOCKET}")
    return json.dumps(document, indent=2)


def _raise_complaint(code: int, stderr: bytes, environment: Mapping[str, str]) -> None:
    """Raise what the end of the command means. The order matters: secrets out first, then cut."""
    text = " ".join(redactor(environment)(stderr.decode(errors="replace")).split())
    said = text[-_LONGEST_COMPLAINT:] or "nothing"
    if code < 0:
        raise BootstrapNotReady(
            f"consul connect envoy was ended by signal {-code}; it said: {said}"
        )
    if _REFUSED.search(text):
        raise Refused(
            f"consul connect envoy is refused by the agent; it said: {said}. The token in "
            f"{TOKEN_VARIABLE} must allow service:write on the service: check that the secret that "
            "it comes from is that of this service."
        )
    if _PASSING.search(text):
        raise BootstrapNotReady(f"consul connect envoy could not finish; it said: {said}")
    raise BootstrapFailed(
        f"consul connect envoy ended with status {code}; it said: {said}. Look its message up in "
        "Consul's documentation, and check that the agent's gRPC port is on."
    )


def _checked(stdout: bytes) -> dict[str, Any]:
    """Return a configuration that has what Envoy needs to find the agent.

    Nothing of it goes into a message: it holds the token.
    """
    try:
        document = json.loads(stdout.decode())
    except ValueError:
        raise BootstrapFailed(
            "consul connect envoy printed something that is not JSON. Check that the consul binary "
            "is one."
        ) from None
    lacking = [
        ".".join(path)
        for path, kind in (
            (("node", "cluster"), str),
            (("node", "id"), str),
            (("static_resources", "clusters"), list),
            (("dynamic_resources", "ads_config"), dict),
        )
        if not (found := _at(document, path)) or not isinstance(found, kind)
    ]
    if lacking:
        raise BootstrapFailed(
            f"consul connect envoy printed a configuration without {', '.join(lacking)}. Use a "
            "version of Consul that this project supports (1.10 or newer)."
        )
    checked: dict[str, Any] = document
    return checked


def _move_administration(document: dict[str, Any], path: str) -> None:
    """Let Envoy be administered through a socket, and read its own metrics there.

    Without an address Envoy has no administration, and needs none.
    """
    admin = document.get("admin")
    address = admin.get("address") if isinstance(admin, dict) else admin
    if address is None:
        return
    if not (
        isinstance(admin, dict)
        and isinstance(address, dict)
        and len(address) == 1
        and address.keys() <= _ADDRESS_KINDS
    ):
        raise BootstrapFailed(
            "consul connect envoy printed a configuration whose admin.address is of an unknown "
            "kind, so that it cannot be kept from the other containers. Leave the administration "
            "as Consul makes it: look for envoy_bootstrap_json_tpl in the proxy's configuration."
        )
    admin["address"] = {"pipe": {"path": path, "mode": _ONLY_OWNER_CONNECTS}}
    for cluster in document["static_resources"]["clusters"]:
        if isinstance(cluster, dict) and cluster.get("name") == _SELF_ADMIN:
            cluster.pop("loadAssignment", None)
            cluster["load_assignment"] = {
                "cluster_name": _SELF_ADMIN,
                "endpoints": [
                    {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": path}}}}]}
                ],
            }


def _at(document: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        document = document.get(key) if isinstance(document, dict) else None
    return document


def check_writable(directory: str) -> None:
    """Find out whether a directory takes files, by making one, and Envoy's socket, by its length.

    Raises:
        BootstrapDirUnusable: if not.

    """
    longest = _LONGEST_SOCKET_PATH - len(f"/{ADMIN_SOCKET}")
    if len(os.fsencode(directory)) > longest:
        raise BootstrapDirUnusable(
            f"{directory} (bootstrapDir) is too long a path: Envoy has a socket there. Use one of "
            f"at most {longest} bytes."
        )
    probe = Path(directory, f".{BOOTSTRAP_FILE}.new")
    try:
        os.close(_create(probe))
        probe.unlink()
    except OSError as error:
        raise _unusable(directory, error) from None


def write_bootstrap(directory: str, text: str) -> Path:
    """Write the configuration where the proxy looks for it; return where that is.

    It is there with all of its content and the right mode, or not at all.

    Raises:
        BootstrapDirUnusable: if it cannot be written.

    """
    path = Path(directory, BOOTSTRAP_FILE)
    new = Path(directory, f".{BOOTSTRAP_FILE}.new")
    try:
        with open(_create(new), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        _sync(directory)
    except OSError as error:
        raise _unusable(directory, error) from None
    finally:
        with suppress(OSError):
            new.unlink(missing_ok=True)
    return path


def _create(path: Path) -> int:
    """Create a file that nobody but its owner can ever read, and open it."""
    path.unlink(missing_ok=True)  # left by a run that was killed
    return os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode=_ONLY_OWNER_READS
    )


def _sync(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unusable(directory: str, error: OSError) -> BootstrapDirUnusable:
    return BootstrapDirUnusable(
        f"{directory} (bootstrapDir) cannot be written: {error.strerror}. Mount a volume there, "
        f"writable for the user that this container runs as ({os.getuid()})."
    )
