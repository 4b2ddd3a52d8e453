"""What a look at all tokens has found, as much of it as one state of a workflow can hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from handlers.core import named_tokens
from handlers.core.drift import Verdict
from handlers.core.paging import that_fit
from handlers.core.subjects import Subject

# A state's input or output may have 256 KiB (Step Functions quotas), and everything that the
# workflow adds to this names the same subjects once more.
_MOST_BYTES = {"provision": 30_000, "retire": 30_000, "suspects": 60_000, "left": 10_000}
# An execution's history may have 25,000 events, and a nested execution is about a dozen.
_MOST = {"provision": 400, "retire": 400, "suspects": 1000, "left": 20}


@dataclass
class Findings:
    """Collects verdicts on subjects, which come in their order, until a state is full."""

    found: int = 0
    left: int = 0
    last: Subject | None = None
    is_full: bool = False
    lists: dict[str, list[Any]] = field(
        default_factory=lambda: {"provision": [], "retire": [], "suspects": [], "left": []}
    )

    def add(self, subject: Subject, verdict: Verdict) -> None:
        """Take in what is wrong with a subject; if it does not fit, the state is full.

        Of what is wrong with the first subject so much is taken as fits: the rest is found again
        when that has been put right.
        """
        if self.is_full:
            return
        more = _entries(subject, verdict)
        for kind, entries in more.items():
            together = self.lists[kind] + entries
            fitting = that_fit(together, most=_MOST[kind], most_bytes=_MOST_BYTES[kind])
            if len(fitting) == len(together):
                continue
            if kind == "left":
                more[kind] = []  # only counted
            elif self.last is None:
                more[kind] = fitting
            else:
                self.is_full = True
                return
        for kind, entries in more.items():
            self.lists[kind] += entries
        self.found += verdict.is_drift
        self.left += bool(verdict.left)
        self.last = subject

    def to_state(self) -> dict[str, Any]:
        """Return it for a workflow's state.

        ::

            {"found": n,              # subjects with something wrong
             "provision": [subject, …],                                  # to TaskProvisioning
             "retire": [{"subject": …, "accessor_id": …}, …],            # to `retire_tokens`
             "suspects": [{"subject": …, "accessor_id": …}, …],          # to `delete_unused`
             "left": n,               # subjects that somebody has to look at
             "reasons": [{"subject": …, "reason": sentence}, …],         # of the first of them
             "next": {"after": service name} or {}}    # where another execution goes on
        """
        return {
            "found": self.found,
            **{kind: self.lists[kind] for kind in ("provision", "retire", "suspects")},
            "left": self.left,
            "reasons": self.lists["left"],
            "next": {"after": self.last.service} if self.is_full and self.last else {},
        }


def _entries(subject: Subject, verdict: Verdict) -> dict[str, list[Any]]:
    whose = subject.to_state()
    return {
        "provision": [whose] if verdict.provision else [],
        "retire": [named_tokens.to_state(subject, id_) for id_ in verdict.retire],
        "suspects": [named_tokens.to_state(subject, id_) for id_ in verdict.suspects],
        "left": [{"subject": whose, "reason": verdict.left[:400]}] if verdict.left else [],
    }
