"""The version whose token exists becomes what tasks pull, unless another one has meanwhile."""

from __future__ import annotations

import json
from typing import Any

import pytest

from handlers import publish_secret, store_secret
from handlers.clients import aws
from handlers.core.errors import AwsThrottled, AwsUnavailable, InvalidStepInput
from handlers.core.token_secret import EMPTY
from tests.unit.aws_state import SecretsState, answering
from tests.unit.steps import Steps, at_the_same_time

NAME = "acme-web"


@pytest.fixture
def stored(secrets: SecretsState, steps: Steps) -> dict[str, Any]:
    """What `store_secret` returned: a version with IDs is pending."""
    secrets.create(NAME, EMPTY)
    return steps.run(store_secret, {"secret": {"id": NAME}})


def test_the_pending_version_becomes_current(
    secrets: SecretsState, steps: Steps, stored: dict[str, Any]
) -> None:
    pending = secrets.stages(NAME)["AWSPENDING"]
    assert steps.run(publish_secret, {"secret": stored}) == {"published": True}
    assert secrets.current(NAME) == pending
    assert json.loads(pending)["accessor_id"] == stored["accessor_id"]
    assert secrets.current_id(NAME) == stored["version_id"]
    assert secrets.stages(NAME)["AWSPREVIOUS"] == EMPTY
    assert steps.remote_calls == {"secretsmanager:UpdateSecretVersionStage": 1}


def test_publishing_twice_is_fine(
    secrets: SecretsState, steps: Steps, stored: dict[str, Any]
) -> None:
    steps.run(publish_secret, {"secret": stored})
    before = secrets.versions(NAME)
    assert steps.run(publish_secret, {"secret": stored}) == {"published": True}
    assert secrets.versions(NAME) == before


def test_of_many_at_once_all_say_that_it_is_published(
    secrets: SecretsState, stored: dict[str, Any]
) -> None:
    state = {"secret": stored}
    results = at_the_same_time([lambda: publish_secret.handler(state, None)] * 10)
    assert results == [{"published": True}] * 10
    assert secrets.current_id(NAME) == stored["version_id"]


def test_what_became_current_meanwhile_stays(
    secrets: SecretsState, steps: Steps, stored: dict[str, Any]
) -> None:
    secrets.put(NAME, '{"accessor_id": "by", "token": "hand"}')
    before = secrets.versions(NAME)
    assert steps.run(publish_secret, {"secret": stored}) == {"published": False}
    assert secrets.versions(NAME) == before


def test_a_version_that_was_current_once_does_not_come_back(
    secrets: SecretsState, steps: Steps, stored: dict[str, Any]
) -> None:
    steps.run(publish_secret, {"secret": stored})
    secrets.put(NAME, EMPTY)
    before = secrets.versions(NAME)
    assert steps.run(publish_secret, {"secret": stored}) == {"published": False}
    assert secrets.versions(NAME) == before


def test_a_refusal_that_what_is_shown_contradicts_is_worth_another_try(
    secrets: SecretsState, steps: Steps, stored: dict[str, Any]
) -> None:
    before = secrets.versions(NAME)
    client = aws.client("secretsmanager")
    with answering(
        client,
        "UpdateSecretVersionStage",
        status=400,
        code="InvalidParameterException",
        message="No such stage.",
    ):
        error = steps.fail(publish_secret, {"secret": stored}, AwsUnavailable)
    assert str(error) == (
        f"Publishing the secret {stored['arn']} was refused for no reason seen: No such stage."
    )
    assert secrets.versions(NAME) == before


def test_a_version_that_was_deleted_with_its_secret_cannot_be_published(
    secrets: SecretsState, steps: Steps, stored: dict[str, Any]
) -> None:
    secrets.client.delete_secret(SecretId=NAME, ForceDeleteWithoutRecovery=True)
    error = steps.fail(publish_secret, {"secret": stored}, AwsUnavailable)
    assert "it is not there, or not yet" in str(error)


def test_throttling_is_worth_another_try(
    secrets: SecretsState, steps: Steps, stored: dict[str, Any]
) -> None:
    client = aws.client("secretsmanager")
    with answering(client, "UpdateSecretVersionStage", status=400, code="ThrottlingException"):
        steps.fail(publish_secret, {"secret": stored}, AwsThrottled)
    assert secrets.current(NAME) == EMPTY


@pytest.mark.parametrize("missing", ["arn", "version_id", "replaces_version_id"])
def test_an_input_without_one_of_its_parts_is_the_workflows_fault(
    secrets: SecretsState, steps: Steps, stored: dict[str, Any], missing: str
) -> None:
    del stored[missing]
    error = steps.fail(publish_secret, {"secret": stored}, InvalidStepInput)
    assert str(error) == f'The input of the step needs "secret.{missing}", a string.'
    assert secrets.current(NAME) == EMPTY
