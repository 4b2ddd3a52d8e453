"""boto3 as the steps use it: few attempts, short waits, and errors that are ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from handlers.clients import aws
from handlers.clients.secrets_manager import SecretsManager
from handlers.core import remote_calls
from handlers.core.errors import AwsRequestRefused, AwsThrottled, AwsUnavailable
from tests.unit.loopback import Answer, LoopbackServer
from tests.unit.steps import Steps

GET = "secretsmanager:GetSecretValue"


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[list[Answer]], LoopbackServer]]:
    """Return a function from the answers, in order, to a server that AWS's clients ask."""
    # botocore waits between attempts.
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda _: None))
    aws.client.cache_clear()
    servers: list[LoopbackServer] = []

    def start(answers: list[Answer]) -> LoopbackServer:
        server = LoopbackServer(lambda _: answers.pop(0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
        servers.append(server)
        server.__enter__()
        remote_calls.start_counting()
        return server

    yield start
    for server in servers:
        server.__exit__()
    aws.client.cache_clear()


def value(text: str) -> Answer:
    return Answer(200, f'{{"ARN": "arn", "VersionId": "1", "SecretString": "{text}"}}'.encode())


def refusal(status: int, code: str) -> Answer:
    return Answer(status, f'{{"__type": "{code}", "message": "As ordered."}}'.encode())


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(Answer(drop=True), id="a connection that the service closes"),
        pytest.param(refusal(500, "InternalServiceError"), id="a fault of the service"),
        pytest.param(refusal(400, "ThrottlingException"), id="throttling"),
    ],
)
def test_a_call_is_sent_once_more_and_counted_twice(
    service: Callable[[list[Answer]], LoopbackServer], first: Answer
) -> None:
    service([first, value("x")])
    version = SecretsManager().current("s")
    assert version is not None
    assert version.value == "x"
    assert remote_calls.counted() == {GET: 2}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (refusal(500, "InternalServiceError"), AwsUnavailable),
        (refusal(400, "ThrottlingException"), AwsThrottled),
    ],
)
def test_more_attempts_are_up_to_the_workflow(
    service: Callable[[list[Answer]], LoopbackServer],
    steps: Steps,
    answer: Answer,
    kind: Any,
) -> None:
    service([answer] * 3)
    steps.failure(lambda: SecretsManager().current("s"), kind)
    assert remote_calls.counted() == {GET: 2}


def test_no_connection_is_worth_another_try(
    service: Callable[[list[Answer]], LoopbackServer],
    steps: Steps,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    del service
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    error = steps.failure(lambda: SecretsManager().current("s"), AwsUnavailable)
    assert str(error) == "Reading the secret s: no answer from AWS (EndpointConnectionError)."


def test_missing_credentials_are_said_to_be_missing(
    service: Callable[[list[Answer]], LoopbackServer],
    steps: Steps,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service([])
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    error = steps.failure(lambda: SecretsManager().current("s"), AwsRequestRefused)
    assert str(error) == "Reading the secret s: Unable to locate credentials"


def test_a_process_has_one_client_a_service() -> None:
    assert aws.client("ecs") is aws.client("ecs")
    config = aws.client("ecs").meta.config
    assert (config.connect_timeout, config.read_timeout) == (3, 10)
    assert config.retries == {"mode": "standard", "total_max_attempts": 2}
