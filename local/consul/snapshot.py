"""Snapshots of a server's state, in an archive that is Consul's on the outside.

A tar in gzip, as Consul's own: ``meta.json``, ``state.bin`` and the ``SHA256SUMS`` of the two. The
second is ours (JSON), so neither Consul can restore what the other one has saved.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zlib
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from local.consul.acl import SavedAcls
from local.consul.catalog import SavedCatalog
from local.consul.errors import Invalid
from local.consul.intentions import Intention

_META, _STATE, _SUMS = "meta.json", "state.bin", "SHA256SUMS"


@dataclass(frozen=True, kw_only=True)
class SavedState:
    """Everything that the servers of a datacenter know, as of an index of Raft's log."""

    index: int
    acls: SavedAcls
    catalog: SavedCatalog
    intentions: tuple[Intention, ...]


_SAVED = TypeAdapter(SavedState)


def pack(state: SavedState) -> bytes:
    """Return the archive with a state."""
    content = _SAVED.dump_json(state)
    meta = {
        "Version": 1,
        "ID": f"2-{state.index}-1",
        "Index": state.index,
        "Term": 2,
        "Size": len(content),
    }
    parts = {_META: json.dumps(meta).encode() + b"\n", _STATE: content}
    sums = "".join(f"{hashlib.sha256(part).hexdigest()}  {name}\n" for name, part in parts.items())
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, part in {**parts, _SUMS: sums.encode()}.items():
            header = tarfile.TarInfo(name)
            header.size, header.mode = len(part), 0o600
            archive.addfile(header, io.BytesIO(part))
    return gzip.compress(packed.getvalue())


def unpack(archive: bytes) -> SavedState:
    """Return the state in an archive.

    Raises
    ------
    Invalid
        It is no whole snapshot, or one of a real Consul.
    """
    try:
        packed = gzip.decompress(archive)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Invalid(f"failed to decompress snapshot: {error}") from None
    if not packed:
        raise Invalid("failed to decompress snapshot: EOF")
    try:
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:") as parts:
            found = {
                member.name: content.read()
                for member in parts
                if (content := parts.extractfile(member)) is not None
            }
    except tarfile.TarError as error:
        raise Invalid(f"failed to read snapshot file: failed reading snapshot: {error}") from None
    sums = found.get(_SUMS, b"").decode(errors="replace").splitlines()
    for name in (_META, _STATE):
        digest = hashlib.sha256(found.get(name, b"")).hexdigest()
        if f"{digest}  {name}" not in sums:
            raise Invalid(
                "failed to read snapshot file: failed checking integrity of snapshot: hash check "
                f'failed for "{name}"'
            )
    try:
        return _SAVED.validate_json(found[_STATE])
    except ValidationError:
        raise Invalid(
            "Raft error when restoring snapshot: the state is not that of an embedded Consul"
        ) from None
