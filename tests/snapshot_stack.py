"""A stack with snapshots, and with state machines in the place of those that a restore runs."""

from __future__ import annotations

from pathlib import Path

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk import aws_stepfunctions_tasks as tasks

from infrastructure.consul_servers import SnapshotStore
from infrastructure.external_consul import ExternalConsul
from infrastructure.handler_function import Network
from infrastructure.handler_functions import HandlerFunctions
from infrastructure.server_snapshots import ServerSnapshots
from tests.synthesized import IRELAND, Deployed, Synthesized, context

CLUSTER_ARN = IRELAND.arn("ecs", "cluster/mesh")
CA_SECRET_ARN = IRELAND.arn("secretsmanager", "secret:ca-AbCdEf")
CONTROLLER_SECRET_ARN = IRELAND.arn("secretsmanager", "secret:controller-AbCdEf")
MANAGEMENT_SECRET_ARN = IRELAND.arn("secretsmanager", "secret:management-AbCdEf")
KEY_ARN = IRELAND.arn("kms", "key/11111111-2222-3333-4444-555555555555")
BUCKET = "acme-snapshots"
INTENTIONS = [
    {
        "intention": {"source": source, "destination": "payments", "action": "allow"},
        "wanted_by": f"{number:012}",
    }
    for number, source in enumerate(["web", "batch"])
]
SUBNET, SECURITY_GROUP = "subnet-0123456789abcdef0", "sg-0123456789abcdef0"


def synthesize_snapshots(directory: Path) -> Deployed:
    """Synthesize an app of one stack, called "Snapshots"."""
    app = cdk.App(outdir=str(directory / "cdk.out"), context=context())
    stack = cdk.Stack(app, "Snapshots")
    key = kms.Key.from_key_arn(stack, "Key", KEY_ARN)
    ServerSnapshots(
        stack,
        "ServerSnapshots",
        store=SnapshotStore(
            bucket=s3.Bucket.from_bucket_name(stack, "Bucket", BUCKET),
            prefix="consul/mesh",
            encryption_key=key,
        ),
        functions=HandlerFunctions(
            servers=ExternalConsul(
                http_address="https://server.consul.internal:8501",
                ca_secret=_secret(stack, "Ca", CA_SECRET_ARN, key),
            ),
            cluster_arn=CLUSTER_ARN,
            secret_prefix="acme",
            network=_network(stack),
            log_retention=logs.RetentionDays.ONE_MONTH,
        ),
        controller_token_secret=_secret(stack, "Controller", CONTROLLER_SECRET_ARN, key),
        management_token_secret=_secret(stack, "Management", MANAGEMENT_SECRET_ARN, key),
        cluster_bootstrap=_calling(stack, "ClusterBootstrap"),
        reconciliation=_calling(stack, "Reconciliation"),
        service_intention=_calling(stack, "ServiceIntention"),
        intentions=lambda: INTENTIONS,
    )
    artifact = app.synth().get_stack_by_name(stack.stack_name)
    messages = [f"{message.id}: {message.entry.data}" for message in artifact.messages]
    return Deployed(Synthesized(app, stack.stack_name, artifact.template, messages), IRELAND)


def _secret(stack: cdk.Stack, construct_id: str, arn: str, key: kms.IKey) -> secretsmanager.ISecret:
    return secretsmanager.Secret.from_secret_attributes(
        stack, construct_id, secret_complete_arn=arn, encryption_key=key
    )


def _network(stack: cdk.Stack) -> Network:
    vpc = ec2.Vpc.from_vpc_attributes(
        stack,
        "Vpc",
        vpc_id="vpc-0123456789abcdef0",
        availability_zones=["eu-west-1a"],
        private_subnet_ids=[SUBNET],
        private_subnet_route_table_ids=["rtb-0123456789abcdef0"],
    )
    group = ec2.SecurityGroup.from_security_group_id(stack, "Group", SECURITY_GROUP)
    return Network(vpc=vpc, subnets=ec2.SubnetSelection(), security_groups=[group])


def _calling(stack: cdk.Stack, name: str) -> sfn.StateMachine:
    """Make a state machine that calls a function, which says how it ends."""
    function = lambda_.Function.from_function_arn(
        stack, f"{name}End", IRELAND.arn("lambda", f"function:{name}End")
    )
    return sfn.StateMachine(
        stack,
        name,
        definition_body=sfn.DefinitionBody.from_chainable(
            tasks.LambdaInvoke(
                stack,
                f"Call{name}",
                lambda_function=function,
                payload_response_only=True,
                retry_on_service_exceptions=False,
            )
        ),
    )
