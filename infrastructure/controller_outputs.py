"""What the stack of an ACL controller says of it, for people and scripts."""

from __future__ import annotations

from aws_cdk import CfnOutput, Stack

from handlers.core import names
from infrastructure.acl_controller import AclController


def add_outputs(stack: Stack, controller: AclController) -> None:
    """Add the outputs that name a controller's workflows and secrets.

    Args:
        stack: gets the outputs; one controller a stack.
        controller: the controller.

    """
    outputs = {
        "ClusterBootstrapArn": controller.cluster_bootstrap.state_machine_arn,
        "TaskProvisioningArn": controller.task_provisioning.state_machine_arn,
        "ReconciliationArn": controller.reconciliation.state_machine_arn,
        "TokenRotationArn": controller.token_rotation.state_machine_arn,
        "ServiceIntentionArn": controller.service_intention.state_machine_arn,
        "DeadLetterQueueUrl": controller.dead_letter_queue.queue_url,
    }
    for key, workflow in (
        ("CertificateRenewal", controller.certificate_renewal),
        ("ServerSnapshot", controller.server_snapshot),
        ("SnapshotRestore", controller.snapshot_restore),
    ):
        if workflow is not None:
            outputs[f"{key}Arn"] = workflow.state_machine_arn
    managed = controller.servers.managed
    if managed is not None and managed.snapshots is not None:
        outputs["SnapshotBucketName"] = managed.snapshots.bucket.bucket_name
    for key, secret, name in (
        (
            "BootstrapToken",
            controller.bootstrap_token_secret,
            controller.bootstrap_token_secret.secret_name,
        ),
        (
            "ControllerToken",
            controller.controller_token_secret,
            names.controller_secret_name(controller.secret_prefix),
        ),
        ("ClientToken", controller.client_token_secret, controller.client_token_secret_name),
    ):
        outputs[f"{key}SecretArn"] = secret.secret_arn
        outputs[f"{key}SecretName"] = name
    for key, value in outputs.items():
        CfnOutput(stack, key, value=value)
