"""Looking at the tokens of subjects: in Consul, and in Secrets Manager."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from handlers.clients.consul import Json
from handlers.clients.secrets_manager import SecretsManager, SecretVersion
from handlers.core import consul_tokens, names
from handlers.core.deployment import Deployment
from handlers.core.drift import Seen, SeenToken
from handlers.core.errors import (
    ConsulPermissionDenied,
    InvalidSecret,
    Retryable,
    StepError,
)
from handlers.core.subjects import Subject
from handlers.core.token_secret import TokenIds


@dataclass(frozen=True)
class InSecret:
    """What tasks pull from a secret."""

    ids: TokenIds | None = None
    unreadable: str = ""
    """Why nobody can tell what they pull, a sentence; empty if one can."""


def seen_token(token: Json, wanted: Mapping[str, Any] | None = None) -> SeenToken:
    """Return what matters of a token in Consul.

    Args:
        token: as Consul renders it.
        wanted: what it has to be, as `Deployment.wanted` returned it; None where that is of no
            interest.

    Raises:
        ConsulPermissionDenied: if Consul does not show us its secret ID.

    """
    if token.get("SecretID") == consul_tokens.HIDDEN:
        raise ConsulPermissionDenied(consul_tokens.ONLY_READABLE)
    return SeenToken(
        accessor_id=str(token.get("AccessorID")),
        secret_id=token.get("SecretID"),  # Consul 1.10.0 does not tell it in a list
        as_wanted=wanted is None
        or consul_tokens.content(token)
        == consul_tokens.content(consul_tokens.wanted_token(wanted)),
        not_pulled_since=names.not_pulled_since(token["Description"]),
    )


def ids_in_secrets(
    subjects: Sequence[Subject], deployment: Deployment, secrets: SecretsManager
) -> Iterator[tuple[Subject, InSecret]]:
    """Yield what is in the secret of each subject, in their order.

    What is wrong with one secret for good is told as `unreadable`; passing errors are raised.
    """
    currents = secrets.currents([deployment.secret_id(subject) for subject in subjects])
    for subject, current in zip(subjects, currents, strict=True):
        yield subject, _in_secret(current, where=f"The secret {deployment.secret_id(subject)}")


def seen(
    subject: Subject,
    tokens: Sequence[SeenToken],
    in_secret: InSecret,
    oldest: Mapping[Subject, datetime],
) -> Seen:
    """Return what was seen of a subject, put together.

    Args:
        subject: whose tokens they are.
        tokens: in Consul.
        in_secret: what tasks pull.
        oldest: when the oldest task that uses each subject's token was made.

    """
    return Seen(
        tokens=tokens,
        ids=in_secret.ids,
        unreadable=in_secret.unreadable,
        oldest_task=oldest.get(subject),
        is_shared=not subject.service,
    )


def _in_secret(current: SecretVersion | StepError | None, *, where: str) -> InSecret:
    if isinstance(current, Retryable):
        raise current
    if isinstance(current, StepError):
        return InSecret(unreadable=str(current))
    try:
        return InSecret(TokenIds.parse(current.value, where=where) if current else None)
    except InvalidSecret as error:
        return InSecret(unreadable=str(error))
