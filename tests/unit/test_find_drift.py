"""What is wrong with the tokens of a whole cluster, or of a part of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from handlers import find_drift
from handlers.core.errors import (
    AwsAccessDenied,
    AwsThrottled,
    ClusterNotBootstrapped,
    ConsulPermissionDenied,
    ConsulTokenRejected,
    ConsulUnavailable,
    InvalidEvent,
    InvalidServiceName,
    InvalidStepInput,
    TaskNotVisibleYet,
)
from handlers.core.paging import Room
from handlers.core.token_secret import TokenIds
from local.consul import Fault
from tests.unit.aws_state import answering
from tests.unit.consul_state import ACL_READ_RULES
from tests.unit.mesh_state import (
    CLIENT,
    CLIENT_DESCRIPTION,
    CLIENT_POLICY,
    CLIENT_SECRET,
    CLUSTER_LINE,
    CONTROLLER,
    CONTROLLER_DESCRIPTION,
    CONTROLLER_POLICY,
    CONTROLLER_SECRET,
    MESH_TAG,
    MeshState,
    described,
    marked,
    named,
    new_accessor_id,
)
from tests.unit.steps import Steps

WEB = {"service": "web"}
ANY_ID = "b1a7f5d2-3c4e-4f60-8a9b-0c1d2e3f4a5b"
NOTHING: dict[str, Any] = {
    "found": 0,
    "left": 0,
    "provision": [],
    "retire": [],
    "suspects": [],
    "reasons": [],
    "next": {},
}
LIST_TOKENS = "consul:GET /v1/acl/tokens"
READ_POLICY = "consul:GET /v1/acl/policy/name/:name"
LIST_TASKS, DESCRIBE_TASKS = "ecs:ListTasks", "ecs:DescribeTasks"
BATCH, SECRET = "secretsmanager:BatchGetSecretValue", "secretsmanager:GetSecretValue"


def look(steps: Steps, event: Any = None, rules: dict[str, str] | None = None) -> dict[str, Any]:
    return steps.run(find_drift, {"event": event or {}, "service_rules": rules or {}})


def found(**lists: Any) -> dict[str, Any]:
    """A result with one subject that has something wrong, unless another number is said."""
    return {**NOTHING, "found": 1, **lists}


# --- nothing, or something -----------------------------------------------------------------------


def test_nothing_is_wrong_with_a_mesh_as_the_workflows_leave_it(
    mesh: MeshState, steps: Steps
) -> None:
    mesh.add_service("web", tasks=2)
    mesh.add_service("api")
    mesh.ecs.run_task(family="batch")  # no mesh task
    assert look(steps) == NOTHING


def test_an_empty_cluster_needs_its_shared_tokens_all_the_same(
    mesh: MeshState, steps: Steps
) -> None:
    assert look(steps) == NOTHING
    mesh.delete_token(mesh.client)
    assert look(steps) == found(provision=[CLIENT])


def test_a_new_service_without_a_secret_is_provisioned(mesh: MeshState, steps: Steps) -> None:
    mesh.run_task("web")
    assert look(steps) == found(provision=[WEB])


@pytest.mark.parametrize("state", [{"last_status": "PROVISIONING"},
                                   {"desired_status": "STOPPED", "last_status": "DEACTIVATING"}],
                         ids=["starting", "draining"])  # fmt: skip
def test_a_task_needs_its_token_from_its_first_moment_to_its_last(
    mesh: MeshState, steps: Steps, state: dict[str, Any]
) -> None:
    ids = mesh.add_service("web", tasks=0)
    mesh.run_task("web", **state)
    assert look(steps) == NOTHING
    mesh.delete_token(ids)
    assert look(steps) == found(provision=[WEB])


def test_a_secret_that_somebody_has_emptied_is_filled_again(mesh: MeshState, steps: Steps) -> None:
    ids = mesh.add_service("web")
    mesh.secrets.put("acme-web", "{}")
    # The token that was in it is superseded already.
    assert look(steps) == found(provision=[WEB], retire=[named(WEB, ids)])


def test_other_ids_in_the_secret_than_in_consul_are_made_there(
    mesh: MeshState, steps: Steps
) -> None:
    ids = mesh.add_service("web")
    mesh.secrets.put("acme-web", TokenIds(ids.accessor_id, new_accessor_id()).to_secret_string())
    assert look(steps) == found(provision=[WEB])


@pytest.mark.parametrize(
    "drift",
    [
        pytest.param({"Description": f"{described('web')}\nedited"}, id="description"),
        pytest.param({"ServiceIdentities": [{"ServiceName": "api"}]}, id="another identity"),
        pytest.param({"ServiceIdentities": []}, id="no identity"),
        pytest.param({"Policies": [{"Name": "acme-consul-client-policy"}]}, id="a policy more"),
    ],
)
def test_a_token_that_somebody_has_changed_is_brought_in_line(
    mesh: MeshState, steps: Steps, drift: dict[str, Any]
) -> None:
    ids = mesh.add_service("web")
    path = f"/v1/acl/token/{ids.accessor_id}"
    token = mesh.consul.call("GET", path)
    assert mesh.consul.call("PUT", path, {**token, **drift}) is not None
    assert look(steps) == found(provision=[WEB])


@pytest.mark.parametrize(
    ("subject", "policy"),
    [
        pytest.param(CLIENT, CLIENT_POLICY, id="client"),
        pytest.param(CONTROLLER, CONTROLLER_POLICY, id="controller"),
    ],
)
def test_a_shared_policy_that_somebody_has_changed_is_brought_in_line(
    mesh: MeshState, steps: Steps, subject: dict[str, str], policy: dict[str, str]
) -> None:
    for key, value in (("Rules", f"{policy['Rules']}# edited\n"), ("Description", "edited")):
        path = f"/v1/acl/policy/name/{policy['Name']}"
        shown = mesh.consul.call("GET", path)
        changed = {**policy, key: value}
        assert mesh.consul.call("PUT", f"/v1/acl/policy/{shown['ID']}", changed) is not None
        assert look(steps) == found(provision=[subject])


def test_a_service_with_extra_rules_needs_their_policy(mesh: MeshState, steps: Steps) -> None:
    rules = {"web": 'key "a" {\n  policy = "read"\n}\n', "gone": "x"}
    ids = mesh.add_service("web")
    assert look(steps, rules=rules) == found(provision=[WEB])
    assert steps.remote_calls[READ_POLICY] == 3

    mesh.consul.create_policy(
        Name="acme-web-service",
        Description=f"Policy for web service\n{CLUSTER_LINE}",
        Rules=rules["web"],
    )
    mesh.delete_token(ids)
    mesh.token(described("web"), services=["web"], policies=["acme-web-service"], ids=ids)
    assert look(steps, rules=rules) == NOTHING
    # Without the rules it has one too many.
    assert look(steps) == found(provision=[WEB])


def test_a_policy_of_a_service_without_tasks_is_not_asked_for(
    mesh: MeshState, steps: Steps
) -> None:
    ids = mesh.add_service("web", tasks=0)
    result = look(steps, {"service": "web"}, rules={"web": 'key "a" {}'})
    assert result == found(suspects=[named(WEB, ids)])
    assert READ_POLICY not in steps.remote_calls


# --- tokens that nobody needs --------------------------------------------------------------------


def test_the_token_of_a_service_without_tasks_is_suspected(mesh: MeshState, steps: Steps) -> None:
    ids = mesh.add_service("web", tasks=0)
    mesh.ecs.stop(mesh.run_task("web"))
    assert look(steps) == found(suspects=[named(WEB, ids)])


def test_a_token_without_even_a_secret_is_suspected(mesh: MeshState, steps: Steps) -> None:
    ids = mesh.service_token("web")
    assert look(steps) == found(suspects=[named(WEB, ids)])


def test_a_second_token_of_a_service_is_superseded(mesh: MeshState, steps: Steps) -> None:
    mesh.add_service("web")
    extra = mesh.service_token("web")
    assert look(steps) == found(retire=[named(WEB, extra)])


def test_a_superseded_token_is_suspected_when_every_task_is_younger_than_its_mark(
    mesh: MeshState, steps: Steps
) -> None:
    mesh.add_service("web", tasks=0)
    mark = mesh.clock.ago(hours=1)
    extra = mesh.service_token("web", not_pulled_since=mark)
    old = mesh.run_task("web", created_at=mesh.clock.ago(hours=2))
    mesh.run_task("web", created_at=mark)
    assert look(steps) == NOTHING
    mesh.ecs.drain(old)
    assert look(steps) == NOTHING
    mesh.ecs.stop(old)
    assert look(steps) == found(suspects=[named(WEB, extra)])


@pytest.mark.parametrize(
    ("subject", "description"),
    [
        pytest.param(CLIENT, CLIENT_DESCRIPTION, id="client"),
        pytest.param(CONTROLLER, CONTROLLER_DESCRIPTION, id="controller"),
    ],
)
def test_a_second_shared_token_is_superseded(
    mesh: MeshState, steps: Steps, subject: dict[str, str], description: str
) -> None:
    extra = mesh.token(description)
    assert look(steps) == found(retire=[named(subject, extra)])


def test_a_marked_client_token_waits_for_the_tasks_of_all_services(
    mesh: MeshState, steps: Steps
) -> None:
    mesh.add_service("api", tasks=0)
    mark = mesh.clock.ago(hours=1)
    extra = mesh.token(f"{CLIENT_DESCRIPTION}\n{marked(mark)}")
    task = mesh.run_task("api", created_at=mesh.clock.ago(hours=2))
    mesh.run_task("api", created_at=mark)
    assert look(steps) == NOTHING
    mesh.ecs.stop(task)
    assert look(steps) == found(suspects=[named(CLIENT, extra)])


def test_a_marked_controller_token_waits_for_no_task(mesh: MeshState, steps: Steps) -> None:
    mesh.add_service("web")
    extra = mesh.token(f"{CONTROLLER_DESCRIPTION}\n{marked(mesh.clock.ago(hours=1))}")
    assert look(steps) == found(suspects=[named(CONTROLLER, extra)])


def test_a_token_that_somebody_has_made_current_again_loses_its_mark(
    mesh: MeshState, steps: Steps
) -> None:
    mesh.add_service("web", tasks=0)
    mesh.run_task("web", created_at=mesh.clock.moment)
    marked = mesh.service_token("web", not_pulled_since=mesh.clock.ago(hours=1))
    before = mesh.ids()
    mesh.secrets.put("acme-web", marked.to_secret_string())
    assert look(steps) == found(provision=[WEB], retire=[named(WEB, before)])


# --- what is not ours ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "description",
    [
        pytest.param("Token for web service", id="no line"),
        pytest.param(f"made by hand\n{CLUSTER_LINE}", id="another text"),
        pytest.param(f"{described('web')}-2", id="a cluster whose name begins with ours"),
        pytest.param(described("web")[:-1], id="a cluster with whose name ours begins"),
    ],
)
def test_tokens_that_are_not_ours_are_left_alone(
    mesh: MeshState, steps: Steps, description: str
) -> None:
    mesh.token(description, services=["web"])
    assert look(steps) == NOTHING


@pytest.mark.parametrize(
    "tags",
    [
        pytest.param({MESH_TAG: "false"}, id="not in the mesh"),
        pytest.param({"consul.hashicorp.com/namespace": "team"}, id="in a namespace"),
        pytest.param({"consul.hashicorp.com/service-name": "Web"}, id="no valid name"),
        pytest.param({"consul.hashicorp.com/service-name": "consul-client-token"},
                     id="a name of the controller's secrets"),
    ],
)  # fmt: skip
def test_tasks_that_get_no_token_need_none(
    mesh: MeshState, steps: Steps, tags: dict[str, str]
) -> None:
    mesh.run_task("web", tags=tags)
    assert look(steps) == NOTHING


# --- what an operator has to put right -----------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param("no JSON", "The secret acme-web: the value is not JSON.", id="no JSON"),
        pytest.param("deleted", "The secret acme-web is marked for deletion.", id="deleted"),
    ],
)
def test_a_secret_that_nobody_can_read_is_left_and_nothing_of_its_service_is_touched(
    mesh: MeshState, steps: Steps, spoil: str, reason: str
) -> None:
    mesh.add_service("web", tasks=0)
    mesh.add_service("api", tasks=0)
    mesh.run_task("web", created_at=mesh.clock.moment)
    mesh.run_task("api")
    mesh.service_token("web", not_pulled_since=mesh.clock.ago(hours=1))
    mesh.service_token("web")
    mesh.delete_token(mesh.ids("acme-api"))
    if spoil == "deleted":
        mesh.secrets.client.delete_secret(SecretId="acme-web", RecoveryWindowInDays=7)
    else:
        mesh.secrets.put("acme-web", "hunter2-hunter2")
    result = look(steps)
    (told,) = result.pop("reasons")
    expected = {**NOTHING, "found": 2, "left": 1, "provision": [{"service": "api"}]}
    del expected["reasons"]
    assert result == expected
    assert told["subject"] == WEB
    assert told["reason"].startswith(reason)


def test_a_shared_secret_that_nobody_can_read_is_left(mesh: MeshState, steps: Steps) -> None:
    mesh.secrets.put(CLIENT_SECRET, "hunter2-hunter2")
    result = look(steps)
    assert (result["found"], result["left"], result["provision"]) == (1, 1, [])
    assert result["reasons"][0]["subject"] == CLIENT


# --- a part of it --------------------------------------------------------------------------------


@pytest.fixture
def troubled(mesh: MeshState) -> MeshState:
    """A mesh with something wrong everywhere."""
    mesh.delete_token(mesh.client)
    mesh.token(CONTROLLER_DESCRIPTION)
    for name in ("api", "web", "web-2"):
        mesh.run_task(name)
    return mesh


@pytest.mark.parametrize(
    ("event", "subjects"),
    [
        ({}, [CLIENT, CONTROLLER, "api", "web", "web-2"]),
        ({"service": "web"}, ["web"]),
        ({"service": "other"}, []),
        ({"token": "client"}, [CLIENT]),
        ({"token": "controller"}, [CONTROLLER]),
        ({"after": ""}, [CLIENT, CONTROLLER, "api", "web", "web-2"]),
        ({"after": "api"}, ["web", "web-2"]),
        ({"after": "b"}, ["web", "web-2"]),
        ({"after": "web-2"}, []),
        ({"suspects": []}, []),
        ({"suspects": [{"subject": {"service": "web"}, "accessor_id": ANY_ID},
                       {"subject": {"service": "web"}, "accessor_id": ANY_ID},
                       {"subject": {"token": "client"}, "accessor_id": ANY_ID}]},
         [CLIENT, "web"]),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.usefixtures("troubled")
def test_only_what_is_asked_for_is_looked_at(
    steps: Steps, event: dict[str, Any], subjects: list[Any]
) -> None:
    result = look(steps, event)
    expected = [one if isinstance(one, dict) else {"service": one} for one in subjects]
    assert result["found"] == len(subjects)
    assert [*result["provision"], *(item["subject"] for item in result["retire"])] == sorted(
        expected, key=lambda one: one == CONTROLLER
    )


def test_a_part_asks_for_the_secrets_and_policies_of_that_part_only(
    mesh: MeshState, steps: Steps
) -> None:
    mesh.add_service("web")
    mesh.add_service("api")
    look(steps, {"service": "web"})
    assert steps.remote_calls == {
        LIST_TOKENS: 1,
        LIST_TASKS: 2,
        DESCRIBE_TASKS: 1,
        BATCH: 1,
        SECRET: 1,
    }
    look(steps, {"service": "other"})
    assert steps.remote_calls == {LIST_TOKENS: 1, LIST_TASKS: 2, DESCRIBE_TASKS: 1}


FORMS = (
    'Start the workflow with {} for everything, {"service": "…"} or {"token": "client"} '
    'for one token, or {"after": "…"}, the name of a service, to go on after it.'
)


@pytest.mark.parametrize(
    ("event", "kind", "message"),
    [
        ({"service": None}, InvalidEvent,
         "service must be the name of a service, a text; it is None."),
        ({"token": "all"}, InvalidEvent,
         """token must be "client" or "controller"; it is 'all'."""),
        ({"service": "Web"}, InvalidServiceName, None),
        ({"service": "web", "after": "api"}, InvalidEvent,
         'The input has both "service" and "after". Give one of them.'),
        ({"after": 7}, InvalidEvent, FORMS),
        ({"after": None}, InvalidEvent, FORMS),
        ({"services": "all"}, InvalidEvent, FORMS),
        ({"Comment": "Insert your JSON here"}, InvalidEvent, FORMS),
    ],
    ids=str,
)  # fmt: skip
def test_an_input_that_names_nothing_that_there_can_be_is_refused_before_anything_is_asked(
    mesh: MeshState, steps: Steps, event: Any, kind: Any, message: str | None
) -> None:
    del mesh
    error = steps.fail(find_drift, {"event": event, "service_rules": {}}, kind)
    assert message is None or str(error) == message
    assert steps.remote_calls == {}


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"event": {}},
        {"event": None, "service_rules": {}},
        {"event": "web", "service_rules": {}},
        {"event": {"suspects": None}, "service_rules": {}},
        {"event": {"suspects": ["web"]}, "service_rules": {}},
        {"event": {"suspects": [{"subject": {"service": "Web"}}]}, "service_rules": {}},
    ],
    ids=str,
)
def test_a_state_that_is_not_as_documented_is_the_workflows_fault(
    mesh: MeshState, steps: Steps, state: Any
) -> None:
    del mesh
    steps.fail(find_drift, state, InvalidStepInput)
    assert steps.remote_calls == {}


# --- how much it asks ----------------------------------------------------------------------------


@pytest.mark.parametrize("services", [1, 18, 19, 45])
def test_a_look_at_many_services_takes_few_calls(
    embedded_mesh: MeshState, steps: Steps, services: int
) -> None:
    for number in range(services):
        embedded_mesh.add_service(f"web-{number}")
    assert look(steps) == NOTHING
    assert steps.remote_calls == {
        LIST_TOKENS: 1,
        READ_POLICY: 2,
        LIST_TASKS: 2,
        DESCRIBE_TASKS: 1,
        BATCH: -(-(services + 2) // 20),
        SECRET: 1,  # a cold process reads its own token
    }


def test_a_look_at_many_tasks_describes_a_hundred_a_call(mesh: MeshState, steps: Steps) -> None:
    mesh.add_service("web", tasks=0)
    tags = {MESH_TAG: "true"}
    mesh.ecs.run_tasks(250, tags=tags, created_at=mesh.clock.ago(days=1))
    assert look(steps) == NOTHING
    assert steps.remote_calls[LIST_TASKS] == 4
    assert steps.remote_calls[DESCRIBE_TASKS] == 3


def test_what_does_not_fit_into_a_state_is_left_to_another_execution(
    mesh: MeshState, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = dict.fromkeys(["provision", "retire", "suspects", "reasons"], Room(2, 10_000))
    monkeypatch.setattr("handlers.core.findings._ROOM", room)
    services = [{"service": f"web-{number:02}"} for number in range(25)]
    for service in services:
        mesh.run_task(service["service"])
    first = look(steps)
    assert first == {
        **NOTHING,
        "found": 2,
        "provision": services[:2],
        "next": {"after": "web-01"},
    }
    # Secrets are read 20 at a time: those that do not matter any more are not.
    assert steps.remote_calls[BATCH] == 1
    second = look(steps, first["next"])
    assert (second["provision"], second["next"]) == (services[2:4], {"after": "web-03"})
    assert look(steps, {"after": "web-22"})["next"] == {}


def test_the_look_for_suspects_goes_on_where_the_first_one_ended(
    mesh: MeshState, steps: Steps
) -> None:
    ids = mesh.add_service("web", tasks=0)
    first = look(steps)
    assert first["suspects"] == [named(WEB, ids)]
    mesh.delete_token(ids)
    # A task comes up while the token is deleted: it is put back.
    mesh.run_task("web")
    again = look(steps, {"suspects": first["suspects"]})
    assert again == found(provision=[WEB])


# --- in which order ------------------------------------------------------------------------------


def test_a_task_that_starts_during_the_look_saves_its_token(
    embedded_mesh: MeshState, steps: Steps
) -> None:
    mesh = embedded_mesh
    mesh.add_service("web", tasks=0)

    def on_request(_method: str, path: str) -> None:
        if path == "/v1/acl/tokens":
            mesh.consul.embedded.on_request = None
            mesh.run_task("web")

    mesh.consul.embedded.on_request = on_request
    assert look(steps) == NOTHING


# --- what may fail -------------------------------------------------------------------------------


def test_a_look_that_cannot_see_everything_finds_nothing_rather_than_too_much(
    embedded_mesh: MeshState, steps: Steps
) -> None:
    mesh = embedded_mesh
    mesh.add_service("web")
    state: dict[str, Any] = {"event": {}, "service_rules": {}}
    mesh.consul.embedded.on_request = lambda *_: Fault.answer(500, "No cluster leader")
    steps.fail(find_drift, state, ConsulUnavailable)
    mesh.consul.embedded.on_request = None
    for operation in ("ListTasks", "DescribeTasks"):
        with answering(mesh.ecs.client, operation, status=400, code="ThrottlingException"):
            steps.fail(find_drift, state, AwsThrottled)
    with answering(
        mesh.secrets.client, "BatchGetSecretValue", status=400, code="AccessDeniedException"
    ):
        steps.fail(find_drift, state, AwsAccessDenied)
    assert look(steps) == NOTHING


def test_a_task_that_ecs_does_not_describe_yet_is_waited_for(
    mesh: MeshState, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh.add_service("web")
    monkeypatch.setattr(
        mesh.ecs.client, "describe_tasks", lambda **_: {"tasks": [], "failures": []}, raising=False
    )
    steps.fail(find_drift, {"event": {}, "service_rules": {}}, TaskNotVisibleYet)


def test_a_controller_that_may_only_read_acls_says_so(mesh: MeshState, steps: Steps) -> None:
    mesh.consul.create_policy(Name="acme-reader", Rules=ACL_READ_RULES)
    reader = mesh.consul.create_token(Policies=[{"Name": "acme-reader"}])
    mesh.secrets.put(CONTROLLER_SECRET, reader["SecretID"])
    error = steps.fail(find_drift, {"event": {}, "service_rules": {}}, ConsulPermissionDenied)
    assert str(error) == (
        "The controller's token may read ACL tokens but not write them. Give it acl:write."
    )


def test_a_controller_without_a_token_waits_for_the_bootstrap(
    mesh: MeshState, steps: Steps
) -> None:
    mesh.secrets.put(CONTROLLER_SECRET, "{}")
    steps.fail(find_drift, {"event": {}, "service_rules": {}}, ClusterNotBootstrapped)


def test_a_controller_whose_token_consul_does_not_know_says_so(
    mesh: MeshState, steps: Steps
) -> None:
    mesh.delete_token(mesh.controller)
    steps.fail(find_drift, {"event": {}, "service_rules": {}}, ConsulTokenRejected)


def test_no_secret_id_is_in_a_result(mesh: MeshState, steps: Steps) -> None:
    ids = [mesh.add_service("web", tasks=0), mesh.service_token("web"), mesh.client]
    mesh.token(CLIENT_DESCRIPTION)
    result = json.dumps(look(steps))
    assert [each.secret_id in result for each in ids] == [False] * 3
