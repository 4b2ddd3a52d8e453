"""The real CDK command line, against the local cloud."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from local.cloud.waiting import until

ROOT = Path(__file__).resolve().parent.parent
_CDK = ROOT / "node_modules" / "aws-cdk" / "bin" / "cdk"
_OPTIONS = ("--no-notices", "--no-version-reporting", "--no-color")
_STOP_SECONDS = 10
_PROCESSES = Path("/proc")


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
        self._running: list[subprocess.Popen[str]] = []
        self._environment = {
            "PATH": path,
            "HOME": str(home),
            "CDK_HOME": str(home),
            "CI": "true",
            # CDK's libraries are unpacked once, not once for each home.
            "JSII_RUNTIME_PACKAGE_CACHE_ROOT": str(ROOT / ".build" / "jsii"),
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
        return self.run_at_the_same_time([arguments])[0]

    def run_at_the_same_time(self, commands: Sequence[Sequence[str]]) -> list[str]:
        """Run commands next to each other and return what each printed.

        Raises:
            CdkError: if one fails, or if the command line is not installed.

        """
        with ExitStack() as stack:
            running = [stack.enter_context(self._started(command)) for command in commands]
            return [_finished(command, process) for command, process in running]

    def end(self) -> None:
        """End commands that another thread still runs; there they have failed."""
        for process in list(self._running):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)

    @contextmanager
    def _started(
        self, arguments: Sequence[str]
    ) -> Iterator[tuple[Sequence[str], subprocess.Popen[str]]]:
        if self._node is None or not _CDK.exists():
            raise CdkError("The CDK command line is not installed here. Run: make setup")
        process = subprocess.Popen(
            [self._node, str(_CDK), *arguments, *_OPTIONS],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Its own group: it starts Python and Node, which have to end with it.
            start_new_session=True,
        )
        self._running.append(process)
        try:
            yield arguments, process
        finally:
            _end(process)
            self._running.remove(process)


def _finished(arguments: Sequence[str], process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate()
    if process.returncode != 0:
        raise CdkError(f"cdk {arguments[0]} failed:\n{output.strip()}")
    return output


def _end(process: subprocess.Popen[str]) -> None:
    """End a command that still runs, with all that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
            # What it has started may take longer than itself.
            until(
                lambda: not _is_there(process.pid),
                within=_STOP_SECONDS,
                what=f"all processes of the group {process.pid} have ended",
            )
        except (subprocess.TimeoutExpired, TimeoutError):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _is_there(group: int) -> bool:
    """Whether a group of processes still has one that has not ended."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    # On Linux there may be those, too, that have ended and that nobody has waited for yet.
    return not _PROCESSES.exists() or any(_runs_in(group, path) for path in _PROCESSES.iterdir())


def _runs_in(group: int, process: Path) -> bool:
    try:
        state, _, of_group, *_ = (process / "stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):  # it is none, or has ended meanwhile
        return False
    return state != "Z" and int(of_group) == group
