"""A random value is chosen once, whoever asks how often, and what is there is never replaced."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from handlers import choose_secret
from handlers.clients import aws
from handlers.clients.secrets_manager import derived_version_id
from handlers.core.errors import (
    AwsAccessDenied,
    AwsThrottled,
    AwsUnavailable,
    InvalidSecret,
    InvalidStepInput,
    SecretMarkedForDeletion,
    StepError,
)
from tests.unit.aws_state import SecretsState, answering
from tests.unit.certificates import before_each
from tests.unit.steps import Steps, at_the_same_time

NAME = "acme/secret"
GET = "secretsmanager:GetSecretValue"
DESCRIBE = "secretsmanager:DescribeSecret"
PUT = "secretsmanager:PutSecretValue"
PUBLISH = "secretsmanager:UpdateSecretVersionStage"
TOKEN = "e8d7c6b5-a493-4281-9f0e-1d2c3b4a5968"
KEYS = {size: base64.b64encode(bytes(range(size))).decode() for size in (15, 16, 24, 32, 33)}

VALID = [("gossip key", KEYS[16]), ("gossip key", KEYS[24]), ("gossip key", KEYS[32])]
VALID += [("management token", TOKEN), ("management token", TOKEN.upper())]
KINDS = ["gossip key", "management token"]


def wanted(kind: str) -> dict[str, Any]:
    return {"secret": {"id": NAME}, "kind": kind}


def check(kind: str, value: str) -> None:
    if kind == "gossip key":
        assert len(base64.b64decode(value, validate=True)) == 32
    else:
        assert str(uuid.UUID(value)) == value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [None, "{}", " ", "{}\n"], ids=repr)
def test_where_there_is_none_one_is_chosen(
    secrets: SecretsState, steps: Steps, kind: str, value: str | None
) -> None:
    arn = secrets.create(NAME, value)

    result = steps.run(choose_secret, wanted(kind))

    assert result == {"arn": arn, "version_id": secrets.current_id(NAME), "chosen": True}
    check(kind, secrets.current(NAME))
    calls = {GET: 2, PUT: 1, PUBLISH: 1}
    assert steps.remote_calls == (calls | {PUT: 2, DESCRIBE: 1} if value is None else calls)


@pytest.mark.parametrize("kind", KINDS)
def test_each_secret_gets_one_of_its_own(secrets: SecretsState, steps: Steps, kind: str) -> None:
    secrets.create("one")
    secrets.create("two")
    for name in ("one", "two"):
        steps.run(choose_secret, {"secret": {"id": name}, "kind": kind})

    assert secrets.current("one") != secrets.current("two")


@pytest.mark.parametrize(("kind", "value"), VALID)
def test_a_value_that_is_there_stays_and_is_read_with_one_call(
    secrets: SecretsState, steps: Steps, kind: str, value: str
) -> None:
    arn = secrets.create(NAME, value)
    before = secrets.versions(NAME)

    result = steps.run(choose_secret, wanted(kind))

    assert result == {"arn": arn, "version_id": secrets.current_id(NAME), "chosen": False}
    assert secrets.versions(NAME) == before
    assert steps.remote_calls == {GET: 1}


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_run_finds_the_first_ones(secrets: SecretsState, steps: Steps, kind: str) -> None:
    secrets.create(NAME)
    first = steps.run(choose_secret, wanted(kind))
    before = secrets.versions(NAME)

    assert steps.run(choose_secret, wanted(kind)) == {**first, "chosen": False}
    assert secrets.versions(NAME) == before


FOREIGN = [("gossip key", value) for value in (KEYS[15], KEYS[33], TOKEN, f"{KEYS[32]}\n", "=")]
FOREIGN += [("gossip key", json.dumps({"key": KEYS[32]})), ("gossip key", "hunter2-hunter2")]
FOREIGN += [
    ("management token", value)
    for value in (
        *("hunter2-hunter2", f"{TOKEN}\n", KEYS[32], json.dumps({"token": TOKEN})),
        "00000000-0000-0000-0000-000000000002",
    )
]


@pytest.mark.parametrize(("kind", "value"), FOREIGN)
def test_what_is_something_else_is_refused_and_stays(
    secrets: SecretsState, steps: Steps, kind: str, value: str
) -> None:
    arn = secrets.create(NAME, value)
    before = secrets.versions(NAME)

    error = steps.fail(choose_secret, wanted(kind), InvalidSecret)

    what = {
        "gossip key": "a gossip key, which is 32 (or 16, or 24) bytes in base64",
        "management token": "a token, which is a UUID",
    }[kind]
    assert str(error) == (
        f"The secret {arn}: not {what}. Put one there, or {{}} to have one chosen."
    )
    assert secrets.versions(NAME) == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("operation", ["PutSecretValue", "UpdateSecretVersionStage"])
def test_a_run_that_died_is_finished_by_the_next(
    secrets: SecretsState, steps: Steps, kind: str, operation: str
) -> None:
    secrets.create(NAME, "{}")
    client = aws.client("secretsmanager")
    with answering(client, operation, status=400, code="ThrottlingException"):
        steps.fail(choose_secret, wanted(kind), AwsThrottled)
    pending = secrets.stages(NAME).get("AWSPENDING")
    assert secrets.current(NAME) == "{}"

    assert steps.run(choose_secret, wanted(kind))["chosen"]
    check(kind, secrets.current(NAME))
    assert pending in {None, secrets.current(NAME)}


@pytest.mark.parametrize("kind", KINDS)
def test_of_ten_runs_at_once_all_find_the_same(secrets: SecretsState, kind: str) -> None:
    arn = secrets.create(NAME, "{}")

    results = at_the_same_time([lambda: choose_secret.handler(wanted(kind), None)] * 10)

    expected = {"arn": arn, "version_id": secrets.current_id(NAME)}
    assert all(result in [{**expected, "chosen": c} for c in (True, False)] for result in results)
    check(kind, secrets.current(NAME))
    assert len(secrets.versions(NAME)) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_of_ten_runs_at_once_that_find_no_version_some_may_have_to_come_again(
    secrets: SecretsState, kind: str
) -> None:
    arn = secrets.create(NAME)

    results = at_the_same_time([lambda: choose_secret.handler(wanted(kind), None)] * 10)

    failed = [result for result in results if isinstance(result, StepError)]
    assert {str(error) for error in failed} <= {
        f"The secret {NAME} exists but its value cannot be read yet."
    }
    expected = {"arn": arn, "version_id": secrets.current_id(NAME)}
    assert {**expected, "chosen": True} in results
    check(kind, secrets.current(NAME))
    assert choose_secret.handler(wanted(kind), None) == {**expected, "chosen": False}


def meanwhile(secrets: SecretsState, *values: str) -> Callable[[], None]:
    """Return what a person does between two calls of a step: put one of these values."""
    left = list(values)

    def put() -> None:
        if left:
            secrets.put(NAME, left.pop(0))

    return put


def test_one_that_a_person_puts_there_meanwhile_wins(secrets: SecretsState, steps: Steps) -> None:
    secrets.create(NAME, "{}")
    client = aws.client("secretsmanager")

    with before_each(client, "UpdateSecretVersionStage", meanwhile(secrets, TOKEN)):
        result = steps.run(choose_secret, wanted("management token"))

    assert (result["chosen"], secrets.current(NAME)) == (False, TOKEN)


def test_who_empties_it_meanwhile_gets_another(secrets: SecretsState, steps: Steps) -> None:
    secrets.create(NAME, "{}")
    client = aws.client("secretsmanager")

    with before_each(client, "UpdateSecretVersionStage", meanwhile(secrets, "{}", "{}")):
        assert steps.run(choose_secret, wanted("gossip key"))["chosen"]
    check("gossip key", secrets.current(NAME))


def test_who_empties_it_all_the_time_is_waited_for(secrets: SecretsState, steps: Steps) -> None:
    secrets.create(NAME, "{}")
    client = aws.client("secretsmanager")

    with before_each(client, "UpdateSecretVersionStage", meanwhile(secrets, *["{}"] * 100)):
        error = steps.fail(choose_secret, wanted("gossip key"), AwsUnavailable)
    assert str(error).startswith(f"The secret {NAME} is changed by somebody else all the time")
    assert secrets.current(NAME) == "{}"


def test_what_somebody_else_wrote_ahead_is_not_published(
    secrets: SecretsState, steps: Steps
) -> None:
    arn = secrets.create(NAME, "{}")
    secrets.client.put_secret_value(
        SecretId=NAME,
        SecretString="hunter2-hunter2",
        ClientRequestToken=derived_version_id(arn, secrets.current_id(NAME)),
        VersionStages=["AWSPENDING"],
    )
    before = secrets.versions(NAME)

    steps.fail(choose_secret, wanted("gossip key"), InvalidSecret)

    assert secrets.versions(NAME) == before


def test_an_empty_value_that_was_written_ahead_is_passed_over(
    secrets: SecretsState, steps: Steps
) -> None:
    arn = secrets.create(NAME, "{}")
    secrets.client.put_secret_value(
        SecretId=NAME,
        SecretString="{}",
        ClientRequestToken=derived_version_id(arn, secrets.current_id(NAME)),
        VersionStages=["AWSPENDING"],
    )

    assert steps.run(choose_secret, wanted("gossip key"))["chosen"]
    check("gossip key", secrets.current(NAME))


@pytest.mark.parametrize("kind", KINDS)
def test_an_old_value_that_somebody_makes_current_again_stays(
    secrets: SecretsState, steps: Steps, kind: str
) -> None:
    secrets.create(NAME, "{}")
    first = steps.run(choose_secret, wanted(kind))["version_id"]
    second = secrets.put(NAME, secrets.current(NAME))
    secrets.client.update_secret_version_stage(
        SecretId=NAME, VersionStage="AWSCURRENT", MoveToVersionId=first, RemoveFromVersionId=second
    )

    result = steps.run(choose_secret, wanted(kind))
    assert (result["version_id"], result["chosen"]) == (first, False)


def test_an_emptied_secret_that_once_had_a_value_gets_that_again_or_another_but_a_valid_one(
    secrets: SecretsState, steps: Steps
) -> None:
    secrets.create(NAME, "{}")
    empty = secrets.current_id(NAME)
    chosen = steps.run(choose_secret, wanted("gossip key"))["version_id"]
    key = secrets.current(NAME)
    secrets.client.update_secret_version_stage(
        SecretId=NAME, VersionStage="AWSCURRENT", MoveToVersionId=empty, RemoveFromVersionId=chosen
    )

    assert steps.run(choose_secret, wanted("gossip key")) == {
        "arn": secrets.arn(NAME),
        "version_id": chosen,
        "chosen": True,
    }
    assert secrets.current(NAME) == key


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, 'The input of the step needs "secret.id", a string.'),
        ({"secret": {"id": NAME}}, 'The input of the step needs "kind", a string.'),
        (
            wanted("password"),
            'The input of the step needs "kind", one of gossip key, management token.',
        ),
    ],
)
def test_an_input_that_is_not_as_documented_is_the_workflows_fault(
    secrets: SecretsState, steps: Steps, state: Any, message: str
) -> None:
    secrets.create(NAME)

    assert str(steps.fail(choose_secret, state, InvalidStepInput)) == message
    assert secrets.versions(NAME) == {}


@pytest.mark.parametrize(
    ("code", "kind"),
    [("AccessDeniedException", AwsAccessDenied), ("ThrottlingException", AwsThrottled)],
)
def test_what_secrets_manager_refuses_is_one_of_our_errors(
    secrets: SecretsState, steps: Steps, code: str, kind: type[StepError]
) -> None:
    secrets.create(NAME)
    client = aws.client("secretsmanager")
    with answering(client, "GetSecretValue", status=400, code=code):
        assert NAME in str(steps.fail(choose_secret, wanted("gossip key"), kind))


def test_a_secret_that_is_not_there_or_will_not_be_is_named(
    secrets: SecretsState, steps: Steps
) -> None:
    assert NAME in str(steps.fail(choose_secret, wanted("gossip key"), AwsUnavailable))
    secrets.create(NAME, KEYS[32])
    secrets.client.delete_secret(SecretId=NAME, RecoveryWindowInDays=7)
    steps.fail(choose_secret, wanted("gossip key"), SecretMarkedForDeletion)
    secrets.client.restore_secret(SecretId=NAME)
