"""Secrets whose value is found good, or made anew: one maker wins, and a crash is finished."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from handlers.clients.secrets_manager import SecretsManager, SecretVersion, kept_version_id
from handlers.core.errors import AwsUnavailable

T = TypeVar("T")

_TRIES = 5


@dataclass(frozen=True)
class GoodValue(Generic[T]):
    """What a secret holds now."""

    version: SecretVersion
    content: T
    is_new: bool
    """Whether it was made by this call, or by one that died before it was published."""


def make_sure(
    secrets: SecretsManager,
    secret_id: str,
    *,
    read: Callable[[SecretVersion], T | None],
    new_value: Callable[[SecretVersion], str],
) -> GoodValue[T]:
    """Make sure that what a secret's readers get is good.

    `read` returns what a version holds, or None if something new has to take its place; it raises
    InvalidSecret for what must not be overwritten. `new_value` makes what is to replace a version,
    and is called only if nobody has written that ahead. Readers get the old value until the new one
    is complete.

    Calls to Secrets Manager: 1 if the value is good; 4 to replace it; 6 if there is none.

    Raises:
        InvalidSecret: if the secret, or what was written to replace its value, holds other things.
        AwsUnavailable: also if others change it all the time.

    """
    for _ in range(_TRIES):
        current = secrets.current(secret_id) or secrets.initialize(secret_id)
        content = read(current)
        if content is not None:
            return GoodValue(current, content, is_new=False)
        pending = secrets.pending(current) or secrets.write_ahead(
            current, partial(new_value, current)
        )
        content = read(pending)
        if content is None:
            # Whoever wrote it died long ago, or had other settings. Its place is taken for good: go
            # on from another one, so that nobody can publish it.
            kept = kept_version_id(current.arn, current.version_id, "make sure")
            secrets.keep(current, version_id=kept)
        elif secrets.publish(
            pending.arn, pending.version_id, replaces_version_id=current.version_id
        ):
            return GoodValue(pending, content, is_new=True)
    message = f"The secret {secret_id} is changed by somebody else all the time, or not made good."
    raise AwsUnavailable(message)
