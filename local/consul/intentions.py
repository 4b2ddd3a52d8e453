"""Intentions: which service may call which, as the service mesh's proxies are told.

Pure state and rules, no HTTP. What is here was read from Consul's source (``agent/consul`` and
``agent/structs`` of 1.10 and later): the recording has no intention.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from local.consul.errors import Invalid
from local.consul.raft import RaftLog

ANY = "*"
_ACTIONS = {"allow", "deny"}
_LONGEST_DESCRIPTION = 512


@dataclass(frozen=True, kw_only=True)
class Intention:
    """What is said about the calls of one service, or of all, to another one, or to all.

    The indexes are those of the config entry that all intentions of one destination are in.
    """

    source: str
    destination: str
    action: str
    description: str = ""
    create_index: int = 0
    modify_index: int = 0

    @property
    def precedence(self) -> int:
        """Which one decides where several say something: the highest."""
        return (6 if self.destination == ANY else 9) - (1 if self.source == ANY else 0)


class Intentions:
    """All intentions of one datacenter."""

    def __init__(self, raft: RaftLog) -> None:
        self._raft = raft
        # By source and destination. It is never changed, only replaced.
        self.stored: Mapping[tuple[str, str], Intention] = {}

    def get(self, source: str, destination: str) -> Intention | None:
        """Find the intention of exactly these two names."""
        return self.stored.get((source, destination))

    def put(self, intention: Intention) -> None:
        """Create an intention, or replace it.

        Raises
        ------
        Invalid
            The action is none, the description is too long, or a name has a wildcard in it.
        """
        if intention.action not in _ACTIONS:
            raise Invalid("Sources[0].Action must be set to 'allow' or 'deny'")
        if len(intention.description) > _LONGEST_DESCRIPTION:
            raise Invalid(f"Sources[0].Description exceeds maximum length {_LONGEST_DESCRIPTION}")
        for where, name in (("", intention.destination), ("Sources[0].", intention.source)):
            if ANY in name and name != ANY:
                raise Invalid(
                    f"{where}Name: wildcard character '*' cannot be used with partial values"
                )
        kept = {**self.stored, (intention.source, intention.destination): intention}
        self._write(kept, intention.destination)

    def delete(self, source: str, destination: str) -> None:
        """Delete an intention; an absent one is fine."""
        if (source, destination) in self.stored:
            kept = {
                key: value for key, value in self.stored.items() if key != (source, destination)
            }
            self._write(kept, destination)

    def allows(self, source: str, destination: str, *, default: bool) -> bool:
        """Whether a service may call another one."""
        for intention in self.called(destination):
            if intention.source in {source, ANY}:
                return intention.action == "allow"
        return default

    def called(self, destination: str) -> list[Intention]:
        """All about calls of a service; the first of them that is about the caller decides."""
        return sorted(
            (each for each in self.stored.values() if each.destination in {destination, ANY}),
            key=lambda each: (-each.precedence, each.source),
        )

    def _write(self, intentions: Mapping[tuple[str, str], Intention], destination: str) -> None:
        index = self._raft.append("intentions")
        before = [each for each in self.stored.values() if each.destination == destination]
        created = before[0].create_index if before else index
        self.stored = {
            key: replace(each, create_index=created, modify_index=index)
            if each.destination == destination
            else each
            for key, each in intentions.items()
        }
