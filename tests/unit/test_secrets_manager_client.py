"""Reading, writing ahead, publishing and keeping, where the steps do not show it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from handlers.clients import aws
from handlers.clients.secrets_manager import (
    SecretsManager,
    SecretVersion,
    StoredVersion,
    kept_version_id,
)
from handlers.core import remote_calls
from handlers.core.errors import (
    AwsAccessDenied,
    AwsRequestRefused,
    AwsThrottled,
    AwsUnavailable,
    InvalidSecret,
    InvalidStepInput,
    SecretMarkedForDeletion,
    StepError,
)
from handlers.core.token_secret import EMPTY
from tests.unit.aws_state import SecretsState, Version, answering
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


# --- many at once --------------------------------------------------------------------------------

ABSENT = "acme-absent"
KEPT = "7d3f1c52-0a4e-5b69-8c8d-9e0f1a2b3c4d"


def values(found: Iterable[SecretVersion | StepError | None]) -> list[Any]:
    """Return values, or the kinds of errors."""
    return [
        one.value if isinstance(one, SecretVersion) else type(one) if one is not None else None
        for one in found
    ]


@pytest.mark.parametrize(("count", "calls"), [(0, 0), (1, 1), (20, 1), (21, 2), (45, 3)])
def test_many_secrets_are_read_twenty_a_call_in_their_order(
    secrets: SecretsState, count: int, calls: int
) -> None:
    ids = []
    for number in range(count):
        arn = secrets.create(f"acme-{number}", f"value {number}")
        ids.append(arn if number % 2 else f"acme-{number}")
    ids.reverse()
    remote_calls.start_counting()
    assert values(SecretsManager().currents(ids)) == [f"value {n}" for n in reversed(range(count))]
    counted = {"secretsmanager:BatchGetSecretValue": calls} if calls else {}
    assert remote_calls.counted() == counted


def test_one_of_many_is_read_as_it_is_alone(secrets: SecretsState) -> None:
    arn = secrets.create(NAME, "old")
    secrets.put(NAME, "new")
    for secret_id in (NAME, arn):
        (found,) = SecretsManager().currents([secret_id])
        assert isinstance(found, SecretVersion)
        assert found == SecretsManager().current(NAME)
        assert found.stages == {"AWSCURRENT"}


def test_a_batch_is_read_when_the_one_before_has_been_used(secrets: SecretsState) -> None:
    secrets.create(NAME, "value")
    remote_calls.start_counting()
    found = SecretsManager().currents([NAME, *(f"{ABSENT}-{number}" for number in range(30))])
    assert values([next(found)]) == ["value"]
    assert remote_calls.counted() == {"secretsmanager:BatchGetSecretValue": 1}


def test_secrets_that_cannot_be_read_do_not_keep_the_others_from_being_read(
    secrets: SecretsState,
) -> None:
    secrets.create("acme-a", "first")
    secrets.create("acme-binary", binary=b"x")
    secrets.create("acme-deleted", "x")
    secrets.create("acme-without-a-value")
    secrets.create("acme-z", "last")
    secrets.client.delete_secret(SecretId="acme-deleted", RecoveryWindowInDays=7)
    ids = ["acme-z", "acme-deleted", ABSENT, "acme-binary", "acme-without-a-value", "acme-a"]
    found = list(SecretsManager().currents(ids))
    assert values(found) == ["last", SecretMarkedForDeletion, None, InvalidSecret, None, "first"]
    assert (
        str(found[3]) == f"The secret {secrets.arn('acme-binary')} is binary; a string is needed."
    )
    assert str(found[1]) == (
        "The secret acme-deleted is marked for deletion. Restore it (aws secretsmanager "
        "restore-secret --secret-id acme-deleted), or delete it for good (aws secretsmanager "
        "delete-secret --force-delete-without-recovery)."
    )


def test_the_same_secret_may_be_asked_for_twice(secrets: SecretsState) -> None:
    arn = secrets.create(NAME, "value")
    assert values(SecretsManager().currents([NAME, arn, NAME])) == ["value"] * 3


MARKED = "You can't perform this operation on the secret because it was marked for deletion."


def answers_errors(*codes: tuple[str, str]) -> SecretsManager:
    """A Secrets Manager that answers a batch with an error for each secret that is asked for."""

    def batch_get_secret_value(*, SecretIdList: list[str]) -> Any:  # noqa: N803 - AWS's name
        return {
            "SecretValues": [],
            "Errors": [
                {"SecretId": secret_id, "ErrorCode": code, "Message": message}
                for secret_id, (code, message) in zip(SecretIdList, codes, strict=True)
            ],
        }

    return SecretsManager(SimpleNamespace(batch_get_secret_value=batch_get_secret_value))


@pytest.mark.parametrize(
    ("code", "message", "kind", "text"),
    [
        ("AccessDeniedException", "Access to KMS is not allowed", AwsAccessDenied,
         "Reading the secret acme-web: Access to KMS is not allowed"),
        ("DecryptionFailure", "Cannot.", AwsRequestRefused,
         "Reading the secret acme-web: Cannot. (DecryptionFailure)"),
        ("ThrottlingException", "Rate exceeded", AwsThrottled,
         "Reading the secret acme-web: throttled (ThrottlingException)."),
        ("InvalidRequestException", MARKED, SecretMarkedForDeletion, None),
        ("InvalidRequestException", "Another reason.", AwsRequestRefused,
         "Reading the secret acme-web: Another reason. (InvalidRequestException)"),
    ],
    ids=["no permission", "no decryption", "throttled", "deleted", "another reason"],
)  # fmt: skip
def test_the_error_of_one_secret_is_that_of_a_call_for_it_alone(
    code: str, message: str, kind: type[StepError], text: str | None
) -> None:
    (found,) = answers_errors((code, message)).currents([NAME])
    assert type(found) is kind
    if text is not None:
        assert str(found) == text


def test_a_passing_fault_of_one_secret_is_worth_another_try() -> None:
    codes = [("InternalServiceError", "An error occurred on the server side.")]
    (found,) = answers_errors(*codes).currents([NAME])
    assert type(found) is AwsUnavailable


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "AccessDeniedException", AwsAccessDenied),
        (400, "ThrottlingException", AwsThrottled),
        (500, "InternalServiceError", AwsUnavailable),
        (400, "ValidationException", AwsRequestRefused),
    ],
)
def test_a_batch_that_is_refused_is_an_error_of_no_secret_in_particular(
    secrets: SecretsState, steps: Steps, status: int, code: str, kind: type[StepError]
) -> None:
    secrets.create(NAME, "value")
    client = aws.client("secretsmanager")
    with answering(client, "BatchGetSecretValue", status=status, code=code):
        error = steps.failure(lambda: list(SecretsManager().currents([NAME])), kind)
    assert str(error).startswith("Reading secrets: ")


# --- the pending version -------------------------------------------------------------------------


def stored_version(current: SecretVersion, pending: SecretVersion) -> StoredVersion:
    """Return what `store_secret` tells of a version that is to replace another."""
    return StoredVersion(pending.arn, pending.version_id, current.version_id)


def test_what_was_stored_is_read_while_it_can_become_current(secrets: SecretsState) -> None:
    secrets.create(NAME, EMPTY)
    manager, current = SecretsManager(), version_of(secrets)
    pending = manager.write_ahead(current, lambda: "new")
    stored = stored_version(current, pending)
    remote_calls.start_counting()
    assert manager.stored(stored) == pending
    manager.publish(pending.arn, pending.version_id, replaces_version_id=current.version_id)
    assert manager.stored(stored) == pending
    assert remote_calls.counted()["secretsmanager:GetSecretValue"] == 2


def test_what_was_stored_is_read_although_another_writer_has_taken_its_label(
    secrets: SecretsState,
) -> None:
    secrets.create(NAME, EMPTY)
    manager, current = SecretsManager(), version_of(secrets)
    pending = manager.write_ahead(current, lambda: "new")
    # Such as who is about to keep the current version, and may be too late.
    secrets.client.put_secret_value(SecretId=NAME, SecretString=EMPTY, VersionStages=["AWSPENDING"])
    assert manager.version(pending.arn, pending.version_id).stages == set()
    remote_calls.start_counting()
    assert manager.stored(stored_version(current, pending)) == pending
    assert remote_calls.counted() == {"secretsmanager:GetSecretValue": 2}


@pytest.mark.parametrize("how", ["put", "kept"])
def test_what_was_stored_is_superseded_when_what_it_is_to_replace_is_current_no_more(
    secrets: SecretsState, how: str
) -> None:
    secrets.create(NAME, EMPTY)
    manager, current = SecretsManager(), version_of(secrets)
    pending = manager.write_ahead(current, lambda: "new")
    if how == "put":
        secrets.client.put_secret_value(
            SecretId=NAME, SecretString="theirs", VersionStages=["AWSCURRENT", "AWSPENDING"]
        )
    else:
        manager.keep(current, version_id=KEPT)
    assert manager.stored(stored_version(current, pending)) is None


def test_what_was_published_and_then_replaced_is_superseded_whatever_label_it_keeps(
    secrets: SecretsState,
) -> None:
    secrets.create(NAME, EMPTY)
    manager, current = SecretsManager(), version_of(secrets)
    pending = manager.write_ahead(current, lambda: "new")
    manager.publish(pending.arn, pending.version_id, replaces_version_id=current.version_id)
    secrets.put(NAME, "theirs")
    # AWS leaves AWSPENDING where it is when AWSCURRENT comes to the same version.
    assert "AWSPENDING" in manager.version(pending.arn, pending.version_id).stages
    assert manager.stored(stored_version(current, pending)) is None


def test_what_was_published_and_then_taken_back_can_become_current_again(
    secrets: SecretsState,
) -> None:
    secrets.create(NAME, EMPTY)
    manager, current = SecretsManager(), version_of(secrets)
    pending = manager.write_ahead(current, lambda: "new")
    manager.publish(pending.arn, pending.version_id, replaces_version_id=current.version_id)
    manager.publish(pending.arn, current.version_id, replaces_version_id=pending.version_id)
    assert manager.stored(stored_version(current, pending)) == pending


def test_what_was_current_when_it_was_stored_is_superseded_by_anything_else(
    secrets: SecretsState,
) -> None:
    secrets.create(NAME, "ids")
    current = version_of(secrets)
    stored = stored_version(current, current)
    assert stored.is_public
    assert SecretsManager().stored(stored) == current
    secrets.put(NAME, "other ids")
    remote_calls.start_counting()
    assert SecretsManager().stored(stored) is None
    assert remote_calls.counted() == {"secretsmanager:GetSecretValue": 1}


def test_what_was_stored_may_not_be_readable_yet(secrets: SecretsState, steps: Steps) -> None:
    arn = secrets.create(NAME, EMPTY)
    stored = StoredVersion(arn, str(uuid.uuid4()), secrets.current_id(NAME))
    steps.failure(lambda: SecretsManager().stored(stored), AwsUnavailable)


@pytest.mark.parametrize("missing", ["arn", "version_id", "replaces_version_id"])
def test_a_stored_version_is_read_from_a_state_with_all_its_parts(missing: str) -> None:
    parts = {"arn": "a", "version_id": "b", "replaces_version_id": "c"}
    assert StoredVersion.from_state({"secret": {**parts, "public": False}}) == StoredVersion(
        **parts
    )
    del parts[missing]
    with pytest.raises(InvalidStepInput, match=f'needs "secret.{missing}", a string'):
        StoredVersion.from_state({"secret": parts})


def test_a_version_that_was_read_says_when_it_was_written(secrets: SecretsState) -> None:
    secrets.create(NAME, EMPTY)
    read = SecretsManager().current(NAME)
    assert read is not None
    assert read.created_at is not None
    assert abs(datetime.now(UTC) - read.created_at) < timedelta(minutes=1)


def test_what_is_to_replace_a_version_is_found_by_its_derived_id(secrets: SecretsState) -> None:
    secrets.create(NAME, EMPTY)
    manager = SecretsManager()
    current = version_of(secrets)
    assert manager.pending(current) is None
    # Another one, of whoever else.
    secrets.client.put_secret_value(
        SecretId=NAME, SecretString="theirs", VersionStages=["AWSPENDING"]
    )
    assert manager.pending(current) is None
    written = manager.write_ahead(current, lambda: "ours")
    found = manager.pending(current)
    assert found == written
    assert found is not None
    assert found.stages == {"AWSPENDING"}
    assert found.created_at is not None


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "AccessDeniedException", AwsAccessDenied),
        (500, "InternalServiceError", AwsUnavailable),
        (400, "ThrottlingException", AwsThrottled),
    ],
)
def test_a_pending_version_that_cannot_be_read_is_not_taken_for_absent(
    secrets: SecretsState, steps: Steps, status: int, code: str, kind: type[StepError]
) -> None:
    secrets.create(NAME, EMPTY)
    current = version_of(secrets)
    client = aws.client("secretsmanager")
    with answering(client, "GetSecretValue", status=status, code=code):
        steps.failure(lambda: SecretsManager().pending(current), kind)


# --- keeping what is current ---------------------------------------------------------------------


def test_the_id_of_a_kept_version_is_derived_from_what_is_kept_and_why(
    secrets: SecretsState,
) -> None:
    secrets.create(NAME, EMPTY)
    current = version_of(secrets)
    ids = {
        *(kept_version_id(current.arn, current.version_id, why) for why in ("a", "b", "a")),
        kept_version_id(current.arn, KEPT, "a"),
        kept_version_id(f"{current.arn}-2", current.version_id, "a"),
        SecretsManager().write_ahead(current, lambda: "new").version_id,
    }
    assert len(ids) == 5
    assert all(str(uuid.UUID(id_)) == id_ for id_ in ids)


@pytest.fixture
def rotation(secrets: SecretsState) -> tuple[SecretVersion, SecretVersion]:
    """A current version, and one that is written to replace it."""
    secrets.create(NAME, "old")
    current = version_of(secrets)
    return current, SecretsManager().write_ahead(current, lambda: "new")


Rotation = tuple[SecretVersion, SecretVersion]


def test_a_version_that_is_kept_has_the_same_value_under_an_id_of_its_own(
    secrets: SecretsState, rotation: Rotation
) -> None:
    current, _ = rotation
    remote_calls.start_counting()
    assert SecretsManager().keep(current, version_id=KEPT) is True
    assert remote_calls.counted() == {
        "secretsmanager:PutSecretValue": 1,
        "secretsmanager:UpdateSecretVersionStage": 1,
    }
    assert secrets.versions(NAME) == {
        KEPT: Version(("AWSCURRENT", "AWSPENDING"), "old"),
        current.version_id: Version(("AWSPREVIOUS",), "old"),
    }


def test_what_was_to_replace_a_version_that_is_kept_is_never_published(
    secrets: SecretsState, rotation: Rotation
) -> None:
    current, pending = rotation
    SecretsManager().keep(current, version_id=KEPT)
    for _ in range(2):
        published = SecretsManager().publish(
            pending.arn, pending.version_id, replaces_version_id=current.version_id
        )
        assert published is False
        assert secrets.current(NAME) == "old"


def test_keeping_twice_is_fine(secrets: SecretsState, rotation: Rotation) -> None:
    current, _ = rotation
    SecretsManager().keep(current, version_id=KEPT)
    before = secrets.versions(NAME)
    assert SecretsManager().keep(current, version_id=KEPT) is True
    assert secrets.versions(NAME) == before


def test_keeping_that_was_broken_off_is_finished_by_the_next_attempt(
    secrets: SecretsState, steps: Steps, rotation: Rotation
) -> None:
    current, _ = rotation
    client = aws.client("secretsmanager")
    with answering(client, "UpdateSecretVersionStage", status=500, code="InternalServiceError"):
        steps.failure(lambda: SecretsManager().keep(current, version_id=KEPT), AwsUnavailable)
    assert secrets.current_id(NAME) == current.version_id
    assert SecretsManager().keep(current, version_id=KEPT) is True
    assert secrets.current_id(NAME) == KEPT


def test_keeping_loses_to_a_publication(secrets: SecretsState, rotation: Rotation) -> None:
    current, pending = rotation
    SecretsManager().publish(
        pending.arn, pending.version_id, replaces_version_id=current.version_id
    )
    assert SecretsManager().keep(current, version_id=KEPT) is False
    assert secrets.current(NAME) == "new"


def test_keeping_loses_to_what_a_person_has_put_there(
    secrets: SecretsState, rotation: Rotation
) -> None:
    current, _ = rotation
    secrets.put(NAME, "third")
    assert SecretsManager().keep(current, version_id=KEPT) is False
    assert secrets.current(NAME) == "third"


def test_of_a_publication_and_keeping_at_once_one_wins(
    secrets: SecretsState, rotation: Rotation
) -> None:
    current, pending = rotation
    published, kept = at_the_same_time(
        [
            lambda: SecretsManager().publish(
                pending.arn, pending.version_id, replaces_version_id=current.version_id
            ),
            lambda: SecretsManager().keep(current, version_id=KEPT),
        ]
    )
    assert (published, kept) in {(True, False), (False, True)}
    assert secrets.current(NAME) == ("new" if published else "old")


def test_a_version_that_is_kept_can_be_replaced_like_any_other(
    secrets: SecretsState, rotation: Rotation
) -> None:
    _, pending = rotation
    manager = SecretsManager()
    manager.keep(rotation[0], version_id=KEPT)
    kept = version_of(secrets)
    following = manager.write_ahead(kept, lambda: "newer")
    assert following.version_id != pending.version_id
    assert manager.pending(kept) == following
    assert manager.publish(kept.arn, following.version_id, replaces_version_id=kept.version_id)
    assert secrets.current(NAME) == "newer"
