"""Snapshots of the state of Consul servers: taken, stored and restored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aws_cdk import aws_iam as iam
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from handlers.core import environment
from infrastructure.consul_servers import SnapshotStore
from infrastructure.handler_functions import HandlerFunctions, allow
from infrastructure.secret_keys import DECRYPT, ENCRYPT, key_statements
from workflows.server_snapshot import LONGEST_TRANSFER, ServerSnapshot
from workflows.snapshot_restore import SnapshotRestore

# S3 user guide, "Using server-side encryption with AWS KMS keys": an object is read with `DECRYPT`
# on its key. It is written with `ENCRYPT`, for S3 decrypts a bucket key before it uses that again
# ("S3 Bucket Keys and replication"). Nobody can read by that who may not get the objects.


class ServerSnapshots(Construct):
    """Takes snapshots of everything that Consul servers know, and restores them.

    You get: the workflows ServerSnapshot and SnapshotRestore with their functions. The first has
    the controller's token and may only write to the bucket; the second has the management token
    and may only read from it. A snapshot holds every ACL token, so it is nowhere but in the bucket
    and, while a function works on it, in a nameless file of its own. The functions run where they
    reach the servers; from there they need a way to S3 (a gateway endpoint or a NAT gateway).

    Args:
        scope: the construct that it belongs to.
        construct_id: its ID there.
        store: where the snapshots are.
        functions: makes the functions.
        controller_token_secret: holds the token that snapshots are taken with.
        management_token_secret: holds the token that they are restored with.
        cluster_bootstrap: makes sure of policies and shared tokens after a restore.
        reconciliation: makes sure of the services' tokens after a restore.
        service_intention: makes sure of an intention after a restore.
        intentions: returns what it is started with, for each that deployments want.

    Attributes:
        server_snapshot: the workflow that takes a snapshot.
        snapshot_restore: the workflow that restores one.

    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        store: SnapshotStore,
        functions: HandlerFunctions,
        controller_token_secret: secretsmanager.ISecret,
        management_token_secret: secretsmanager.ISecret,
        cluster_bootstrap: sfn.IStateMachine,
        reconciliation: sfn.IStateMachine,
        service_intention: sfn.IStateMachine,
        intentions: Callable[[], Sequence[Mapping[str, Any]]],
    ) -> None:
        super().__init__(scope, construct_id)
        variables = {
            environment.SNAPSHOT_BUCKET: store.bucket.bucket_name,
            environment.SNAPSHOT_PREFIX: store.prefix,
        }
        snapshots = store.bucket.arn_for_objects(f"{store.prefix}/*")
        self.server_snapshot = ServerSnapshot(
            self,
            "ServerSnapshot",
            save_snapshot=functions.talking_to_consul(
                self,
                "SaveSnapshot",
                "save_snapshot",
                token_secret=controller_token_secret,
                variables=variables,
                statements=[
                    allow(["s3:PutObject"], snapshots),
                    *key_statements(self, ENCRYPT, [store.encryption_key], service="s3"),
                ],
                timeout=LONGEST_TRANSFER,
                ephemeral_storage=store.largest,
            ),
            log_group=functions.log_group(self, "ServerSnapshotLogs"),
        ).state_machine
        self.snapshot_restore = SnapshotRestore(
            self,
            "SnapshotRestore",
            restore_snapshot=functions.talking_to_consul(
                self,
                "RestoreSnapshot",
                "restore_snapshot",
                token_secret=management_token_secret,
                variables=variables,
                statements=[
                    allow(["s3:GetObject"], snapshots),
                    iam.PolicyStatement(
                        actions=["s3:ListBucket"],
                        resources=[store.bucket.bucket_arn],
                        conditions={"StringLike": {"s3:prefix": f"{store.prefix}/*"}},
                    ),
                    *key_statements(self, DECRYPT, [store.encryption_key], service="s3"),
                ],
                timeout=LONGEST_TRANSFER,
                ephemeral_storage=store.largest,
            ),
            cluster_bootstrap=cluster_bootstrap,
            reconciliation=reconciliation,
            service_intention=service_intention,
            intentions=intentions,
            log_group=functions.log_group(self, "SnapshotRestoreLogs"),
        ).state_machine
