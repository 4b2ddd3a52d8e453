"""A mesh task starts and stops as on ECS: every container's own command, as a local process.

The task definition is one that `MeshTask` has rendered. Its scripts, mesh-init, health-sync, Envoy
and the app are the real ones. In the place of `consul` there is a stand-in, whose server is the
embedded Consul; see tests/local/test_task_agent_real_consul.py for the real one.
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from moto import mock_aws

from containers.envoy_bootstrap import make_bootstrap, write_bootstrap
from containers.task_config import proxy_id, service_id, synced_check_id
from local.cloud.secrets_manager import corrected_secrets_manager
from local.cloud.waiting import until
from local.consul import EmbeddedConsul
from local.consul.server import Fault
from local.task.addresses import UnsupportedMachineError, free_task_address
from local.task.images import envoy_executable
from local.task.record import CONSUL_CLIENT, HEALTH_SYNC, MESH_INIT, SIDECAR, milestones
from local.task.secrets import secrets_from
from local.task.task import LocalTask
from tests.containers.task import RECORDED, put_consul
from tests.local import mesh_service
from tests.local.mesh_service import APP, GREETING, MANAGEMENT, PORT, SERVICE, UPSTREAM_PORT

WRONG_TOKEN = "e3e4f0d1-0000-4000-8000-00000000dead"
TIMEOUT_SECONDS = 10
# What a client agent's negative cache makes of a refusal is not at hand here.
IMPATIENT = "import containers.mesh_init\ncontainers.mesh_init.REFUSAL_SECONDS = 1"


def _here_or_skip() -> None:
    try:
        with free_task_address():
            pass
    except UnsupportedMachineError as error:
        pytest.skip(str(error))
    if reason := mesh_service.why_not_here():
        pytest.skip(reason)


@pytest.fixture(scope="module")
def definition(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The task definition of the service, as synthesized."""
    _here_or_skip()
    with pytest.MonkeyPatch.context() as patch:
        # CDK starts the `node` of the PATH, and the environment of this Python has one.
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        from tests.local.synthesized_service import synthesize_service  # noqa: PLC0415 - takes long

        return synthesize_service(tmp_path_factory.mktemp("mesh"))


@dataclass
class Surroundings:
    """What tasks need: a Consul server, and secrets.

    Attributes:
        consul: the server.
        secrets: a client of Secrets Manager.
        definition: the task definition.
        directory: for the tasks' files.

    """

    consul: EmbeddedConsul
    secrets: Any
    definition: dict[str, Any]
    directory: Path

    def provision(self) -> None:
        """Make the tokens and write the secrets, as the ACL controller does."""
        tokens = {
            mesh_service.CLIENT_SECRET: mesh_service.client_token(self.consul.address, MANAGEMENT),
            mesh_service.SERVICE_SECRET: mesh_service.service_token(
                self.consul.address, MANAGEMENT
            ),
        }
        for name, token in tokens.items():
            self.write(name, mesh_service.secret_value(token))
        self.set_intention("allow")

    def set_intention(self, action: str) -> None:
        """Say whether the service may call itself, as its definition has it."""
        requests.put(
            f"{self.consul.address}/v1/connect/intentions/exact",
            params={"source": mesh_service.SERVICE, "destination": mesh_service.SERVICE},
            json={"Action": action},
            headers={"X-Consul-Token": MANAGEMENT},
            timeout=TIMEOUT_SECONDS,
        ).raise_for_status()

    def write(self, name: str, value: str) -> None:
        """Write a secret's value."""
        self.secrets.put_secret_value(SecretId=name, SecretString=value)

    def values(self) -> list[str]:
        """Return the secrets of the tokens."""
        names = (mesh_service.CLIENT_SECRET, mesh_service.SERVICE_SECRET)
        answers = [self.secrets.get_secret_value(SecretId=name) for name in names]
        return [json.loads(answer["SecretString"])["token"] for answer in answers]

    def task(self, definition: Mapping[str, Any] | None = None, preparation: str = "") -> LocalTask:
        """Make a task, whose health checks come quickly if no other definition is given."""
        number = len(list(self.directory.iterdir()))
        chosen = definition or mesh_service.quicker(self.definition)
        return LocalTask(
            chosen,
            images=mesh_service.images(
                chosen,
                self.directory / f"{number}-images",
                server=self.consul.address,
                preparation=preparation,
            ),
            resolve_secret=mesh_service.of_template(
                secrets_from(self.secrets), self.secrets.meta.region_name
            ),
            workdir=self.directory / f"{number}-task",
        )

    def get(self, path: str) -> Any:
        """Read from the server, with the management token."""
        answer = requests.get(
            self.consul.address + path,
            headers={"X-Consul-Token": MANAGEMENT},
            timeout=TIMEOUT_SECONDS,
        )
        answer.raise_for_status()
        return answer.json()


@contextmanager
def _directory() -> Iterator[Path]:
    """Make a directory with a short path, for there are sockets in it; pytest's are long."""
    with tempfile.TemporaryDirectory(prefix="mesh-") as directory:
        yield Path(directory)


@contextmanager
def _surroundings(
    definition: dict[str, Any], directory: Path, region: str
) -> Iterator[Surroundings]:
    with (
        mock_aws(),
        corrected_secrets_manager(),
        EmbeddedConsul(initial_management=MANAGEMENT) as consul,
    ):
        secrets = boto3.client("secretsmanager", region_name=region)
        names = (mesh_service.CLIENT_SECRET, mesh_service.SERVICE_SECRET)
        for name in names:
            secrets.create_secret(Name=name)
        yield Surroundings(consul, secrets, definition, directory)
        for name in names:
            secrets.delete_secret(SecretId=name, ForceDeleteWithoutRecovery=True)


@pytest.fixture
def around(definition: dict[str, Any]) -> Iterator[Surroundings]:
    """Surroundings without tokens: nothing has been provisioned."""
    with (
        _directory() as directory,
        _surroundings(definition, directory, "eu-west-2") as surroundings,
    ):
        yield surroundings


@dataclass
class Running:
    """A task that is up.

    Attributes:
        task: the task.
        around: its surroundings.
        command_lines: those of all processes, at each request to the server during the start.

    """

    task: LocalTask
    around: Surroundings
    command_lines: set[str]

    def url(self, port: int) -> str:
        return f"http://{self.task.address}:{port}/"


@pytest.fixture(scope="module")
def running(definition: dict[str, Any]) -> Iterator[Running]:
    """A task of the definition as it is, up and healthy; for tests that only look."""
    with (
        pytest.MonkeyPatch.context() as patch,
        _directory() as directory,
        _surroundings(definition, directory, "eu-west-1") as around,
    ):
        patch.setenv("OF_THE_PARENT", "1")
        around.provision()
        seen: set[str] = set()

        def look(method: str, path: str) -> Fault | None:
            seen.update(_command_lines())
            return None

        around.consul.on_request = look
        with around.task(definition) as task:
            task.wait_until_event(APP, "healthy")
            around.consul.on_request = None
            yield Running(task, around, seen | _command_lines())


def _command_lines() -> set[str]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # has ended meanwhile
    return found


def _order(task: LocalTask, *events: tuple[str, str]) -> list[tuple[str, str]]:
    """Return those of the events that have happened, in the order in which they have."""
    return [(e.container, e.what) for e in task.events if (e.container, e.what) in events]


# The start ----------------------------------------------------------------------------------------


def test_the_agent_and_mesh_init_start_first_then_the_proxy_then_the_app_each_in_its_time(
    running: Running,
) -> None:
    moments = milestones(running.task.events, [APP])
    mesh_service.check_moments(moments, running.around.definition)
    before_proxy = {e.container for e in running.task.events if e.seconds < moments.t1}
    assert before_proxy <= {CONSUL_CLIENT, MESH_INIT, HEALTH_SYNC}


def test_each_container_starts_when_its_dependencies_are_met_and_not_before(
    running: Running,
) -> None:
    app = [(MESH_INIT, "started"), (MESH_INIT, "exited 0"), (SIDECAR, "started")]
    app += [(SIDECAR, "healthy"), (APP, "started"), (APP, "healthy")]
    assert _order(running.task, *app) == app
    sync = [(CONSUL_CLIENT, "started"), (MESH_INIT, "exited 0"), (HEALTH_SYNC, "started")]
    assert _order(running.task, *sync) == sync


def test_the_app_answers_through_the_public_listener_of_envoy(running: Running) -> None:
    assert requests.get(running.url(20000), timeout=TIMEOUT_SECONDS).text == GREETING
    stats = _administration(running, "/stats")
    assert "tcp.public_listener.downstream_cx_total: 0" not in stats


def test_the_app_reaches_an_upstream_through_both_proxies(running: Running) -> None:
    assert requests.get(running.url(UPSTREAM_PORT), timeout=TIMEOUT_SECONDS).text == GREETING


def test_an_intention_decides_who_may_come_in_while_the_task_runs(running: Running) -> None:
    upstream = running.url(UPSTREAM_PORT)

    def answered() -> bool:
        # A proxy that may not let somebody in ends the connection.
        with suppress(requests.ConnectionError):
            return requests.get(upstream, timeout=TIMEOUT_SECONDS).text == GREETING
        return False

    assert answered()
    try:
        running.around.set_intention("deny")
        until(lambda: not answered(), what="the proxy refuses", within=TIMEOUT_SECONDS)
    finally:
        running.around.set_intention("allow")
    until(answered, what="the proxy lets it in", within=TIMEOUT_SECONDS)


def test_the_service_and_its_proxy_are_in_the_catalog_under_the_ids_of_the_task(
    running: Running,
) -> None:
    instance = service_id(SERVICE, running.task.id)
    (service,) = running.around.get(f"/v1/catalog/service/{SERVICE}")
    (proxy,) = running.around.get(f"/v1/catalog/service/{SERVICE}-sidecar-proxy")
    assert (service["ServiceID"], service["ServicePort"]) == (instance, PORT)
    assert (proxy["ServiceID"], proxy["ServicePort"]) == (proxy_id(instance), 20000)
    assert service["ServiceAddress"] == running.task.address


def test_consul_knows_the_health_of_the_app_as_ecs_sees_it(running: Running) -> None:
    check = synced_check_id(service_id(SERVICE, running.task.id), APP)

    def passing() -> bool:
        checks = running.around.get("/v1/health/node/srv1")
        return (check, "passing") in {(c["CheckID"], c["Status"]) for c in checks}

    until(passing, what="the app's check is passing")


def test_the_metadata_endpoint_tells_each_containers_status_and_health(running: Running) -> None:
    task = requests.get(f"{running.task.metadata_uri}/task", timeout=TIMEOUT_SECONDS).json()
    assert (task["TaskARN"], task["Family"]) == (running.task.arn, SERVICE)
    assert (task["DesiredStatus"], task["KnownStatus"]) == ("RUNNING", "RUNNING")
    seen = {
        each["Name"]: (each["KnownStatus"], each.get("Health", {}).get("status"))
        for each in task["Containers"]
    }
    assert seen == {
        CONSUL_CLIENT: ("RUNNING", None),
        MESH_INIT: ("STOPPED", None),
        SIDECAR: ("RUNNING", "HEALTHY"),
        HEALTH_SYNC: ("RUNNING", None),
        APP: ("RUNNING", "HEALTHY"),
    }


# Secrets ------------------------------------------------------------------------------------------


def test_envoys_configuration_is_readable_for_its_owner_only(running: Running) -> None:
    path = running.task.volume("consul_envoy") / "envoy-bootstrap.json"
    assert path.stat().st_mode & 0o777 == 0o400
    config = json.loads(path.read_text())
    assert config["node"]["id"] == proxy_id(service_id(SERVICE, running.task.id))


def test_the_agents_configuration_is_readable_for_its_owner_only(running: Running) -> None:
    path = running.task.volume("consul_data") / "config" / "client.json"
    assert path.stat().st_mode & 0o077 == 0
    assert json.loads(path.read_text())["acl"]["tokens"]["agent"] in running.around.values()


def test_no_secret_is_on_a_command_line_at_any_request_of_the_start(running: Running) -> None:
    assert any("connect envoy" in line for line in running.command_lines)
    assert any(" agent -config-file=" in line for line in running.command_lines)
    for secret in running.around.values():
        assert not any(secret in line for line in running.command_lines)


def test_no_secret_is_in_what_a_container_writes(running: Running) -> None:
    for secret in running.around.values():
        assert not any(secret in line.text for line in running.task.logs)


def test_the_app_has_no_secret_in_its_environment_and_no_volume_with_one(running: Running) -> None:
    (app,) = (c for c in running.task.definition.containers.values() if c.name == APP)
    assert (app.secrets, list(app.mounts)) == ({}, [])
    environment = Path(f"/proc/{running.task.pid(APP)}/environ").read_text()
    for secret in running.around.values():
        assert secret not in environment


def test_a_container_has_its_own_environment_and_not_that_of_its_parent(running: Running) -> None:
    for name in (CONSUL_CLIENT, SIDECAR, HEALTH_SYNC, APP):
        environment = Path(f"/proc/{running.task.pid(name)}/environ").read_text()
        assert "OF_THE_PARENT" not in environment
    agent = Path(f"/proc/{running.task.pid(CONSUL_CLIENT)}/environ").read_text()
    assert "AGENT_TOKEN" not in agent  # it is in the file, from which the agent reads it


def test_the_app_cannot_see_the_volume_that_the_proxy_has_its_socket_in(running: Running) -> None:
    if not running.task.confined:
        pytest.skip("this kernel has no Landlock, which keeps the containers' files apart")
    path = running.task.volume("consul_envoy") / "envoy-bootstrap.json"
    as_app = _run_in(running.task, APP, f"cat {path}")
    assert (as_app.returncode, as_app.stdout) == (1, "")
    assert "Permission denied" in as_app.stderr
    assert _run_in(running.task, APP, f"ls {path.parent}").returncode != 0
    as_proxy = f"cat {path} >/dev/null && touch {path}.new && rm {path}.new"
    assert _run_in(running.task, SIDECAR, as_proxy).returncode == 0


def _run_in(task: LocalTask, container: str, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script with the rights that a container has, as `docker exec` does."""
    confinement = task._confinement(task.definition.containers[container])
    environment = task.process_environment(container)
    command = ["/bin/sh", "-c", script]
    with confinement.start(command, environment, stderr=subprocess.PIPE) as process:
        out, err = process.communicate(timeout=30)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


# Envoy --------------------------------------------------------------------------------------------


class _AtSocket(http.client.HTTPConnection):
    """A connection to a server that listens on a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def _admin_socket(running: Running) -> Path:
    return running.task.volume("consul_envoy") / "admin.sock"


def _administration(running: Running, path: str) -> str:
    """Ask Envoy's administration for something."""
    with closing(_AtSocket(_admin_socket(running))) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.read().decode()


def _listening_ports(pid: int) -> set[int]:
    """Return the TCP ports that a process listens on."""
    own = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            own.add(str(descriptor.readlink()))
    listening = "0A"
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == listening and f"socket:[{fields[9]}]" in own:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


def test_envoys_administration_is_on_no_port(running: Running) -> None:
    with socket.socket() as probe:
        probe.settimeout(TIMEOUT_SECONDS)
        assert probe.connect_ex((running.task.address, 19000)) == errno.ECONNREFUSED
    assert _listening_ports(running.task.pid(SIDECAR)) == {20000, UPSTREAM_PORT}


def test_envoys_administration_which_tells_the_token_is_reached_by_its_user_alone(
    running: Running,
) -> None:
    mode = _admin_socket(running).stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    _, token = running.around.values()
    assert token in _administration(running, "/config_dump")


def test_envoy_accepts_the_configuration(running: Running) -> None:
    environment = running.task.process_environment(SIDECAR)
    path = running.task.volume("consul_envoy") / "envoy-bootstrap.json"
    done = subprocess.run(
        [
            f"{environment['PATH'].split(':')[0]}/envoy",
            *("--mode", "validate", "--config-path", str(path)),
        ],
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "OK" in done.stdout


def test_metrics_that_envoy_offers_on_a_port_come_through_the_socket() -> None:
    _here_or_skip()
    printed = json.loads(RECORDED.read_text())
    for resource in ("lds_config", "cds_config"):
        printed["dynamic_resources"][resource]["initial_fetch_timeout"] = "0.050s"
    with _directory() as directory, free_task_address() as address:
        # What Consul adds for envoy_prometheus_bind_addr.
        printed["static_resources"]["clusters"].append(_cluster_of_administration())
        printed["static_resources"]["listeners"] = [_metrics_listener(address)]
        put_consul(directory, prints=json.dumps(printed))
        text = make_bootstrap(
            f"{directory}/inject/consul", "web", {"PATH": os.environ["PATH"]}, str(directory)
        )
        config = write_bootstrap(str(directory), text)
        command = [str(envoy_executable()), "--disable-hot-restart", "--config-path", str(config)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as envoy:
            try:
                metrics = until(
                    lambda: _text(f"http://{address}:9102/metrics"), what="Envoy has metrics"
                )
                others = requests.get(f"http://{address}:9102/config_dump", timeout=TIMEOUT_SECONDS)
            finally:
                envoy.terminate()
    assert "envoy_server_live" in str(metrics)
    assert others.status_code == 404


def _text(url: str) -> str | None:
    """Return what a server answers; none if it does not, or not with 200."""
    try:
        answer = requests.get(url, timeout=TIMEOUT_SECONDS)
    except requests.RequestException:
        return None
    return answer.text if answer.ok else None


def _cluster_of_administration() -> dict[str, Any]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 19000}}
    return {
        "name": "self_admin",
        "connect_timeout": "5s",
        "type": "STATIC",
        "loadAssignment": {
            "clusterName": "self_admin",
            "endpoints": [{"lbEndpoints": [{"endpoint": {"address": address}}]}],
        },
    }


def _metrics_listener(address: str) -> dict[str, Any]:
    kinds = "type.googleapis.com/envoy.extensions.filters"
    route = {"cluster": "self_admin", "prefix_rewrite": "/stats/prometheus"}
    manager = {
        "@type": f"{kinds}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "metrics",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "self_admin",
                    "domains": ["*"],
                    "routes": [{"match": {"path": "/metrics"}, "route": route}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{kinds}.http.router.v3.Router"},
            }
        ],
    }
    return {
        "name": "envoy_prometheus_metrics_listener",
        "address": {"socket_address": {"address": address, "port_value": 9102}},
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": manager,
                    }
                ]
            }
        ],
    }


# The stop -----------------------------------------------------------------------------------------


def test_a_task_stops_in_the_reverse_order_and_leaves_nothing_in_the_catalog(
    around: Surroundings,
) -> None:
    around.provision()
    with around.task() as task:
        check = synced_check_id(service_id(SERVICE, task.id), APP)
        task.wait_until_event(APP, "healthy")
        task.wait_for(
            lambda t: f"{check} is passing" in t.output(HEALTH_SYNC), meaning="the check passes"
        )
        at_deregistration: list[dict[str, str]] = []

        def look(method: str, path: str) -> Fault | None:
            if "/deregister/" in path and not at_deregistration:
                at_deregistration.append({})  # this one's own request comes here too
                checks = around.get("/v1/health/node/srv1")
                at_deregistration[0].update({c["CheckID"]: c["Status"] for c in checks})
            return None

        around.consul.on_request = look
        around.consul.requests.clear()
        task.stop()
        task.wait_until_stopped()
        expected = [(APP, "exited 0"), (SIDECAR, "stopping"), (SIDECAR, "exited 0")]
        expected += [(CONSUL_CLIENT, "stopping"), (CONSUL_CLIENT, "exited 0")]
        assert _order(task, *expected) == expected
        ends = [e.container for e in task.events if e.what.startswith("exited")]
        assert ends[0] == MESH_INIT
        assert ends[-1] == CONSUL_CLIENT
        assert (task.stop_code, task.stopped_reason) == ("UserInitiated", "Task stopped by user")
        assert at_deregistration[0][check] == "critical"
        templates = [r.path for r in around.consul.requests if r.method == "PUT"]
        assert templates == [
            "/v1/agent/check/update/:check_id",
            "/v1/agent/service/deregister/:service_id",
            "/v1/agent/service/deregister/:service_id",
        ]
        assert around.get("/v1/catalog/services") == {"consul": []}
        assert task.exit_code(HEALTH_SYNC) == 0


def test_a_task_whose_proxy_is_killed_stops(around: Surroundings) -> None:
    around.provision()
    with around.task() as task:
        task.wait_until_event(APP, "started")
        os.kill(task.pid(SIDECAR), signal.SIGKILL)
        task.wait_until_stopped()
        assert task.exit_code(SIDECAR) == 137
        assert task.stop_code == "EssentialContainerExited"
        assert task.stopped_reason == "Essential container in task exited"
        assert task.exit_code(CONSUL_CLIENT) == 0
        assert around.get("/v1/catalog/services") == {"consul": []}


# Starts that go wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "ResourceNotFoundException: Secrets Manager can't find the specified secret value"),
        ("{}", "retrieved secret from Secrets Manager did not contain json key token"),
    ],
)
def test_a_task_without_its_token_does_not_start_and_with_it_does(
    around: Surroundings, value: str | None, reason: str
) -> None:
    client = mesh_service.client_token(around.consul.address, MANAGEMENT)
    around.write(mesh_service.CLIENT_SECRET, mesh_service.secret_value(client))
    if value is not None:
        around.write(mesh_service.SERVICE_SECRET, value)
    with around.task() as task:
        task.wait_until_stopped()
        assert [e.what for e in task.events] == ["stopped"]
        assert task.stop_code == "TaskFailedToStart"
        assert str(task.stopped_reason).startswith(
            "ResourceInitializationError: unable to pull secrets or registry auth: "
        )
        assert reason in str(task.stopped_reason)
    service = mesh_service.service_token(around.consul.address, MANAGEMENT)
    around.write(mesh_service.SERVICE_SECRET, mesh_service.secret_value(service))
    with around.task() as task:
        task.wait_until_event(SIDECAR, "healthy")


def test_mesh_init_waits_for_servers_that_are_away(around: Surroundings) -> None:
    around.provision()
    around.consul.stop()
    with around.task() as task:
        task.wait_for(
            lambda t: "has not reached a server yet" in t.output(MESH_INIT),
            meaning="mesh-init waits",
        )
        assert task.known_status(MESH_INIT) == "RUNNING"
        assert task.known_status(SIDECAR) == "NONE"
        around.consul.start()
        task.wait_until_event(SIDECAR, "healthy")


def test_mesh_init_waits_for_an_agent_that_comes_late(around: Surroundings) -> None:
    around.provision()
    definition = mesh_service.with_late_agent(
        mesh_service.quicker(around.definition), "/consul/may-start"
    )
    with around.task(definition) as task:
        task.wait_for(
            lambda t: "does not answer: Connection refused" in t.output(MESH_INIT),
            meaning="mesh-init waits",
        )
        (waits,) = (line for line in task.logs if "does not answer" in line.text)
        assert f"Waiting. The Consul agent at http://{task.address}:8500 " in waits.text
        assert task.known_status(CONSUL_CLIENT) == "RUNNING"
        assert task.known_status(MESH_INIT) == "RUNNING"
        assert task.known_status(SIDECAR) == "NONE"
        assert "Consul agent running!" not in task.output(CONSUL_CLIENT)
        came = task.since_start()
        (task.volume("consul_data") / "may-start").touch()
        task.wait_until_event(APP, "healthy")
        assert task.wait_until_event(MESH_INIT, "exited 0").seconds > came
        listens = f"http://{task.address}:20000/"
        assert requests.get(listens, timeout=TIMEOUT_SECONDS).text == GREETING


def test_mesh_init_gives_up_with_a_token_that_is_refused_and_the_task_stops(
    around: Surroundings,
) -> None:
    around.provision()
    around.write(mesh_service.SERVICE_SECRET, mesh_service.secret_value(WRONG_TOKEN))
    with around.task(preparation=IMPATIENT) as task:
        task.wait_until_stopped()
        assert task.exit_code(MESH_INIT) == 1
        assert task.stop_code == "EssentialContainerExited"
        assert task.event(SIDECAR, "started") is None
        assert task.event(APP, "started") is None
        assert "Refused for" in task.output(MESH_INIT)
        assert not any(WRONG_TOKEN in line.text for line in task.logs)


def test_an_agent_whose_token_is_refused_ends_and_the_task_stops(around: Surroundings) -> None:
    around.provision()
    around.write(mesh_service.CLIENT_SECRET, mesh_service.secret_value(WRONG_TOKEN))
    with around.task() as task:
        task.wait_until_stopped()
        assert task.exit_code(CONSUL_CLIENT) == 1
        assert "the agent's token is refused" in task.output(CONSUL_CLIENT)


def test_an_agent_refuses_a_configuration_that_consul_does_not_know(around: Surroundings) -> None:
    around.provision()
    changed = mesh_service.quicker(around.definition)
    (variable,) = mesh_service.by_name(changed)[CONSUL_CLIENT]["environment"]
    config = json.loads(variable["value"])
    variable["value"] = json.dumps(config | {"grpc_port": 8502})
    with around.task(changed) as task:
        task.wait_until_stopped()
        assert task.exit_code(CONSUL_CLIENT) == 1
        assert "invalid config key grpc_port" in task.output(CONSUL_CLIENT)
