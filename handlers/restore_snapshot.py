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

    Servers that the snapshot knows and Raft does not are removed from the catalog afterwards.

    Input: `{"event": {"snapshot": key}}`, or `{"event": {}}` for the newest.

    Result: `{"key": str, "index": int, "bootstrapped": bool, "forgotten": [str]}`: what was
    restored, whether Consul had to be bootstrapped for it, and the names of those servers.

    Remote calls, into a Consul that knows the token: 2 to S3, 1 to Secrets Manager, and 5 to
    Consul and 1 more for each of those servers.

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
    datacenter = environment.required(environment.CONSUL_DATACENTER)
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
            "secret may hold, and start SnapshotRestore again; or reset the ACL system "
            "(docs/operations.md), and start ClusterBootstrap, then Reconciliation."
        )
        raise SnapshotOfAnotherConsul(message)
    forgotten = _forget_lost_servers(consul, management_token, datacenter)
    return {"key": key, "index": index, "bootstrapped": not known, "forgotten": forgotten}


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


def _forget_lost_servers(consul: ConsulClient, token: str, datacenter: str) -> list[str]:
    """Remove the servers from the catalog that only the snapshot knows; return their names.

    New servers have the names of the old ones, and other IDs. Consul registers no node under the
    name of another one that is healthy. That is what the old ones were, and will be for ever: the
    leader finds a member of each name alive. Once they are gone it registers the new ones, within a
    minute. (One that is removed in error comes back in the same way.)

    A node without an ID stays: Consul lets a server take over its name.
    """
    registered = consul.registered_servers(token=token)
    servers = consul.raft_server_ids(token=token)
    lost = [name for name, node_id in registered if node_id and node_id not in servers]
    for name in lost:
        consul.deregister_node(name, datacenter, token=token)
    return lost


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
