"""Secrets that have no value until a workflow writes one, which no template ever does."""

from __future__ import annotations

from typing import cast

from aws_cdk import RemovalPolicy, Tags
from aws_cdk import aws_kms as kms
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from handlers.core import names


def valueless_secret(
    scope: Construct,
    construct_id: str,
    *,
    description: str,
    removal_policy: RemovalPolicy,
    name: str | None = None,
    encryption_key: kms.IKey | None = None,
) -> secretsmanager.Secret:
    """Make a secret without a value.

    Args:
        scope: the construct that it belongs to.
        construct_id: its ID there.
        description: what it is for.
        removal_policy: what becomes of it when its stack goes. CloudFormation deletes a secret
            without a recovery window, so that its name is free at once.
        name: its name. Default: CloudFormation chooses one.
        encryption_key: encrypts it. Default: the account's key `aws/secretsmanager`.

    """
    secret = secretsmanager.Secret(
        scope,
        construct_id,
        secret_name=name,
        description=description,
        removal_policy=removal_policy,
        encryption_key=encryption_key,
    )
    resource = cast("secretsmanager.CfnSecret", secret.node.default_child)
    resource.generate_secret_string = None
    return secret


def token_secret(
    scope: Construct,
    construct_id: str,
    *,
    name: str | None,
    description: str,
    cluster_arn: str,
    removal_policy: RemovalPolicy,
    encryption_key: kms.IKey | None = None,
    service_name: str | None = None,
) -> secretsmanager.Secret:
    """Make the secret of a token of an ECS cluster.

    Args:
        scope: the construct that it belongs to.
        construct_id: its ID there.
        name: its name, or None where nobody has to know it.
        description: what its token is for.
        cluster_arn: the ECS cluster; a tag of the secret names it.
        removal_policy: what becomes of it when its stack goes.
        encryption_key: encrypts it. Default: the account's key `aws/secretsmanager`.
        service_name: the service whose token it holds, for a tag. Default: no such tag.

    """
    secret = valueless_secret(
        scope,
        construct_id,
        name=name,
        description=description,
        removal_policy=removal_policy,
        encryption_key=encryption_key,
    )
    Tags.of(secret).add(names.CLUSTER_TAG, cluster_arn)
    if service_name is not None:
        Tags.of(secret).add(names.SERVICE_NAME_TAG, service_name)
    return secret
