"""A machine that becomes a Consul server: its scripts run for real, in a directory as their root.

What they may not do here (mount, format, ask AWS, …) is done by `stand_in.py`, under the name of
each such program: it records its calls, and answers from a small state. Everything else that they
start is what the machine of the tests has, behind a recorder.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What ends a field and a record of a call; nothing has either in it.
FIELD, RECORD = "\x1f", "\x1e"

ROOT = Path(__file__).parents[2]
FILES = ROOT / "infrastructure" / "server_files"

STAND_INS = (
    *("aws", "blkid", "consul", "curl", "gpg", "id", "mkfs.xfs", "mount", "mountpoint"),
    *("systemctl", "uname", "useradd"),
)
DOES_NOTHING = ("chown", "dnf", "sleep", "xfs_growfs")
REAL = (
    *("bash", "cat", "chmod", "cmp", "cp", "dirname", "grep", "head", "jq", "ln", "mkdir"),
    *("mktemp", "mv", "rm", "sha256sum", "touch"),
)

VOLUME = "vol-0123456789abcdef0"
MACHINE = {
    "NODE_NAME": "consul-server-2",
    "CONSUL_VERSION": "1.21.5",
    "VOLUME_ID": VOLUME,
    "DNS_SERVICE_ID": "srv-0123456789abcdef",
    "STACK_ID": "arn:aws:cloudformation:eu-west-1:123456789012:stack/Prod/1",
    "GROUP_LOGICAL_ID": "ConsulServersconsulserver2Group",
    "GOSSIP_KEY_SECRET": "arn:gossip",
    "CA_SECRET": "arn:ca",
    "CERTIFICATE_SECRET": "arn:certificate-2",
    "AGENT_TOKEN_SECRET": "arn:token",
}


@dataclass(frozen=True)
class Ended:
    """How a script ended."""

    code: int
    said: str


@dataclass(frozen=True)
class Call:
    """A program that a script has started."""

    program: str
    arguments: list[str]
    environment: str
    given: str

    @classmethod
    def recorded(cls, record: str) -> Call:
        """Return a call from how it is recorded."""
        program, environment, given, *arguments = record.split(FIELD)
        return cls(program, arguments, environment, given)

    def __str__(self) -> str:
        return " ".join([self.program, *self.arguments])


class Machine:
    """A machine, and what there is around it."""

    def __init__(self, directory: Path, **state: Any) -> None:
        self.root = directory / "root"
        self.home = self.path("/opt/consul-server")
        self._programs = directory / "programs"
        self._calls = directory / "calls"
        self._state = directory / "state.json"
        for place in ("/etc/systemd/system", "/dev/disk/by-id", "/usr/local/bin"):
            self.path(place).mkdir(parents=True)
        self.path("/etc/fstab").write_text("UUID=root / xfs defaults 0 1\n")
        self._install_programs()
        self._install_files()
        self.state = state

    def path(self, path: str) -> Path:
        """Return where a path of the machine is."""
        return self.root / path.removeprefix("/")

    @property
    def state(self) -> dict[str, Any]:
        """What the stand-ins answer from; set it to change it."""
        found: dict[str, Any] = json.loads(self._state.read_text())
        return found

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._state.write_text(json.dumps(state))

    def run(self, script: str, *arguments: str, **variables: str) -> Ended:
        """Run a script as the machine would; boot.sh reads all variables itself."""
        ended = subprocess.run(
            [self._real("bash"), self.home / script, *arguments],
            env={"PATH": str(self._programs), **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
        )
        return Ended(ended.returncode, ended.stdout)

    def unit(self, script: str, *arguments: str) -> Ended:
        """Run a script as its unit does: with the files that the user data and boot.sh leave."""
        identity = {"INSTANCE_ID": "i-new", "ADDRESS": "10.0.1.7"}
        return self.run(script, *arguments, **MACHINE, **identity)

    @property
    def calls(self) -> list[Call]:
        """All programs that were started, in order."""
        if not self._calls.exists():
            return []
        records = self._calls.read_text().removesuffix(RECORD).split(RECORD)
        return [Call.recorded(record) for record in records]

    def called(self, start: str) -> list[str]:
        """Return the calls that start like this."""
        return [str(call) for call in self.calls if str(call).startswith(start)]

    def forget(self) -> None:
        """Forget the calls so far."""
        self._calls.unlink(missing_ok=True)

    def use_real(self, program: str) -> None:
        """Let a program be the real one."""
        (self._programs / program).unlink()
        self._record(program, self._real(program))

    def _install_programs(self) -> None:
        self._programs.mkdir()
        stand_in = self._programs.parent / "stand_in.py"
        stand_in.write_text(
            f"#!{sys.executable} -IS\n{(Path(__file__).parent / 'stand_in.py').read_text()}"
        )
        stand_in.chmod(0o755)
        for name in STAND_INS:
            (self._programs / name).symlink_to(stand_in)
        for name in REAL:
            self._record(name, self._real(name))
        for name in DOES_NOTHING:
            self._record(name, self._real("true"))
        python = self._programs / "python3"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)

    def _real(self, name: str) -> str:
        found = shutil.which(name)
        assert found, f"the tests need {name}"
        return found

    def _record(self, name: str, program: str) -> None:
        """Put a program into the PATH that is recorded and then started."""
        recorder = self._programs / name
        recorder.write_text(
            f"#!/bin/sh\nIFS='{FIELD}'\n"
            f"printf '%s{RECORD}' \"{name}{FIELD}{FIELD}{FIELD}$*\" >> '{self._calls}'\n"
            f'exec {program} "$@"\n'
        )
        recorder.chmod(0o755)

    def _install_files(self) -> None:
        self.home.mkdir(parents=True)
        for file in FILES.iterdir():
            text = file.read_text()
            if file.suffix == ".sh":
                for place in ("/etc/", "/opt/consul", "/dev/disk/", "/usr/local/bin/"):
                    text = text.replace(place, f"{self.root}{place}")
            (self.home / file.name).write_text(text)
        (self.home / "consul-server-2.json").write_text('{"node_name": "consul-server-2"}\n')
        lines = [f"{name}='{value}'" for name, value in MACHINE.items()]
        (self.home / "server.env").write_text("\n".join(lines) + "\n")
