"""What is seen of tokens: in Consul's list, and in the secrets."""

from __future__ import annotations

from typing import Any

import pytest

from handlers.clients.secrets_manager import SecretsManager
from handlers.clients.token_state import InSecret, ids_in_secrets, seen_token
from handlers.core.deployment import Deployment
from handlers.core.drift import SeenToken
from handlers.core.errors import AwsThrottled, AwsUnavailable, ConsulPermissionDenied
from handlers.core.subjects import Subject
from handlers.core.token_secret import TokenIds
from tests.unit.aws_state import SecretsState, answering
from tests.unit.mesh_state import Clock, described
from tests.unit.steps import Steps

WEB, API, OLD = Subject(service="web"), Subject(service="api"), Subject(service="old")
TOKEN: dict[str, Any] = {
    "AccessorID": "b1a7f5d2-3c4e-4f60-8a9b-0c1d2e3f4a5b",
    "SecretID": "e8d7c6b5-a493-4281-9f0e-1d2c3b4a5968",
    "Description": described("web"),
    "ServiceIdentities": [{"ServiceName": "web"}],
    "CreateIndex": 7,
}


def seen(token: dict[str, Any], rules: dict[str, str] | None = None) -> SeenToken:
    return seen_token(token, Deployment.from_environment().wanted(WEB, rules or {}))


def test_a_token_of_the_list_is_compared_with_what_it_has_to_be() -> None:
    assert seen(TOKEN) == SeenToken(TOKEN["AccessorID"], TOKEN["SecretID"], as_wanted=True)


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        pytest.param({"Description": described("web") + "\nedited"}, {}, id="description"),
        pytest.param({"ServiceIdentities": None}, {}, id="identities"),
        pytest.param({"Policies": [{"Name": "global-management"}]}, {}, id="policies"),
        pytest.param({}, {"web": 'key "a" {}'}, id="rules that the settings have now"),
        pytest.param({"Policies": [{"Name": "acme-web-service"}]}, {},
                     id="rules that the settings had before"),
    ],
)  # fmt: skip
def test_a_token_that_differs_is_not_as_wanted(
    change: dict[str, Any], rules: dict[str, str]
) -> None:
    assert not seen(TOKEN | change, rules).as_wanted


def test_a_token_with_the_policy_of_its_extra_rules_is_as_wanted() -> None:
    with_policy = TOKEN | {"Policies": [{"ID": "1", "Name": "acme-web-service"}]}
    assert seen(with_policy, {"web": 'key "a" {}'}).as_wanted


def test_a_mark_is_read_and_makes_a_token_another_one_than_wanted(clock: Clock) -> None:
    found = seen(TOKEN | {"Description": described("web", clock.moment)})
    assert found.not_pulled_since == clock.moment
    assert not found.as_wanted


def test_a_secret_that_consul_does_not_tell_is_not_another_one() -> None:
    # Consul lists secret IDs since 1.10.1.
    untold = {key: value for key, value in TOKEN.items() if key != "SecretID"}
    assert seen(untold).secret_id is None


def test_a_secret_that_consul_hides_from_us_says_what_our_token_lacks(steps: Steps) -> None:
    error = steps.failure(lambda: seen(TOKEN | {"SecretID": "<hidden>"}), ConsulPermissionDenied)
    assert str(error) == (
        "The controller's token may read ACL tokens but not write them. Give it acl:write."
    )


# --- secrets -------------------------------------------------------------------------------------

IDS = TokenIds.new()


def in_secrets(*subjects: Subject) -> list[tuple[Subject, InSecret]]:
    return list(ids_in_secrets(subjects, Deployment.from_environment(), SecretsManager()))


def test_each_subject_is_told_with_what_its_secret_holds(secrets: SecretsState) -> None:
    secrets.create("acme-web", IDS.to_secret_string())
    secrets.create("acme-api", "{}")
    assert in_secrets(WEB, OLD, API) == [
        (WEB, InSecret(IDS)),
        (OLD, InSecret()),
        (API, InSecret()),
    ]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("hunter2-hunter2", "The secret acme-web: the value is not JSON."),
        ('{"token": "hunter2-hunter2"}', 'The secret acme-web: the key "accessor_id" is missing.'),
    ],
)
def test_a_value_that_holds_no_ids_is_told_as_unreadable(
    secrets: SecretsState, value: str, reason: str
) -> None:
    secrets.create("acme-web", value)
    ((_, found),) = in_secrets(WEB)
    assert found.ids is None
    assert found.unreadable.startswith(reason)
    assert "hunter2" not in found.unreadable


def test_a_secret_that_cannot_be_read_is_told_as_unreadable(secrets: SecretsState) -> None:
    arn = secrets.create("acme-web", binary=b"x")
    secrets.create("acme-old", IDS.to_secret_string())
    secrets.client.delete_secret(SecretId="acme-old", RecoveryWindowInDays=7)
    (_, web), (_, old) = in_secrets(WEB, OLD)
    assert web == InSecret(unreadable=f"The secret {arn} is binary; a string is needed.")
    assert old.unreadable.startswith("The secret acme-old is marked for deletion. Restore it")


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [(400, "ThrottlingException", AwsThrottled), (500, "InternalServiceError", AwsUnavailable)],
)
def test_what_passes_by_itself_is_raised(
    secrets: SecretsState, steps: Steps, status: int, code: str, kind: Any
) -> None:
    with answering(secrets.client, "BatchGetSecretValue", status=status, code=code):
        steps.failure(lambda: in_secrets(WEB), kind)
