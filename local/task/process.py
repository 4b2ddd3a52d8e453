"""One process of a container: its output line by line, its end, and nothing left of it then."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from local.task import confine

_CONFINE = Path(confine.__file__)
_BY_SIGNAL = 128  # added to the signal's number, as shells and Docker do


class CannotStartError(Exception):
    """The program cannot be started; the message says why."""


@dataclass(frozen=True)
class Confinement:
    """What a process may touch.

    Attributes
    ----------
    home
        Its working directory.
    hidden
        A directory that it sees nothing of, but what the other two name.
    readable, writable
        What it may read, and read and write, besides everything outside of ``hidden`` (to read)
        and devices (to write).
    """

    home: Path
    hidden: Path
    readable: Sequence[Path] = ()
    writable: Sequence[Path] = ()

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], *, stderr: int
    ) -> subprocess.Popen[str]:
        """Start a program that becomes a command, and no more than that, in a session of its own.

        Parameters
        ----------
        command
            The command line.
        environment
            All of its environment.
        stderr
            ``subprocess.PIPE``, or ``subprocess.STDOUT`` to have all output in one.
        """
        rules = {
            "parent": os.getpid(),
            "variables": sorted(environment),
            "readable": [*_everything_but(self.hidden.resolve()), *_real(self.readable)],
            "writable": ["/dev", "/proc", *_real(self.writable)],
        }
        # A file, and no pipe: nobody has to write to it for as long as the program reads.
        with tempfile.TemporaryFile("w+", encoding="utf-8") as given:
            json.dump(rules, given)
            given.seek(0)
            return subprocess.Popen(
                [sys.executable, "-I", "-S", str(_CONFINE), *command],
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=self.home,
                env=dict(environment),
                start_new_session=True,
                text=True,
                errors="replace",
            )


def _real(paths: Sequence[Path]) -> list[str]:
    return [str(path.resolve()) for path in paths]


def _everything_but(hidden: Path) -> list[str]:
    """Name what there is next to a directory, and next to each one above it."""
    found = []
    inner = hidden
    for outer in hidden.parents:
        found += [str(path) for path in outer.iterdir() if path != inner]
        inner = outer
    return found


Stream = Literal["stdout", "stderr"]


class Process:
    """A process in a session of its own, with an environment of its own.

    Parameters
    ----------
    on_line
        Called with each line of its output, from another thread.
    on_exit
        Called once with its exit code, when it and all processes of its session's first group are
        gone and all output has been read; 128 + N if signal N ended it.

    Raises
    ------
    CannotStartError
        There is no such program, or the system does not start it.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        confinement: Confinement,
        on_line: Callable[[Stream, str], None],
        on_exit: Callable[[int], None],
    ) -> None:
        if shutil.which(command[0], path=environment["PATH"]) is None:
            raise CannotStartError(
                f'exec: "{command[0]}": executable file not found in $PATH: unknown'
            )
        self._on_line = on_line
        self._on_exit = on_exit
        self._reaping = threading.Lock()
        try:
            self._popen = confinement.start(command, environment, stderr=subprocess.PIPE)
        except OSError as error:
            raise CannotStartError(f'exec: "{command[0]}": {error.strerror}: unknown') from error
        self._readers = [
            threading.Thread(target=self._read, args=(stream, file), daemon=True)
            for stream, file in (("stdout", self._popen.stdout), ("stderr", self._popen.stderr))
        ]
        for reader in self._readers:
            reader.start()
        threading.Thread(target=self._reap, daemon=True).start()

    @property
    def pid(self) -> int:
        """The process ID."""
        return self._popen.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, as Docker does: not to those that it has started."""
        # Popen's own method would look whether the process has ended, and so wait for it.
        with self._reaping:
            if self._popen.returncode is None:
                os.kill(self.pid, number)

    def _read(self, stream: Stream, file: IO[str]) -> None:
        with file:
            for line in file:
                self._on_line(stream, line.rstrip("\n"))

    def _reap(self) -> None:
        # As long as it has not been waited for, its ID, which is its group's too, is not reused.
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        # A container ends with its first process.
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with self._reaping:
            code = self._popen.wait()
        for reader in self._readers:
            reader.join()
        self._on_exit(code if code >= 0 else _BY_SIGNAL - code)
