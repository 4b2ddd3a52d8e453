"""An archive is a snapshot only if all of it is there and is what its sums say."""

from __future__ import annotations

import errno
import gzip
import io
import os
import tarfile
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.core.errors import SnapshotTooLarge
from handlers.core.snapshot_archive import (
    CHUNK_BYTES,
    BrokenArchiveError,
    scratch_file,
    verified_index,
)
from tests.unit.snapshot_state import archive_of, open_files_in, parts_of, sums_of

PARTS = parts_of(os.urandom(4096))
ARCHIVE = archive_of(PARTS)


def with_sums(**changed: bytes) -> dict[str, bytes]:
    """Return parts of which some are others, and sums that fit."""
    parts = {"meta.json": PARTS["meta.json"], "state.bin": PARTS["state.bin"]}
    parts |= {name.replace("_", "."): content for name, content in changed.items()}
    return {**parts, "SHA256SUMS": sums_of(parts)}


def problem(archive: bytes) -> str:
    with pytest.raises(BrokenArchiveError) as caught:
        verified_index(io.BytesIO(archive))
    return str(caught.value)


@pytest.mark.parametrize("index", [1, 16, 2**63])
def test_of_a_whole_archive_the_index_is_told(index: int) -> None:
    assert verified_index(io.BytesIO(archive_of(parts_of(index=index)))) == index


def test_it_is_read_from_its_beginning_in_whatever_order_its_parts_are() -> None:
    archive = io.BytesIO(archive_of(dict(reversed(PARTS.items()))))
    archive.seek(0, os.SEEK_END)

    assert verified_index(archive) == 16


@pytest.mark.parametrize("missing", ["meta.json", "state.bin", "SHA256SUMS"])
def test_one_that_lacks_a_part_is_none(missing: str) -> None:
    parts = {name: content for name, content in PARTS.items() if name != missing}

    assert problem(archive_of(parts)) == "a part of it is missing"


@pytest.mark.parametrize(
    "parts",
    [
        {**PARTS, "state.bin": b"other"},
        {**PARTS, "meta.json": PARTS["meta.json"] + b" "},
        {**PARTS, "SHA256SUMS": b""},
        {**PARTS, "SHA256SUMS": PARTS["SHA256SUMS"].splitlines()[0]},
        {**PARTS, "SHA256SUMS": PARTS["SHA256SUMS"] + sums_of({"more": b""})},
        {**PARTS, "SHA256SUMS": PARTS["SHA256SUMS"].upper()},
    ],
    ids=["the state", "the metadata", "no sums", "one sum", "a sum more", "not Consul's form"],
)
def test_one_whose_sums_do_not_fit_is_none(parts: dict[str, bytes]) -> None:
    assert problem(archive_of(parts)) == "its content is not what its SHA256SUMS say"


@pytest.mark.parametrize(
    "meta",
    [b"", b"{", b"[]", b"null", b'{"Index": 0}', b'{"Index": "16"}', b"{}", b"[" * 100_000],
    ids=["empty", "cut off", "a list", "null", "zero", "a text", "nothing", "nested"],
)
def test_one_without_an_index_is_none(meta: bytes) -> None:
    assert problem(archive_of(with_sums(meta_json=meta))) == "its meta.json names no index"


def test_one_with_a_foreign_part_is_none() -> None:
    assert problem(archive_of({**PARTS, "more": b""})) == (
        "it has a part that snapshots do not have"
    )


@pytest.mark.parametrize("kind", [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE])
def test_one_whose_parts_are_no_files_is_none(kind: bytes) -> None:
    assert problem(archive_of(dict.fromkeys(PARTS, b""), kind=kind)) == (
        "it has a part that snapshots do not have"
    )


def test_one_with_a_part_twice_is_none() -> None:
    packed = gzip.decompress(ARCHIVE)
    meta, rest = packed[:1024], packed[1024:]

    assert problem(gzip.compress(meta + meta + rest)) == "it has a part that snapshots do not have"


@pytest.mark.parametrize("name", ["meta.json", "SHA256SUMS"])
def test_a_small_part_that_is_long_is_not_held_in_memory(name: str) -> None:
    parts = {**PARTS, name: b" " * (1024 * 1024 + 1)}

    assert problem(archive_of(parts)) == f"its {name} is too long"


@pytest.mark.parametrize(
    "content",
    [b"", b"rpc error: no leader", b"<html>", gzip.compress(b"no tar")],
    ids=["nothing", "an error", "a page", "no tar"],
)
def test_something_else_is_none(content: bytes) -> None:
    assert problem(content).startswith(("it cannot be unpacked: ", "a part of it is missing"))


@given(st.integers(0, len(ARCHIVE) - 1))
def test_one_that_ends_early_is_none_wherever_it_ends(length: int) -> None:
    problem(ARCHIVE[:length])


@given(st.integers(0, len(ARCHIVE) - 1), st.integers(1, 255))
def test_one_with_another_byte_is_none_or_is_the_same(position: int, change: int) -> None:
    changed = bytearray(ARCHIVE)
    changed[position] ^= change
    try:
        index = verified_index(io.BytesIO(bytes(changed)))
    except BrokenArchiveError:
        return
    assert index == 16
    assert gzip.decompress(changed) == gzip.decompress(ARCHIVE)  # gzip's header has a time


class Watched(io.BytesIO):
    """Notes the largest piece that is read at once."""

    largest = 0

    def read(self, size: int | None = -1) -> bytes:
        found = super().read(size)
        self.largest = max(self.largest, len(found))
        return found


def test_a_large_one_is_read_in_pieces() -> None:
    archive = Watched(archive_of(parts_of(os.urandom(8 * CHUNK_BYTES))))

    assert verified_index(archive) == 16
    assert 0 < archive.largest <= CHUNK_BYTES


# --- where it is kept ----------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_file_is_there_for_nobody_else_and_gone_afterwards(directory: Path) -> None:
    with scratch_file() as file:
        file.write(b"secret")
        file.flush()
        assert list(directory.iterdir()) == []
        assert len(open_files_in(directory)) == 1
    assert open_files_in(directory) == []


def test_it_is_gone_after_a_failure_too(directory: Path) -> None:
    with pytest.raises(KeyError), scratch_file():
        raise KeyError
    assert open_files_in(directory) == []


class Limited(io.BytesIO):
    """A file on a disk that is full."""

    def write(self, _: Any) -> int:
        raise OSError(self.error, os.strerror(self.error))

    error = errno.ENOSPC


def test_what_does_not_fit_is_told_with_the_size_of_the_place(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", Limited)
    status = os.statvfs(directory)
    with pytest.raises(SnapshotTooLarge) as caught, scratch_file() as file:
        file.write(b"too much")
    assert str(caught.value) == (
        f"The snapshot does not fit into {directory} of the function, which has "
        f"{status.f_blocks * status.f_frsize // 2**20} MiB. Deploy the function with more "
        "ephemeral storage."
    )


def test_another_failure_of_the_disk_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Limited):
        error = errno.EIO

    monkeypatch.setattr(tempfile, "TemporaryFile", Broken)

    def fill(file: BinaryIO) -> None:
        file.write(b"")

    with pytest.raises(OSError, match="Input/output error"), scratch_file() as file:
        fill(file)
