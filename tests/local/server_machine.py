"""A machine of the local cloud that becomes a Consul server by the user data it was launched with.

All that they run is run: their lines, the scripts from S3, the AWS command line, and a `consul`,
which is the stand-in for a server. A directory is the machine's root. A stand-in has the place of
what would touch the machine itself, or the internet: disks, users, systemd (as much of it as runs
the commands in the units), the metadata, and HashiCorp's releases.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local.task.images import consul_image
from local.task.stand_in.server import VERSION

ROOT = Path(__file__).parents[2]
_AWS = Path(sys.executable).parent / "aws"
_PLACES = ("/etc/", "/opt/consul", "/dev/disk/", "/usr/local/bin/")
_HASHICORP = "C874011F0AB405110D02105534365D9472D7468F"
_TIMEOUT_SECONDS = 120
# Each is the end of a program that has recorded how it was called. `$root` is the machine's root,
# `$volumes` has a directory for each volume's data, `${@: -1}` is the last argument.
_PROGRAMS = {
    "aws": r"""
"$aws" "$@" || exit
# The kernel sees a volume that is attached.
[[ "$1 $2" == "ec2 attach-volume" ]] || exit 0
mkdir -p "$volumes/$4"
ln -sfn "$volumes/$4" "$root/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_${4/-/}"
""",
    "blkid": r"""
[[ -e "${@: -1}/xfs" ]] || exit 2
if [[ $* == *TYPE* ]]; then echo xfs; else basename "$(readlink "${@: -1}")"; fi
""",
    "mkfs.xfs": 'touch "${@: -1}/xfs"',
    "mountpoint": '[[ -L "${@: -1}" ]]',
    "mount": r"""
rmdir "$1" && ln -s "$volumes/$(sed -n "s|^UUID=\([^ ]*\) $1 .*|\1|p" "$root/etc/fstab")" "$1"
""",
    "id": '[[ -e "$root/user" ]]',
    "useradd": 'touch "$root/user"',
    "curl": r"""
while [[ $# -gt 1 ]]; do
    [[ $1 != --output ]] || output=$2
    [[ "$1 $2" != "--header @-" ]] || given=$(cat)
    shift
done
case "$1" in
    http://169.254.169.254/latest/api/token) echo imds-token ;;
    http://169.254.169.254/latest/meta-data/*)
        [[ $given == "X-aws-ec2-metadata-token: imds-token" ]] && cat "$root/metadata/${1##*/}" ;;
    http://$address:8500/*) /usr/bin/curl --silent --noproxy '*' --header @- "$1" <<< "$given" ;;
    *) cp "$root/releases/${1##*/}" "$output" ;;
esac
""",
    "gpg": r"""
[[ $* != *--verify* ]] || echo "[GNUPG:] VALIDSIG A 2025-09-21 1758400000 0 4 0 1 8 00 $hashicorp"
""",
    # The paths of the machine become those below the root when its files are unpacked.
    "python3": r"""
"$python" -I "$@" || exit
[[ "$*" != *"$root/opt/consul-server/files.zip"* ]] || exec "$python" -I "$adapt"
""",
    "systemctl": r"""
value() { sed -n "s/^$2=//p" "$root/etc/systemd/system/$1"; }
start() {
    local file
    set -a
    for file in $(value "$1" EnvironmentFile); do . "$file"; done
    set +a
    if [[ $(value "$1" Type) == oneshot ]]; then
        $(value "$1" ExecStart)
    else
        setsid $(value "$1" ExecStart) < /dev/null > "$root/$1.log" 2>&1 &
        echo $! > "$root/$1.pid"
    fi
}
case "$1" in
    enable)
        for unit in "${@:3}"; do
            [[ $unit == *.timer ]] || start "$unit" || exit
        done ;;
    is-active) kill -0 "$(cat "$root/${@: -1}.pid" 2> /dev/null)" 2> /dev/null ;;
    reload)
        MAINPID=$(cat "$root/$2.pid")
        eval "$(value "$2" ExecReload)" ;;
esac
""",
    **dict.fromkeys(("chown", "sleep", "xfs_growfs"), "exit 0"),
    # There is nothing to install: a call would be a surprise.
    "dnf": "exit 1",
    # Only recorded.
    "jq": 'exec /usr/bin/jq "$@"',
}


@dataclass(frozen=True)
class Ended:
    """How something that the machine has run ended."""

    code: int
    said: str


class ServerMachine:
    """One machine.

    Args:
        directory: for its root and its programs; must not be there yet.
        instance_id: of its instance.
        address: its own, in place of the instance's.
        volumes: where the data of volumes are, which outlive a machine.
        environment: by which the AWS command line finds the cloud, as a role does on AWS.

    """

    def __init__(
        self,
        directory: Path,
        *,
        instance_id: str,
        address: str,
        volumes: Path,
        environment: Mapping[str, str],
    ) -> None:
        self.address = address
        self._root = directory / "root"
        self._programs = directory / "programs"
        self._calls = directory / "calls"
        self._environment = {**environment, "PATH": f"{self._programs}:/usr/bin:/bin"}
        for place in ("/etc/systemd/system", "/dev/disk/by-id", "/usr/local/bin", "/metadata"):
            self.path(place).mkdir(parents=True)
        self.path("/etc/fstab").write_text("UUID=root / xfs defaults 0 1\n")
        self.path("/metadata/instance-id").write_text(instance_id)
        self.path("/metadata/local-ipv4").write_text(address)
        self._make_release(consul_image(directory / "consul").programs or directory)
        self._install(directory / "adapt.py", volumes)

    def path(self, path: str) -> Path:
        """Return where a path of the machine is."""
        return self._root / path.removeprefix("/")

    def boot(self, user_data: str) -> Ended:
        """Run the user data it was launched with."""
        return self._run(_below(user_data, self._root))

    def refresh_secrets(self) -> Ended:
        """Do what the timer does every few minutes."""
        home = self.path("/opt/consul-server")
        return self._run(f"set -a; . {home}/server.env; set +a; bash {home}/refresh_secrets.sh")

    def has_consul(self) -> bool:
        """Whether its Consul answers."""
        log = self.path("consul.service.log")
        return log.exists() and "Consul agent running!" in log.read_text()

    def secrets(self) -> dict[str, Any]:
        """Return what Consul's own file has of secrets."""
        found: dict[str, Any] = json.loads(self.path("/etc/consul.d/secrets.json").read_text())
        return found

    def calls(self, start: str = "") -> list[str]:
        """Return how programs were called whose calls start like this, each with its arguments."""
        lines = self._calls.read_text().splitlines() if self._calls.exists() else []
        return [line for line in lines if line.startswith(start)]

    def texts(self) -> dict[str, str]:
        """Return what others than root see of it: logs, arguments, environments."""
        return {
            "calls": self._calls.read_text(),
            "environments": self._calls.with_suffix(".environments").read_text(),
            "consul": self.path("consul.service.log").read_text(),
        }

    def stop(self) -> None:
        """End its Consul at once, if there is one."""
        if (pid := self.path("consul.service.pid")).exists():
            os.killpg(int(pid.read_text()), signal.SIGKILL)
            pid.unlink()

    def _run(self, script: str) -> Ended:
        ended = subprocess.run(
            ["/bin/bash", "-s"],
            input=script,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=_TIMEOUT_SECONDS,
        )
        return Ended(ended.returncode, ended.stdout)

    def _make_release(self, image: Path) -> None:
        """Put there what is downloaded: for whichever processor, the stand-in."""
        releases = self.path("/releases")
        releases.mkdir()
        content = (image / "consul").read_text()
        lines = []
        for processor in ("amd64", "arm64"):
            archive = releases / f"consul_{VERSION}_linux_{processor}.zip"
            with zipfile.ZipFile(archive, "w") as file:
                file.writestr(zipfile.ZipInfo("consul"), content)
            lines.append(f"{hashlib.sha256(archive.read_bytes()).hexdigest()}  {archive.name}\n")
        (releases / f"consul_{VERSION}_SHA256SUMS").write_text("".join(lines))
        for name in (f"consul_{VERSION}_SHA256SUMS.sig", "pgp-key.txt"):
            (releases / name).write_text(name)

    def _install(self, adapt: Path, volumes: Path) -> None:
        home = self.path("/opt/consul-server")
        adapt.write_text(
            f"import sys, pathlib\nsys.path.insert(0, {str(ROOT)!r})\n"
            "from tests.local.server_machine import adapt_files\n"
            f"adapt_files(pathlib.Path({str(home)!r}), pathlib.Path({str(self._root)!r}), "
            f"{self.address!r})\n"
        )
        settings = {
            "root": self._root,
            "volumes": volumes,
            "address": self.address,
            "aws": _AWS,
            "python": sys.executable,
            "adapt": adapt,
            "hashicorp": _HASHICORP,
        }
        lines = [f"{name}={shlex.quote(str(value))}" for name, value in settings.items()]
        self._programs.mkdir()
        for name, end in _PROGRAMS.items():
            # A line each, whatever is in the arguments.
            says = f'args="$*"\necho "{name} ${{args//$\'\\n\'/ }}" >> {self._calls}\n'
            says += f"env >> {self._calls}.environments\n"
            program = self._programs / name
            program.write_text(f"#!/bin/bash\n{says}" + "\n".join([*lines, end]))
            program.chmod(0o755)


def adapt_files(home: Path, root: Path, address: str) -> None:
    """Let unpacked scripts, units and configurations mean this root, and this address."""
    from local.task.addresses import at_task_address  # noqa: PLC0415

    for file in home.iterdir():
        if file.suffix in {".sh", ".json", ".service"}:
            file.write_text(at_task_address(_below(file.read_text(), root), address))


def _below(text: str, root: Path) -> str:
    for place in _PLACES:
        text = text.replace(place, f"{root}{place}")
    return text
