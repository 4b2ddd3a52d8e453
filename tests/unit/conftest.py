"""Given: what is in ECS, Secrets Manager and Consul. When: a step runs. Then: what is there now.

Secrets Manager and ECS are moto, with the rules by which versions and stages move on AWS. Consul
is the embedded server, in the flavour of 1.10 and of today; a test that needs no pristine server
takes a real one where CONSUL_HTTP_ADDR and CONSUL_HTTP_TOKEN name one.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from moto import mock_aws
from moto.core.models import MockAWS

from handlers.clients import aws, consul_connection
from handlers.core import environment, names
from local.cloud.kms import corrected_kms
from local.cloud.secrets_manager import corrected_secrets_manager
from local.consul import ConsulServer, EmbeddedConsul
from local.consul.api import Flavour
from local.consul.remote import ADDRESS_VARIABLE, RemoteConsul, remote_consul
from tests.unit.aws_state import (
    CLUSTER_ARN,
    PREFIX,
    REGION,
    EcsState,
    SecretsState,
    corrected_ecs,
)
from tests.unit.certificates import Certificates
from tests.unit.consul_state import ConsulState
from tests.unit.mesh_state import Clock, MeshState
from tests.unit.snapshot_state import BUCKET, SnapshotsState
from tests.unit.snapshot_state import PREFIX as SNAPSHOT_PREFIX
from tests.unit.steps import Steps

FLAVOURS: tuple[Flavour, ...] = ("1.10", "current")
# Handlers and Consul's tools use the same variable: tests set it, so look at it before.
_REAL = ADDRESS_VARIABLE in os.environ
MANAGEMENT_TOKEN = "7c0c93c9-4a51-4d5e-8f5a-2f3f1f4d8a10"


@pytest.fixture(autouse=True)
def _function_environment(monkeypatch: pytest.MonkeyPatch, real_consul: object) -> None:
    """The variables of a deployed function, and nothing of the machine's own AWS or Consul."""
    del real_consul  # it is made from the variables that are replaced here
    for name in list(os.environ):
        if name.startswith(("AWS_", "CONSUL_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": REGION,
        environment.CLUSTER_ARN: CLUSTER_ARN,
        environment.SECRET_PREFIX: PREFIX,
        environment.RESERVED_SECRET_NAMES: ",".join(
            (names.client_secret_name(PREFIX), names.controller_secret_name(PREFIX))
        ),
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(autouse=True)
def new_process() -> Iterator[Callable[[], None]]:
    """Each test is a process that has just started; call this to start another one."""

    def start() -> None:
        consul_connection.consul.cache_clear()
        consul_connection.unauthenticated_consul.cache_clear()

    start()
    yield start
    start()


@pytest.fixture(scope="module")
def _moto() -> Iterator[MockAWS]:
    """Takes a moment to start, and none to empty."""
    with mock_aws() as mock, corrected_secrets_manager(), corrected_ecs(), corrected_kms():
        yield mock


@pytest.fixture
def _aws(_moto: MockAWS) -> None:
    _moto.reset()


@pytest.fixture
def secrets(_aws: None) -> SecretsState:
    return SecretsState(aws.client("secretsmanager"))


@pytest.fixture
def ecs(_aws: None) -> EcsState:
    return EcsState(aws.client("ecs"))


@pytest.fixture
def snapshots(_aws: None, monkeypatch: pytest.MonkeyPatch) -> SnapshotsState:
    """An empty bucket for snapshots."""
    monkeypatch.setenv(environment.SNAPSHOT_BUCKET, BUCKET)
    monkeypatch.setenv(environment.SNAPSHOT_PREFIX, SNAPSHOT_PREFIX)
    return SnapshotsState(aws.client("s3"))


@pytest.fixture
def certificates(secrets: SecretsState) -> Certificates:
    """A CA and a server without certificates."""
    return Certificates(secrets, aws.client("kms"))


# --- Consul --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def real_consul() -> RemoteConsul | None:
    """The server that the environment of the test run names."""
    return remote_consul() if _REAL else None


@pytest.fixture(scope="session", autouse=True)
def _stop_at_once() -> Iterator[None]:
    """Ending an embedded server waits for its next look around, which hundreds of tests do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("local.consul.server._POLL_SECONDS", 0.001)
        yield


@pytest.fixture(params=["real"] if _REAL else FLAVOURS)
def consul(
    request: pytest.FixtureRequest,
    secrets: SecretsState,
    monkeypatch: pytest.MonkeyPatch,
    real_consul: RemoteConsul | None,
) -> Iterator[ConsulState]:
    """A Consul that is ready, whose management token is in the controller's secret."""
    if real_consul is not None:
        with _connected(real_consul, real_consul.management_token, secrets, monkeypatch) as state:
            yield state
        return
    with _embedded(request.param, secrets, monkeypatch) as state:
        yield state


@pytest.fixture(params=FLAVOURS)
def embedded(
    request: pytest.FixtureRequest, secrets: SecretsState, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ConsulState]:
    """The same, always embedded: for tests that watch the server or make it fail."""
    with _embedded(request.param, secrets, monkeypatch) as state:
        yield state


@contextmanager
def _embedded(
    flavour: Flavour, secrets: SecretsState, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ConsulState]:
    with (
        EmbeddedConsul(flavour=flavour, initial_management=MANAGEMENT_TOKEN) as server,
        _connected(server, MANAGEMENT_TOKEN, secrets, monkeypatch) as state,
    ):
        yield state


@contextmanager
def _connected(
    server: ConsulServer,
    management_token: str,
    secrets: SecretsState,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[ConsulState]:
    monkeypatch.setenv(environment.CONSUL_HTTP_ADDR, server.address)
    monkeypatch.setenv(environment.CONSUL_DATACENTER, "dc1")
    arn = secrets.create(
        names.controller_secret_name(PREFIX), json.dumps({"token": management_token})
    )
    monkeypatch.setenv(environment.CONSUL_TOKEN_SECRET_ARN, arn)
    state = ConsulState(server, management_token)
    try:
        yield state
    finally:
        state.close()


# --- a mesh --------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the steps, which stands still until a test lets time pass."""
    clock = Clock()
    monkeypatch.setattr("handlers.core.clock.now", clock.now)
    return clock


@pytest.fixture
def mesh(
    consul: ConsulState,
    secrets: SecretsState,
    ecs: EcsState,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> MeshState:
    """A bootstrapped cluster without any service, whose controller uses its own token."""
    return _mesh(MeshState(secrets, consul, ecs, clock), monkeypatch)


@pytest.fixture
def embedded_mesh(
    embedded: ConsulState,
    secrets: SecretsState,
    ecs: EcsState,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> MeshState:
    """The same, always embedded: for tests that watch the server or make it fail."""
    return _mesh(MeshState(secrets, embedded, ecs, clock), monkeypatch)


def _mesh(mesh: MeshState, monkeypatch: pytest.MonkeyPatch) -> MeshState:
    for variable, secret in (
        (environment.CLIENT_TOKEN_SECRET_ARN, names.client_secret_name(PREFIX)),
        (environment.CONTROLLER_TOKEN_SECRET_ARN, names.controller_secret_name(PREFIX)),
    ):
        monkeypatch.setenv(variable, mesh.secrets.arn(secret))
    return mesh


# --- running steps -------------------------------------------------------------------------------


@pytest.fixture
def steps(caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest) -> Iterator[Steps]:
    """Runs steps; at the end no secret may be in a result, an error's traceback or the log."""
    secrets: SecretsState | None = None
    if "_aws" in request.fixturenames:
        secrets = request.getfixturevalue("secrets")
    steps = Steps()
    yield steps
    records = [record.getMessage() + repr(vars(record)) for record in caplog.get_records("call")]
    published = "\n".join([*steps.outputs, *records])
    for credential in secrets.credentials() if secrets is not None else ():
        assert credential not in published


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Callable[[], list[logging.LogRecord]]:
    """The records that the steps have written so far."""
    return lambda: [record for record in caplog.records if record.name == "consul_on_ecs"]
