"""EventBridge: from an event to the targets of the rules that match it.

moto matches events and keeps rules, but starts no state machine, retries nothing, knows no
dead-letter queue, lets disabled rules fire, and takes a rule with a schedule for one that matches
every event (``local.cloud.schedules`` fires those). Delivery here is what AWS's is: at least once,
unordered, retried, and in the end put into the dead-letter queue with the reason
(https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-rule-dlq.html).
"""

from __future__ import annotations

import copy
import datetime
import json
import logging
import re
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from moto.events.models import UNDEFINED, EventPattern, Rule, events_backends
from moto.utilities.arns import parse_arn

from local.cloud.clock import CloudClock
from local.cloud.cloudformation_types import ClientFactory
from local.cloud.patching import replaced
from local.cloud.scheduling import Scheduler

_LOG = logging.getLogger(__name__)

Event = dict[str, Any]

# https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-rule-retry-policy.html
_DEFAULT_ATTEMPTS = 185
_DEFAULT_AGE_SECONDS = 24 * 60 * 60
# AWS begins with seconds; nobody waits for that on a laptop.
_FIRST_DELAY_SECONDS = 0.1
_LAST_DELAY_SECONDS = 5.0
_DELIVERING_THREADS = 8

# What AWS calls the errors of a target in a dead letter.
_ERROR_CODES = {
    "AccessDeniedException": "NO_PERMISSIONS",
    "InvalidExecutionInput": "INVALID_JSON",
    "QueueDoesNotExist": "NO_RESOURCE",
    "AWS.SimpleQueueService.NonExistentQueue": "NO_RESOURCE",
    "ResourceNotFoundException": "NO_RESOURCE",
    "StateMachineDoesNotExist": "NO_RESOURCE",
    "ThrottlingException": "THROTTLING",
    "TooManyRequestsException": "THROTTLING",
}
# Trying again cannot help; AWS sends these to the dead-letter queue at once.
_FINAL_CODES = {"NO_PERMISSIONS", "NO_RESOURCE", "INVALID_JSON"}


@dataclass
class _Delivery:
    """One event on its way to one target."""

    rule: Rule
    target: dict[str, Any]
    event: Event
    begun: float = field(default_factory=time.monotonic)
    retries: int = 0


class EventDelivery:
    """Delivers the events of one cloud. Use it as ``with delivery.connected():``."""

    def __init__(
        self, *, client: ClientFactory, account: str, region: str, clock: CloudClock
    ) -> None:
        self._client = client
        self._clock = clock
        self._account = account
        self._region = region
        self._scheduler = Scheduler("event-delivery")
        self._pool: ThreadPoolExecutor | None = None

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Deliver what moto's EventBridge receives within the context."""
        deliver = self._deliver_all

        def send_to_targets(
            self: Rule,
            original_event: Event,
            transform_input: bool = True,  # noqa: FBT001, FBT002
        ) -> None:
            del transform_input
            deliver(self, original_event)

        with ExitStack() as patches:
            self._original_send = patches.enter_context(
                replaced(Rule, "send_to_targets", send_to_targets)
            )
            patches.enter_context(replaced(EventPattern, "matches_event", _matches_event))
            self._pool = ThreadPoolExecutor(_DELIVERING_THREADS, "event-delivery")
            patches.callback(self._pool.shutdown, wait=True, cancel_futures=True)
            self._scheduler.start()
            patches.callback(self._scheduler.stop)
            yield

    def publish(
        self, *, source: str, detail_type: str, resources: list[str], detail: dict[str, Any]
    ) -> None:
        """Put an event of an AWS service on the default bus."""
        event: Any = {
            "version": "0",
            "id": str(uuid.uuid4()),
            "detail-type": detail_type,
            "source": source,
            "account": self._account,
            "time": self._clock.time(),
            "region": self._region,
            "resources": resources,
            "detail": detail,
        }
        bus = events_backends[self._account][self._region].event_buses["default"]
        for rule in list(bus.rules.values()):
            rule.send_to_targets(event)

    def _deliver_all(self, rule: Rule, message: Event) -> None:
        event: Any = _as_aws_writes_it(message)
        if rule.state.startswith("ENABLED") and rule.event_pattern.matches_event(event):
            self.deliver(rule, event)

    def deliver(self, rule: Rule, event: Event) -> None:
        """Send an event to the targets of a rule, whether it matches or not."""
        for target in list(rule.targets):
            self._submit(_Delivery(rule, target, _as_aws_writes_it(copy.deepcopy(event))))

    def _submit(self, delivery: _Delivery) -> None:
        if self._pool is not None:
            try:
                self._pool.submit(self._attempt, delivery)
            except RuntimeError:
                _LOG.debug("An event was dropped because the cloud is stopping")

    def _attempt(self, delivery: _Delivery) -> None:
        try:
            self._send(delivery)
        except (ClientError, BotoCoreError, ValueError) as error:
            self._failed(delivery, error)
        except Exception:  # noqa: BLE001 - in a pool, nobody else would ever see it
            _LOG.exception("Event for %s could not be delivered", delivery.target["Arn"])

    def _send(self, delivery: _Delivery) -> None:
        target, event = delivery.target, delivery.event
        arn = parse_arn(target["Arn"])
        if arn.service == "states":
            self._client("stepfunctions").start_execution(
                stateMachineArn=target["Arn"],
                # Of this form, and so unique for each attempt, on AWS too.
                name=f"{event['id']}_{uuid.uuid4()}",
                input=input_for(target, event, delivery.rule),
            )
        elif arn.service == "sqs":
            group = target.get("SqsParameters", {}).get("MessageGroupId")
            self._client("sqs").send_message(
                QueueUrl=self._queue_url(target["Arn"]),
                MessageBody=input_for(target, event, delivery.rule),
                **({"MessageGroupId": group} if group else {}),
            )
        elif arn.service == "lambda":
            self._client("lambda").invoke(
                FunctionName=target["Arn"],
                InvocationType="Event",
                Payload=input_for(target, event, delivery.rule).encode(),
            )
        else:
            # Everything else is left to moto, one target at a time.
            alone = copy.copy(delivery.rule)
            alone.targets = [target]
            seconds = datetime.datetime.fromisoformat(event["time"])
            self._original_send(alone, {**event, "time": seconds.timestamp()})

    def _failed(self, delivery: _Delivery, error: Exception) -> None:
        code, message = _described(error)
        policy = delivery.target.get("RetryPolicy", {})
        attempts = int(policy.get("MaximumRetryAttempts", _DEFAULT_ATTEMPTS))
        age = float(policy.get("MaximumEventAgeInSeconds", _DEFAULT_AGE_SECONDS))
        delay = min(_FIRST_DELAY_SECONDS * 2**delivery.retries, _LAST_DELAY_SECONDS)
        exhausted = None
        if code not in _FINAL_CODES:
            if delivery.retries >= attempts:
                exhausted = "MaximumRetryAttempts"
            elif time.monotonic() + delay - delivery.begun > age:
                exhausted = "MaximumEventAgeInSeconds"
            else:
                delivery.retries += 1
                self._scheduler.after(delay, lambda: self._submit(delivery))
                return
        queue = delivery.target.get("DeadLetterConfig", {}).get("Arn")
        if queue is None:
            _LOG.warning(
                "Event %s of rule %s could not be delivered to %s and is lost: %s %s",
                delivery.event["id"],
                delivery.rule.name,
                delivery.target["Arn"],
                code,
                message,
            )
            return
        attributes = {
            "RULE_ARN": delivery.rule.arn,
            "TARGET_ARN": delivery.target["Arn"],
            "ERROR_CODE": code,
            "ERROR_MESSAGE": message,
            "RETRY_ATTEMPTS": str(delivery.retries),
        }
        if exhausted is not None:
            attributes["EXHAUSTED_RETRY_CONDITION"] = exhausted
        self._client("sqs").send_message(
            QueueUrl=self._queue_url(queue),
            MessageBody=json.dumps(delivery.event),
            MessageAttributes={
                name: {"DataType": "String", "StringValue": value}
                for name, value in attributes.items()
            },
        )

    def _queue_url(self, arn: str) -> str:
        name = parse_arn(arn).resource_id
        url: str = self._client("sqs").get_queue_url(QueueName=name)["QueueUrl"]
        return url


def _described(error: Exception) -> tuple[str, str]:
    if isinstance(error, ClientError):
        code = str(error.response["Error"].get("Code"))
        text = str(error.response["Error"].get("Message"))
        return _ERROR_CODES.get(code, "ERROR_FROM_TARGET"), text or code
    if isinstance(error, ValueError):
        return "INVALID_JSON", str(error)
    return "CONNECTION_FAILURE", str(error)


def _as_aws_writes_it(message: Event) -> Event:
    """Turn moto's event into the JSON that a target sees."""
    event = {key: value for key, value in message.items() if key != "ingestion-time"}
    moment = event.get("time")
    if isinstance(moment, (int, float)):
        moment = datetime.datetime.fromtimestamp(moment, datetime.UTC)
    if isinstance(moment, datetime.datetime):
        utc = moment.astimezone(datetime.UTC)
        event["time"] = utc.strftime("%Y-%m-%dT%H:%M:%SZ")
    event.setdefault("version", "0")
    event.setdefault("resources", [])
    return event


# Patterns. moto's filters are right; its way to the field that they apply to misses objects in
# arrays (`detail.containers.name`), and takes no pattern for one that matches everything.


def _matches_event(self: EventPattern, event: Event) -> bool:
    pattern = self.get_pattern()
    return bool(pattern) and _matches(self, pattern, event)


def _matches(self: EventPattern, pattern: dict[str, Any], node: Any) -> bool:
    if isinstance(node, list):
        return any(_matches(self, pattern, item) for item in node)
    fields = node if isinstance(node, dict) else {}
    for key, wanted in pattern.items():
        if key == "$or" and isinstance(wanted, list):
            if not any(_matches(self, alternative, node) for alternative in wanted):
                return False
        elif isinstance(wanted, dict):
            if not _matches(self, wanted, fields.get(key)):
                return False
        else:
            value = _leaf(fields, key)
            if not self._does_item_match_filters(value, wanted):
                return False
    return True


def _leaf(fields: dict[str, Any], key: str) -> Any:
    # An object is no leaf: `exists` is about values, and no other filter can match one.
    value = fields.get(key, UNDEFINED)
    return UNDEFINED if isinstance(value, dict) else value


# Inputs.

_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\['([^']+)'\]")
_PLACEHOLDER = re.compile(r"<([^<>\s]+)>")


def input_for(target: dict[str, Any], event: Event, rule: Rule) -> str:
    """Build what a target gets: the event, a constant, a part of it, or a filled-in template.

    Raises
    ------
    ValueError
        A template for JSON does not give JSON.
    """
    if target.get("Input") is not None:
        return str(target["Input"])
    if target.get("InputPath") is not None:
        return json.dumps(_at(event, target["InputPath"]))
    transformer = target.get("InputTransformer")
    if transformer is None:
        return json.dumps(event)
    values = {name: _at(event, path) for name, path in transformer.get("InputPathsMap", {}).items()}
    values |= {
        "aws.events.rule-arn": rule.arn,
        "aws.events.rule-name": rule.name,
        "aws.events.event": {key: value for key, value in event.items() if key != "detail"},
        "aws.events.event.json": event,
        "aws.events.event.ingestion-time": event["time"],
    }
    return _filled(transformer["InputTemplate"], values)


def _at(event: Event, path: str) -> Any:
    """Follow a path such as ``$.detail.containers[0].name``; None if it leads nowhere."""
    node: Any = event
    for match in _STEP.finditer(path.removeprefix("$")):
        name, index, quoted = match.groups()
        if index is not None:
            node = node[int(index)] if isinstance(node, list) and int(index) < len(node) else None
        else:
            node = node.get(name or quoted) if isinstance(node, dict) else None
    return node


def _filled(template: str, values: dict[str, Any]) -> str:
    """Fill in ``<name>``: as text inside a JSON string, as JSON outside of one."""
    parts: list[str] = []
    end = 0
    in_string = False
    for match in _PLACEHOLDER.finditer(template):
        before = template[end : match.start()]
        in_string ^= _unescaped_quotes(before) % 2 == 1
        end = match.end()
        parts.append(before)
        if match[1] not in values:
            parts.append(match[0])
            continue
        value = values[match[1]]
        # A path that leads nowhere is empty on AWS, not null.
        value = "" if value is None else value
        if not in_string:
            parts.append(json.dumps(value))
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            parts.append(json.dumps(text)[1:-1])
    filled = "".join([*parts, template[end:]])
    json.loads(filled)  # a target of ours takes nothing else
    return filled


def _unescaped_quotes(text: str) -> int:
    return len(re.findall(r'(?<!\\)(?:\\\\)*"', text))
