"""A rotation that has failed before the switch leaves no second token, unless one was pulled."""

from __future__ import annotations

import uuid
from contextlib import suppress
from typing import Any

import pytest

from handlers import abandon_rotation, create_token, prove_token, publish_secret, store_secret
from handlers.clients.secrets_manager import SecretsManager
from handlers.core.errors import (
    AwsThrottled,
    AwsUnavailable,
    ConsulUnavailable,
    InvalidStepInput,
    SecretMarkedForDeletion,
)
from local.consul import Fault
from tests.unit.aws_state import answering
from tests.unit.mesh_state import (
    CLIENT,
    CLIENT_DESCRIPTION,
    CLIENT_POLICY,
    CLIENT_SECRET,
    MeshState,
    described,
)
from tests.unit.steps import Steps, at_the_same_time

NAME = "acme-web"
WEB = {"service": "web"}
NOT_SWITCHED, SWITCHED = {"switched": False}, {"switched": True}
READ = "consul:GET /v1/acl/token/:accessor_id"
DELETE = "consul:DELETE /v1/acl/token/:accessor_id"
GET, PUT = "secretsmanager:GetSecretValue", "secretsmanager:PutSecretValue"
UPDATE = "secretsmanager:UpdateSecretVersionStage"


class Rotation:
    """A rotation of the service `web`, one step at a time."""

    def __init__(self, mesh: MeshState, steps: Steps) -> None:
        self.mesh = mesh
        self.steps = steps
        self.old = mesh.ids()
        self.stored = steps.run(store_secret, {"secret": {"id": NAME}, "renew": WEB})
        self.new = mesh.pending_ids()
        self.state = {"subject": WEB, "secret": self.stored}

    def create(self) -> str:
        token = {"description": described("web"), "service_identities": ["web"], "policies": []}
        result = self.steps.run(create_token, {"secret": self.stored, "token": token})
        return str(result["change"])

    def prove(self) -> bool:
        return bool(self.steps.run(prove_token, {"secret": self.stored})["proven"])

    def publish(self) -> bool:
        return bool(self.steps.run(publish_secret, {"secret": self.stored})["published"])

    def abandon(self) -> dict[str, Any]:
        return self.steps.run(abandon_rotation, self.state)

    def take_back(self) -> None:
        """Let a person make the old version current again."""
        self.mesh.secrets.client.update_secret_version_stage(
            SecretId=NAME,
            VersionStage="AWSCURRENT",
            MoveToVersionId=self.stored["replaces_version_id"],
            RemoveFromVersionId=self.stored["version_id"],
        )

    def is_undone(self) -> bool:
        """Whether tasks pull the old token, which exists, and the new one does not."""
        old_stays = self.mesh.ids() == self.old and self.mesh.has(self.old)
        return old_stays and not self.mesh.has(self.new)


@pytest.fixture
def rotation(mesh: MeshState, steps: Steps) -> Rotation:
    mesh.add_service("web")
    return Rotation(mesh, steps)


# --- before the switch ---------------------------------------------------------------------------


def test_the_new_token_is_deleted_and_tasks_keep_the_old_one(rotation: Rotation) -> None:
    rotation.create()
    assert rotation.abandon() == NOT_SWITCHED
    assert rotation.is_undone()
    # The two versions; a warm process has read its own token.
    assert rotation.steps.remote_calls == {GET: 2, PUT: 1, UPDATE: 1, READ: 1, DELETE: 1}


def test_a_rotation_without_a_token_yet_is_only_made_impossible_to_publish(
    rotation: Rotation,
) -> None:
    assert rotation.abandon() == NOT_SWITCHED
    assert rotation.is_undone()
    assert DELETE not in rotation.steps.remote_calls


def test_who_still_wants_to_publish_is_too_late(rotation: Rotation) -> None:
    rotation.create()
    rotation.abandon()
    assert rotation.create() == "superseded"
    assert not rotation.prove()
    assert not rotation.publish()
    assert rotation.is_undone()


def test_abandoning_twice_is_fine(rotation: Rotation, mesh: MeshState) -> None:
    rotation.create()
    rotation.abandon()
    before = mesh.secrets.versions(NAME)
    assert rotation.abandon() == NOT_SWITCHED
    assert mesh.secrets.versions(NAME) == before
    assert rotation.is_undone()


def test_a_token_that_is_made_after_all_is_deleted_by_the_next_attempt(
    rotation: Rotation, mesh: MeshState
) -> None:
    rotation.abandon()
    mesh.service_token("web", ids=rotation.new)  # by an attempt that Lambda had given up
    assert rotation.abandon() == NOT_SWITCHED
    assert rotation.is_undone()


def test_after_it_another_rotation_can_begin(
    rotation: Rotation, mesh: MeshState, steps: Steps
) -> None:
    rotation.create()
    rotation.abandon()
    again = Rotation(mesh, steps)
    assert again.new != rotation.new
    assert again.create() == "created"
    assert again.prove()
    assert again.publish()
    assert mesh.ids() == again.new
    # The first one, should it come back, does nothing to the second.
    assert rotation.abandon() == NOT_SWITCHED
    assert (mesh.ids(), mesh.has(again.new)) == (again.new, True)


def test_a_first_token_is_abandoned_too(mesh: MeshState, steps: Steps) -> None:
    mesh.secrets.create(NAME, "{}")
    stored = steps.run(store_secret, {"secret": {"id": NAME}, "renew": WEB})
    new = mesh.service_token("web", ids=mesh.pending_ids())
    assert steps.run(abandon_rotation, {"subject": WEB, "secret": stored}) == NOT_SWITCHED
    assert not mesh.has(new)
    assert mesh.secrets.current(NAME) == "{}"
    # Whoever provisions the service now chooses other IDs.
    again = steps.run(store_secret, {"secret": {"id": NAME}})
    assert again["accessor_id"] != new.accessor_id


def test_the_clients_rotation_is_abandoned_in_the_same_way(mesh: MeshState, steps: Steps) -> None:
    old = mesh.client
    stored = steps.run(store_secret, {"secret": {"id": CLIENT_SECRET}, "renew": CLIENT})
    new = mesh.token(
        CLIENT_DESCRIPTION,
        policies=[CLIENT_POLICY["Name"]],
        ids=mesh.pending_ids(CLIENT_SECRET),
    )
    assert steps.run(abandon_rotation, {"subject": CLIENT, "secret": stored}) == NOT_SWITCHED
    assert (mesh.ids(CLIENT_SECRET), mesh.has(old), mesh.has(new)) == (old, True, False)


@pytest.mark.parametrize(
    "description",
    [
        pytest.param("mine now", id="a person's"),
        pytest.param(f"{described('web')}-2", id="another cluster's"),
        pytest.param(described("web-2"), id="another service's"),
    ],
)
def test_a_token_with_its_ids_that_is_another_ones_is_kept(
    rotation: Rotation, mesh: MeshState, description: str
) -> None:
    mesh.token(description, ids=rotation.new)
    assert rotation.abandon() == NOT_SWITCHED
    assert mesh.has(rotation.new)
    assert mesh.ids() == rotation.old


# --- after the switch ----------------------------------------------------------------------------


def test_what_tasks_pull_already_stays(rotation: Rotation, mesh: MeshState) -> None:
    rotation.create()
    rotation.publish()
    before = mesh.secrets.versions(NAME)
    assert rotation.abandon() == SWITCHED
    assert mesh.secrets.versions(NAME) == before
    assert (mesh.ids(), mesh.has(rotation.new), mesh.has(rotation.old)) == (
        rotation.new,
        True,
        True,
    )
    assert PUT not in rotation.steps.remote_calls


def test_a_publication_whose_answer_was_lost_counts(rotation: Rotation, mesh: MeshState) -> None:
    rotation.create()
    rotation.publish()
    with answering(mesh.secrets.client, "GetSecretValue", status=500, code="InternalServiceError"):
        rotation.steps.fail(abandon_rotation, rotation.state, AwsUnavailable)
    assert rotation.abandon() == SWITCHED


def test_a_publication_that_comes_between_the_look_and_the_fence_wins(
    rotation: Rotation, mesh: MeshState, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotation.create()
    keep = SecretsManager.keep

    def publish_and_keep(self: SecretsManager, *args: Any, **kwargs: Any) -> bool:
        self.publish(
            rotation.stored["arn"],
            rotation.stored["version_id"],
            replaces_version_id=rotation.stored["replaces_version_id"],
        )
        return keep(self, *args, **kwargs)

    monkeypatch.setattr(SecretsManager, "keep", publish_and_keep)
    assert rotation.abandon() == SWITCHED
    assert (mesh.ids(), mesh.has(rotation.new)) == (rotation.new, True)


@pytest.mark.parametrize("number", range(5))
def test_of_a_publication_and_its_undoing_at_once_one_wins_and_tasks_pull_a_token_that_exists(
    rotation: Rotation, mesh: MeshState, number: int
) -> None:
    del number
    rotation.create()
    publication, undoing = at_the_same_time(
        [
            lambda: publish_secret.handler({"secret": rotation.stored}, None),
            lambda: abandon_rotation.handler(rotation.state, None),
        ]
    )
    assert publication == {"published": undoing == SWITCHED}
    assert mesh.has(mesh.ids())
    assert mesh.has(rotation.new) is (undoing == SWITCHED)


# --- when it may have been pulled ----------------------------------------------------------------


@pytest.mark.parametrize("published", [False, True])
def test_a_third_version_keeps_the_new_token_alive(
    rotation: Rotation, mesh: MeshState, *, published: bool
) -> None:
    rotation.create()
    if published:
        rotation.publish()
    third = mesh.service_token("web")
    mesh.secrets.put(NAME, third.to_secret_string())
    before = mesh.secrets.versions(NAME)
    assert rotation.abandon() == NOT_SWITCHED
    assert mesh.secrets.versions(NAME) == before
    # It may have been current in between, which nobody can tell.
    assert mesh.has(rotation.new)
    assert mesh.ids() == third


def test_a_rotation_that_somebody_took_back_has_been_pulled(
    rotation: Rotation, mesh: MeshState
) -> None:
    rotation.create()
    rotation.publish()
    rotation.take_back()
    assert rotation.abandon() == NOT_SWITCHED
    assert mesh.has(rotation.new)
    assert mesh.ids() == rotation.old


def test_a_repeated_attempt_does_not_delete_what_was_pulled_before_it_was_taken_back(
    rotation: Rotation, mesh: MeshState, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotation.create()
    rotation.publish()
    rotation.take_back()
    # Each call of the first attempt may be its last one, and its answer lost.
    for call in ("current", "version", "keep", "publish"):
        original = getattr(SecretsManager, call)

        def break_off(
            self: SecretsManager, *args: Any, _original: Any = original, **kwargs: Any
        ) -> None:
            _original(self, *args, **kwargs)
            message = "no answer"
            raise AwsUnavailable(message)

        with monkeypatch.context() as patch:
            patch.setattr(SecretsManager, call, break_off)
            with suppress(AwsUnavailable):
                rotation.abandon()
        assert rotation.abandon() == NOT_SWITCHED
        assert mesh.has(rotation.new)
        assert mesh.ids() == rotation.old


# --- attempts that break off ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "operation", ["GetSecretValue", "PutSecretValue", "UpdateSecretVersionStage"]
)
def test_an_attempt_that_breaks_off_at_secrets_manager_is_finished_by_the_next_one(
    rotation: Rotation, mesh: MeshState, operation: str
) -> None:
    rotation.create()
    with answering(mesh.secrets.client, operation, status=400, code="ThrottlingException"):
        rotation.steps.fail(abandon_rotation, rotation.state, AwsThrottled)
    # The token is deleted last: until nobody can publish it any more, it is there.
    assert mesh.has(rotation.new)
    assert rotation.abandon() == NOT_SWITCHED
    assert rotation.is_undone()
    assert not rotation.publish()


def test_a_fence_that_breaks_off_in_the_middle_does_not_keep_the_rotation_from_going_on(
    rotation: Rotation, mesh: MeshState
) -> None:
    # Another execution of the same rotation gives up, is slow at it, and then too late.
    operation = "UpdateSecretVersionStage"
    with answering(mesh.secrets.client, operation, status=400, code="ThrottlingException"):
        rotation.steps.fail(abandon_rotation, rotation.state, AwsThrottled)
    assert rotation.create() == "created"
    assert rotation.prove()
    assert rotation.publish()
    assert (mesh.ids(), mesh.has(rotation.new)) == (rotation.new, True)
    assert rotation.abandon() == SWITCHED
    assert mesh.has(rotation.new)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_attempt_that_breaks_off_at_consul_is_finished_by_the_next_one(
    embedded_mesh: MeshState, steps: Steps, method: str
) -> None:
    mesh = embedded_mesh
    mesh.add_service("web")
    rotation = Rotation(mesh, steps)
    rotation.create()
    mesh.consul.embedded.on_request = lambda found, _: (
        Fault.answer(500, "No cluster leader") if found == method else None
    )
    steps.fail(abandon_rotation, rotation.state, ConsulUnavailable)
    mesh.consul.embedded.on_request = None
    assert mesh.has(rotation.new)
    assert not rotation.publish()
    assert rotation.abandon() == NOT_SWITCHED
    assert rotation.is_undone()


def test_a_secret_that_shows_no_value_is_read_again_later(
    rotation: Rotation, mesh: MeshState, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotation.create()
    with monkeypatch.context() as patch:
        patch.setattr(SecretsManager, "current", lambda *_: None)
        error = rotation.steps.fail(abandon_rotation, rotation.state, AwsUnavailable)
    assert str(error) == f"The secret {rotation.stored['arn']} shows no value."
    assert mesh.has(rotation.new)
    assert rotation.abandon() == NOT_SWITCHED


def test_a_secret_in_its_recovery_window_undoes_nothing(
    rotation: Rotation, mesh: MeshState
) -> None:
    rotation.create()
    mesh.secrets.client.delete_secret(SecretId=NAME, RecoveryWindowInDays=7)
    rotation.steps.fail(abandon_rotation, rotation.state, SecretMarkedForDeletion)
    assert mesh.has(rotation.new)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subject": None}, "a subject: "),
        ({"subject": {"service": "Web"}}, "a subject: "),
        ({"secret": None}, '"secret.arn", a string.'),
        ({"secret": {"arn": "a", "version_id": "b"}}, '"secret.replaces_version_id", a string.'),
    ],
    ids=["no subject", "no valid name", "no secret", "not what it replaces"],
)
def test_a_state_that_is_not_as_documented_is_the_workflows_fault(
    rotation: Rotation, change: dict[str, Any], message: str
) -> None:
    state = {**rotation.state, **change}
    error = rotation.steps.fail(abandon_rotation, state, InvalidStepInput)
    assert str(error).startswith(f"The input of the step needs {message}")
    assert rotation.steps.remote_calls == {}


def test_a_version_that_is_not_there_yet_is_waited_for(rotation: Rotation) -> None:
    secret = {**rotation.stored, "version_id": str(uuid.uuid4())}
    rotation.steps.fail(abandon_rotation, {"subject": WEB, "secret": secret}, AwsUnavailable)
