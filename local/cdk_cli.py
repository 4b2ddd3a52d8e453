"""The real CDK command line, against the local cloud."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_CDK = ROOT / "node_modules" / "aws-cdk" / "bin" / "cdk"
_STOP_SECONDS = 10


class CdkError(Exception):
    """A cdk command failed; the message has what it printed."""


class CdkCli:
    """Runs cdk commands, and ends them when the caller is interrupted.

    Args:
        environment: the variables by which AWS clients find the local cloud.
        home: a folder for what the command line remembers between runs.

    """

    def __init__(self, environment: Mapping[str, str], *, home: Path) -> None:
        # Node of the virtual environment first, and nothing of the user's AWS configuration.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        self._node = shutil.which("node", path=path)
        self._environment = {
            "PATH": path,
            "HOME": str(home),
            "CDK_HOME": str(home),
            "CI": "true",
            # "localhost" has two addresses, and Node gives up on one after 250 ms, which on a busy
            # machine pass before it looks. The cloud listens on the IPv4 one.
            "NODE_OPTIONS": "--dns-result-order=ipv4first --no-network-family-autoselection",
            **environment,
        }

    def run(self, *arguments: str) -> str:
        """Run a command to its end and return what it printed.

        Raises:
            CdkError: if it fails, or if the command line is not installed.

        """
        return self._run([*arguments, "--no-notices", "--no-version-reporting", "--no-color"])

    def _run(self, arguments: Sequence[str]) -> str:
        if self._node is None or not _CDK.exists():
            raise CdkError("The CDK command line is not installed here. Run: make setup")
        process = subprocess.Popen(
            [self._node, str(_CDK), *arguments],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Its own group: it starts Python and Node, which have to end with it.
            start_new_session=True,
        )
        try:
            output, _ = process.communicate()
        finally:
            _end(process)
        if process.returncode != 0:
            raise CdkError(f"cdk {arguments[0]} failed:\n{output.strip()}")
        return output


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
