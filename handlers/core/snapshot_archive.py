"""Snapshots of Consul's state: the form of the archive, and a place for it while a step has it.

A snapshot is a tar in gzip with three parts: `meta.json` (Raft's), `state.bin` (everything that
Consul knows, the secret IDs of tokens included) and `SHA256SUMS` of the two (hashicorp/consul,
snapshot/archive.go).
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, BinaryIO, Final

from handlers.core.errors import SnapshotTooLarge

CHUNK_BYTES: Final = 256 * 1024
"""So much of a snapshot is held in memory at a time."""

_META: Final = "meta.json"
_STATE: Final = "state.bin"
_SUMS: Final = "SHA256SUMS"
_MAX_SMALL_PART_BYTES: Final = 1024 * 1024
_SUM = re.compile(r"([0-9a-f]{64})  (\S+)")
_UNREADABLE: Final = (EOFError, gzip.BadGzipFile, tarfile.TarError, zlib.error)
_MIB: Final = 1024 * 1024


class BrokenArchiveError(Exception):
    """An archive is not a whole snapshot. The message fits into a sentence."""


@contextmanager
def scratch_file() -> Iterator[BinaryIO]:
    """Yield a file for one snapshot. It has no name, and its space is free when the step ends.

    That is so even if the process dies, and nobody else can open it meanwhile.

    Raises:
        SnapshotTooLarge: if what is written does not fit.

    """
    try:
        with tempfile.TemporaryFile() as file:
            yield file
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        directory = tempfile.gettempdir()
        size = shutil.disk_usage(directory).total // _MIB
        message = (
            f"The snapshot does not fit into {directory} of the function, which has {size} MiB. "
            "Deploy the function with more ephemeral storage."
        )
        raise SnapshotTooLarge(message) from None


def verified_index(archive: BinaryIO) -> int:
    """Read an archive from its beginning to its end; return the index of Raft's log that it is of.

    Raises:
        BrokenArchiveError: if it is not a whole snapshot; the message repeats nothing of it.

    """
    archive.seek(0)
    digests: dict[str, str] = {}
    texts: dict[str, bytes] = {}
    try:
        with (
            gzip.GzipFile(fileobj=archive, mode="rb") as unpacked,
            tarfile.open(fileobj=unpacked, mode="r|") as parts,
        ):
            for part in parts:
                content = parts.extractfile(part) if part.isreg() else None
                if content is None or part.name in digests or part.name not in _PARTS:
                    raise BrokenArchiveError("it has a part that snapshots do not have")
                digests[part.name], texts[part.name] = _read(content, part.name)
            while unpacked.read(CHUNK_BYTES):
                pass  # gzip's own checksum comes last
    except _UNREADABLE as error:
        raise BrokenArchiveError(f"it cannot be unpacked: {type(error).__name__}") from None
    if digests.keys() != _PARTS:
        raise BrokenArchiveError("a part of it is missing")
    if _sums(texts[_SUMS]) != {name: digests[name] for name in (_META, _STATE)}:
        raise BrokenArchiveError(f"its content is not what its {_SUMS} say")
    return _index(texts[_META])


_PARTS: Final = {_META, _STATE, _SUMS}


def _read(content: IO[bytes], name: str) -> tuple[str, bytes]:
    """Return the digest of a part, and all of it if it is one of the small ones."""
    digest, text = hashlib.sha256(), bytearray()
    while chunk := content.read(CHUNK_BYTES):
        digest.update(chunk)
        if name == _STATE:
            continue
        text += chunk
        if len(text) > _MAX_SMALL_PART_BYTES:
            raise BrokenArchiveError(f"its {name} is too long")
    return digest.hexdigest(), bytes(text)


def _sums(text: bytes) -> dict[str, str]:
    lines = [_SUM.fullmatch(line) for line in text.decode(errors="replace").splitlines()]
    return {line.group(2): line.group(1) for line in lines if line is not None}


def _index(meta: bytes) -> int:
    try:
        found = json.loads(meta)
    except (ValueError, RecursionError):
        found = None
    index = found.get("Index") if isinstance(found, dict) else None
    if not isinstance(index, int) or index < 1:
        raise BrokenArchiveError(f"its {_META} names no index")
    return index
