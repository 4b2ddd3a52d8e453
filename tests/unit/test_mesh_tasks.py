"""What a task's tags say, and which tokens it uses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from handlers.clients.ecs import Task
from handlers.clients.token_users import oldest_tasks, subjects_of
from handlers.core import mesh_tasks
from handlers.core.deployment import Deployment
from handlers.core.subjects import CLIENT, Subject
from tests.unit.aws_state import CLUSTER_ARN
from tests.unit.mesh_state import MESH_TAG, SERVICE_NAME_TAG

DEPLOYMENT = Deployment(
    cluster_arn=CLUSTER_ARN,
    secret_prefix="acme",
    reserved_secret_names=frozenset({"acme-consul-client-token", "acme-consul-controller-token"}),
)
IN_MESH = {MESH_TAG: "true"}
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
WEB, API = Subject(service="web"), Subject(service="api")


def task(
    tags: dict[str, str] | None = None,
    *,
    family: str = "web",
    created_at: datetime | None = NOON,
    desired_status: str = "RUNNING",
) -> Task:
    tags = IN_MESH if tags is None else tags
    return Task("arn", family, desired_status, tags, created_at=created_at)


@pytest.mark.parametrize(
    ("tags", "family", "subjects"),
    [
        pytest.param(IN_MESH, "web", [WEB, CLIENT], id="named by its family"),
        pytest.param(IN_MESH | {SERVICE_NAME_TAG: "api"}, "web", [API, CLIENT],
                     id="named by its tag"),
        pytest.param(IN_MESH | {SERVICE_NAME_TAG: ""}, "web", [WEB, CLIENT], id="an empty tag"),
        pytest.param({}, "web", [], id="no tag"),
        pytest.param({MESH_TAG: "True"}, "web", [], id="not exactly true"),
        pytest.param({SERVICE_NAME_TAG: "web"}, "web", [], id="a service name alone"),
        pytest.param(IN_MESH, "WebTask", [], id="no valid name"),
        pytest.param(IN_MESH | {SERVICE_NAME_TAG: "a" * 257}, "web", [], id="too long a name"),
        pytest.param(IN_MESH, "consul-client-token", [], id="a name of the controller's secrets"),
        pytest.param(IN_MESH | {"consul.hashicorp.com/namespace": "team"}, "web", [],
                     id="in a namespace"),
        pytest.param(IN_MESH | {"consul.hashicorp.com/partition": "default"}, "web", [WEB, CLIENT],
                     id="in the default partition"),
    ],
)  # fmt: skip
def test_a_mesh_task_uses_its_services_token_and_the_clients(
    tags: dict[str, str], family: str, subjects: list[Subject]
) -> None:
    # The same rules as for what is provisioned: a task that gets no token holds none.
    assert list(subjects_of(task(tags, family=family), DEPLOYMENT)) == subjects


def test_a_name_says_where_it_comes_from() -> None:
    assert mesh_tasks.service_name({SERVICE_NAME_TAG: "api"}, "web") == (
        "api",
        f"tag {SERVICE_NAME_TAG}",
    )
    assert mesh_tasks.service_name({}, "web") == (
        "web",
        f"task definition family (it has no tag {SERVICE_NAME_TAG})",
    )


# --- the oldest task -----------------------------------------------------------------------------


def test_of_each_subject_the_oldest_task_counts_in_whatever_order() -> None:
    hours = [NOON + timedelta(hours=number) for number in range(4)]
    tasks = [
        task(created_at=hours[2]),
        task(family="api", created_at=hours[1]),
        task(created_at=hours[3]),
        task({}, created_at=hours[0]),
    ]
    for order in (tasks, tasks[::-1]):
        assert oldest_tasks(order, DEPLOYMENT) == {
            WEB: hours[2],
            API: hours[1],
            CLIENT: hours[1],
        }


def test_a_draining_task_counts_too() -> None:
    assert oldest_tasks([task(desired_status="STOPPED")], DEPLOYMENT) == {WEB: NOON, CLIENT: NOON}


def test_a_task_of_unknown_age_is_older_than_all_others() -> None:
    unknown = task(created_at=None)
    for tasks in ([unknown, task()], [task(), unknown]):
        oldest = oldest_tasks(tasks, DEPLOYMENT)
        assert oldest[WEB] == oldest[CLIENT] < datetime(1970, 1, 1, tzinfo=UTC)


def test_without_tasks_there_is_none() -> None:
    assert oldest_tasks([], DEPLOYMENT) == {}
