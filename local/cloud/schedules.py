"""EventBridge: rules with a schedule.

moto keeps their expressions, and never fires them. Here a rule with a rate fires when so much time
has gone by since it was created or enabled, and again each time that it has gone by since
(https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-rate-expressions.html).
"""

from __future__ import annotations

import logging
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from moto.events.exceptions import ValidationException
from moto.events.models import EventsBackend, Rule

from local.cloud.clock import CloudClock
from local.cloud.patching import replaced
from local.cloud.scheduling import Scheduler

_LOG = logging.getLogger(__name__)

# One of a unit is singular, and more are plural; EventBridge takes nothing else.
_RATE = re.compile(r"rate\((?:(1) (minute|hour|day)|([2-9]|[1-9]\d+) (minute|hour|day)s)\)")
_UNIT_SECONDS = {"minute": 60, "hour": 60 * 60, "day": 24 * 60 * 60}
_CHANGING = ("put_rule", "enable_rule", "disable_rule", "delete_rule")
# The only bus whose rules may have a schedule.
_BUS = "default"


@dataclass(eq=False)
class _Rhythm:
    """When a rule fires: at ``due``, in seconds since the epoch, and at every interval after."""

    expression: str
    interval: float
    due: float


class ScheduledRules:
    """Fires the rules with a schedule of one cloud. Use it as ``with rules.connected():``.

    ``deliver`` sends an event to the targets that a rule has by then; it does not wait for them.
    """

    def __init__(
        self, *, deliver: Callable[[Rule, dict[str, Any]], None], clock: CloudClock
    ) -> None:
        self._deliver = deliver
        self._clock = clock
        self._scheduler = Scheduler("scheduled-rules")
        self._lock = threading.RLock()
        self._rhythms: dict[str, _Rhythm] = {}

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Fire what moto's EventBridge has within the context."""
        with ExitStack() as patches:
            for name in _CHANGING:
                changing = self._following(getattr(EventsBackend, name))
                patches.enter_context(replaced(EventsBackend, name, changing))
            self._scheduler.start()
            patches.callback(self._scheduler.stop)
            yield

    def _following(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def change_and_follow(backend: EventsBackend, name: str, *args: Any, **more: Any) -> Any:
            expression = more.get("scheduled_expression") or ""
            if expression.startswith("rate") and not _RATE.fullmatch(expression):
                raise ValidationException("Parameter ScheduleExpression is not valid.")
            with self._lock:
                answer = change(backend, name, *args, **more)
                self._follow(backend, name)
            return answer

        return change_and_follow

    def _follow(self, backend: EventsBackend, name: str) -> None:
        """Begin the rhythm of a rule, end it, or go on with it if it is still the same."""
        rule = backend.event_buses[_BUS].rules.get(name)
        key = f"{backend.account_id} {backend.region_name} {name}"
        known = self._rhythms.get(key)
        expression = rule.scheduled_expression if rule and _is_enabled(rule) else None
        if known is not None and known.expression == expression:
            return
        self._rhythms.pop(key, None)
        if rule is None or not expression:
            return
        rate = _RATE.fullmatch(expression)
        if rate is None:
            _LOG.warning(
                "The rule %s never fires here: the local cloud knows schedules of the form "
                "rate(...), not %s.",
                name,
                expression,
            )
            return
        count, unit = rate[1] or rate[3], rate[2] or rate[4]
        interval = int(count) * _UNIT_SECONDS[unit]
        rhythm = _Rhythm(expression, interval, self._clock.time() + interval)
        self._rhythms[key] = rhythm
        self._wait(backend, key, name, rhythm)

    def _wait(self, backend: EventsBackend, key: str, name: str, rhythm: _Rhythm) -> None:
        self._scheduler.after(
            self._clock.wait(max(rhythm.due - self._clock.time(), 0)),
            lambda: self._fire(backend, key, name, rhythm),
        )

    def _fire(self, backend: EventsBackend, key: str, name: str, rhythm: _Rhythm) -> None:
        with self._lock:
            rule = backend.event_buses[_BUS].rules.get(name)
            if rule is None or self._rhythms.get(key) is not rhythm:
                return
            rhythm.due += rhythm.interval
            self._wait(backend, key, name, rhythm)
            event = {
                "version": "0",
                "id": str(uuid.uuid4()),
                "detail-type": "Scheduled Event",
                "source": "aws.events",
                "account": rule.account_id,
                "time": self._clock.time(),
                "region": rule.region_name,
                "resources": [rule.arn],
                "detail": {},
            }
            # In one step with the look at the rule: when a rule has been disabled, changed or
            # deleted, it fires no more, not even at targets that it has got since.
            self._deliver(rule, event)


def _is_enabled(rule: Rule) -> bool:
    return bool(rule.state.startswith("ENABLED"))
