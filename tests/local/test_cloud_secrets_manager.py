"""Secrets Manager in the local cloud keeps versions and labels as AWS does."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws
from moto.secretsmanager.models import FakeSecret

from local.cloud.clock import CloudClock
from local.cloud.secrets_manager import corrected_secrets_manager
from tests.local.meanwhile import meanwhile

FIRST, SECOND, THIRD = (str(uuid.UUID(int=number)) for number in (1, 2, 3))


@pytest.fixture
def secrets() -> Iterator[Any]:
    with mock_aws(), corrected_secrets_manager():
        yield boto3.client("secretsmanager", region_name="us-east-1")


@pytest.fixture
def secret(secrets: Any) -> str:
    """A secret whose only version is FIRST, with the value "one"."""
    created = secrets.create_secret(Name="s", SecretString="one", ClientRequestToken=FIRST)
    return str(created["ARN"])


def put(secrets: Any, value: str, token: str, *labels: str) -> Any:
    return secrets.put_secret_value(
        SecretId="s", SecretString=value, ClientRequestToken=token, VersionStages=list(labels)
    )


def move(secrets: Any, label: str, *, to: str | None = None, source: str | None = None) -> Any:
    arguments = {"MoveToVersionId": to, "RemoveFromVersionId": source}
    given = {name: value for name, value in arguments.items() if value}
    return secrets.update_secret_version_stage(SecretId="s", VersionStage=label, **given)


def labels(secrets: Any) -> dict[str, set[str]]:
    versions = secrets.describe_secret(SecretId="s")["VersionIdsToStages"]
    return {version: set(stages) for version, stages in versions.items()}


def error_of(call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(*args, **kwargs)
    return str(caught.value.response["Error"]["Code"])


def outcomes(calls: Sequence[Callable[[], Any]]) -> list[str]:
    """Make all calls at the same moment; the error code of each, or "ok"."""
    barrier = threading.Barrier(len(calls))
    results: list[str] = []

    def run(call: Callable[[], Any]) -> None:
        barrier.wait()
        try:
            call()
        except ClientError as error:
            results.append(str(error.response["Error"]["Code"]))
        else:
            results.append("ok")

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("label", ["AWSPENDING", "AWSCURRENT", "OURS"])
def test_a_version_can_not_be_overwritten_whatever_its_label(
    secrets: Any, secret: str, label: str
) -> None:
    put(secrets, "two", SECOND, label)
    assert error_of(put, secrets, "other", SECOND, label) == "ResourceExistsException"
    value = secrets.get_secret_value(SecretId=secret, VersionId=SECOND)
    assert value["SecretString"] == "two"


def test_writing_the_same_version_again_succeeds_and_changes_nothing(
    secrets: Any, secret: str
) -> None:
    first = put(secrets, "two", SECOND, "AWSPENDING")
    again = put(secrets, "two", SECOND, "AWSPENDING")
    assert again["VersionId"] == first["VersionId"] == SECOND
    put(secrets, "one", FIRST, "AWSPENDING")
    assert labels(secrets) == {FIRST: {"AWSCURRENT"}, SECOND: {"AWSPENDING"}}


def test_of_writers_racing_for_one_version_exactly_one_wins(secrets: Any, secret: str) -> None:
    calls = [partial(put, secrets, f"value {n}", SECOND, "AWSPENDING") for n in range(8)]
    assert sorted(outcomes(calls)) == ["ResourceExistsException"] * 7 + ["ok"]


def test_of_creators_racing_for_one_name_exactly_one_wins(secrets: Any) -> None:
    calls = [partial(secrets.create_secret, Name="s", SecretString=str(n)) for n in range(8)]
    assert sorted(outcomes(calls)) == ["ResourceExistsException"] * 7 + ["ok"]


def test_creating_again_with_the_same_token_and_value_succeeds(secrets: Any, secret: str) -> None:
    again = secrets.create_secret(Name="s", SecretString="one", ClientRequestToken=FIRST)
    assert again["ARN"] == secret
    other = {"Name": "s", "SecretString": "other", "ClientRequestToken": FIRST}
    assert error_of(secrets.create_secret, **other) == "ResourceExistsException"


def test_the_first_version_becomes_current_whatever_its_labels(secrets: Any) -> None:
    secrets.create_secret(Name="s")
    put(secrets, "one", FIRST, "AWSPENDING")
    assert labels(secrets) == {FIRST: {"AWSPENDING", "AWSCURRENT"}}


def test_a_pending_version_leaves_the_current_one_in_use(secrets: Any, secret: str) -> None:
    put(secrets, "two", SECOND, "AWSPENDING")
    assert secrets.get_secret_value(SecretId="s")["SecretString"] == "one"
    pending = secrets.get_secret_value(SecretId="s", VersionStage="AWSPENDING")
    assert (pending["SecretString"], pending["VersionId"]) == ("two", SECOND)


def test_publishing_moves_current_and_previous_and_leaves_pending(
    secrets: Any, secret: str
) -> None:
    put(secrets, "two", SECOND, "AWSPENDING")
    move(secrets, "AWSCURRENT", to=SECOND, source=FIRST)
    assert labels(secrets) == {FIRST: {"AWSPREVIOUS"}, SECOND: {"AWSPENDING", "AWSCURRENT"}}
    assert secrets.get_secret_value(SecretId="s")["SecretString"] == "two"
    previous = secrets.get_secret_value(SecretId="s", VersionStage="AWSPREVIOUS")
    assert previous["SecretString"] == "one"


def test_publishing_twice_moves_previous_on_and_deprecates_the_oldest(
    secrets: Any, secret: str
) -> None:
    put(secrets, "two", SECOND, "AWSPENDING")
    move(secrets, "AWSCURRENT", to=SECOND, source=FIRST)
    put(secrets, "three", THIRD, "AWSPENDING")
    move(secrets, "AWSCURRENT", to=THIRD, source=SECOND)
    assert labels(secrets) == {SECOND: {"AWSPREVIOUS"}, THIRD: {"AWSPENDING", "AWSCURRENT"}}
    value = secrets.get_secret_value(SecretId="s", VersionId=FIRST)
    assert value["SecretString"] == "one"


def test_rolling_back_swaps_current_and_previous(secrets: Any, secret: str) -> None:
    put(secrets, "two", SECOND, "AWSCURRENT")
    move(secrets, "AWSCURRENT", to=FIRST, source=SECOND)
    assert labels(secrets) == {FIRST: {"AWSCURRENT"}, SECOND: {"AWSPREVIOUS"}}


def test_a_put_that_becomes_current_keeps_the_pending_label_of_another(
    secrets: Any, secret: str
) -> None:
    move(secrets, "AWSPENDING", to=FIRST)
    put(secrets, "two", SECOND, "AWSCURRENT")
    assert labels(secrets) == {FIRST: {"AWSPENDING", "AWSPREVIOUS"}, SECOND: {"AWSCURRENT"}}


def test_the_publisher_that_read_an_outdated_version_loses(secrets: Any, secret: str) -> None:
    put(secrets, "two", SECOND, "AWSPENDING")
    move(secrets, "AWSCURRENT", to=SECOND, source=FIRST)
    code = error_of(move, secrets, "AWSCURRENT", to=SECOND, source=FIRST)
    assert code == "InvalidParameterException"


def test_moving_a_label_to_its_holder_changes_nothing(secrets: Any, secret: str) -> None:
    move(secrets, "AWSCURRENT", to=FIRST)
    move(secrets, "AWSCURRENT", to=FIRST, source=FIRST)
    assert labels(secrets) == {FIRST: {"AWSCURRENT"}}


@pytest.mark.parametrize("label", ["AWSCURRENT", "OURS"])
def test_taking_a_label_needs_its_holder_to_be_named(secrets: Any, secret: str, label: str) -> None:
    put(secrets, "two", SECOND, "AWSPENDING")
    if label != "AWSCURRENT":
        move(secrets, label, to=FIRST)
    assert error_of(move, secrets, label, to=SECOND) == "InvalidParameterException"


def test_current_can_be_moved_but_not_removed(secrets: Any, secret: str) -> None:
    assert error_of(move, secrets, "AWSCURRENT", source=FIRST) == "InvalidParameterException"


def test_another_label_can_be_removed(secrets: Any, secret: str) -> None:
    put(secrets, "two", SECOND, "AWSPENDING")
    move(secrets, "AWSPENDING", source=SECOND)
    assert labels(secrets) == {FIRST: {"AWSCURRENT"}}


def test_an_unknown_version_is_not_found(secrets: Any, secret: str) -> None:
    assert error_of(move, secrets, "AWSPENDING", to=THIRD) == "ResourceNotFoundException"
    code = error_of(move, secrets, "AWSCURRENT", to=FIRST, source=THIRD)
    assert code == "ResourceNotFoundException"
    by_id = {"SecretId": "s", "VersionId": THIRD}
    assert error_of(secrets.get_secret_value, **by_id) == "ResourceNotFoundException"
    by_label = {"SecretId": "s", "VersionStage": "AWSPENDING"}
    assert error_of(secrets.get_secret_value, **by_label) == "ResourceNotFoundException"


def test_a_label_that_is_not_on_the_version_is_an_invalid_request(
    secrets: Any, secret: str
) -> None:
    wanted = {"SecretId": "s", "VersionId": FIRST, "VersionStage": "AWSPENDING"}
    assert error_of(secrets.get_secret_value, **wanted) == "InvalidRequestException"


def test_a_secret_without_a_value_exists_but_has_nothing_to_read(secrets: Any) -> None:
    secrets.create_secret(Name="s")
    assert secrets.describe_secret(SecretId="s")["Name"] == "s"
    code = error_of(secrets.get_secret_value, SecretId="s")
    assert code == "ResourceNotFoundException"


def test_a_secret_marked_for_deletion_refuses_everything_but_being_restored(
    secrets: Any, secret: str
) -> None:
    secrets.delete_secret(SecretId="s", RecoveryWindowInDays=7)
    for call in (
        lambda: secrets.get_secret_value(SecretId="s"),
        lambda: put(secrets, "two", SECOND, "AWSPENDING"),
        lambda: move(secrets, "AWSPENDING", to=FIRST),
        lambda: secrets.update_secret(SecretId="s", SecretString="two"),
        lambda: secrets.create_secret(Name="s", SecretString="two"),
    ):
        assert error_of(call) == "InvalidRequestException"
    secrets.restore_secret(SecretId="s")
    assert secrets.get_secret_value(SecretId="s")["SecretString"] == "one"


def test_a_secret_is_found_by_name_and_by_complete_and_partial_arn(
    secrets: Any, secret: str
) -> None:
    for identifier in ("s", secret, secret.rsplit("-", 1)[0]):
        assert secrets.get_secret_value(SecretId=identifier)["SecretString"] == "one"
        assert secrets.describe_secret(SecretId=identifier)["ARN"] == secret
    outdated = secret.rsplit("-", 1)[0] + "-AAAAAA"
    code = error_of(secrets.get_secret_value, SecretId=outdated)
    assert code == "ResourceNotFoundException"


def test_an_update_writes_a_new_current_version(secrets: Any, secret: str) -> None:
    secrets.update_secret(SecretId="s", SecretString="two", ClientRequestToken=SECOND)
    assert labels(secrets) == {FIRST: {"AWSPREVIOUS"}, SECOND: {"AWSCURRENT"}}
    code = error_of(secrets.update_secret, SecretId="s", SecretString="x", ClientRequestToken=FIRST)
    assert code == "ResourceExistsException"
    listed = secrets.list_secret_version_ids(SecretId=secret)
    assert {version["VersionId"] for version in listed["Versions"]} == {FIRST, SECOND}


def test_versions_without_a_label_are_listed_only_if_asked_for(secrets: Any, secret: str) -> None:
    put(secrets, "two", SECOND, "AWSCURRENT")
    put(secrets, "three", THIRD, "AWSCURRENT")

    def listed(**more: Any) -> dict[str, list[str] | None]:
        versions = secrets.list_secret_version_ids(SecretId="s", **more)["Versions"]
        return {version["VersionId"]: version.get("VersionStages") for version in versions}

    labelled: dict[str, list[str] | None] = {SECOND: ["AWSPREVIOUS"], THIRD: ["AWSCURRENT"]}
    assert listed() == labelled
    assert listed(IncludeDeprecated=True) == {FIRST: None, **labelled}


def test_the_time_of_a_version_is_that_of_the_cloud() -> None:
    clock = CloudClock(speed=1_000_000)
    with mock_aws(), corrected_secrets_manager(clock):
        secrets: Any = boto3.client("secretsmanager", region_name="us-east-1")
        secrets.create_secret(Name="s", SecretString="one", ClientRequestToken=FIRST)
        between = clock.now()
        put(secrets, "two", SECOND, "AWSCURRENT")
        first, second = (
            secrets.get_secret_value(SecretId="s", VersionId=version)["CreatedDate"]
            for version in (FIRST, SECOND)
        )
        assert first < between < second < clock.now()


# Many secrets at once.


def test_many_secrets_are_read_at_once(secrets: Any, secret: str) -> None:
    secrets.create_secret(Name="other", SecretBinary=b"two", ClientRequestToken=SECOND)
    put(secrets, "three", THIRD, "AWSPENDING")

    answer = secrets.batch_get_secret_value(SecretIdList=[secret, "other"])

    assert answer["Errors"] == []
    assert "NextToken" not in answer
    first, second = answer["SecretValues"]
    single = secrets.get_secret_value(SecretId="s")
    assert first == {key: single[key] for key in single if key != "ResponseMetadata"}
    assert set(first) == {
        *("ARN", "Name", "VersionId", "SecretString", "VersionStages", "CreatedDate"),
    }
    assert first["VersionStages"] == ["AWSCURRENT"]
    assert (second["Name"], second["SecretBinary"]) == ("other", b"two")


def test_secrets_that_cannot_be_read_are_errors_beside_the_others(
    secrets: Any, secret: str
) -> None:
    secrets.create_secret(Name="empty")
    secrets.create_secret(Name="marked", SecretString="x")
    secrets.delete_secret(SecretId="marked")

    answer = secrets.batch_get_secret_value(SecretIdList=["absent", "empty", "marked", "s"])

    assert [value["Name"] for value in answer["SecretValues"]] == ["s"]
    assert answer["Errors"] == [
        {
            "SecretId": "absent",
            "ErrorCode": "ResourceNotFoundException",
            "Message": "Secrets Manager can't find the specified secret.",
        },
        {
            "SecretId": "empty",
            "ErrorCode": "ResourceNotFoundException",
            "Message": "Secrets Manager can't find the specified secret value for staging label: "
            "AWSCURRENT",
        },
        {
            "SecretId": "marked",
            "ErrorCode": "InvalidRequestException",
            "Message": "You can't perform this operation on the secret because it was marked for "
            "deletion.",
        },
    ]


def test_no_more_than_twenty_secrets_are_read_at_once(secrets: Any, secret: str) -> None:
    answer = secrets.batch_get_secret_value(SecretIdList=[secret, *map(str, range(19))])
    assert (len(answer["SecretValues"]), len(answer["Errors"])) == (1, 19)
    code = error_of(secrets.batch_get_secret_value, SecretIdList=[*map(str, range(21))])
    assert code == "ValidationException"


def test_secrets_are_read_by_filters_as_well(secrets: Any, secret: str) -> None:
    secrets.create_secret(Name="other", SecretString="two")
    answer = secrets.batch_get_secret_value(Filters=[{"Key": "name", "Values": ["other"]}])
    assert [value["SecretString"] for value in answer["SecretValues"]] == ["two"]


def test_moto_is_as_before_afterwards() -> None:
    with mock_aws():
        secrets = boto3.client("secretsmanager", region_name="us-east-1")
        secrets.create_secret(Name="s", SecretString="one", ClientRequestToken=FIRST)
        put(secrets, "two", SECOND, "AWSPENDING")
        put(secrets, "other", SECOND, "AWSPENDING")


def test_secrets_are_listed_while_another_one_is_created(secrets: Any, secret: str) -> None:
    def create_another() -> None:
        secrets.create_secret(Name="another", SecretString="two")

    with meanwhile(FakeSecret, "to_dict", create_another):
        listed = secrets.list_secrets()["SecretList"]
    assert [each["ARN"] for each in listed] == [secret]
    assert len(secrets.list_secrets()["SecretList"]) == 2
