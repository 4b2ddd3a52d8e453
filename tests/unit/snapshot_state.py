"""What is in the bucket of snapshots, and archives in the form of Consul's."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

BUCKET: Final = "acme-snapshots"
PREFIX: Final = "consul/mesh"


class SnapshotsState:
    """The bucket, as a person would look at it."""

    def __init__(self, client: Any) -> None:
        self._client = client
        client.create_bucket(Bucket=BUCKET)

    def put(self, key: str, content: bytes) -> str:
        self._client.put_object(Bucket=BUCKET, Key=key, Body=content)
        return key

    def content(self, key: str) -> bytes:
        content: bytes = self._client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return content

    def keys(self) -> list[str]:
        listed = self._client.list_objects_v2(Bucket=BUCKET)
        return [each["Key"] for each in listed.get("Contents", [])]

    def uploads(self) -> list[Any]:
        """Return the uploads that nobody has ended."""
        uploads: list[Any] = self._client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        return uploads


def key_of(taken: str, index: int = 1) -> str:
    """Return the key of a snapshot that was taken at a time such as `20260105T201001Z`."""
    return f"{PREFIX}/{taken}-{index}.snap"


def parts_of(state: bytes = b"everything", *, index: Any = 16) -> dict[str, bytes]:
    """Return the parts of an archive, as Consul 1.10 writes them."""
    meta = json.dumps({"Version": 1, "ID": "2-16-1", "Index": index, "Size": len(state)})
    parts = {"meta.json": meta.encode() + b"\n", "state.bin": state}
    return {**parts, "SHA256SUMS": sums_of(parts)}


def sums_of(parts: Mapping[str, bytes]) -> bytes:
    """Return what `sha256sum` says of some parts. Consul's are in no order."""
    lines = [f"{hashlib.sha256(part).hexdigest()}  {name}\n" for name, part in parts.items()]
    return "".join(reversed(lines)).encode()


def archive_of(parts: Mapping[str, bytes], *, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Pack parts as Consul does."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in parts.items():
            header = tarfile.TarInfo(name)
            header.size, header.type = len(content), kind
            archive.addfile(header, io.BytesIO(content))
    return gzip.compress(packed.getvalue(), compresslevel=1)


def open_files_in(directory: Path) -> list[str]:
    """Return the files of a folder that the process has open, also those without a name."""
    folder = Path("/proc/self/fd")
    targets = [str(link.readlink()) for link in folder.iterdir() if link.is_symlink()]
    return [target for target in targets if target.startswith(str(directory))]
