"""Reading, writing ahead and publishing, where the steps do not show it."""

from __future__ import annotations

import uuid

import pytest

from handlers.clients import aws
from handlers.clients.secrets_manager import SecretsManager, SecretVersion
from handlers.core.errors import (
    AwsAccessDenied,
    AwsUnavailable,
    InvalidSecret,
    SecretMarkedForDeletion,
)
from handlers.core.token_secret import EMPTY
from tests.unit.aws_state import SecretsState, answering
from tests.unit.steps import Steps, at_the_same_time

NAME = "acme-web"


def version_of(secrets: SecretsState) -> SecretVersion:
    return SecretVersion(secrets.arn(NAME), secrets.current_id(NAME), secrets.current(NAME))


def test_a_secret_is_read_by_its_name_or_its_arn(secrets: SecretsState) -> None:
    arn = secrets.create(NAME, "value")
    for secret_id in (NAME, arn):
        assert SecretsManager().current(secret_id) == version_of(secrets)


def test_a_secret_that_is_absent_or_has_no_value_reads_as_none(secrets: SecretsState) -> None:
    assert SecretsManager().current(NAME) is None
    secrets.create(NAME)
    assert SecretsManager().current(NAME) is None


def test_a_value_is_not_shown_by_accident() -> None:
    assert "hunter2" not in repr(SecretVersion("arn", "id", "hunter2"))


def test_the_id_of_a_successor_is_derived_from_what_it_replaces(secrets: SecretsState) -> None:
    secrets.create(NAME, EMPTY)
    current = version_of(secrets)
    written = SecretsManager().write_ahead(current, lambda: "new")
    expected = uuid.uuid5(uuid.NAMESPACE_URL, f"{current.arn}#{current.version_id}")
    assert written == SecretVersion(current.arn, str(expected), "new")
    assert secrets.stages(NAME) == {"AWSCURRENT": EMPTY, "AWSPENDING": "new"}


def test_the_loser_returns_what_the_winner_wrote(secrets: SecretsState) -> None:
    secrets.create(NAME, EMPTY)
    current = version_of(secrets)
    winner = SecretsManager().write_ahead(current, lambda: "first")
    assert SecretsManager().write_ahead(current, lambda: "second") == winner
    assert winner.value == "first"


def test_a_writer_who_read_an_old_version_gets_what_followed_it(secrets: SecretsState) -> None:
    secrets.create(NAME, EMPTY)
    old = version_of(secrets)
    followed = SecretsManager().write_ahead(old, lambda: "first")
    assert SecretsManager().publish(
        old.arn, followed.version_id, replaces_version_id=old.version_id
    )
    before = secrets.versions(NAME)
    assert SecretsManager().write_ahead(old, lambda: "late") == followed
    assert secrets.versions(NAME) == before


def test_the_winners_version_may_not_be_readable_yet(secrets: SecretsState, steps: Steps) -> None:
    secrets.create(NAME, EMPTY)
    current = version_of(secrets)
    SecretsManager().write_ahead(current, lambda: "first")
    client = aws.client("secretsmanager")
    with answering(client, "GetSecretValue", status=400, code="ResourceNotFoundException"):
        error = steps.failure(
            lambda: SecretsManager().write_ahead(current, lambda: "second"), AwsUnavailable
        )
    assert f"of the secret {current.arn}: it is not there, or not yet." in str(error)


@pytest.mark.parametrize("operation", ["PutSecretValue", "UpdateSecretVersionStage"])
def test_a_secret_made_a_moment_ago_may_not_be_there_yet(
    secrets: SecretsState, steps: Steps, operation: str
) -> None:
    secrets.create(NAME, EMPTY)
    current = version_of(secrets)
    client = aws.client("secretsmanager")
    calls = {
        "PutSecretValue": lambda: SecretsManager().write_ahead(current, lambda: "new"),
        "UpdateSecretVersionStage": lambda: SecretsManager().publish(
            current.arn, str(uuid.uuid4()), replaces_version_id=current.version_id
        ),
    }
    with answering(client, operation, status=400, code="ResourceNotFoundException"):
        steps.failure(calls[operation], AwsUnavailable)


def test_a_version_is_read_whatever_its_stage(secrets: SecretsState, steps: Steps) -> None:
    arn = secrets.create(NAME, "one")
    first = secrets.current_id(NAME)
    secrets.put(NAME, "two")
    assert SecretsManager().version(arn, first) == SecretVersion(arn, first, "one")
    error = steps.failure(
        lambda: SecretsManager().version(arn, str(uuid.UUID(int=1))), AwsUnavailable
    )
    assert f"version {uuid.UUID(int=1)} of the secret {arn}: it is not there" in str(error)


def test_a_version_that_may_not_be_read_is_not_taken_for_absent(
    secrets: SecretsState, steps: Steps
) -> None:
    arn = secrets.create(NAME, EMPTY)
    version_id = secrets.current_id(NAME)
    client = aws.client("secretsmanager")
    with answering(client, "GetSecretValue", status=400, code="AccessDeniedException"):
        steps.failure(lambda: SecretsManager().version(arn, version_id), AwsAccessDenied)


def test_a_binary_version_is_refused(secrets: SecretsState, steps: Steps) -> None:
    arn = secrets.create(NAME, binary=b"x")
    version_id = secrets.client.get_secret_value(SecretId=NAME)["VersionId"]
    error = steps.failure(lambda: SecretsManager().version(arn, version_id), InvalidSecret)
    assert str(error) == f"The secret {arn} is binary; a string is needed."


def test_of_creators_at_once_one_creates_and_the_others_read(secrets: SecretsState) -> None:
    def create() -> SecretVersion:
        return SecretsManager().create_empty(NAME, description="d", tags={"a": "b"})

    assert at_the_same_time([create] * 8) == [version_of(secrets)] * 8


def test_of_writers_of_the_first_value_at_once_all_write_the_same(secrets: SecretsState) -> None:
    secrets.create(NAME)
    results = at_the_same_time([lambda: SecretsManager().initialize(NAME)] * 4)
    # One that comes after another has written sees that there is a value, and may try again.
    assert version_of(secrets) in results
    assert all(
        result == version_of(secrets) or isinstance(result, AwsUnavailable) for result in results
    )
    assert len(secrets.versions(NAME)) == 1


@pytest.mark.parametrize("operation", ["current", "create_empty", "write_ahead", "put_current"])
def test_a_secret_marked_for_deletion_is_named_by_every_call(
    secrets: SecretsState, steps: Steps, operation: str
) -> None:
    secrets.create(NAME, EMPTY)
    version = version_of(secrets)
    secrets.client.delete_secret(SecretId=NAME, RecoveryWindowInDays=7)
    client = SecretsManager()
    calls = {
        "current": lambda: client.current(NAME),
        "create_empty": lambda: client.create_empty(NAME, description="d", tags={}),
        "write_ahead": lambda: client.write_ahead(version, lambda: "x"),
        "put_current": lambda: client.put_current(NAME, "x"),
    }
    error = steps.failure(calls[operation], SecretMarkedForDeletion)
    assert "aws secretsmanager restore-secret" in str(error)


def test_a_value_that_is_put_is_current_at_once(secrets: SecretsState) -> None:
    arn = secrets.create(NAME, EMPTY)
    SecretsManager().put_current(arn, "new")
    assert secrets.stages(NAME) == {"AWSCURRENT": "new", "AWSPREVIOUS": EMPTY}
