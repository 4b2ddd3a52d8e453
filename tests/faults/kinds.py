"""The kinds of faults: what can happen to one remote call."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, TypeAlias

Service: TypeAlias = Literal["secretsmanager", "ecs", "consul"]

AWS: Final[frozenset[Service]] = frozenset({"secretsmanager", "ecs"})
CONSUL: Final[frozenset[Service]] = frozenset({"consul"})
ALL: Final = AWS | CONSUL


@dataclass(frozen=True)
class RemoteCall:
    """One call of a handler, named as `handlers.core.remote_calls` names it."""

    service: Service
    operation: str
    reads: bool
    """Whether it changes nothing."""
    patience: float = 10.0
    """For how many seconds the caller waits for an answer."""

    def __str__(self) -> str:
        return f"{self.service}:{self.operation}"


class Effect(Enum):
    """What becomes of the thing that was asked for."""

    NONE = "not done"
    DONE = "done"
    TWICE = "done twice"
    LATER = "done later"
    AS_OF_BEFORE = "answered with an old state"


class Caller(Enum):
    """What becomes of the one who asked."""

    TOLD = "gets an error"
    LEFT_WAITING = "gets no answer"
    DEAD = "is killed"
    CONTENT = "gets an answer"


@dataclass(frozen=True)
class Fault:
    """One kind of fault."""

    name: str
    """As it stands in schedules and in the report."""
    meaning: str
    effect: Effect
    caller: Caller
    services: frozenset[Service]
    reads: bool = True
    """Whether it can happen to a call that changes nothing."""
    writes: bool = True
    lasts: float = 0.0
    """How many seconds the service stays like that."""
    explains: frozenset[str] = frozenset()
    """Errors that somebody has to do something about, and that it is a good reason for."""

    def concerns(self, call: RemoteCall) -> bool:
        """Whether it can happen to a call."""
        return call.service in self.services and (self.reads if call.reads else self.writes)


FAULTS: Final = (
    Fault("killed", "the process dies before the call", Effect.NONE, Caller.DEAD, ALL),
    Fault("done+killed", "the process dies after it", Effect.DONE, Caller.DEAD, ALL),
    Fault("silence", "no answer in time, nothing done", Effect.NONE, Caller.LEFT_WAITING, ALL),
    Fault("done+silence", "no answer in time, but done", Effect.DONE, Caller.LEFT_WAITING, ALL),
    Fault(
        "late",
        "no answer in time, and done five seconds later",
        Effect.LATER,
        Caller.LEFT_WAITING,
        ALL,
        reads=False,
    ),
    Fault(
        "stale",
        "does not show the last write",
        Effect.AS_OF_BEFORE,
        Caller.CONTENT,
        ALL,
        writes=False,
    ),
    Fault(
        "staler",
        "shows the state of five seconds ago",
        Effect.AS_OF_BEFORE,
        Caller.CONTENT,
        ALL,
        writes=False,
    ),
    Fault(
        "outage",
        "the service does nothing for 45 minutes, longer than anybody waits",
        Effect.NONE,
        Caller.TOLD,
        ALL,
        lasts=45 * 60.0,
    ),
    Fault(
        "denied",
        "a permission is missing, just now",
        Effect.NONE,
        Caller.TOLD,
        ALL,
        explains=frozenset({"AwsAccessDenied", "ConsulPermissionDenied"}),
    ),
    # AWS
    Fault("throttled", "ThrottlingException", Effect.NONE, Caller.TOLD, AWS),
    Fault("error", "a 500 of the service", Effect.NONE, Caller.TOLD, AWS),
    Fault("done+error", "the same, but done", Effect.DONE, Caller.TOLD, AWS),
    Fault(
        "twice",
        "the answer is lost, and boto3 sends the request again",
        Effect.TWICE,
        Caller.CONTENT,
        AWS,
        reads=False,
    ),
    # Consul
    Fault("refused", "no connection", Effect.NONE, Caller.TOLD, CONSUL),
    Fault("dropped", "the connection breaks, nothing done", Effect.NONE, Caller.TOLD, CONSUL),
    Fault("done+dropped", "the connection breaks, but done", Effect.DONE, Caller.TOLD, CONSUL),
    Fault("429", "429 Too Many Requests", Effect.NONE, Caller.TOLD, CONSUL),
    Fault(
        "done+500",
        "done, but the leader is lost before the answer",
        Effect.DONE,
        Caller.TOLD,
        CONSUL,
        reads=False,
    ),
    Fault(
        "restart",
        "the server restarts, and knows no token for 8 s",
        Effect.NONE,
        Caller.TOLD,
        CONSUL,
        lasts=8.0,
    ),
    Fault("no-leader", "no leader for 20 s", Effect.NONE, Caller.TOLD, CONSUL, lasts=20.0),
    Fault(
        "read-only",
        "for 20 s, writes find no leader",
        Effect.NONE,
        Caller.TOLD,
        CONSUL,
        reads=False,
        lasts=20.0,
    ),
    Fault(
        "slow",
        "for 40 s, everything is done after the caller has given up",
        Effect.DONE,
        Caller.LEFT_WAITING,
        CONSUL,
        lasts=40.0,
    ),
)

BY_NAME: Final = {fault.name: fault for fault in FAULTS}

STALE_SECONDS: Final = 5.0
"""How old an answer may be: what "eventually consistent" means here."""
LATE_SECONDS: Final = 5.0
"""When a request takes effect whose sender has given up."""
