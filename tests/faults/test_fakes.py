"""The fakes of the fault experiments answer as the ones do that everything else is tested with.

Secrets Manager and ECS are compared with moto, as local/cloud corrects it (the sources of the rules
are named there); the Consul session with `requests` and a socket.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moto import mock_aws
from moto.core.models import MockAWS

from handlers.clients.consul import ConsulClient
from handlers.core.errors import StepError
from local.cloud.secrets_manager import corrected_secrets_manager
from local.consul import EmbeddedConsul
from local.consul.api import Flavour
from tests.faults.consul_server import SimulatedConsul
from tests.faults.consul_transport import ConsulSession
from tests.faults.ecs import EcsClient, EcsService, EcsStore, EcsTask
from tests.faults.history import View
from tests.faults.kinds import STALE_SECONDS
from tests.faults.network import Direct
from tests.faults.secrets_manager import SecretsManagerClient, SecretsStore
from tests.faults.virtual_time import VirtualClock

REGION = "eu-west-1"
ACCOUNT = "123456789012"
ARN_PREFIX = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:"
CLUSTER_ARN = f"arn:aws:ecs:{REGION}:{ACCOUNT}:cluster/mesh"

Operation = tuple[str, dict[str, Any]]


@pytest.fixture(scope="module")
def moto() -> Iterator[MockAWS]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        with mock_aws() as mock, corrected_secrets_manager():
            yield mock


# --- Secrets Manager ------------------------------------------------------------------------------

NAMES = ("acme-web", "acme-api")
VERSIONS = tuple(str(uuid.UUID(int=number)) for number in range(1, 5))
VALUES = ("{}", "one", "two")
STAGES = ("AWSCURRENT", "AWSPENDING", "AWSPREVIOUS", "OURS")

_name = st.sampled_from(NAMES)
_version = st.sampled_from(VERSIONS)
_value = st.sampled_from(VALUES)
_stage = st.sampled_from(STAGES)


def _operation(name: str, **arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Operation]:
    """Return a call with some of its arguments; None leaves one out."""
    given_arguments = st.fixed_dictionaries(arguments).map(
        lambda found: {key: value for key, value in found.items() if value is not None}
    )
    return given_arguments.map(lambda found: (name, found))


OPERATIONS = st.one_of(
    _operation(
        "create_secret",
        Name=_name,
        SecretString=st.none() | _value,
        ClientRequestToken=_version,
        Description=st.none() | st.just("text"),
        Tags=st.none() | st.just([{"Key": "team", "Value": "platform"}]),
    ),
    _operation(
        "put_secret_value",
        SecretId=_name,
        SecretString=_value,
        ClientRequestToken=_version,
        VersionStages=st.none() | st.lists(_stage, min_size=1, max_size=2, unique=True),
    ),
    _operation(
        "update_secret_version_stage",
        SecretId=_name,
        VersionStage=_stage,
        MoveToVersionId=st.none() | _version,
        RemoveFromVersionId=st.none() | _version,
    ),
    _operation(
        "get_secret_value",
        SecretId=_name,
        VersionId=st.none() | _version,
        VersionStage=st.none() | _stage,
    ),
    _operation("describe_secret", SecretId=_name),
    _operation("list_secret_version_ids", SecretId=_name),
    _operation("batch_get_secret_value", SecretIdList=st.lists(_name, min_size=1, max_size=2)),
    _operation("tag_resource", SecretId=_name, Tags=st.just([{"Key": "team", "Value": "other"}])),
)
_NOT_COMPARED = frozenset(
    {
        "ResponseMetadata",
        # Dates of wall clocks, and what describe_secret has besides.
        "CreatedDate",
        "LastChangedDate",
        "LastAccessedDate",
        "DeletedDate",
        "LastRotatedDate",
        "NextRotationDate",
        "RotationEnabled",
        "RotationLambdaARN",
        "RotationRules",
        "ReplicationStatus",
        "KmsKeyId",
        "PrimaryRegion",
        "OwningService",
        "KmsKeyIds",
        "Message",
        "NextToken",
    }
)


def fake_secrets_manager() -> SecretsManagerClient:
    return SecretsManagerClient(SecretsStore(VirtualClock(), ARN_PREFIX), Direct())


def told(client: Any, operation: Operation) -> Any:
    """Return what a client answers, or the code of its error, in comparable form."""
    name, arguments = operation
    try:
        answer = getattr(client, name)(**arguments)
    except ClientError as error:
        return error.response["Error"]["Code"]
    return _comparable(answer)


def _comparable(value: Any) -> Any:
    if isinstance(value, dict):
        # An empty thing and none are the same to a caller.
        found = {key: _comparable(item) for key, item in value.items() if key not in _NOT_COMPARED}
        return {key: item for key, item in found.items() if item not in ({}, [], None)}
    if isinstance(value, list):
        return sorted((_comparable(item) for item in value), key=str)
    if isinstance(value, str) and value.startswith(ARN_PREFIX):
        return value.rpartition("-")[0]  # the six characters after it are random
    return value


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(operations=st.lists(OPERATIONS, min_size=1, max_size=14))
def test_any_calls_of_secrets_manager_get_the_same_answers(
    moto: MockAWS, operations: list[Operation]
) -> None:
    moto.reset()
    fake, other = fake_secrets_manager(), boto3.client("secretsmanager", region_name=REGION)
    for number, operation in enumerate(operations):
        assert told(fake, operation) == told(other, operation), (number, operation)


FIRST, SECOND, THIRD, _ = VERSIONS


def _put(value: str, version: str, *stages: str) -> Operation:
    arguments: dict[str, Any] = {
        "SecretId": NAMES[0],
        "SecretString": value,
        "ClientRequestToken": version,
    }
    return ("put_secret_value", arguments | ({"VersionStages": list(stages)} if stages else {}))


def _move(stage: str, *, to: str, source: str) -> Operation:
    arguments = {"MoveToVersionId": to, "RemoveFromVersionId": source}
    return (
        "update_secret_version_stage",
        {"SecretId": NAMES[0], "VersionStage": stage, **arguments},
    )


_CREATE: Operation = ("create_secret", {"Name": NAMES[0]})
_DESCRIBE: Operation = ("describe_secret", {"SecretId": NAMES[0]})
_READ: Operation = ("get_secret_value", {"SecretId": NAMES[0]})


@pytest.mark.parametrize(
    "operations",
    [
        pytest.param([_CREATE, _READ, _DESCRIBE], id="no value yet"),
        pytest.param([_CREATE, _put("a", FIRST, "AWSPENDING"), _DESCRIBE], id="the first value"),
        pytest.param(
            [_CREATE, _put("{}", FIRST), _put("a", SECOND, "AWSPENDING"), _DESCRIBE, _READ],
            id="written ahead",
        ),
        pytest.param(
            [
                _CREATE,
                _put("{}", FIRST),
                _put("a", SECOND, "AWSPENDING"),
                _put("b", SECOND, "AWSPENDING"),
                _put("a", SECOND, "AWSPENDING"),
                _DESCRIBE,
            ],
            id="two writers of one version",
        ),
        pytest.param(
            [
                _CREATE,
                _put("{}", FIRST),
                _put("a", SECOND, "AWSPENDING"),
                _move("AWSCURRENT", to=SECOND, source=FIRST),
                _DESCRIBE,
                _READ,
                _move("AWSCURRENT", to=SECOND, source=FIRST),
                _put("b", THIRD, "AWSPENDING"),
                _move("AWSCURRENT", to=THIRD, source=SECOND),
                _DESCRIBE,
                _move("AWSCURRENT", to=SECOND, source=THIRD),
                _DESCRIBE,
                _READ,
            ],
            id="published, replaced, taken back",
        ),
    ],
)
def test_the_life_of_a_secret_is_the_same(moto: MockAWS, operations: list[Operation]) -> None:
    moto.reset()
    fake, other = fake_secrets_manager(), boto3.client("secretsmanager", region_name=REGION)
    assert [told(fake, one) for one in operations] == [told(other, one) for one in operations]


def test_a_secret_that_is_marked_for_deletion_is_refused_in_the_same_way(moto: MockAWS) -> None:
    moto.reset()
    other = boto3.client("secretsmanager", region_name=REGION)
    store = SecretsStore(VirtualClock(), ARN_PREFIX)
    fake = SecretsManagerClient(store, Direct())
    for client in (fake, other):
        told(client, ("create_secret", {"Name": NAMES[0], "SecretString": "a"}))
    other.delete_secret(SecretId=NAMES[0])
    store.mark_for_deletion(NAMES[0])
    for operation in (
        _READ,
        _put("b", SECOND),
        _move("AWSCURRENT", to=SECOND, source=FIRST),
        ("create_secret", {"Name": NAMES[0], "SecretString": "a"}),
        ("batch_get_secret_value", {"SecretIdList": [NAMES[0]]}),
    ):
        assert told(fake, operation) == told(other, operation), operation


def test_values_have_a_date_and_stages_as_boto3_gives_them(moto: MockAWS) -> None:
    moto.reset()
    for client in (fake_secrets_manager(), boto3.client("secretsmanager", region_name=REGION)):
        client.create_secret(Name=NAMES[0], SecretString="a")
        answer = client.get_secret_value(SecretId=NAMES[0])
        assert isinstance(answer["CreatedDate"], datetime)
        assert answer["CreatedDate"].tzinfo is not None
        assert answer["VersionStages"] == ["AWSCURRENT"]


def test_an_old_answer_is_at_most_a_moment_old() -> None:
    clock = VirtualClock()
    store = SecretsStore(clock, ARN_PREFIX)
    client = SecretsManagerClient(store, Direct())
    client.create_secret(Name=NAMES[0], SecretString="a")
    clock.pass_seconds(1)
    client.put_secret_value(SecretId=NAMES[0], SecretString="b")
    assert store.as_of(View.A_MOMENT_AGO) == {}
    assert [
        len(secret.versions) for secret in store.as_of(View.BEFORE_THE_LAST_WRITE).values()
    ] == [1]
    clock.pass_seconds(STALE_SECONDS)
    assert store.as_of(View.A_MOMENT_AGO) == store.secrets == store.as_of(View.NOW)


# --- ECS ------------------------------------------------------------------------------------------


class EcsPair:
    """The same cluster twice: three tasks, and a service."""

    def __init__(self) -> None:
        self.moto = boto3.client("ecs", region_name=REGION)
        self.moto.create_cluster(clusterName="mesh")
        self.moto.register_task_definition(
            family="web", containerDefinitions=[{"name": "app", "image": "app:1", "memory": 128}]
        )
        self.moto.create_service(
            cluster="mesh", serviceName="web", taskDefinition="web", desiredCount=0
        )
        store = EcsStore(VirtualClock(), CLUSTER_ARN)
        now = store.clock.now()
        store.put_service(EcsService("web", now, now, desired_count=0))
        for _ in range(3):
            arn = self.moto.run_task(
                cluster="mesh",
                taskDefinition="web",
                launchType="FARGATE",
                tags=[{"key": "team", "value": "platform"}],
            )["tasks"][0]["taskArn"]
            store.put_task(EcsTask(arn, "web", now, {"team": "platform"}, last_status="RUNNING"))
        self.arns = list(store.cluster.tasks)
        self.store = store
        self.fake = EcsClient(store, Direct())

    def both(self, ask: Callable[[Any], Any]) -> tuple[Any, Any]:
        """Return what both say, or the codes of their errors."""
        answers = []
        for client in (self.fake, self.moto):
            try:
                answers.append(ask(client))
            except ClientError as error:
                answers.append(error.response["Error"]["Code"])
        return answers[0], answers[1]


@pytest.fixture
def ecs(moto: MockAWS) -> EcsPair:
    moto.reset()
    return EcsPair()


def test_tasks_are_described_alike(ecs: EcsPair) -> None:
    absent = ecs.arns[0][:-4] + "0000"

    def ask(client: Any) -> Any:
        answer = client.describe_tasks(
            cluster=CLUSTER_ARN, tasks=[*ecs.arns, absent], include=["TAGS"]
        )
        return [
            (task["taskArn"], task["taskDefinitionArn"], task["tags"], task["desiredStatus"])
            for task in answer["tasks"]
        ]

    fake, moto = ecs.both(ask)
    assert fake == moto
    assert fake[0][1] == f"arn:aws:ecs:{REGION}:{ACCOUNT}:task-definition/web:1"
    # moto leaves out what AWS says of tasks that it does not know.
    answer = ecs.fake.describe_tasks(cluster=CLUSTER_ARN, tasks=[absent])
    assert answer == {"tasks": [], "failures": [{"arn": absent, "reason": "MISSING"}]}


@pytest.mark.parametrize("wanted", ["RUNNING", "STOPPED"])
def test_tasks_are_listed_by_what_is_wanted_of_them(ecs: EcsPair, wanted: str) -> None:
    def ask(client: Any) -> list[str]:
        answer = client.list_tasks(cluster=CLUSTER_ARN, desiredStatus=wanted)
        return sorted(answer["taskArns"])

    fake, moto = ecs.both(ask)
    assert fake == moto


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.describe_tasks(cluster=f"{CLUSTER_ARN}-2", tasks=["x"]),
        lambda client: client.list_tasks(cluster=f"{CLUSTER_ARN}-2"),
        lambda client: client.describe_services(cluster=f"{CLUSTER_ARN}-2", services=["web"]),
        lambda client: client.update_service(cluster=CLUSTER_ARN, service="absent"),
    ],
    ids=["tasks", "a list", "services", "a service"],
)
def test_what_ecs_does_not_know_is_refused_alike(ecs: EcsPair, ask: Callable[[Any], Any]) -> None:
    fake, moto = ecs.both(ask)
    assert isinstance(fake, str)
    assert fake == moto


def test_services_are_described_alike(ecs: EcsPair) -> None:
    def ask(client: Any) -> Any:
        answer = client.describe_services(cluster=CLUSTER_ARN, services=["web", "absent"])
        services = [
            (
                service["serviceName"],
                service["status"],
                service["desiredCount"],
                service["runningCount"],
                service["pendingCount"],
                [deployment["status"] for deployment in service["deployments"]],
                type(service["deployments"][0]["createdAt"]),
            )
            for service in answer["services"]
        ]
        return services, [one["reason"] for one in answer["failures"]]

    fake, moto = ecs.both(ask)
    assert fake == moto


def test_pages_show_each_task_once_whatever_changes_meanwhile(ecs: EcsPair) -> None:
    ecs.store.page = 1
    seen: list[str] = []
    more: dict[str, Any] = {}
    while True:
        answer = ecs.fake.list_tasks(cluster=CLUSTER_ARN, **more)
        seen += answer["taskArns"]
        # The task just shown begins to drain.
        task = ecs.store.cluster.tasks[answer["taskArns"][0]]
        ecs.store.put_task(EcsTask(task.arn, "web", task.created_at, {}, desired_status="STOPPED"))
        if "nextToken" not in answer:
            break
        more = {"nextToken": answer["nextToken"]}
    assert seen == ecs.arns


# --- Consul ---------------------------------------------------------------------------------------

MANAGEMENT = "7c0c93c9-4a51-4d5e-8f5a-2f3f1f4d8a10"
ACCESSOR, OTHER = (str(uuid.UUID(int=number << 100)) for number in (7, 8))


class Known:
    """A token that is not in a secret."""

    def __init__(self) -> None:
        self.token = MANAGEMENT

    def __str__(self) -> str:
        return "this test"

    def value(self) -> str:
        return self.token

    def read_again(self) -> str:
        return self.token


def _bootstrap(client: ConsulClient) -> None:
    token = client._token
    assert isinstance(token, Known)
    token.token = client.bootstrap(MANAGEMENT)  # an old server chooses it itself


CALLS: Sequence[Callable[[ConsulClient], Any]] = (
    lambda client: client.leader("dc1"),
    lambda client: client.leader("other"),
    lambda client: client.check_acl_system(),
    _bootstrap,
    _bootstrap,
    lambda client: client.knows_token(OTHER),
    lambda client: client.read_policy("a policy/with ümlauts?"),
    lambda client: client.create_policy({"Name": "p", "Rules": 'acl = "read"\n'}),
    lambda client: client.create_policy({"Name": "p"}),
    lambda client: (client.read_policy("p") or {}).get("Rules"),
    lambda client: client.read_token(ACCESSOR),
    lambda client: client.create_token({"AccessorID": ACCESSOR, "Policies": [{"Name": "p"}]}),
    lambda client: client.create_token({"AccessorID": ACCESSOR}),
    lambda client: (client.read_token(ACCESSOR) or {}).get("AccessorID"),
    lambda client: client.update_token(ACCESSOR, {"Description": "ümlauts & <signs>"}),
    lambda client: (client.read_token(ACCESSOR) or {}).get("Description"),
    lambda client: client.update_token(OTHER, {"Description": "absent"}),
    lambda client: sorted(client.list_tokens(lambda token: token.get("Description", ""))),
    lambda client: client.delete_token(ACCESSOR),
    lambda client: client.delete_token(ACCESSOR),
    lambda client: client.delete_token("not a UUID"),
)


def _outcomes(client: ConsulClient) -> list[Any]:
    outcomes = []
    for call in CALLS:
        try:
            outcomes.append(call(client))
        except StepError as error:
            address = client._address
            outcomes.append(f"{type(error).__name__}: {error}".replace(address, "ADDRESS"))
    return outcomes


@pytest.mark.parametrize("flavour", ["1.10", "current"])
def test_the_session_without_a_socket_carries_what_requests_does(flavour: Flavour) -> None:
    with EmbeddedConsul(flavour=flavour) as server:
        expected = _outcomes(ConsulClient(server.address, token=Known()))
    client = ConsulClient("http://consul.internal:8500", token=Known())
    session: Any = ConsulSession(SimulatedConsul(VirtualClock(), flavour), Direct())
    client._session = session
    assert json.dumps(_outcomes(client)) == json.dumps(expected)


def test_consul_answers_as_of_a_moment_ago() -> None:
    clock = VirtualClock()
    consul = SimulatedConsul(clock, "current")
    client = ConsulClient("http://consul.internal:8500", token=Known())
    session: Any = ConsulSession(consul, Direct())
    client._session = session
    client.bootstrap(MANAGEMENT)
    clock.pass_seconds(STALE_SECONDS + 1)
    client.create_token({"AccessorID": ACCESSOR, "Description": "here"})
    with consul._as_of(View.A_MOMENT_AGO):
        assert consul.token(ACCESSOR) is None
    assert consul.token(ACCESSOR) is not None
    clock.pass_seconds(STALE_SECONDS)
    with consul._as_of(View.A_MOMENT_AGO):
        assert consul.token(ACCESSOR) is not None


def test_time_passes_only_when_it_is_told_to() -> None:
    clock = VirtualClock(datetime(2026, 1, 1, tzinfo=UTC))
    clock.reach(datetime(2025, 1, 1, tzinfo=UTC))
    assert clock.now() == datetime(2026, 1, 1, tzinfo=UTC)
