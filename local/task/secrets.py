"""Secrets of containers, pulled as ECS does: before anything starts, and all or nothing.

https://docs.aws.amazon.com/AmazonECS/latest/developerguide/secrets-envvar-secrets-manager.html
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from local.task.definition import TaskDefinition

# An ARN of a secret has seven parts; ECS puts a JSON key, a version stage and a version ID after.
_ARN_PARTS = 7
_ALL_PARTS = 10

_PREFIX = (
    "ResourceInitializationError: unable to pull secrets or registry auth: execution resource "
    "retrieval failed: unable to retrieve secret from asm: service call has been retried 1 time(s):"
)


class SecretUnavailableError(Exception):
    """A secret has no such value; the message is what ECS says after it has given up."""


def secrets_from(client: Any) -> Callable[[str], str]:
    """Return a function that gets the value that a container's ``valueFrom`` names.

    Parameters
    ----------
    client
        A boto3 client of Secrets Manager.

    Raises
    ------
    SecretUnavailableError
        The returned function does: there is no such secret, version or key.
    """

    def resolve(value_from: str) -> str:
        parts = value_from.split(":")
        if len(parts) not in {_ARN_PARTS, _ALL_PARTS} or parts[2] != "secretsmanager":
            raise SecretUnavailableError(f"{value_from} is not the ARN of a secret, or of a key.")
        arn = ":".join(parts[:_ARN_PARTS])
        key, stage, version = [*parts[_ARN_PARTS:], "", "", ""][:3]
        arguments = {"SecretId": arn, "VersionStage": stage, "VersionId": version}
        try:
            answer = client.get_secret_value(**{k: v for k, v in arguments.items() if v})
        except ClientError as error:
            # Its message names the secret, not its value.
            reason = f"{error.response['Error']['Code']}: {error.response['Error']['Message']}"
            raise SecretUnavailableError(
                f"failed to fetch secret {arn} from secrets manager: {reason}"
            ) from None
        except BotoCoreError as error:
            raise SecretUnavailableError(
                f"failed to fetch secret {arn} from secrets manager: {type(error).__name__}"
            ) from None
        text: str = answer["SecretString"]
        return _value(text, key) if key else text

    return resolve


def _value(text: str, key: str) -> str:
    try:
        fields = json.loads(text)
    except ValueError:
        # AWS quotes the first character that is wrong. It may be one of the secret's.
        raise SecretUnavailableError("invalid character looking for beginning of value") from None
    if not isinstance(fields, dict) or key not in fields:
        raise SecretUnavailableError(
            f"retrieved secret from Secrets Manager did not contain json key {key}"
        )
    value = fields[key]
    return value if isinstance(value, str) else json.dumps(value)


def pulled(
    definition: TaskDefinition, resolve: Callable[[str], str]
) -> Mapping[str, Mapping[str, str]]:
    """Pull the secrets of all containers; by container, and by the variable's name.

    Raises
    ------
    SecretUnavailableError
        One cannot be had; the message is the reason with which ECS stops the task.
    """
    try:
        return {
            name: {variable: resolve(source) for variable, source in container.secrets.items()}
            for name, container in definition.containers.items()
        }
    except SecretUnavailableError as error:
        raise SecretUnavailableError(f"{_PREFIX} {error}") from None
