"""The bucket that snapshots are kept in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final, NamedTuple

from botocore.exceptions import IncompleteReadError

from handlers.clients import aws
from handlers.core import environment
from handlers.core.errors import AwsUnavailable, InvalidEvent, SnapshotNotFound
from handlers.core.snapshot_archive import CHUNK_BYTES

_NAME: Final = re.compile(r"(\d{8}T\d{6}Z)-(\d{1,20})\.snap")


class _Snapshot(NamedTuple):
    """One of the snapshots; they sort by time."""

    taken: str
    raft_index: int
    key: str


class SnapshotBucket:
    """The snapshots under one prefix of a bucket, which the function's variables name.

    The key of one says when it was taken, and of which index of Raft's log:
    `<prefix>/20261126T081500Z-1234.snap`. So keys sort by time. `client` is a boto3 S3 client.

    Raises:
        InvalidConfiguration: if a variable is missing.

    """

    def __init__(self, client: Any | None = None) -> None:
        self._bucket = environment.required(environment.SNAPSHOT_BUCKET)
        self._folder = f"{environment.required(environment.SNAPSHOT_PREFIX)}/"
        self._client = client if client is not None else aws.client("s3")

    def key(self, *, taken: datetime, index: int) -> str:
        """Return the key of a new snapshot."""
        return f"{self._folder}{taken.astimezone(UTC):%Y%m%dT%H%M%SZ}-{index}.snap"

    def url(self, key: str) -> str:
        """Return where a snapshot is, for messages and for `aws s3`."""
        return f"s3://{self._bucket}/{key}"

    def upload(self, key: str, archive: BinaryIO) -> None:
        """Store a snapshot: all of it or nothing, read from the file while it is sent."""
        archive.seek(0)
        with aws.translated_errors(f"Writing {self.url(key)}"):
            # One request, of 5 GiB at most: of one that breaks off, S3 keeps nothing. An upload in
            # parts that nobody ends would stay, unseen.
            self._client.put_object(Bucket=self._bucket, Key=key, Body=archive)

    def newest(self) -> str:
        """Return the key of the newest snapshot.

        Raises:
            SnapshotNotFound: if there is none.
            InvalidEvent: if it may not be the one that is meant.

        """
        found = list(self._snapshots(self._folder))
        if not found:
            message = (
                f"There is no snapshot under {self.url(self._folder)}. ServerSnapshot takes one."
            )
            raise SnapshotNotFound(message)
        newest, highest = max(found), max(found, key=lambda each: each.raft_index)
        if newest.raft_index < highest.raft_index:
            # Raft's index only grows, also when a snapshot is restored.
            message = (
                f"The newest snapshot, {newest.key}, has a lower index than {highest.key}, so it "
                "may be of a new and empty Consul. Say which one is meant: "
                '{"snapshot": "<its key>"}.'
            )
            raise InvalidEvent(message)
        return newest.key

    def check(self, key: str) -> None:
        """Return if there is a snapshot of a key.

        Raises:
            SnapshotNotFound: if not.

        """
        # Not by asking for it: without the right to list the whole bucket, what is absent is
        # answered as what is forbidden. So is the search for what can be none of ours.
        if self._snapshot(key) is None or not any(
            found.key == key for found in self._snapshots(key)
        ):
            message = (
                f"There is no snapshot {self.url(key)}. A key looks like "
                f"{self._folder}20261126T081500Z-1234.snap; ServerSnapshot's output has that of "
                f"the one it took, and `aws s3 ls {self.url(self._folder)}` lists them."
            )
            raise SnapshotNotFound(message)

    def download(self, key: str, into: BinaryIO) -> None:
        """Write a snapshot to a file while it arrives."""
        what = f"Reading {self.url(key)}"
        with aws.translated_errors(what):
            answer = self._client.get_object(Bucket=self._bucket, Key=key)
            try:
                into.writelines(answer["Body"].iter_chunks(CHUNK_BYTES))
            except IncompleteReadError as error:
                message = f"{what}: the answer broke off."
                raise AwsUnavailable(message) from error

    def _snapshots(self, prefix: str) -> Iterator[_Snapshot]:
        """Yield each snapshot whose key begins with a text."""
        following: dict[str, str] = {}
        while True:
            with aws.translated_errors(f"Listing {self.url(prefix)}"):
                answer = self._client.list_objects_v2(
                    Bucket=self._bucket, Prefix=prefix, **following
                )
                keys = [aws.member(each, "Key", str) for each in answer.get("Contents", [])]
                token = answer.get("NextContinuationToken")
            yield from filter(None, map(self._snapshot, keys))
            if token is None:
                return
            following = {"ContinuationToken": token}

    def _snapshot(self, key: str) -> _Snapshot | None:
        """Return what the key of a snapshot says, or None if it is something else's."""
        name = _NAME.fullmatch(key.removeprefix(self._folder))
        if name is None or not key.startswith(self._folder):
            return None
        return _Snapshot(name.group(1), int(name.group(2)), key)
