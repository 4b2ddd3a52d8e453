"""Give Consul the state that a snapshot holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handlers.clients.consul import ConsulClient
from handlers.clients.consul_connection import TokenInSecret, unauthenticated_consul
from handlers.clients.s3 import SnapshotBucket
from handlers.core import environment
from handlers.core.errors import (
    ConsulAlreadyBootstrapped,
    ConsulTokenRejected,
    InvalidEvent,
    InvalidSnapshot,
    SnapshotOfAnotherConsul,
)
from handlers.core.snapshot_archive import BrokenArchiveError, scratch_file, verified_index
from handlers.core.step import step
from handlers.core.step_input import take


@step
def handler(state: Mapping[str, Any]) -> dict[str, Any]:
    """Restore a snapshot, which replaces all that Consul knows; it is checked before that.

    A Consul whose ACL system is new is bootstrapped, for else nobody may restore anything: with the
    token in the bootstrap secret where Consul takes it. An older one chooses a token itself, which
    is used for this and kept nowhere, because the snapshot does not have it.

    Input: `{"event": {"snapshot": key}}`, or `{"event": {}}` for the newest.

    Result: `{"key": str, "index": int, "bootstrapped": bool}`: what was restored, and whether
    Consul had to be bootstrapped for it.

    Raises:
        InvalidEvent: if the input names no snapshot, or the newest may not be what is meant.
        SnapshotNotFound: if there is no such snapshot.
        InvalidSnapshot: if it is damaged. Nothing was changed.
        ClusterNotBootstrapped: if the bootstrap secret holds no token. Nothing was changed.
        ConsulTokenRejected: if Consul does not know the token there. Nothing was changed.
        SnapshotOfAnotherConsul: if the state is restored, and that token is not in it.
        SnapshotTooLarge: if it does not fit into the function's /tmp.

    """
    bucket = SnapshotBucket()
    secret = TokenInSecret(environment.required(environment.CONSUL_TOKEN_SECRET_ARN))
    consul = unauthenticated_consul()
    key = _named_snapshot(take(state, "event", dict))
    if key is None:
        key = bucket.newest()
    else:
        bucket.check(key)
    with scratch_file() as archive:
        bucket.download(key, archive)
        try:
            index = verified_index(archive)
        except BrokenArchiveError as error:
            message = (
                f"{bucket.url(key)} is not a whole snapshot: {error}. Nothing was changed. "
                "Restore another one."
            )
            raise InvalidSnapshot(message) from None
        management_token = secret.value()
        known = consul.knows_token(management_token)
        token = management_token if known else _bootstrap(consul, management_token, secret)
        consul.restore_snapshot(archive, token=token)
    if not consul.knows_token(management_token):
        message = (
            f"{bucket.url(key)} was restored, and Consul does not know the token in {secret} any "
            "more. Put the management token of that time there, which an earlier version of the "
            "secret may hold; or reset the ACL system (docs/operations.md). Then start "
            "ClusterBootstrap, and Reconciliation."
        )
        raise SnapshotOfAnotherConsul(message)
    return {"key": key, "index": index, "bootstrapped": not known}


def _named_snapshot(event: Mapping[str, Any]) -> str | None:
    """Return the key that the input names, or None for the newest.

    Raises:
        InvalidEvent: if the input is something else.

    """
    match event:
        case {"snapshot": str(key), **rest} if key and not rest:
            return key
        case {**rest} if not rest:
            return None
    message = (
        'SnapshotRestore is started with {"snapshot": "<the key of a snapshot>"}, or with {} for '
        "the newest one."
    )
    raise InvalidEvent(message)


def _bootstrap(consul: ConsulClient, wanted: str, secret: TokenInSecret) -> str:
    """Bootstrap a new ACL system; return its management token, which is the wanted one or not.

    Raises:
        ConsulTokenRejected: if it is not new.

    """
    try:
        return consul.bootstrap(wanted)
    except ConsulAlreadyBootstrapped as error:
        message = (
            f"Consul does not know the token in {secret}, with which the snapshot is restored. Put "
            f"a management token of this Consul there. Nothing was changed. {error}"
        )
        raise ConsulTokenRejected(message) from None
