"""Valid IDs are left alone; where there are none, one writer's become the pending version."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from handlers import publish_secret, store_secret
from handlers.clients import aws
from handlers.core import environment
from handlers.core.errors import (
    AwsAccessDenied,
    AwsRequestRefused,
    AwsThrottled,
    AwsUnavailable,
    InvalidConfiguration,
    InvalidSecret,
    InvalidStepInput,
    SecretMarkedForDeletion,
    StepError,
)
from handlers.core.token_secret import EMPTY
from tests.unit.aws_state import SecretsState, Version, answering
from tests.unit.steps import Steps, at_the_same_time

NAME = "acme-web"
TAGS = {
    "consul.hashicorp.com/cluster": "arn:aws:ecs:us-east-1:123456789012:cluster/mesh",
    "consul.hashicorp.com/service-name": "web",
}
STATE = {"secret": {"id": NAME, "description": "Consul token of the service web", "tags": TAGS}}
IDS = json.dumps(
    {
        "accessor_id": "b1a7f5d2-3c4e-4f60-8a9b-0c1d2e3f4a5b",
        "token": "e8d7c6b5-a493-4281-9f0e-1d2c3b4a5968",
    }
)
OTHER_IDS = json.dumps(
    {
        "accessor_id": "0f9e8d7c-6b5a-4948-8736-251403f2e1d0",
        "token": "a9b8c7d6-e5f4-4321-8765-4321fedcba98",
    }
)


def accessor_id_of(value: str) -> str:
    return str(json.loads(value)["accessor_id"])


# --- new IDs -------------------------------------------------------------------------------------


def test_an_absent_secret_is_created_empty_and_gets_ids_as_its_pending_version(
    secrets: SecretsState, steps: Steps
) -> None:
    result = steps.run(store_secret, STATE)
    stages = secrets.stages(NAME)
    assert set(stages) == {"AWSCURRENT", "AWSPENDING"}
    assert stages["AWSCURRENT"] == EMPTY
    ids = {
        stage: id_ for id_, version in secrets.versions(NAME).items() for stage in version.stages
    }
    assert result == {
        "arn": secrets.arn(NAME),
        "version_id": ids["AWSPENDING"],
        "replaces_version_id": ids["AWSCURRENT"],
        "accessor_id": accessor_id_of(stages["AWSPENDING"]),
        "public": False,
    }
    assert secrets.description(NAME) == {
        "description": "Consul token of the service web",
        "tags": TAGS,
    }
    assert steps.remote_calls == {
        "secretsmanager:CreateSecret": 1,
        "secretsmanager:GetSecretValue": 1,
        "secretsmanager:PutSecretValue": 1,
    }


def test_the_settings_tags_are_added_and_cannot_replace_ours(
    secrets: SecretsState, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured = {"team": "shop", "consul.hashicorp.com/service-name": "other"}
    monkeypatch.setenv(environment.SECRET_TAGS, json.dumps(configured))
    steps.run(store_secret, STATE)
    assert secrets.description(NAME)["tags"] == TAGS | {"team": "shop"}


KEY_ARN = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"


@pytest.mark.parametrize("key", [None, "", KEY_ARN])
def test_a_new_secret_is_encrypted_with_the_settings_key(
    secrets: SecretsState, steps: Steps, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    if key is not None:
        monkeypatch.setenv(environment.SECRET_KMS_KEY_ARN, key)
    steps.run(store_secret, STATE)
    described = secrets.client.describe_secret(SecretId=NAME)
    assert described.get("KmsKeyId") == (key or None)


def test_a_secret_that_exists_keeps_its_key(
    secrets: SecretsState, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.SECRET_KMS_KEY_ARN, KEY_ARN)
    secrets.create(NAME)
    steps.run(store_secret, STATE)
    assert "KmsKeyId" not in secrets.client.describe_secret(SecretId=NAME)


def test_tags_that_are_no_json_are_named(
    secrets: SecretsState, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.SECRET_TAGS, "team=shop")
    error = steps.fail(store_secret, STATE, InvalidConfiguration)
    assert str(error) == "The environment variable SECRET_TAGS is not JSON."
    assert secrets.names() == []


@pytest.mark.parametrize("empty", ["{}", " {}\n"])
def test_an_empty_secret_gets_ids_as_its_pending_version(
    secrets: SecretsState, steps: Steps, empty: str
) -> None:
    # By its ARN, as the controller's and the client's: they exist since the deployment.
    arn = secrets.create(NAME, empty)
    first = secrets.current_id(NAME)
    result = steps.run(store_secret, {"secret": {"id": arn}})
    stages = secrets.stages(NAME)
    assert stages["AWSCURRENT"] == empty
    assert result == {
        "arn": arn,
        "version_id": result["version_id"],
        "replaces_version_id": first,
        "accessor_id": accessor_id_of(stages["AWSPENDING"]),
        "public": False,
    }
    assert secrets.versions(NAME)[result["version_id"]].stages == ("AWSPENDING",)
    assert secrets.description(NAME)["tags"] == {}
    assert steps.remote_calls == {
        "secretsmanager:GetSecretValue": 1,
        "secretsmanager:PutSecretValue": 1,
    }


@pytest.mark.parametrize(
    "state", [STATE, {"secret": {"id": NAME}}], ids=["with tags", "without tags"]
)
def test_the_first_version_of_a_secret_without_a_value_holds_no_ids(
    secrets: SecretsState, steps: Steps, state: Any
) -> None:
    # It becomes current whatever is asked for, so tasks would pull IDs whose token is not there.
    secrets.create(NAME)
    result = steps.run(store_secret, state)
    assert secrets.stages(NAME)["AWSCURRENT"] == EMPTY
    assert secrets.versions(NAME)[result["version_id"]].stages == ("AWSPENDING",)
    assert result["public"] is False


def test_a_task_finds_no_token_before_its_version_is_published(
    secrets: SecretsState, steps: Steps
) -> None:
    result = steps.run(store_secret, STATE)
    assert json.loads(secrets.current(NAME)) == {}
    steps.run(publish_secret, {"secret": result})
    assert set(json.loads(secrets.current(NAME))) == {"accessor_id", "token"}


# --- IDs that are there --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(IDS, id="as HashiCorp's controller wrote them"),
        pytest.param(json.dumps({**json.loads(IDS), "note": "mine"}), id="with another key"),
        pytest.param(IDS.upper().replace("ACCESSOR_ID", "accessor_id").replace("TOKEN", "token"),
                     id="in capitals"),
    ],
)  # fmt: skip
def test_valid_ids_are_left_alone(secrets: SecretsState, steps: Steps, value: str) -> None:
    arn = secrets.create(NAME, value)
    before = secrets.versions(NAME)
    result = steps.run(store_secret, STATE)
    version_id = secrets.current_id(NAME)
    assert result == {
        "arn": arn,
        "version_id": version_id,
        "replaces_version_id": version_id,
        "accessor_id": accessor_id_of(value),
        "public": True,
    }
    assert secrets.versions(NAME) == before
    assert steps.remote_calls == {"secretsmanager:GetSecretValue": 1}


def test_valid_current_ids_win_over_a_pending_version(secrets: SecretsState, steps: Steps) -> None:
    secrets.create(NAME, IDS)
    secrets.client.put_secret_value(
        SecretId=NAME, SecretString=OTHER_IDS, VersionStages=["AWSPENDING"]
    )
    before = secrets.versions(NAME)
    assert steps.run(store_secret, STATE)["accessor_id"] == accessor_id_of(IDS)
    assert secrets.versions(NAME) == before


def test_the_pending_version_of_someone_who_died_is_taken_over(
    secrets: SecretsState, steps: Steps
) -> None:
    died = steps.run(store_secret, STATE)
    before = secrets.versions(NAME)
    assert steps.run(store_secret, STATE) == died
    assert secrets.versions(NAME) == before
    assert steps.remote_calls == {
        "secretsmanager:GetSecretValue": 2,
        "secretsmanager:PutSecretValue": 1,
    }


def test_a_published_secret_that_somebody_emptied_gets_new_ids(
    secrets: SecretsState, steps: Steps
) -> None:
    first = steps.run(store_secret, STATE)
    steps.run(publish_secret, {"secret": first})
    emptied = secrets.put(NAME, EMPTY)
    second = steps.run(store_secret, STATE)
    assert second["replaces_version_id"] == emptied
    assert second["accessor_id"] != first["accessor_id"]
    assert second["public"] is False


def test_a_pending_version_of_another_origin_is_not_ours_to_take(
    secrets: SecretsState, steps: Steps
) -> None:
    # Only the version that is derived from the one we read can have been written by this step.
    secrets.create(NAME, EMPTY)
    foreign = str(uuid.uuid4())
    secrets.client.put_secret_value(
        SecretId=NAME,
        SecretString=OTHER_IDS,
        VersionStages=["AWSPENDING"],
        ClientRequestToken=foreign,
    )
    result = steps.run(store_secret, STATE)
    assert result["version_id"] != foreign
    assert result["accessor_id"] != accessor_id_of(OTHER_IDS)
    assert secrets.stages(NAME)["AWSCURRENT"] == EMPTY


@pytest.mark.parametrize("value", [None, EMPTY], ids=["absent", "empty"])
def test_of_thirty_writers_at_once_one_wins_and_all_agree(
    secrets: SecretsState, value: str | None
) -> None:
    if value is not None:
        secrets.create(NAME, value)
    results = at_the_same_time([lambda: store_secret.handler(STATE, None)] * 30)
    stages = secrets.stages(NAME)
    assert set(stages) == {"AWSCURRENT", "AWSPENDING"}
    (version_id,) = [i for i, v in secrets.versions(NAME).items() if v.stages == ("AWSPENDING",)]
    assert (
        results
        == [
            {
                "arn": secrets.arn(NAME),
                "version_id": version_id,
                "replaces_version_id": secrets.current_id(NAME),
                "accessor_id": accessor_id_of(stages["AWSPENDING"]),
                "public": False,
            }
        ]
        * 30
    )


# --- new IDs although there are valid ones -------------------------------------------------------

WEB = {"service": "web"}
RENEW = {**STATE, "renew": WEB}


def test_renewed_ids_are_written_ahead_and_tasks_go_on_pulling_the_old_ones(
    secrets: SecretsState, steps: Steps
) -> None:
    arn = secrets.create(NAME, IDS)
    current = secrets.current_id(NAME)
    result = steps.run(store_secret, RENEW)
    stages = secrets.stages(NAME)
    assert stages["AWSCURRENT"] == IDS
    assert set(json.loads(stages["AWSPENDING"])) == {"accessor_id", "token"}
    assert result == {
        "arn": arn,
        "version_id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{arn}#{current}")),
        "replaces_version_id": current,
        "accessor_id": accessor_id_of(stages["AWSPENDING"]),
        "public": False,
        "previous": [{"subject": WEB, "accessor_id": accessor_id_of(IDS)}],
    }
    for name in ("accessor_id", "token"):
        assert json.loads(stages["AWSPENDING"])[name] != json.loads(IDS)[name]
    assert steps.remote_calls == {
        "secretsmanager:GetSecretValue": 1,
        "secretsmanager:PutSecretValue": 1,
    }


@pytest.mark.parametrize("subject", [{"token": "client"}, {"token": "controller"}], ids=str)
def test_a_shared_token_is_renewed_in_the_secret_that_the_deployment_made(
    secrets: SecretsState, steps: Steps, subject: dict[str, str]
) -> None:
    arn = secrets.create("theirs/token", IDS)
    result = steps.run(store_secret, {"secret": {"id": arn}, "renew": subject})
    assert result["previous"] == [{"subject": subject, "accessor_id": accessor_id_of(IDS)}]
    assert secrets.current("theirs/token") == IDS


def test_renewing_again_before_the_switch_takes_the_ids_that_are_there(
    secrets: SecretsState, steps: Steps
) -> None:
    secrets.create(NAME, IDS)
    first = steps.run(store_secret, RENEW)
    before = secrets.versions(NAME)
    assert steps.run(store_secret, RENEW) == first
    assert secrets.versions(NAME) == before


def test_renewing_again_after_the_switch_is_another_rotation(
    secrets: SecretsState, steps: Steps
) -> None:
    secrets.create(NAME, IDS)
    first = steps.run(store_secret, RENEW)
    steps.run(publish_secret, {"secret": first})
    second = steps.run(store_secret, RENEW)
    assert second["accessor_id"] not in {first["accessor_id"], accessor_id_of(IDS)}
    assert second["previous"] == [{"subject": WEB, "accessor_id": first["accessor_id"]}]
    assert second["replaces_version_id"] == first["version_id"]


@pytest.mark.parametrize("value", [None, EMPTY], ids=["absent", "empty"])
def test_without_ids_there_is_nothing_to_replace(
    secrets: SecretsState, steps: Steps, value: str | None
) -> None:
    if value is not None:
        secrets.create(NAME, value)
    result = steps.run(store_secret, RENEW)
    assert result["previous"] == []
    assert result["public"] is False
    # The same as for a new service: whoever provisions it meanwhile takes the same IDs.
    del result["previous"]
    assert steps.run(store_secret, STATE) == result


def test_valid_ids_are_left_alone_by_others_while_a_rotation_is_on_its_way(
    secrets: SecretsState, steps: Steps
) -> None:
    secrets.create(NAME, IDS)
    steps.run(store_secret, RENEW)
    result = steps.run(store_secret, STATE)
    assert (result["accessor_id"], result["public"]) == (accessor_id_of(IDS), True)
    assert "previous" not in result


def test_of_many_rotations_at_once_all_write_the_same_ids(secrets: SecretsState) -> None:
    secrets.create(NAME, IDS)
    results = at_the_same_time([lambda: store_secret.handler(RENEW, None)] * 10)
    stages = secrets.stages(NAME)
    assert set(stages) == {"AWSCURRENT", "AWSPENDING"}
    assert results == [results[0]] * 10
    assert isinstance(results[0], dict)
    assert results[0]["accessor_id"] == accessor_id_of(stages["AWSPENDING"])


def test_what_is_no_pair_of_ids_is_not_renewed(secrets: SecretsState, steps: Steps) -> None:
    secrets.create(NAME, "hunter2-hunter2")
    before = secrets.versions(NAME)
    steps.fail(store_secret, RENEW, InvalidSecret)
    assert secrets.versions(NAME) == before


@pytest.mark.parametrize("renew", [None, True, "web", {"service": "Web"}, {}], ids=repr)
def test_whose_ids_are_renewed_has_to_be_said(
    secrets: SecretsState, steps: Steps, renew: Any
) -> None:
    secrets.create(NAME, IDS)
    before = secrets.versions(NAME)
    steps.fail(store_secret, {**STATE, "renew": renew}, InvalidStepInput)
    assert secrets.versions(NAME) == before


# --- what is refused -----------------------------------------------------------------------------

PAIR = json.loads(IDS)
WRONG = {
    "not JSON": "hunter2-hunter2",
    "a bare token": PAIR["token"],
    "no accessor ID": json.dumps({"token": PAIR["token"]}),
    "no token": json.dumps({"accessor_id": PAIR["accessor_id"]}),
    "token empty": json.dumps({**PAIR, "token": ""}),
    "token no UUID": json.dumps({**PAIR, "token": "hunter2-hunter2"}),
    "accessor ID no UUID": json.dumps({**PAIR, "accessor_id": "web"}),
    "reserved UUID": json.dumps({**PAIR, "accessor_id": "00000000-0000-0000-0000-000000000002"}),
    "the same twice": json.dumps({**PAIR, "token": PAIR["accessor_id"]}),
    "another key only": json.dumps({"password": "hunter2-hunter2"}),
}


@pytest.mark.parametrize("value", WRONG.values(), ids=WRONG)
def test_anything_else_is_refused_and_not_overwritten(
    secrets: SecretsState, steps: Steps, value: str
) -> None:
    secrets.create(NAME, value)
    before = secrets.versions(NAME)
    error = steps.fail(store_secret, STATE, InvalidSecret)
    assert str(error).startswith("The secret acme-web: ")
    assert str(error).endswith("Put a valid pair there, or {} to have new IDs made.")
    assert "hunter2" not in "".join(steps.outputs)
    assert secrets.versions(NAME) == before


def test_a_binary_secret_is_refused(secrets: SecretsState, steps: Steps) -> None:
    secrets.create(NAME, binary=b"{}")
    before = secrets.versions(NAME)
    error = steps.fail(store_secret, STATE, InvalidSecret)
    assert str(error) == "The secret acme-web is binary; a string is needed."
    assert secrets.versions(NAME) == before


def test_a_pending_version_that_holds_no_ids_is_refused(
    secrets: SecretsState, steps: Steps
) -> None:
    # Nobody but us writes a version of the derived ID, unless he means to.
    result = steps.run(store_secret, STATE)
    secrets.client.delete_secret(SecretId=NAME, ForceDeleteWithoutRecovery=True)
    secrets.client.create_secret(
        Name=NAME, SecretString=EMPTY, ClientRequestToken=result["replaces_version_id"]
    )
    arn = secrets.arn(NAME)
    derived = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{arn}#{result['replaces_version_id']}"))
    secrets.client.put_secret_value(
        SecretId=NAME,
        SecretString="hunter2-hunter2",
        ClientRequestToken=derived,
        VersionStages=["AWSPENDING"],
    )
    error = steps.fail(store_secret, STATE, InvalidSecret)
    assert str(error).startswith(f"The secret acme-web, pending version {derived}: the value is")


def test_a_secret_in_its_recovery_window_says_how_to_get_it_back(
    secrets: SecretsState, steps: Steps
) -> None:
    secrets.create(NAME, IDS)
    secrets.client.delete_secret(SecretId=NAME, RecoveryWindowInDays=7)
    error = steps.fail(store_secret, STATE, SecretMarkedForDeletion)
    assert str(error) == (
        "The secret acme-web is marked for deletion. Restore it (aws secretsmanager "
        "restore-secret --secret-id acme-web), or delete it for good (aws secretsmanager "
        "delete-secret --force-delete-without-recovery)."
    )
    secrets.client.restore_secret(SecretId=NAME)
    assert secrets.stages(NAME) == {"AWSCURRENT": IDS}


def test_a_secret_that_the_deployment_should_have_made_is_not_created_here(
    secrets: SecretsState, steps: Steps
) -> None:
    error = steps.fail(store_secret, {"secret": {"id": NAME}}, AwsUnavailable)
    assert "Reading the versions of the secret acme-web: it is not there, or not yet" in str(error)
    assert secrets.names() == []


@pytest.mark.parametrize(
    ("state", "missing"),
    [
        ({}, '"secret.id", a string'),
        ({"secret": {"id": 7}}, '"secret.id", a string'),
        ({"secret": {"id": NAME, "description": 7}}, '"secret.description", a string'),
        ({"secret": {"id": NAME, "description": "d"}}, '"secret.tags", an object'),
    ],
)
def test_an_input_that_is_not_as_documented_is_the_workflows_fault(
    secrets: SecretsState, steps: Steps, state: Any, missing: str
) -> None:
    error = steps.fail(store_secret, state, InvalidStepInput)
    assert str(error) == f"The input of the step needs {missing}."
    assert secrets.names() == []


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "ThrottlingException", AwsThrottled),
        (500, "InternalServiceError", AwsUnavailable),
        (400, "AccessDeniedException", AwsAccessDenied),
        (400, "DecryptionFailure", AwsRequestRefused),
        (400, "InvalidRequestException", AwsRequestRefused),
    ],
)
@pytest.mark.parametrize("operation", ["GetSecretValue", "CreateSecret", "PutSecretValue"])
def test_what_secrets_manager_refuses_is_one_of_our_errors(  # noqa: PLR0917 - a table
    secrets: SecretsState,
    steps: Steps,
    operation: str,
    status: int,
    code: str,
    kind: type[StepError],
) -> None:
    client = aws.client("secretsmanager")
    with answering(client, operation, status=status, code=code, message="Not now."):
        error = steps.fail(store_secret, STATE, kind)
    assert NAME in str(error)
    # And the next attempt succeeds: nothing was left half done.
    assert steps.run(store_secret, STATE)["public"] is False
    assert secrets.stages(NAME)["AWSCURRENT"] == EMPTY


def test_a_value_that_aws_repeats_is_not_passed_on(secrets: SecretsState, steps: Steps) -> None:
    secrets.create(NAME, EMPTY)
    client = aws.client("secretsmanager")
    message = "1 validation error detected: Value 'hunter2-hunter2' at 'secretString' failed"
    with answering(
        client, "PutSecretValue", status=400, code="ValidationException", message=message
    ):
        steps.fail(store_secret, STATE, AwsRequestRefused)
    assert "hunter2" not in "".join(steps.outputs)


def test_a_read_that_is_behind_the_creation_is_tried_again_and_overwrites_nothing(
    secrets: SecretsState, steps: Steps
) -> None:
    secrets.create(NAME, IDS)
    before = secrets.versions(NAME)
    client = aws.client("secretsmanager")
    with answering(client, "GetSecretValue", status=400, code="ResourceNotFoundException"):
        error = steps.fail(store_secret, STATE, AwsUnavailable)
    assert str(error) == "The secret acme-web exists but its value cannot be read yet."
    assert secrets.versions(NAME) == before
    assert before[secrets.current_id(NAME)] == Version(("AWSCURRENT",), IDS)
