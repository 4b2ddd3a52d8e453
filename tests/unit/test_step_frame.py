"""What every step has around it: one log record, and the count of its remote calls."""

from __future__ import annotations

import importlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import handlers
from handlers import check_tags, create_token, publish_secret, store_secret
from handlers.core import errors, remote_calls
from handlers.core.errors import ConsulUnavailable, InvalidStepInput
from handlers.core.step import step
from handlers.core.step_input import take, take_objects, take_strings, take_time
from handlers.core.token_secret import TokenIds
from tests.unit.aws_state import CLUSTER_ARN, EcsState, SecretsState
from tests.unit.consul_state import ConsulState
from tests.unit.steps import Steps

Log = Callable[[], list[logging.LogRecord]]
INPUT = {"execution": "arn:of:the:execution", "password": "correct-horse-battery"}
HANDLERS = sorted(
    path.stem for path in Path(handlers.__file__).parent.glob("*.py") if path.stem != "__init__"
)


def added_fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return what the step put into its record."""
    usual = vars(logging.makeLogRecord({})).keys() | {"message", "asctime"}
    return {key: value for key, value in vars(record).items() if key not in usual}


@step
def count_two_calls(_state: Mapping[str, Any]) -> dict[str, Any]:
    remote_calls.count("b")
    remote_calls.count("a")
    remote_calls.count("b")
    return {"done": True}


def failing(error: BaseException) -> Callable[[Any, object], dict[str, Any]]:
    @step
    def fail(_state: Mapping[str, Any]) -> dict[str, Any]:
        remote_calls.count("a")
        raise error

    return fail


def test_a_step_that_finishes_says_so_once(log: Log) -> None:
    assert count_two_calls(INPUT, None) == {"done": True}
    (record,) = log()
    fields = added_fields(record)
    assert 0 <= fields.pop("seconds") < 60
    assert fields == {
        "step": "test_step_frame",
        "execution": "arn:of:the:execution",
        "remote_calls": {"a": 1, "b": 2},
    }
    assert (record.levelname, record.getMessage()) == ("INFO", "Step finished")


@pytest.mark.parametrize(
    ("error", "level", "text"),
    [
        (ConsulUnavailable("correct-horse-battery"), "WARNING", "Step failed"),
        (KeyError("correct-horse-battery"), "ERROR", "Step failed unexpectedly"),
        (SystemExit("correct-horse-battery"), "ERROR", "Step failed unexpectedly"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_a_step_that_fails_names_its_error_and_raises_it(
    log: Log, error: BaseException, level: str, text: str
) -> None:
    with pytest.raises(type(error)) as caught:
        failing(error)(INPUT, None)
    assert caught.value is error
    (record,) = log()
    assert (record.levelname, record.getMessage()) == (level, text)
    fields = added_fields(record)
    del fields["seconds"]
    assert fields == {
        "step": "test_step_frame",
        "execution": "arn:of:the:execution",
        "error": type(error).__name__,
        "remote_calls": {"a": 1},
    }
    # Lambda logs the error itself; and neither its text nor the input belongs here.
    assert record.exc_info is None
    assert "correct-horse-battery" not in repr(vars(record))


def test_the_record_is_one_json_object_in_lambdas_log_format(log: Log) -> None:
    count_two_calls(INPUT, None)
    (record,) = log()
    # How Lambda itself renders records; it comes without types.
    runtime: Any = importlib.import_module("awslambdaric.lambda_runtime_log_utils")
    line: str = runtime.JsonFormatter().format(record)
    rendered = json.loads(line)
    assert line.count("\n") == 1
    assert rendered["message"] == "Step finished"
    assert rendered["level"] == "INFO"
    assert rendered["remote_calls"] == {"a": 1, "b": 2}
    assert rendered["execution"] == "arn:of:the:execution"


def test_each_step_counts_its_own_calls() -> None:
    for _ in range(2):
        count_two_calls({}, None)
        assert remote_calls.counted() == {"a": 1, "b": 2}


@pytest.mark.parametrize("event", [None, [], "text", 7])
def test_an_input_that_is_no_object_is_refused(event: Any) -> None:
    with pytest.raises(InvalidStepInput, match="The input of the step is not a JSON object"):
        count_two_calls(event, None)


@pytest.mark.parametrize("name", HANDLERS)
def test_every_handler_has_the_frame_and_a_description(name: str) -> None:
    module = importlib.import_module(f"handlers.{name}")
    assert module.handler.__wrapped__.__module__ == f"handlers.{name}"
    assert module.handler.__doc__
    with pytest.raises(InvalidStepInput):
        module.handler(None, None)


@pytest.fixture
def sent(ecs: EcsState, secrets: SecretsState) -> Iterator[list[str]]:
    """What boto3 sends, as botocore itself tells it."""
    calls: list[str] = []

    def note(event_name: str, **_rest: object) -> None:
        _, service, operation = event_name.split(".")
        calls.append(f"{service.replace('-', '')}:{operation}")

    clients = {"ecs": ecs.client, "secretsmanager": secrets.client}
    for service, client in clients.items():
        client.meta.events.register(f"before-send.{service}", note)
    yield calls
    for service, client in clients.items():
        client.meta.events.unregister(f"before-send.{service}", note)


def test_what_is_counted_is_what_was_sent(
    embedded: ConsulState, ecs: EcsState, steps: Steps, sent: list[str]
) -> None:
    def run(module: ModuleType, state: dict[str, Any]) -> dict[str, Any]:
        sent.clear()
        embedded.embedded.requests.clear()
        result = steps.run(module, state)
        seen = [*sent, *(f"consul:{m} {path}" for m, path in embedded.requests_of_steps())]
        assert Counter(seen) == steps.remote_calls
        return result

    task_arn = ecs.run_task(tags={"consul.hashicorp.com/mesh": "true"})
    event = {"detail": {"clusterArn": CLUSTER_ARN, "taskArn": task_arn}}
    task = run(check_tags, {"event": event, "service_rules": {}})
    for _ in range(2):
        secret = run(store_secret, {"secret": task["secret"]})
        run(create_token, {"secret": secret, "token": task["token"]})
        run(publish_secret, {"secret": secret})


# --- reading a state's input ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "path", "kind", "message"),
    [
        ({}, "a.b", str, 'The input of the step needs "a.b", a string.'),
        ({"a": 7}, "a.b", str, 'The input of the step needs "a.b", a string.'),
        ({"a": {"b": None}}, "a.b", dict, 'The input of the step needs "a.b", an object.'),
        ({"a": "hunter2"}, "a", list, 'The input of the step needs "a", a list.'),
        ({"a": 1}, "a", bool, 'The input of the step needs "a", true or false.'),
        (None, "a", str, 'The input of the step needs "a", a string.'),
    ],
)
def test_what_is_missing_is_named_by_its_path_and_not_shown(
    value: Any, path: str, kind: type[Any], message: str
) -> None:
    with pytest.raises(InvalidStepInput) as caught:
        take(value, path, kind)
    assert str(caught.value) == message


def test_what_is_there_is_returned() -> None:
    state = {"a": {"b": [], "c": "", "d": {}, "e": False}, "names": ["x", "y"]}
    assert take(state, "a.b", list) == []
    assert take(state, "a.c", str) == ""
    assert take(state, "a.d", dict) == {}
    assert take(state, "a.e", bool) is False
    assert take_strings(state, "names") == ("x", "y")


@pytest.mark.parametrize("half", ["\ud83d", "web\udc00"])
def test_half_a_character_is_no_text(half: str) -> None:
    # JSON can escape it, and neither AWS nor Consul takes it.
    state = json.loads(json.dumps({"name": half, "names": ["web", half]}))
    with pytest.raises(InvalidStepInput, match='needs "name", a string'):
        take(state, "name", str)
    with pytest.raises(InvalidStepInput, match='needs "names", a list of strings'):
        take_strings(state, "names")


def test_a_list_of_objects_is_returned() -> None:
    assert take_objects({"a": {"items": [{}, {"b": 1}]}}, "a.items") == ({}, {"b": 1})


@pytest.mark.parametrize("items", [None, {}, [{}, "hunter2"], [None]], ids=repr)
def test_a_list_of_something_else_is_named_by_its_path_and_not_shown(items: Any) -> None:
    with pytest.raises(InvalidStepInput) as caught:
        take_objects({"items": items}, "items")
    assert str(caught.value).startswith('The input of the step needs "items", a list')
    assert "hunter2" not in str(caught.value)


def test_a_moment_is_read_with_its_offset() -> None:
    evening = datetime(2026, 1, 5, 20, 10, 1, tzinfo=UTC)
    assert take_time({"a": {"since": "2026-01-05T20:10:01Z"}}, "a.since") == evening


@pytest.mark.parametrize("value", ["", "hunter2", "2026-01-05T20:10:01", "2026-01-05"])
def test_a_text_that_is_no_moment_is_named_by_its_path_and_not_shown(value: str) -> None:
    with pytest.raises(InvalidStepInput) as caught:
        take_time({"a": {"since": value}}, "a.since")
    assert str(caught.value) == (
        'The input of the step needs "a.since", a time such as 2026-01-05T20:10:01Z.'
    )


# --- error names ---------------------------------------------------------------------------------


def test_every_error_is_either_worth_another_try_or_not() -> None:
    found = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.StepError)
    }
    kinds = {"StepError", "Retryable", "Permanent"}
    retryable = set(errors.error_names(errors.Retryable))
    permanent = set(errors.error_names(errors.Permanent))
    assert retryable | permanent | kinds == found
    assert retryable & permanent == set()
    assert retryable == {
        "AwsThrottled",
        "AwsUnavailable",
        "ClusterNotBootstrapped",
        "ConsulObjectGone",
        "ConsulUnavailable",
        "TaskNotVisibleYet",
        "TokenNotVisibleYet",
    }


def test_ids_are_not_part_of_a_tokens_text() -> None:
    ids = TokenIds.new()
    assert ids.secret_id not in f"{ids}"
    assert ids.accessor_id in f"{ids}"
