"""What a container's texts mean here: its own paths and addresses are this machine's.

In a container `/consul` is a volume and `127.0.0.1` is the task. A process of this machine shares
both with everybody, so wherever the task definition names them, the volume's directory and the
task's address take their places: in the entry point, the command, the environment and the health
check. What a program knows by itself cannot be translated; the programs of mesh tasks take their
addresses from variables.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from local.task.addresses import at_task_address


class Translation:
    """Turns texts of one container into texts of this machine.

    Parameters
    ----------
    address
        The task's.
    mounts
        The directories of this machine, by their paths in the container.
    """

    def __init__(self, address: str, mounts: Mapping[str, Path]) -> None:
        self._address = address
        self._mounts = mounts
        # The longest first: of /consul/envoy and /consul the former is meant.
        paths = "|".join(re.escape(path) for path in sorted(mounts, key=len, reverse=True))
        # Whole parts of a path only, and not in the middle of another path.
        self._path = re.compile(rf"(?<![\w./-])(?:{paths})(?![\w.-])") if mounts else None

    def path(self, text: str) -> str:
        """Translate paths."""
        if self._path is None:
            return text
        return self._path.sub(lambda match: str(self._mounts[match[0]]), text)

    def text(self, text: str) -> str:
        """Translate paths and addresses."""
        return at_task_address(self.path(text), self._address)

    def texts(self, texts: Iterable[str]) -> list[str]:
        """Translate each text."""
        return [self.text(text) for text in texts]
