"""Tokens that are superseded get a mark that says since when no new task can have pulled them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from handlers import create_token, publish_secret, retire_tokens, store_secret
from handlers.clients.secrets_manager import SecretsManager, StoredVersion
from handlers.core.errors import (
    AwsThrottled,
    AwsUnavailable,
    ConsulObjectGone,
    ConsulUnavailable,
    InvalidStepInput,
)
from handlers.core.token_secret import TokenIds
from local.consul import Fault
from tests.unit.aws_state import answering
from tests.unit.mesh_state import (
    CLIENT,
    CLIENT_DESCRIPTION,
    CLIENT_POLICY,
    CLIENT_SECRET,
    CONTROLLER,
    CONTROLLER_DESCRIPTION,
    CONTROLLER_POLICY,
    CONTROLLER_SECRET,
    MeshState,
    described,
    marked,
    named,
    new_accessor_id,
    text_of,
)
from tests.unit.steps import Steps

NAME = "acme-web"
WEB = {"service": "web"}
READ = "consul:GET /v1/acl/token/:accessor_id"
UPDATE = "consul:PUT /v1/acl/token/:accessor_id"
DELETE = "consul:DELETE /v1/acl/token/:accessor_id"
SECRET = "secretsmanager:GetSecretValue"
MINUTE = timedelta(minutes=1)


def retire(steps: Steps, *tokens: dict[str, Any], superseded: bool = False) -> dict[str, Any]:
    state: dict[str, Any] = {"tokens": list(tokens)}
    if superseded:
        state["superseded"] = True
    return steps.run(retire_tokens, state)


def outcome(mesh: MeshState, *, retired: int = 0, left: int = 0) -> dict[str, Any]:
    """What is returned now."""
    since = text_of(mesh.clock.moment + MINUTE)
    return {"since": since, "retired": retired, "left": left}


# --- marks ---------------------------------------------------------------------------------------


def test_a_superseded_token_is_marked_with_a_minute_to_spare(mesh: MeshState, steps: Steps) -> None:
    current = mesh.add_service("web")
    extra = mesh.service_token("web")
    assert retire(steps, named(WEB, extra)) == outcome(mesh, retired=1)
    assert mesh.consul.token(extra.accessor_id) == {
        "AccessorID": extra.accessor_id,
        "SecretID": extra.secret_id,
        "Description": f"{described('web')}\n{marked(mesh.clock.moment + MINUTE)}",
        "Policies": [],
        "ServiceIdentities": [{"ServiceName": "web"}],
    }
    assert mesh.describe(current) == described("web")
    # The secret, what is to replace its value, and our own token.
    assert steps.remote_calls == {SECRET: 3, READ: 1, UPDATE: 1}


def test_a_mark_changes_nothing_else_of_a_token(mesh: MeshState, steps: Steps) -> None:
    mesh.add_service("web")
    ids = TokenIds.new()
    mesh.consul.create_token(
        AccessorID=ids.accessor_id,
        SecretID=ids.secret_id,
        Description=f"{described('web')}\nedited",
        ServiceIdentities=[{"ServiceName": "web"}, {"ServiceName": "api"}],
        NodeIdentities=[{"NodeName": "n", "Datacenter": "dc1"}],
        Policies=[{"Name": CLIENT_POLICY["Name"]}],
        Local=True,
        ExpirationTTL="1h",
    )
    before = mesh.consul.token(ids.accessor_id)
    assert before is not None
    retire(steps, named(WEB, ids))
    assert mesh.consul.token(ids.accessor_id) == before | {
        "Description": f"{described('web')}\nedited\n{marked(mesh.clock.moment + MINUTE)}"
    }


def test_a_later_mark_takes_the_place_of_an_earlier_one(mesh: MeshState, steps: Steps) -> None:
    mesh.add_service("web")
    extra = mesh.service_token("web", not_pulled_since=mesh.clock.ago(days=1))
    for _ in range(2):
        assert retire(steps, named(WEB, extra)) == outcome(mesh, retired=1)
        assert mesh.describe(extra) == described("web", mesh.clock.moment + MINUTE)
        mesh.clock.let_pass(minutes=5)


def test_a_token_of_a_secret_that_is_gone_is_superseded(mesh: MeshState, steps: Steps) -> None:
    extra = mesh.service_token("web")
    assert retire(steps, named(WEB, extra)) == outcome(mesh, retired=1)
    assert mesh.describe(extra) == described("web", mesh.clock.moment + MINUTE)


@pytest.mark.parametrize("value", ["{}", "hunter2-hunter2"])
def test_a_token_of_a_secret_without_ids_is_superseded(
    mesh: MeshState, steps: Steps, value: str
) -> None:
    ids = mesh.add_service("web")
    mesh.secrets.put(NAME, value)
    assert retire(steps, named(WEB, ids)) == outcome(mesh, retired=1)
    assert mesh.describe(ids) == described("web", mesh.clock.moment + MINUTE)


@pytest.mark.parametrize(
    ("subject", "secret", "description", "policy"),
    [
        pytest.param(CLIENT, CLIENT_SECRET, CLIENT_DESCRIPTION, CLIENT_POLICY, id="client"),
        pytest.param(CONTROLLER, CONTROLLER_SECRET, CONTROLLER_DESCRIPTION, CONTROLLER_POLICY,
                     id="controller"),
    ],
)  # fmt: skip
def test_a_shared_token_is_marked_when_another_one_is_in_its_secret(
    mesh: MeshState,
    steps: Steps,
    *,
    subject: dict[str, str],
    secret: str,
    description: str,
    policy: dict[str, str],
) -> None:
    old = mesh.ids(secret)
    new = mesh.token(description, policies=[policy["Name"]])
    mesh.secrets.put(secret, new.to_secret_string())
    assert retire(steps, named(subject, old), superseded=True) == outcome(mesh, retired=1)
    assert mesh.describe(old) == f"{description}\n{marked(mesh.clock.moment + MINUTE)}"
    assert mesh.describe(new) == description


def test_a_token_that_is_gone_counts_as_retired(mesh: MeshState, steps: Steps) -> None:
    mesh.add_service("web")
    assert retire(steps, named(WEB, TokenIds.new())) == outcome(mesh, retired=1)
    assert UPDATE not in steps.remote_calls


# --- current -------------------------------------------------------------------------------------


@pytest.mark.parametrize("upper", [False, True])
def test_what_tasks_pull_is_not_marked(mesh: MeshState, steps: Steps, *, upper: bool) -> None:
    ids = mesh.add_service("web")
    if upper:
        in_capitals = TokenIds(ids.accessor_id.upper(), ids.secret_id.upper())
        mesh.secrets.put(NAME, in_capitals.to_secret_string())
    assert retire(steps, named(WEB, ids)) == outcome(mesh, left=1)
    assert mesh.describe(ids) == described("web")
    assert UPDATE not in steps.remote_calls


def test_a_secret_that_still_shows_what_was_just_replaced_is_read_again_later(
    mesh: MeshState, steps: Steps
) -> None:
    ids = mesh.add_service("web")
    state = {"tokens": [named(WEB, ids)], "superseded": True}
    error = steps.fail(retire_tokens, state, AwsUnavailable)
    assert str(error) == (
        "The secret still shows the token that was just replaced. If somebody made that one "
        "current again, both tokens are kept."
    )
    assert mesh.describe(ids) == described("web")


# --- whose is it? --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "description",
    [
        pytest.param("mine now", id="a person's"),
        pytest.param(f"{described('web')}-2", id="another cluster's"),
        pytest.param(described("web-2"), id="another service's"),
        pytest.param(CLIENT_DESCRIPTION, id="the clients'"),
    ],
)
def test_a_token_that_is_another_ones_by_now_is_left_as_it_is(
    mesh: MeshState, steps: Steps, description: str
) -> None:
    mesh.add_service("web")
    ids = mesh.token(description, services=["web"])
    before = mesh.consul.modify_index(ids.accessor_id)
    assert retire(steps, named(WEB, ids)) == outcome(mesh, left=1)
    assert mesh.consul.modify_index(ids.accessor_id) == before


def test_several_tokens_are_counted_by_what_became_of_them(mesh: MeshState, steps: Steps) -> None:
    current = mesh.add_service("web")
    extra = mesh.service_token("web")
    foreign = mesh.token("mine")
    tokens = [named(WEB, ids) for ids in (extra, current, foreign, TokenIds.new())]
    assert retire(steps, *tokens) == outcome(mesh, retired=2, left=2)
    assert retire(steps) == outcome(mesh)
    assert steps.remote_calls == {}


# --- a rotation that is on its way ---------------------------------------------------------------


@pytest.fixture
def rotation(mesh: MeshState, steps: Steps) -> StoredVersion:
    """A service whose new token exists, and is not published yet."""
    mesh.add_service("web")
    stored = steps.run(store_secret, {"secret": {"id": NAME}, "renew": WEB})
    token = {"description": described("web"), "service_identities": ["web"], "policies": []}
    steps.run(create_token, {"secret": stored, "token": token})
    return StoredVersion.from_state({"secret": stored})


def publish(steps: Steps, rotation: StoredVersion) -> bool:
    result = steps.run(publish_secret, {"secret": vars(rotation)})
    return bool(result["published"])


def take_back(mesh: MeshState, rotation: StoredVersion) -> None:
    """Let a person make the old version current again."""
    mesh.secrets.client.update_secret_version_stage(
        SecretId=NAME,
        VersionStage="AWSCURRENT",
        MoveToVersionId=rotation.replaces_version_id,
        RemoveFromVersionId=rotation.version_id,
    )


def age(mesh: MeshState, **by: float) -> None:
    """Let time pass since the pending version was written."""
    mesh.clock.moment = mesh.written_at(NAME, "AWSPENDING") + timedelta(**by)


@pytest.mark.parametrize("hours", [0, 1, 3])
def test_a_token_that_a_rotation_may_still_publish_is_left_alone(
    mesh: MeshState, steps: Steps, rotation: StoredVersion, hours: int
) -> None:
    new = mesh.pending_ids()
    age(mesh, hours=hours)
    assert retire(steps, named(WEB, new)) == outcome(mesh, left=1)
    assert mesh.describe(new) == described("web")
    assert publish(steps, rotation)


def test_a_token_of_a_rotation_that_must_have_died_is_deleted_and_never_published(
    mesh: MeshState, steps: Steps, rotation: StoredVersion
) -> None:
    old, new = mesh.ids(), mesh.pending_ids()
    age(mesh, hours=3, seconds=1)
    assert retire(steps, named(WEB, new)) == outcome(mesh, retired=1)
    assert not mesh.has(new)
    assert (mesh.ids(), mesh.has(old)) == (old, True)
    # Should it have been alive after all, it finds that it is too late.
    assert not publish(steps, rotation)
    assert mesh.ids() == old
    # And the next look finds nothing more to do.
    assert retire(steps, named(WEB, new)) == outcome(mesh, retired=1)


def test_the_token_that_a_new_service_is_given_is_never_taken_for_a_dead_rotations(
    mesh: MeshState, steps: Steps
) -> None:
    # Whoever comes next finishes it, however old it is: its IDs are all that there is.
    mesh.secrets.create(NAME, "{}")
    steps.run(store_secret, {"secret": {"id": NAME}})
    new = mesh.pending_ids()
    mesh.service_token("web", ids=new)
    mesh.clock.let_pass(days=30)
    assert retire(steps, named(WEB, new)) == outcome(mesh, left=1)
    assert mesh.describe(new) == described("web")
    assert mesh.pending_ids() == new


def test_a_rotation_that_publishes_just_before_it_is_given_up_wins(
    mesh: MeshState, steps: Steps, rotation: StoredVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = mesh.pending_ids()
    age(mesh, hours=4)
    keep = SecretsManager.keep

    def publish_and_keep(self: SecretsManager, *args: Any, **kwargs: Any) -> bool:
        self.publish(
            rotation.arn, rotation.version_id, replaces_version_id=rotation.replaces_version_id
        )
        return keep(self, *args, **kwargs)

    monkeypatch.setattr(SecretsManager, "keep", publish_and_keep)
    assert retire(steps, named(WEB, new)) == outcome(mesh, left=1)
    assert (mesh.ids(), mesh.has(new)) == (new, True)


def test_a_rotation_that_was_taken_back_is_left_alone_while_it_may_be_published_again(
    mesh: MeshState, steps: Steps, rotation: StoredVersion
) -> None:
    new = mesh.pending_ids()
    publish(steps, rotation)
    take_back(mesh, rotation)
    assert retire(steps, named(WEB, new)) == outcome(mesh, left=1)
    assert mesh.has(new)


def test_a_rotation_that_was_taken_back_long_ago_is_marked_for_tasks_have_pulled_it(
    mesh: MeshState, steps: Steps, rotation: StoredVersion
) -> None:
    old, new = mesh.ids(), mesh.pending_ids()
    publish(steps, rotation)
    take_back(mesh, rotation)
    age(mesh, hours=4)
    assert retire(steps, named(WEB, new)) == outcome(mesh, retired=1)
    assert mesh.describe(new) == described("web", mesh.clock.moment + MINUTE)
    assert mesh.ids() == old
    # What the mark says has to be true: nobody can publish it any more.
    assert not publish(steps, rotation)


@pytest.mark.parametrize("taken_back", [False, True])
def test_giving_up_a_rotation_that_breaks_off_never_deletes_what_was_pulled(
    mesh: MeshState, steps: Steps, rotation: StoredVersion, *, taken_back: bool
) -> None:
    old, new = mesh.ids(), mesh.pending_ids()
    if taken_back:
        publish(steps, rotation)
        take_back(mesh, rotation)
    age(mesh, hours=4)
    state = {"tokens": [named(WEB, new)]}
    with mesh.unreachable_consul():
        steps.fail(retire_tokens, state, ConsulUnavailable)
    assert mesh.ids() == old
    # The secret is changed already; the token is not, and is marked now.
    assert steps.run(retire_tokens, state) == outcome(mesh, retired=1)
    assert mesh.describe(new) == described("web", mesh.clock.moment + MINUTE)


def test_a_fence_that_breaks_off_is_finished_by_the_next_attempt(
    mesh: MeshState, steps: Steps, rotation: StoredVersion
) -> None:
    new = mesh.pending_ids()
    age(mesh, hours=4)
    state = {"tokens": [named(WEB, new)]}
    operation = "UpdateSecretVersionStage"
    with answering(mesh.secrets.client, operation, status=400, code="ThrottlingException"):
        steps.fail(retire_tokens, state, AwsThrottled)
    assert mesh.has(new)
    assert steps.run(retire_tokens, state) == outcome(mesh, retired=1)
    assert not mesh.has(new)
    assert not publish(steps, rotation)


# --- what may fail -------------------------------------------------------------------------------


def test_a_token_that_somebody_deletes_while_it_is_marked_is_gone_at_the_next_attempt(
    embedded_mesh: MeshState, steps: Steps
) -> None:
    mesh = embedded_mesh
    mesh.add_service("web")
    extra = mesh.service_token("web")

    def on_request(method: str, _path: str) -> None:
        if method == "PUT":
            mesh.consul.embedded.on_request = None
            mesh.delete_token(extra)

    mesh.consul.embedded.on_request = on_request
    state = {"tokens": [named(WEB, extra)]}
    steps.fail(retire_tokens, state, ConsulObjectGone)
    assert steps.run(retire_tokens, state) == outcome(mesh, retired=1)


def test_what_consul_did_not_mark_is_marked_by_the_next_attempt(
    embedded_mesh: MeshState, steps: Steps
) -> None:
    mesh = embedded_mesh
    mesh.add_service("web")
    tokens = [mesh.service_token("web") for _ in range(2)]
    state = {"tokens": [named(WEB, ids) for ids in tokens]}
    answers = [None, Fault.answer(500, "No cluster leader")]
    mesh.consul.embedded.on_request = lambda method, _: (
        answers.pop(0) if method == "PUT" and answers else None
    )
    steps.fail(retire_tokens, state, ConsulUnavailable)
    mesh.clock.let_pass(minutes=1)
    assert steps.run(retire_tokens, state) == outcome(mesh, retired=2)
    assert [mesh.describe(ids) for ids in tokens] == [
        described("web", mesh.clock.moment + MINUTE)
    ] * 2


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"tokens": {}},
        {"tokens": [{"subject": WEB, "accessor_id": "self"}]},
        {"tokens": [{"subject": {}, "accessor_id": new_accessor_id()}]},
    ],
    ids=["nothing", "no list", "no UUID", "no subject"],
)
def test_a_state_that_is_not_as_documented_is_the_workflows_fault(
    mesh: MeshState, steps: Steps, state: Any
) -> None:
    del mesh
    steps.fail(retire_tokens, state, InvalidStepInput)
    assert steps.remote_calls == {}
