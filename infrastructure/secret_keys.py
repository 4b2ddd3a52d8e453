"""Keys in KMS: the permission to use them for secrets or objects, and for nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aws_cdk import Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

DECRYPT = ("kms:Decrypt",)
ENCRYPT = ("kms:Decrypt", "kms:GenerateDataKey")


def key_statements(
    scope: Construct,
    actions: Sequence[str],
    keys: Iterable[kms.IKey | None],
    *,
    service: str = "secretsmanager",
) -> list[iam.PolicyStatement]:
    """Return what allows a role to use keys, if there are any.

    CDK's own `secret.grant_read` says this in the policy of a key that it makes, and nowhere for
    one that is imported.

    Args:
        scope: any construct of the stack where the keys are used.
        actions: `DECRYPT`, or `ENCRYPT` for who writes secrets.
        keys: those of the secrets; None for the account's own key, which needs no permission.
        service: what they may be used through: Secrets Manager or `s3`.

    """
    arns = list(dict.fromkeys(key.key_arn for key in keys if key is not None))
    if not arns:
        return []
    return [
        iam.PolicyStatement(
            actions=list(actions),
            resources=arns,
            conditions={
                "StringLike": {
                    # Whether its name ends like the partition's addresses, AWS does not say.
                    "kms:ViaService": f"{service}.{Stack.of(scope).region}.amazonaws.com*"
                }
            },
        )
    ]


def without_key(
    scope: Construct, construct_id: str, secret: secretsmanager.ISecret
) -> secretsmanager.ISecret:
    """Return a secret whose grants do not touch the policy of its key.

    There CDK names the role that is granted, and so the key's stack would depend on the role's. Who
    grants adds `key_statements` to the role: a key that CDK makes leaves it to IAM who may use it.

    Args:
        scope: the construct that uses the secret.
        construct_id: for the reference to it.
        secret: the secret.

    """
    if secret.encryption_key is None:
        return secret
    complete = secret.secret_full_arn
    return secretsmanager.Secret.from_secret_attributes(
        scope,
        construct_id,
        secret_complete_arn=complete,
        secret_partial_arn=None if complete else secret.secret_arn,
    )
