"""The environment variables of the functions: names, and reading them."""

from __future__ import annotations

import os
from typing import Final

from handlers.core.errors import InvalidConfiguration

CLUSTER_ARN: Final = "CLUSTER_ARN"
SECRET_PREFIX: Final = "SECRET_PREFIX"
RESERVED_SECRET_NAMES: Final = "RESERVED_SECRET_NAMES"
"""Comma-separated names of secrets that no service may land on."""
CLIENT_TOKEN_SECRET_ARN: Final = "CLIENT_TOKEN_SECRET_ARN"
"""The secret with the token of all consul-client containers."""
CONTROLLER_TOKEN_SECRET_ARN: Final = "CONTROLLER_TOKEN_SECRET_ARN"
"""The secret with the controller's own token, for steps that renew it or look at it."""
SECRET_TAGS: Final = "SECRET_TAGS"
"""JSON object of tags for the secrets that we create, besides our own."""
SECRET_KMS_KEY_ARN: Final = "SECRET_KMS_KEY_ARN"
"""Optional: the key in KMS that encrypts the secrets that we create."""
CONSUL_HTTP_ADDR: Final = "CONSUL_HTTP_ADDR"
CONSUL_DATACENTER: Final = "CONSUL_DATACENTER"
CONSUL_CA_SECRET_ARN: Final = "CONSUL_CA_SECRET_ARN"
"""Optional: the secret with the PEM of a private CA."""
CONSUL_TOKEN_SECRET_ARN: Final = "CONSUL_TOKEN_SECRET_ARN"
"""The secret with the token that the function authenticates with."""
SNAPSHOT_BUCKET: Final = "SNAPSHOT_BUCKET"
"""The bucket that snapshots of Consul's state are kept in."""
SNAPSHOT_PREFIX: Final = "SNAPSHOT_PREFIX"
"""Begins the keys of the snapshots, without the slash."""
DEPLOYMENT_RUN_ARN: Final = "DEPLOYMENT_RUN_ARN"
"""The state machine that runs a workflow for CloudFormation."""
SETTLE_SECONDS: Final = "DEPLOYMENT_SETTLE_SECONDS"
"""How long a run waits, at most, until what was just deployed is known everywhere."""


def required(name: str) -> str:
    """Return the value of a variable.

    Raises:
        InvalidConfiguration: if it is absent or empty.

    """
    value = os.environ.get(name, "")
    if not value:
        message = f"The environment variable {name} of the function is not set. Deploy it again."
        raise InvalidConfiguration(message)
    return value


def optional(name: str) -> str | None:
    """Return the value of a variable, or None if it is absent or empty."""
    return os.environ.get(name) or None
