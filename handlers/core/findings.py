"""What a look at all tokens has found, as much of it as one state of a workflow can hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from handlers.core import named_tokens
from handlers.core.drift import Verdict
from handlers.core.paging import Room
from handlers.core.subjects import Subject

# A state's input or output may have 256 KiB (Step Functions quotas), and everything that the
# workflow adds to this names the same subjects once more. An execution's history may have 25,000
# events, of which a nested execution is about a dozen.
_ROOM = {
    "provision": Room(most=400, most_bytes=30_000),
    "retire": Room(most=100, most_bytes=25_000),
    "suspects": Room(most=1000, most_bytes=50_000),
    "reasons": Room(most=20, most_bytes=10_000),
}
_LONGEST_REASON = 400


@dataclass
class Findings:
    """Collects verdicts on subjects, which come in their order, until a state is full."""

    is_full: bool = False
    _found: int = 0
    _left: int = 0
    _last: Subject | None = None
    _room: dict[str, Room] = field(default_factory=lambda: dict(_ROOM))
    _lists: dict[str, list[Any]] = field(default_factory=lambda: {kind: [] for kind in _ROOM})

    def add(self, subject: Subject, verdict: Verdict) -> None:
        """Take in what is wrong with a subject; if it does not fit, the state is full.

        Of what is wrong with the first subject so much is taken as fits: the rest is found again
        when that has been put right. Reasons that do not fit are only counted.
        """
        if self.is_full:
            return
        added: dict[str, list[Any]] = {}
        room = dict(self._room)
        for kind, entries in _entries(subject, verdict).items():
            added[kind], room[kind] = room[kind].take(entries)
            whole = len(added[kind]) == len(entries)
            if not whole and kind != "reasons" and self._last is not None:
                self.is_full = True
                return
        for kind, entries in added.items():
            self._lists[kind] += entries
        self._room = room
        self._found += verdict.is_drift
        self._left += bool(verdict.left)
        self._last = subject

    def to_state(self) -> dict[str, Any]:
        """Return it for a workflow's state.

        ::

            {"found": n,    # subjects with something wrong
             "left": n,     # those of them that somebody has to look at
             "provision": [subject, …],                            # inputs of TaskProvisioning
             "retire": [{"subject": …, "accessor_id": …}, …],      # for `retire_tokens`
             "suspects": [{"subject": …, "accessor_id": …}, …],    # for `delete_unused`
             "reasons": [{"subject": …, "reason": sentence}, …],   # why some are left
             "next": {"after": service name} or {}}    # where another execution goes on
        """
        return {
            "found": self._found,
            "left": self._left,
            **self._lists,
            "next": {"after": self._last.service} if self.is_full and self._last else {},
        }


def _entries(subject: Subject, verdict: Verdict) -> dict[str, list[Any]]:
    whose = subject.to_state()
    return {
        "provision": [whose] if verdict.provision else [],
        "retire": [named_tokens.to_state(subject, id_) for id_ in verdict.retire],
        "suspects": [named_tokens.to_state(subject, id_) for id_ in verdict.suspects],
        "reasons": (
            [{"subject": whose, "reason": verdict.left[:_LONGEST_REASON]}] if verdict.left else []
        ),
    }
