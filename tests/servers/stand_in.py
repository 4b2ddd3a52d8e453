"""What stands for the programs that a script may not really start in a test; see `machine.py`.

It runs alone, without this project and without site-packages, and imports as little as it can: it
starts dozens of times a test.
"""

# ruff: noqa: PLC0415, PTH103, PTH120, PTH123

from __future__ import annotations

import json
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

PROGRAM = sys.argv[0].rpartition("/")[2]
ARGUMENTS = sys.argv[1:]
HOME = os.path.dirname(os.path.dirname(sys.argv[0]))
ROOT = f"{HOME}/root"
STATE = f"{HOME}/state.json"
HASHICORP = "C874011F0AB405110D02105534365D9472D7468F"


def main() -> None:
    """Record the call, and answer."""
    given = sys.stdin.read() if "@-" in ARGUMENTS else ""
    with open(f"{HOME}/calls", "a") as file:
        file.write("\x1f".join([PROGRAM, repr(dict(os.environ)), given, *ARGUMENTS]) + "\x1e")
    with open(STATE) as file:
        state: dict[str, Any] = json.load(file)
    answer = globals().get(f"_{PROGRAM.replace('.', '_')}")
    try:
        if answer is not None:
            answer(state, given)
    finally:
        with open(STATE, "w") as file:
            json.dump(state, file)


def _refuse(text: str, code: int = 1) -> NoReturn:
    sys.stderr.write(f"{text}\n")
    sys.exit(code)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _option(name: str) -> str:
    return ARGUMENTS[ARGUMENTS.index(name) + 1]


def _next(state: dict[str, Any], key: str) -> Any:
    """Return the next of some answers; the last one again and again."""
    answers = state[key]
    return answers.pop(0) if len(answers) > 1 else answers[0]


# --- AWS ------------------------------------------------------------------------------------------


def _aws(state: dict[str, Any], _given: str) -> None:
    match ARGUMENTS[:2]:
        case ["ec2", "describe-volumes"]:
            _say("\t".join(_next(state, "volume")))
        case ["ec2", "attach-volume"]:
            if state.get("attach_refused", 0):
                state["attach_refused"] -= 1
                _refuse("An error occurred (VolumeInUse) when calling AttachVolume", 254)
            _plug_in(state)
        case ["secretsmanager", "get-secret-value"]:
            _secret(state)
        case ["servicediscovery", "register-instance"]:
            _say("operation-1")
        case ["servicediscovery", "get-operation"]:
            _say("\t".join(_next(state, "operation")))
        case ["servicediscovery", "get-instance"]:
            _say(state["registered"])
        case ["cloudformation", "signal-resource"]:
            if state.get("nobody_waits"):
                _refuse("An error occurred (ValidationError): cannot be signaled", 254)


def _plug_in(state: dict[str, Any]) -> None:
    if state.get("appears", True):
        name = "nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0"
        open(f"{ROOT}/dev/disk/by-id/{name}", "w").close()


def _secret(state: dict[str, Any]) -> None:
    value = state["secrets"].get(_option("--secret-id"))
    if isinstance(value, list):  # until it is there
        value = value.pop(0) if len(value) > 1 else value[0]
    if value is None:
        _refuse(
            "\nAn error occurred (ResourceNotFoundException) when calling the GetSecretValue "
            "operation: Secrets Manager can't find the specified secret value for staging label: "
            "AWSCURRENT",
            254,
        )
    if value == "DENIED":
        _refuse("\nAn error occurred (AccessDeniedException): no", 254)
    _say(value)


# --- what is downloaded ---------------------------------------------------------------------------


def _archive() -> bytes:
    import io
    import zipfile

    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(zipfile.ZipInfo("consul"), "#!/bin/sh\necho Consul v1.21.5\n")
        archive.writestr(zipfile.ZipInfo("LICENSE.txt"), "…")
    return content.getvalue()


def _curl(state: dict[str, Any], given: str) -> None:
    url = ARGUMENTS[-1]
    if url.startswith("http://169.254.169.254/latest/"):
        if url.endswith("/api/token"):
            _say("imds-token")
        elif given != "X-aws-ec2-metadata-token: imds-token":
            _refuse("curl: (22) The requested URL returned error: 401", 22)
        else:
            _say({"instance-id": "i-new", "local-ipv4": "10.0.1.7"}[url.rpartition("/")[2]])
    elif url.endswith("/v1/operator/autopilot/health"):
        answer = _next(state, "health")
        if answer is None:
            _refuse("curl: (7) Failed to connect to 127.0.0.1 port 8500", 7)
        _say(answer if isinstance(answer, str) else json.dumps(answer))
    else:
        with open(_option("--output"), "wb") as file:
            file.write(_download(state, url))


def _download(state: dict[str, Any], url: str) -> bytes:
    name = url.rpartition("/")[2]
    if name in state.get("files", {}):
        with open(state["files"][name], "rb") as file:
            content: bytes = file.read()
            return content
    if name.endswith("_SHA256SUMS"):
        import hashlib

        digest = hashlib.sha256(_archive()).hexdigest()
        lines = [
            f"{'0' * 64}  consul_1.21.5_linux_386.zip",
            f"{digest}  consul_1.21.5_linux_arm64.zip",
        ]
        return "".join(f"{line}\n" for line in lines).encode()
    if name.endswith(".zip"):
        return _archive() + (b"tampered" if state.get("tampered") else b"")
    return name.encode()


def _gpg(state: dict[str, Any], _given: str) -> None:
    if "--verify" in ARGUMENTS:
        primary = state.get("signed_by", HASHICORP)
        if primary is None:
            _say("[GNUPG:] BADSIG 34365D9472D7468F HashiCorp Security")
            sys.exit(1)
        _say("[GNUPG:] NEWSIG")
        _say(f"[GNUPG:] VALIDSIG {'A' * 40} 2025-09-21 1758400000 0 4 0 1 8 00 {primary}")


# --- the machine ----------------------------------------------------------------------------------


def _blkid(state: dict[str, Any], _given: str) -> None:
    if (found := state.get("file_system")) is None:
        sys.exit(2)
    if found == "several":
        sys.exit(8)
    if "TYPE" in ARGUMENTS:
        _say(found)
    else:
        _say("11111111-2222-4333-8444-555555555555")


def _mkfs_xfs(state: dict[str, Any], _given: str) -> None:
    if state.get("file_system") is not None:
        _refuse("mkfs.xfs: appears to contain an existing filesystem")
    state["file_system"] = "xfs"


def _mountpoint(state: dict[str, Any], _given: str) -> None:
    sys.exit(0 if state.get("mounted") else 32)


def _mount(state: dict[str, Any], _given: str) -> None:
    state["mounted"] = True
    if state.get("data"):
        os.makedirs(f"{ROOT}/opt/consul/data/raft")


def _systemctl(state: dict[str, Any], _given: str) -> None:
    match ARGUMENTS[0]:
        case "enable":
            failing = state.get("failing_units", {})
            for unit in ARGUMENTS[2:]:
                if failing.get(unit):
                    failing[unit] -= 1
                    _refuse(f"Job for {unit} failed.")
            state["active"] = True
        case "is-active":
            sys.exit(0 if state.get("active") else 3)
        case "reload" if state.get("reload_fails"):
            _refuse("Job for consul.service failed.")


def _id(state: dict[str, Any], _given: str) -> None:
    sys.exit(0 if state.get("user") else 1)


def _useradd(state: dict[str, Any], _given: str) -> None:
    state["user"] = True


def _uname(state: dict[str, Any], _given: str) -> None:
    _say(state.get("processor", "aarch64"))


def _consul(state: dict[str, Any], _given: str) -> None:
    _say(f"Consul v{state.get('present', '0.0.0')}")


main()
