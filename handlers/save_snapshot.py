"""Take a snapshot of everything that Consul knows, and store it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from handlers.clients.consul_connection import consul
from handlers.clients.s3 import SnapshotBucket
from handlers.core import clock, environment, metrics
from handlers.core.errors import ConsulUnavailable
from handlers.core.snapshot_archive import BrokenArchiveError, scratch_file, verified_index
from handlers.core.step import step


@step
def handler(_state: Mapping[str, Any]) -> dict[str, Any]:
    """Take a snapshot; it is stored only if it is whole.

    Consul cannot say any more, once it has begun to send, that it does not get on: then the
    archive ends in the middle.

    Result: `{"key": str, "bytes": int, "index": int}`: its key in the bucket, its size, and the
    index of Raft's log that it is of.

    Raises:
        ConsulUnavailable: also if what Consul sends is not a whole snapshot.
        SnapshotTooLarge: if it does not fit into the function's /tmp.

    """
    bucket = SnapshotBucket()
    with scratch_file() as archive:
        taken = clock.now()
        consul().save_snapshot(archive)
        try:
            index = verified_index(archive)
        except BrokenArchiveError as error:
            message = f"What Consul sent is not a whole snapshot: {error}. Nothing was stored."
            raise ConsulUnavailable(message) from None
        size = archive.seek(0, os.SEEK_END)
        key = bucket.key(taken=taken, index=index)
        bucket.upload(key, archive)
    metrics.publish(
        cluster=environment.required(environment.CLUSTER_ARN).rpartition("/")[2],
        values={metrics.SNAPSHOT_BYTES: size},
    )
    return {"key": key, "bytes": size, "index": index}
