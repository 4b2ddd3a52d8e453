"""A token is deleted only if no live task can hold it, at the second look as well."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from handlers import delete_unused
from handlers.core.errors import (
    AwsThrottled,
    ConsulPermissionDenied,
    ConsulUnavailable,
    InvalidStepInput,
)
from handlers.core.token_secret import TokenIds
from local.consul import Fault
from tests.unit.aws_state import answering
from tests.unit.consul_state import ACL_READ_RULES
from tests.unit.mesh_state import (
    CLIENT,
    CLIENT_DESCRIPTION,
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
)
from tests.unit.steps import Steps

WEB = {"service": "web"}
READ = "consul:GET /v1/acl/token/:accessor_id"
DELETE = "consul:DELETE /v1/acl/token/:accessor_id"
BATCH, SECRET = "secretsmanager:BatchGetSecretValue", "secretsmanager:GetSecretValue"


def delete(steps: Steps, *tokens: dict[str, Any]) -> dict[str, Any]:
    return steps.run(delete_unused, {"tokens": list(tokens)})


DELETED, KEPT = {"deleted": 1, "kept": 0}, {"deleted": 0, "kept": 1}


# --- without tasks -------------------------------------------------------------------------------


def test_the_token_of_a_service_without_tasks_is_deleted_and_its_secret_kept(
    mesh: MeshState, steps: Steps
) -> None:
    ids = mesh.add_service("web", tasks=0)
    assert delete(steps, named(WEB, ids)) == DELETED
    assert not mesh.has(ids)
    # Its next task gets the same IDs again.
    assert mesh.ids() == ids
    assert steps.remote_calls == {
        BATCH: 1,
        SECRET: 1,
        READ: 1,
        "ecs:ListTasks": 2,
        DELETE: 1,
    }


def test_a_token_without_a_secret_and_without_tasks_is_deleted(
    mesh: MeshState, steps: Steps
) -> None:
    ids = mesh.service_token("web")
    assert delete(steps, named(WEB, ids)) == DELETED
    assert not mesh.has(ids)


@pytest.mark.parametrize("not_pulled_since", [None, timedelta(hours=1), timedelta(hours=-1)])
def test_all_tokens_of_a_service_without_tasks_are_deleted_marked_or_not(
    mesh: MeshState, steps: Steps, not_pulled_since: timedelta | None
) -> None:
    current = mesh.add_service("web", tasks=0)
    mark = mesh.clock.moment + not_pulled_since if not_pulled_since is not None else None
    extra = mesh.service_token("web", not_pulled_since=mark)
    result = delete(steps, named(WEB, current), named(WEB, extra))
    assert result == {"deleted": 2, "kept": 0}
    assert not mesh.has(current)
    assert not mesh.has(extra)


def test_a_secret_that_nobody_can_read_does_not_keep_a_token_that_nobody_needs(
    mesh: MeshState, steps: Steps
) -> None:
    ids = mesh.add_service("web", tasks=0)
    mesh.secrets.put("acme-web", "hunter2-hunter2")
    assert delete(steps, named(WEB, ids)) == DELETED


@pytest.mark.parametrize(
    "state",
    [
        pytest.param({"last_status": "PROVISIONING"}, id="starting"),
        pytest.param({}, id="running"),
        pytest.param({"desired_status": "STOPPED", "last_status": "RUNNING"}, id="about to stop"),
        pytest.param({"desired_status": "STOPPED", "last_status": "DEPROVISIONING"},
                     id="about to have stopped"),
    ],
)  # fmt: skip
def test_a_service_that_has_a_task_again_keeps_what_it_pulls(
    mesh: MeshState, steps: Steps, state: dict[str, Any]
) -> None:
    ids = mesh.add_service("web", tasks=0)
    mesh.run_task("web", **state)
    assert delete(steps, named(WEB, ids)) == KEPT
    assert mesh.has(ids)


def test_a_task_of_another_service_saves_nothing(mesh: MeshState, steps: Steps) -> None:
    ids = mesh.add_service("web", tasks=0)
    mesh.add_service("web-2")
    assert delete(steps, named(WEB, ids)) == DELETED


def test_a_task_that_starts_before_the_tasks_are_looked_at_saves_its_token(
    embedded_mesh: MeshState, steps: Steps
) -> None:
    mesh = embedded_mesh
    ids = mesh.add_service("web", tasks=0)

    def on_request(method: str, _path: str) -> None:
        if method == "GET":
            mesh.consul.embedded.on_request = None
            mesh.run_task("web")

    mesh.consul.embedded.on_request = on_request
    assert delete(steps, named(WEB, ids)) == KEPT


# --- superseded ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mark", "oldest_task", "expected"),
    [
        pytest.param(60, 59, DELETED, id="all tasks are younger than the mark"),
        pytest.param(60, 60, DELETED, id="a task as old as the mark"),
        pytest.param(60, 61, KEPT, id="a task older than the mark"),
        pytest.param(0, 0, DELETED, id="the mark is now"),
        pytest.param(-1, 0, KEPT, id="the mark is not yet"),
        pytest.param(None, 0, KEPT, id="no mark"),
    ],
)
@pytest.mark.parametrize("who", ["service", "client"])
def test_a_superseded_token_is_deleted_when_all_tasks_are_younger_than_its_mark(
    mesh: MeshState,
    steps: Steps,
    *,
    mark: int | None,
    oldest_task: int,
    expected: dict[str, int],
    who: str,
) -> None:
    current = mesh.add_service("web", tasks=0)
    mesh.run_task("web", created_at=mesh.clock.ago(minutes=oldest_task))
    mesh.run_task("web", created_at=mesh.clock.moment)
    moment = mesh.clock.ago(minutes=mark) if mark is not None else None
    if who == "service":
        extra, subject = mesh.service_token("web", not_pulled_since=moment), WEB
    else:
        extra, subject = mesh.token(with_mark(CLIENT_DESCRIPTION, moment)), CLIENT
    assert delete(steps, named(subject, extra)) == expected
    assert mesh.has(extra) is (expected == KEPT)
    assert mesh.has(current)
    assert mesh.has(mesh.client)


def with_mark(description: str, moment: datetime | None) -> str:
    return description if moment is None else f"{description}\n{marked(moment)}"


def test_a_task_of_unknown_age_may_hold_any_token(mesh: MeshState, steps: Steps) -> None:
    mesh.add_service("web", tasks=0)
    mesh.ecs.run_task(tags={"consul.hashicorp.com/mesh": "true"})
    extra = mesh.service_token("web", not_pulled_since=mesh.clock.ago(days=9))
    assert delete(steps, named(WEB, extra)) == KEPT


def test_a_marked_token_that_is_current_again_is_kept(mesh: MeshState, steps: Steps) -> None:
    mesh.add_service("web", tasks=0)
    mesh.run_task("web", created_at=mesh.clock.moment)
    again = mesh.service_token("web", not_pulled_since=mesh.clock.ago(hours=1))
    mesh.secrets.put("acme-web", again.to_secret_string())
    assert delete(steps, named(WEB, again)) == KEPT


@pytest.mark.parametrize("spoil", ["no JSON", "deleted"])
def test_while_nobody_can_read_the_secret_of_a_service_with_tasks_no_token_of_it_goes(
    mesh: MeshState, steps: Steps, spoil: str
) -> None:
    mesh.add_service("web", tasks=0)
    mesh.run_task("web", created_at=mesh.clock.moment)
    extra = mesh.service_token("web", not_pulled_since=mesh.clock.ago(hours=1))
    if spoil == "deleted":
        mesh.secrets.client.delete_secret(SecretId="acme-web", RecoveryWindowInDays=7)
    else:
        mesh.secrets.put("acme-web", "hunter2-hunter2")
    assert delete(steps, named(WEB, extra)) == KEPT


def test_an_emptied_secret_does_not_keep_a_marked_token(mesh: MeshState, steps: Steps) -> None:
    mesh.add_service("web", tasks=0)
    mesh.run_task("web", created_at=mesh.clock.moment)
    extra = mesh.service_token("web", not_pulled_since=mesh.clock.ago(hours=1))
    mesh.secrets.put("acme-web", "{}")
    assert delete(steps, named(WEB, extra)) == DELETED


# --- shared tokens -------------------------------------------------------------------------------


@pytest.mark.parametrize("subject", [CLIENT, CONTROLLER], ids=str)
def test_a_shared_token_in_its_secret_is_never_deleted(
    mesh: MeshState, steps: Steps, subject: dict[str, str]
) -> None:
    ids = mesh.client if subject == CLIENT else mesh.controller
    assert delete(steps, named(subject, ids)) == KEPT
    mesh.describe_anew(ids, with_mark(mesh.describe(ids), mesh.clock.ago(days=1)))
    assert delete(steps, named(subject, ids)) == KEPT


@pytest.mark.parametrize(
    ("subject", "description"),
    [
        pytest.param(CLIENT, CLIENT_DESCRIPTION, id="client"),
        pytest.param(CONTROLLER, CONTROLLER_DESCRIPTION, id="controller"),
    ],
)
def test_a_shared_token_that_is_superseded_goes_without_any_task_once_it_is_marked(
    mesh: MeshState, steps: Steps, subject: dict[str, str], description: str
) -> None:
    unmarked = mesh.token(description)
    assert delete(steps, named(subject, unmarked)) == KEPT
    marked_one = mesh.token(with_mark(description, mesh.clock.ago(hours=1)))
    assert delete(steps, named(subject, marked_one)) == DELETED
    assert mesh.has(unmarked)


def test_the_controllers_old_token_does_not_wait_for_tasks(mesh: MeshState, steps: Steps) -> None:
    mesh.add_service("web")
    extra = mesh.token(with_mark(CONTROLLER_DESCRIPTION, mesh.clock.ago(hours=1)))
    assert delete(steps, named(CONTROLLER, extra)) == DELETED


def test_the_controllers_old_token_is_deleted_with_the_new_one(
    mesh: MeshState, steps: Steps
) -> None:
    # A warm process authenticates with the old one, which Consul lets nobody delete with itself.
    assert delete(steps, named(WEB, mesh.service_token("web"))) == DELETED
    old = mesh.controller
    new = mesh.token(CONTROLLER_DESCRIPTION, policies=[CONTROLLER_POLICY["Name"]])
    mesh.secrets.put(CONTROLLER_SECRET, new.to_secret_string())
    mesh.describe_anew(old, with_mark(CONTROLLER_DESCRIPTION, mesh.clock.ago(minutes=1)))

    assert delete(steps, named(CONTROLLER, old)) == DELETED
    assert not mesh.has(old)
    assert mesh.has(new)
    assert steps.remote_calls[SECRET] == 1
    # And the process goes on with the new one.
    assert delete(steps, named(WEB, mesh.service_token("web"))) == DELETED
    assert SECRET not in steps.remote_calls


# --- whose is it by now? -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "description",
    [
        pytest.param("mine now", id="a person's"),
        pytest.param("Token for web service", id="without a line"),
        pytest.param(f"{described('web')}-2", id="another cluster's"),
        pytest.param(described("web-2"), id="another service's"),
        pytest.param(CLIENT_DESCRIPTION, id="the clients'"),
    ],
)
def test_a_token_that_is_another_ones_by_now_is_kept(
    mesh: MeshState, steps: Steps, description: str
) -> None:
    ids = mesh.token(description, services=["web"])
    assert delete(steps, named(WEB, ids)) == KEPT
    assert mesh.has(ids)
    # What is not ours needs no look at the tasks.
    assert "ecs:ListTasks" not in steps.remote_calls


# --- several, again ------------------------------------------------------------------------------


def test_a_token_that_is_gone_counts_as_deleted(mesh: MeshState, steps: Steps) -> None:
    ids = mesh.add_service("web", tasks=0)
    assert delete(steps, named(WEB, ids)) == DELETED
    assert delete(steps, named(WEB, ids)) == DELETED
    assert DELETE not in steps.remote_calls


def test_nothing_is_asked_for_nothing(mesh: MeshState, steps: Steps) -> None:
    del mesh
    assert delete(steps) == {"deleted": 0, "kept": 0}
    assert steps.remote_calls == {}


def test_each_token_is_judged_by_itself(mesh: MeshState, steps: Steps) -> None:
    gone = mesh.add_service("gone", tasks=0)
    web = mesh.add_service("web")
    old = mesh.service_token("web", not_pulled_since=mesh.clock.ago(days=2))
    held = mesh.service_token("web", not_pulled_since=mesh.clock.ago(hours=1))
    absent = TokenIds.new()
    foreign = mesh.token("mine", services=["web"])
    result = delete(
        steps,
        named({"service": "gone"}, gone),
        *(named(WEB, ids) for ids in (web, old, held, absent, foreign)),
    )
    assert result == {"deleted": 3, "kept": 3}
    assert [mesh.has(ids) for ids in (gone, web, old, held, foreign)] == [
        *(False, True, False, True, True)
    ]


def test_many_tokens_take_one_look_at_the_tasks(mesh: MeshState, steps: Steps) -> None:
    tokens = [
        named({"service": name}, mesh.add_service(name, tasks=0))
        for name in (f"web-{number}" for number in range(30))
    ]
    mesh.add_service("web")
    assert delete(steps, *tokens) == {"deleted": 30, "kept": 0}
    assert steps.remote_calls == {
        BATCH: 2,
        SECRET: 1,
        READ: 30,
        "ecs:ListTasks": 2,
        "ecs:DescribeTasks": 1,
        DELETE: 30,
    }


def test_an_attempt_that_breaks_off_is_finished_by_the_next_one(
    embedded_mesh: MeshState, steps: Steps
) -> None:
    mesh = embedded_mesh
    tokens = [mesh.add_service(name, tasks=0) for name in ("a", "b", "c")]
    state = {
        "tokens": [named({"service": name}, ids) for name, ids in zip("abc", tokens, strict=True)]
    }
    answers = [None, Fault.answer(500, "No cluster leader")]
    mesh.consul.embedded.on_request = lambda method, _: (
        answers.pop(0) if method == "DELETE" and answers else None
    )
    steps.fail(delete_unused, state, ConsulUnavailable)
    assert [mesh.has(ids) for ids in tokens] == [False, True, True]
    # Meanwhile one of them is needed again.
    mesh.run_task("c")
    assert steps.run(delete_unused, state) == {"deleted": 2, "kept": 1}
    assert [mesh.has(ids) for ids in tokens] == [False, False, True]


# --- what may fail -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "operation"),
    [
        ("ecs", "ListTasks"),
        ("ecs", "DescribeTasks"),
        ("secrets", "BatchGetSecretValue"),
    ],
)
def test_a_look_that_fails_deletes_nothing(
    mesh: MeshState, steps: Steps, client: str, operation: str
) -> None:
    ids = mesh.add_service("web", tasks=0)
    mesh.add_service("api")
    state = {"tokens": [named(WEB, ids)]}
    boto = mesh.ecs.client if client == "ecs" else mesh.secrets.client
    with answering(boto, operation, status=400, code="ThrottlingException"):
        steps.fail(delete_unused, state, AwsThrottled)
    assert mesh.has(ids)
    assert steps.run(delete_unused, state) == DELETED


def test_one_secret_that_is_throttled_is_read_again_before_anything_is_deleted(
    mesh: MeshState, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = mesh.add_service("web", tasks=0)
    answer = {
        "SecretValues": [],
        "Errors": [{"SecretId": "acme-web", "ErrorCode": "ThrottlingException", "Message": "x"}],
    }
    with monkeypatch.context() as patch:
        patch.setattr(
            mesh.secrets.client, "batch_get_secret_value", lambda **_: answer, raising=False
        )
        steps.fail(delete_unused, {"tokens": [named(WEB, ids)]}, AwsThrottled)
    assert mesh.has(ids)


def test_a_controller_that_may_only_read_acls_says_so(mesh: MeshState, steps: Steps) -> None:
    ids = mesh.add_service("web", tasks=0)
    mesh.consul.create_policy(Name="acme-reader", Rules=ACL_READ_RULES)
    reader = mesh.consul.create_token(Policies=[{"Name": "acme-reader"}])
    mesh.secrets.put(CONTROLLER_SECRET, reader["SecretID"])
    error = steps.fail(delete_unused, {"tokens": [named(WEB, ids)]}, ConsulPermissionDenied)
    assert "Give it acl:write." in str(error)
    assert mesh.has(ids)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"tokens": None},
        {"tokens": [{"subject": WEB, "accessor_id": "self"}]},
        {"tokens": [{"subject": {"service": "Web"}, "accessor_id": new_accessor_id()}]},
    ],
    ids=["nothing", "null", "no UUID", "no valid name"],
)
def test_a_state_that_is_not_as_documented_is_the_workflows_fault(
    mesh: MeshState, steps: Steps, state: Any
) -> None:
    del mesh
    steps.fail(delete_unused, state, InvalidStepInput)
    assert steps.remote_calls == {}


def test_a_client_token_in_a_secret_of_another_name_is_found_there(
    mesh: MeshState, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = mesh.secrets.create("theirs/client", mesh.client.to_secret_string())
    mesh.secrets.put(CLIENT_SECRET, "{}")
    monkeypatch.setenv("CLIENT_TOKEN_SECRET_ARN", theirs)
    mesh.describe_anew(mesh.client, with_mark(CLIENT_DESCRIPTION, mesh.clock.ago(days=1)))
    assert delete(steps, named(CLIENT, mesh.client)) == KEPT
