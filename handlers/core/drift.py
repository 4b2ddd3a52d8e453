"""What is wrong with the tokens of one subject, and what may be done about it.

Pure rules on what a step has seen of Consul, of ECS and of Secrets Manager. Tokens are looked at
before tasks, so that a task which starts in between counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from handlers.core.token_secret import TokenIds


@dataclass(frozen=True)
class SeenToken:
    """A token of ours in Consul."""

    accessor_id: str
    secret_id: str | None = field(repr=False)
    """None if it is not told."""
    as_wanted: bool
    """Whether its policies, identities and description are what they have to be."""
    not_pulled_since: datetime | None = None
    """The mark of a token that tasks which were made since cannot hold."""


@dataclass(frozen=True)
class Seen:
    """All that was seen of a subject.

    Args:
        tokens: ours, for this subject.
        ids: what tasks pull from its secret; None if there is nothing yet.
        unreadable: why nobody can tell what is in the secret, a sentence; empty if one can.
        oldest_task: when the oldest live task that uses the subject's token was made; None if
            there is no task.
        is_shared: whether the token is not a service's, and so is needed without any task, too.
        policy_as_wanted: whether the subject's own policy is as it has to be; true without one.

    """

    tokens: Sequence[SeenToken]
    ids: TokenIds | None
    oldest_task: datetime | None
    unreadable: str = ""
    is_shared: bool = False
    policy_as_wanted: bool = True

    @property
    def is_needed(self) -> bool:
        """Whether anybody uses the subject's token."""
        return self.is_shared or self.oldest_task is not None

    def is_current(self, token: SeenToken) -> bool:
        """Whether tasks pull this token."""
        return self.ids is not None and self.ids.are_of(token.accessor_id)


@dataclass(frozen=True)
class Verdict:
    """What is wrong, and what may be done."""

    provision: bool = False
    """Whether the token has to be made, or brought in line with the secret or with the settings."""
    retire: tuple[str, ...] = ()
    """Accessor IDs of tokens that are superseded, and not marked as such."""
    suspects: tuple[str, ...] = ()
    """Accessor IDs of tokens that nobody seems to need."""
    left: str = ""
    """Why nothing is done: a sentence for an operator."""

    @property
    def is_drift(self) -> bool:
        """Whether anything is wrong."""
        return bool(self.provision or self.retire or self.suspects or self.left)


def judge(seen: Seen, now: datetime) -> Verdict:
    """Return what is wrong with the tokens of a subject."""
    unneeded = tuple(token.accessor_id for token in seen.tokens if may_go(token, seen, now))
    if not seen.is_needed:
        return Verdict(suspects=unneeded)
    return Verdict(
        provision=not seen.unreadable and not _is_provisioned(seen),
        retire=tuple(
            token.accessor_id
            for token in seen.tokens
            if not (seen.unreadable or seen.is_current(token) or token.not_pulled_since)
        ),
        suspects=unneeded,
        left=seen.unreadable,
    )


def may_go(token: SeenToken, seen: Seen, now: datetime) -> bool:
    """Whether a token may be deleted, as far as can be seen.

    What tasks pull: if no task is there, and never if the token is shared. A superseded one: if
    every task that is there was made after the token could be pulled, which only a mark tells. For
    a service without any task no mark is needed: whatever is deleted there can be made again, with
    the same IDs, by the event of the next task.
    """
    if not seen.is_needed:
        return True
    if seen.unreadable or seen.is_current(token) or token.not_pulled_since is None:
        return False
    since = token.not_pulled_since
    return now >= since and (seen.oldest_task is None or seen.oldest_task >= since)


def _is_provisioned(seen: Seen) -> bool:
    """Whether tasks pull a token that exists and is what it has to be."""
    return seen.policy_as_wanted and any(
        seen.is_current(token)
        and seen.ids is not None
        and token.secret_id in {None, seen.ids.secret_id}
        and token.as_wanted
        for token in seen.tokens
    )
