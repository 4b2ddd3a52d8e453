"""A step's Lambda function, with a role and a log group of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aws_cdk import Duration, RemovalPolicy, Size
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

# What a function in a VPC needs for its network interfaces (AWS managed policy
# AWSLambdaVPCAccessExecutionRole). EC2 has no resource-level permissions for most of it.
_NETWORK_INTERFACE_ACTIONS = [
    "ec2:AssignPrivateIpAddresses",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:UnassignPrivateIpAddresses",
]


@dataclass(frozen=True)
class Network:
    """Where functions run that have to reach Consul in a VPC."""

    vpc: ec2.IVpc
    subnets: ec2.SubnetSelection
    security_groups: Sequence[ec2.ISecurityGroup]


class HandlerFunction(Construct):
    """One step as a Lambda function: Python 3.13 on arm64, JSON logs.

    Args:
        scope: the construct that it belongs to.
        construct_id: its ID there.
        step: the name of the handler's module in `handlers`.
        code: the asset that all steps share.
        environment: the variables that the step reads; see `handlers.core.environment`.
        log_retention: how long its logs are kept.
        statements: what its role may do, besides writing its own logs.
        network: where it runs; outside any VPC by default.
        timeout: how long one invocation may take.
        ephemeral_storage: the size of its /tmp; 512 MiB by default.

    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        step: str,
        code: lambda_.Code,
        environment: Mapping[str, str],
        log_retention: logs.RetentionDays,
        statements: Sequence[iam.PolicyStatement] = (),
        network: Network | None = None,
        timeout: Duration | None = None,
        ephemeral_storage: Size | None = None,
    ) -> None:
        super().__init__(scope, construct_id)
        log_group = logs.LogGroup(
            self, "Logs", retention=log_retention, removal_policy=RemovalPolicy.DESTROY
        )
        role = iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"),
            description=f"Consul on ECS: the step {step}",
        )
        log_group.grant_write(role)
        for statement in statements:
            role.add_to_policy(statement)
        if network is not None:
            role.add_to_policy(
                iam.PolicyStatement(actions=_NETWORK_INTERFACE_ACTIONS, resources=["*"])
            )
        self.function = lambda_.Function(
            self,
            "Function",
            description=f"Consul on ECS: the step {step}",
            runtime=lambda_.Runtime.PYTHON_3_13,
            architecture=lambda_.Architecture.ARM_64,
            code=code,
            handler=f"handlers.{step}.handler",
            environment=dict(environment),
            role=role,
            log_group=log_group,
            logging_format=lambda_.LoggingFormat.JSON,
            # Lambda gives CPU in proportion to memory; a cold start is all CPU (imports).
            memory_size=512,
            timeout=timeout or Duration.seconds(45),
            ephemeral_storage_size=ephemeral_storage,
            vpc=network.vpc if network else None,
            vpc_subnets=network.subnets if network else None,
            security_groups=list(network.security_groups) if network else None,
        )
