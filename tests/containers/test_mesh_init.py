"""mesh-init: what it registers and writes, what it waits for, and what it gives up on."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from containers import envoy_bootstrap, mesh_init
from containers.errors import (
    BootstrapDirUnusable,
    BootstrapFailed,
    EnvironmentInvalid,
    RequestRefused,
    TokenRefused,
    WaitedTooLong,
)
from containers.mesh_init import DEADLINE_SECONDS, REFUSAL_SECONDS
from containers.program import run_program
from containers.registration import proxy_registration, service_registration
from containers.stopping import Stopped
from containers.task_config import Check, TaskConfig, TaskConfigError, UpstreamConfig, Weights
from containers.task_metadata import Task
from local.consul import EmbeddedConsul
from tests.containers.task import (
    RECORDED,
    TASK_ARN,
    TASK_ID,
    TOKEN,
    FakeTask,
    FakeTime,
    config,
    metadata,
    put_consul,
    start,
)
from tests.containers.test_task_config import EVERYTHING
from tests.unit.consul_state import ConsulState
from tests.unit.loopback import Received

TASK = Task(TASK_ARN, "web", {})
META = {"task-id": TASK_ID, "task-arn": TASK_ARN, "source": "consul-ecs"}
MANAGEMENT = "11111111-2222-3333-4444-555555555555"

Run = Callable[..., None]


@pytest.fixture
def run(task: FakeTask, time: FakeTime, volume: Path) -> Run:
    put_consul(volume)

    def run(task_config: TaskConfig | None = None, **variables: str) -> None:
        environment = task.environment(volume, task_config or config(volume), **variables)
        mesh_init.run(
            environment,
            time,
            clock=time.clock,
            jitter=lambda: 1.0,
            inject_dir=str(volume / "inject"),
        )

    return run


# --- What is registered --------------------------------------------------------------------------


def test_a_service_is_registered_as_hashicorp_does_it() -> None:
    task_config = config(
        service={
            "tags": ["v1"],
            "meta": {"source": "mine"},
            "weights": Weights(passing=2, warning=1),
        },
        health_sync_containers=["web", "cache"],
    )
    shared = {
        "Tags": ["v1"],
        "Meta": {**META, "source": "mine"},
        "Weights": {"Passing": 2, "Warning": 1},
    }

    def check(container: str) -> dict[str, Any]:
        return {
            "CheckID": f"web-{TASK_ID}-{container}-consul-ecs",
            "Name": "consul ecs synced",
            "TTL": "100000h",
            "Notes": f"The health of the container {container} as ECS sees it: passing if HEALTHY, "
            "otherwise critical. The container consul-ecs-health-sync keeps it up to date.",
        }

    assert service_registration(task_config, TASK) == {
        "ID": f"web-{TASK_ID}",
        "Name": "web",
        "Port": 8080,
        **shared,
        "Checks": [check("web"), check("cache")],
    }
    assert proxy_registration(task_config, TASK) == {
        "ID": f"web-{TASK_ID}-sidecar-proxy",
        "Name": "web-sidecar-proxy",
        "Kind": "connect-proxy",
        "Port": 20000,
        **shared,
        "Proxy": {
            "DestinationServiceName": "web",
            "DestinationServiceID": f"web-{TASK_ID}",
            "LocalServiceAddress": "127.0.0.1",
            "LocalServicePort": 8080,
        },
        "Checks": [
            {"Name": "Proxy Public Listener", "TCP": "127.0.0.1:20000", "Interval": "10s"},
            {"Name": "Destination Alias", "AliasService": f"web-{TASK_ID}"},
        ],
    }


def test_a_service_that_only_calls_others_has_no_local_port() -> None:
    proxy = proxy_registration(config(service={"port": 0}), TASK)

    assert proxy["Port"] == 20000
    assert proxy["Proxy"] == {
        "DestinationServiceName": "web",
        "DestinationServiceID": f"web-{TASK_ID}",
    }


def test_all_that_a_proxy_can_be_told_is_registered() -> None:
    proxy = proxy_registration(
        config(
            proxy={
                "public_listener_port": 21000,
                "config": {"protocol": "http"},
                "upstreams": [
                    UpstreamConfig(destination_name="api", local_bind_port=1),
                    UpstreamConfig(
                        destination_type="prepared_query",
                        destination_name="near",
                        local_bind_port=2,
                        datacenter="dc2",
                        local_bind_address="127.0.0.2",
                        config={"a": 1},
                        mesh_gateway="local",
                    ),
                ],
                "mesh_gateway": "remote",
                "expose": {
                    "checks": True,
                    "paths": [{"listenerPort": 1, "path": "/x", "localPathPort": 2}],
                },
            }
        ),
        TASK,
    )

    assert proxy["Port"] == 21000
    assert proxy["Checks"][0]["TCP"] == "127.0.0.1:21000"
    assert proxy["Proxy"] == {
        "DestinationServiceName": "web",
        "DestinationServiceID": f"web-{TASK_ID}",
        "LocalServiceAddress": "127.0.0.1",
        "LocalServicePort": 8080,
        "Config": {"protocol": "http"},
        "Upstreams": [
            {"DestinationType": "service", "DestinationName": "api", "LocalBindPort": 1},
            {
                "DestinationType": "prepared_query",
                "DestinationName": "near",
                "Datacenter": "dc2",
                "LocalBindAddress": "127.0.0.2",
                "LocalBindPort": 2,
                "Config": {"a": 1},
                "MeshGateway": {"Mode": "local"},
            },
        ],
        "MeshGateway": {"Mode": "remote"},
        "Expose": {
            "Checks": True,
            "Paths": [{"ListenerPort": 1, "Path": "/x", "LocalPathPort": 2}],
        },
    }


def test_consul_s_own_checks_are_registered_in_its_own_words() -> None:
    checks = (
        Check(http="http://localhost/", interval="5s", header={"A": ("b",)}, tls_skip_verify=True),
        Check(h2ping="localhost:1", h2ping_use_tls=False, interval="5s"),
    )

    assert service_registration(config(service={"checks": checks}), TASK)["Checks"] == [
        {
            "Interval": "5s",
            "HTTP": "http://localhost/",
            "Header": {"A": ["b"]},
            "TLSSkipVerify": True,
        },
        {"Interval": "5s", "H2PING": "localhost:1", "H2PingUseTLS": False},
    ]


def test_consul_understands_all_that_a_document_can_say(
    task: FakeTask, time: FakeTime, volume: Path
) -> None:
    put_consul(volume)
    document = json.loads(json.dumps({**EVERYTHING, "bootstrapDir": str(volume)}))
    # The embedded Consul is a 1.10.1, and does not know this one.
    del document["service"]["checks"][4]["h2pingUseTls"]

    # Like the real one, it refuses fields that it does not know.
    with EmbeddedConsul(acl="disabled") as consul:
        environment = task.environment(
            volume,
            TaskConfig.from_json(json.dumps(document)),
            CONSUL_HTTP_ADDR=consul.address,
        )
        mesh_init.run(environment, time, inject_dir=str(volume / "inject"))

    assert (volume / "envoy-bootstrap.json").exists()


# --- What is written -----------------------------------------------------------------------------


def test_only_the_owner_can_read_what_envoy_starts_from(run: Run, volume: Path) -> None:
    run()
    written = volume / "envoy-bootstrap.json"

    assert json.loads(written.read_text())["node"]["id"] == "web-abc-sidecar-proxy"
    assert stat.S_IMODE(written.stat().st_mode) == 0o400
    assert sorted(path.name for path in volume.iterdir()) == ["envoy-bootstrap.json", "inject"]


def test_consul_is_called_with_the_token_in_its_environment_alone(run: Run, volume: Path) -> None:
    run(CONSUL_GRPC_ADDR="127.0.0.1:9502")
    called = volume / "inject"

    assert (called / "arguments").read_text().splitlines() == [
        "connect",
        "envoy",
        "-proxy-id",
        f"web-{TASK_ID}-sidecar-proxy",
        "-bootstrap",
        "-grpc-addr=127.0.0.1:9502",
    ]
    environment = (called / "environment").read_text()
    assert f"CONSUL_HTTP_TOKEN={TOKEN}\n" in environment
    assert "CONSUL_ECS_CONFIG_JSON" not in environment


def test_what_a_killed_run_left_behind_is_no_obstacle(run: Run, volume: Path) -> None:
    (volume / ".envoy-bootstrap.json.new").write_text("half")
    (volume / "envoy-bootstrap.json").write_text("old")

    run()

    assert json.loads((volume / "envoy-bootstrap.json").read_text())["admin"]


def test_a_consul_in_the_path_will_do(task: FakeTask, time: FakeTime, volume: Path) -> None:
    put_consul(volume)

    mesh_init.run(
        task.environment(volume, config(volume)), time, inject_dir=str(volume / "nowhere")
    )

    assert (volume / "envoy-bootstrap.json").exists()


# --- Envoy's administration ----------------------------------------------------------------------


def recorded(**changed: Any) -> dict[str, Any]:
    """Return what Consul prints; a key that is None is left out."""
    document = json.loads(RECORDED.read_text()) | changed
    return {key: value for key, value in document.items() if value is not None}


def self_admin(names: tuple[str, str, str], address: dict[str, Any]) -> dict[str, Any]:
    """Return the cluster by which Envoy's listeners for metrics reach its administration."""
    assignment, cluster_name, endpoints = names
    return {
        "name": "self_admin",
        "connect_timeout": "5s",
        "type": "STATIC",
        "http_protocol_options": {},
        assignment: {
            cluster_name: "self_admin",
            "endpoints": [{endpoints: [{"endpoint": {"address": address}}]}],
        },
    }


def pipe(directory: Path, **more: Any) -> dict[str, Any]:
    return {"pipe": {"path": f"{directory}/admin.sock", **more}}


PORT = {"socket_address": {"address": "127.0.0.1", "port_value": 19000}}
SNAKE_CASE = ("load_assignment", "cluster_name", "lb_endpoints")
CAMEL_CASE = ("loadAssignment", "clusterName", "lbEndpoints")


def written_of(run: Run, directory: Path, printed: Any) -> Any:
    put_consul(directory, prints=json.dumps(printed))
    run()
    return json.loads((directory / "envoy-bootstrap.json").read_text())


def test_envoy_is_administered_through_a_socket_of_its_user_and_nothing_else_changes(
    run: Run, volume: Path
) -> None:
    run()

    # The administration shows the token and ends the proxy, and all containers share its port.
    assert json.loads((volume / "envoy-bootstrap.json").read_text()) == recorded(
        admin={"access_log_path": "/dev/null", "address": pipe(volume, mode=0o600)}
    )


@pytest.mark.parametrize("names", [SNAKE_CASE, CAMEL_CASE])
def test_metrics_that_envoy_reads_from_itself_come_through_the_socket_too(
    names: tuple[str, str, str], run: Run, volume: Path
) -> None:
    others = recorded()["static_resources"]["clusters"]
    listeners = [{"name": "envoy_prometheus_metrics_listener", "address": PORT}]

    written = written_of(
        run,
        volume,
        recorded(
            static_resources={
                "clusters": [*others, self_admin(names, PORT)],
                "listeners": listeners,
            }
        ),
    )

    assert written == recorded(
        admin={"access_log_path": "/dev/null", "address": pipe(volume, mode=0o600)},
        static_resources={
            "clusters": [*others, self_admin(SNAKE_CASE, pipe(volume))],
            "listeners": listeners,
        },
    )


@pytest.mark.parametrize("admin", [None, {}, {"address": None}, {"access_log_path": "/dev/null"}])
def test_an_envoy_without_an_administration_gets_none(
    admin: dict[str, Any] | None, run: Run, volume: Path
) -> None:
    printed = recorded(admin=admin)

    assert written_of(run, volume, printed) == printed


@pytest.mark.parametrize(
    "address",
    [{"socketAddress": {"address": "::1", "portValue": 19000}}, {"pipe": {"path": "@abstract"}}],
)
def test_an_administration_is_moved_from_wherever_it_is(
    address: dict[str, Any], run: Run, volume: Path
) -> None:
    written = written_of(run, volume, recorded(admin={"address": address}))

    assert written["admin"] == {"address": pipe(volume, mode=0o600)}


@pytest.mark.parametrize(
    "admin",
    [[], "127.0.0.1:19000", {"address": "127.0.0.1:19000"}, {"address": {}}, {"address": []},
     {"address": {"envoy_internal_address": {"server_listener_name": "x"}}},
     {"address": {"pipe": {"path": "/x"}, "other": 1}}],
)  # fmt: skip
def test_an_administration_that_cannot_be_moved_is_refused(
    admin: Any, run: Run, volume: Path
) -> None:
    with pytest.raises(BootstrapFailed, match=r"admin\.address"):
        written_of(run, volume, recorded(admin=admin))
    assert not (volume / "envoy-bootstrap.json").exists()


def test_a_directory_whose_path_is_too_long_for_a_socket_is_told_before_anything_is_asked(
    run: Run, task: FakeTask, volume: Path
) -> None:
    for length in (96, 97):
        directory = volume / ("d" * (length - len(str(volume)) - 1))
        directory.mkdir()
        if length == 96:
            run(config(directory))
            task.requests.clear()
        else:
            with pytest.raises(BootstrapDirUnusable, match="at most 96 bytes"):
                run(config(directory))

    assert task.requests == []


# --- A Consul with ACLs --------------------------------------------------------------------------


def test_a_second_run_leaves_the_same_state(task: FakeTask, time: FakeTime, volume: Path) -> None:
    with EmbeddedConsul(initial_management=MANAGEMENT) as consul:
        state = ConsulState(consul, MANAGEMENT)
        state.create_token(SecretID=TOKEN, ServiceIdentities=[{"ServiceName": "web"}])
        put_consul(volume)

        def run(*containers: str) -> Any:
            mesh_init.run(
                task.environment(
                    volume,
                    config(volume, health_sync_containers=containers),
                    CONSUL_HTTP_ADDR=consul.address,
                ),
                time,
                inject_dir=str(volume / "inject"),
            )
            services = state.call("GET", "/v1/agent/services")
            checks = [
                (check["ServiceID"], check["CheckID"], check["Notes"])
                for name in ("web", "web-sidecar-proxy")
                for instance in state.call("GET", f"/v1/health/service/{name}")
                for check in instance["Checks"]
                if check["ServiceID"]
            ]
            return services, sorted(checks)

        run("web", "renamed")
        first, second = run("web"), run("web")
        state.close()

    assert first == second
    services, checks = first
    assert sorted(services) == [f"web-{TASK_ID}", f"web-{TASK_ID}-sidecar-proxy"]
    assert services[f"web-{TASK_ID}"]["Meta"] == META
    # The check of the container that has gone went with it.
    assert [check_id for _, check_id, _ in checks] == [
        f"web-{TASK_ID}-web-consul-ecs",
        f"service:web-{TASK_ID}-sidecar-proxy:1",
        f"service:web-{TASK_ID}-sidecar-proxy:2",
    ]
    assert time.pauses == []


def test_a_token_that_comes_late_is_never_shown_to_the_agent_too_early(
    task: FakeTask, time: FakeTime, volume: Path
) -> None:
    put_consul(volume)
    with EmbeddedConsul(initial_management=MANAGEMENT) as consul:
        state = ConsulState(consul, MANAGEMENT)

        def third_pause() -> None:
            if len(time.pauses) == 3:
                state.create_token(SecretID=TOKEN, ServiceIdentities=[{"ServiceName": "web"}])

        time.at_pause = third_pause
        mesh_init.run(
            task.environment(volume, config(volume), CONSUL_HTTP_ADDR=consul.address),
            time,
            clock=time.clock,
            inject_dir=str(volume / "inject"),
        )
        registrations = [r.status for r in consul.requests if r.path.endswith("/register")]
        state.close()

    assert len(time.pauses) == 3
    assert registrations == [200, 200]


def test_an_agent_without_acls_needs_no_token(task: FakeTask, time: FakeTime, volume: Path) -> None:
    put_consul(volume)
    with EmbeddedConsul(acl="disabled") as consul:
        for token in (TOKEN, ""):
            mesh_init.run(
                task.environment(
                    volume,
                    config(volume),
                    CONSUL_HTTP_ADDR=consul.address,
                    CONSUL_HTTP_TOKEN=token,
                ),
                time,
                inject_dir=str(volume / "inject"),
            )
    assert time.pauses == []


# --- What it waits for ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status", "text", "message"),
    [
        ("/v4/", 500, "", "metadata endpoint answers with HTTP status 500"),
        ("/v4/", 200, "{}", "is not a task"),
        ("/v4/", 200, '{"TaskARN": "x", "Family": "y"}', "is not a task"),
        ("/v4/", 0, "", "metadata endpoint does not answer"),
        ("/v1/status/leader", 0, "", "does not answer: the connection was closed"),
        ("/v1/status/leader", 200, '""', "the Consul servers have no leader"),
        ("/v1/status/leader", 500, "No known Consul servers", "has not reached a server yet"),
        ("/v1/acl/token/self", 500, "legacy mode", "cannot serve /v1/acl/token/self now"),
        ("/v1/agent/service/register", 500, "x", "cannot serve /v1/agent/service/register now"),
        ("/v1/agent/service/register", 429, "x", "cannot serve"),
    ],
)
def test_what_passes_is_waited_for_and_named_if_it_does_not(
    path: str, status: int, text: str, *, message: str, run: Run, task: FakeTask, time: FakeTime
) -> None:
    task.answers[path] = status, text
    time.at_pause = lambda: task.answers.clear() if time.now > 20 else None
    run()
    assert len(task.writes) == 2
    # Growing, then steady.
    assert time.pauses[:5] == pytest.approx([0.2, 0.4, 0.8, 1.6, 2.0])
    assert set(time.pauses[5:]) == {2.0}

    time.at_pause = lambda: None
    task.answers[path] = status, text
    with pytest.raises(WaitedTooLong, match=f"Gave up after {DEADLINE_SECONDS} s") as caught:
        run()
    assert message in str(caught.value)


def test_the_binary_is_waited_for_before_anything_is_registered(
    run: Run, task: FakeTask, time: FakeTime, volume: Path
) -> None:
    consul = volume / "inject" / "consul"
    program = consul.read_text()
    consul.unlink()

    def appear() -> None:
        assert task.writes == []
        consul.write_text(program)
        consul.chmod(0o755)

    time.at_pause = appear
    run(PATH="/usr/bin:/bin")

    assert len(time.pauses) == 1
    assert len(task.writes) == 2


@pytest.mark.parametrize(
    "complaint",
    [
        "dial tcp 127.0.0.1:8500: connect: connection refused",
        "Unexpected response code: 500 (No cluster leader)",
        "Unexpected response code: 404 (unknown service ID: web-1-sidecar-proxy)",
        "read: i/o timeout",
    ],
)
def test_a_command_that_found_the_agent_unready_is_run_again_after_registering_again(
    complaint: str, run: Run, task: FakeTask, time: FakeTime, volume: Path
) -> None:
    put_consul(volume, says=complaint, code=1)
    time.at_pause = lambda: void(put_consul(volume))

    run()

    assert len(time.pauses) == 1
    assert len(task.writes) == 4


def void(_: object) -> None:
    """Return nothing, whatever there is."""


# --- Refusals ------------------------------------------------------------------------------------

REFUSALS = [
    ("/v1/acl/token/self", 403, "ACL not found"),
    ("/v1/acl/token/self", 404, "ACL not found"),
    ("/v1/agent/service/register", 403, "ACL not found"),
    ("/v1/agent/service/register", 403, "Permission denied: Missing service:write on web"),
]


@pytest.mark.parametrize(("path", "status", "text"), REFUSALS)
def test_a_refusal_that_a_cache_may_remember_is_waited_out(
    path: str, status: int, text: str, *, run: Run, task: FakeTask, time: FakeTime
) -> None:
    task.answers[path] = status, text
    time.at_pause = lambda: task.answers.clear() if time.now > 31 else None

    run()

    assert len(task.writes) == 2


@pytest.mark.parametrize(("path", "status", "text"), REFUSALS)
def test_a_refusal_that_no_cache_remembers_is_final(
    path: str, status: int, text: str, *, run: Run, task: FakeTask, time: FakeTime
) -> None:
    task.answers[path] = status, text

    with pytest.raises(TokenRefused) as caught:
        run()

    assert REFUSAL_SECONDS <= time.now < REFUSAL_SECONDS + 5
    assert text in str(caught.value)
    assert "CONSUL_HTTP_TOKEN" in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_a_refusal_does_not_count_while_the_servers_have_no_leader(
    run: Run, task: FakeTask, time: FakeTime
) -> None:
    task.answers["/v1/acl/token/self"] = 403, "ACL not found"

    def lose_the_leader_every_now_and_then() -> None:
        if len(time.pauses) % 10 == 0:
            task.answers["/v1/status/leader"] = 200, '""'
        else:
            task.answers.pop("/v1/status/leader", None)

    time.at_pause = lose_the_leader_every_now_and_then
    with pytest.raises(WaitedTooLong):
        run()


def test_a_registration_without_a_token_says_which_one_to_give(run: Run, task: FakeTask) -> None:
    task.answers["/v1/agent/"] = 403, "Permission denied"

    with pytest.raises(TokenRefused, match="as the secret CONSUL_HTTP_TOKEN"):
        run(CONSUL_HTTP_TOKEN="")
    assert not any("X-Consul-Token" in received.headers for received in task.requests)


def test_a_refusal_that_the_command_meets_is_waited_out_too(
    run: Run, time: FakeTime, volume: Path
) -> None:
    put_consul(volume, says="Unexpected response code: 403 (ACL not found)", code=1)

    with pytest.raises(TokenRefused, match="consul connect envoy is refused"):
        run()
    assert time.now >= REFUSAL_SECONDS


# --- What it gives up on at once -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "error", "message"),
    [
        ({"CONSUL_ECS_CONFIG_JSON": ""}, EnvironmentInvalid, "CONSUL_ECS_CONFIG_JSON is not set"),
        ({"CONSUL_ECS_CONFIG_JSON": "{}"}, TaskConfigError, "bootstrapDir is missing"),
        ({"ECS_CONTAINER_METADATA_URI_V4": ""}, EnvironmentInvalid, "METADATA_URI_V4 is not set"),
        ({"ECS_CONTAINER_METADATA_URI_V4": "http://[x"}, EnvironmentInvalid, "is not set"),
        ({"CONSUL_HTTP_ADDR": "https://127.0.0.1:8501"}, EnvironmentInvalid, "plain HTTP"),
        ({"CONSUL_HTTP_ADDR": "unix:///x"}, EnvironmentInvalid, "plain HTTP"),
        ({"CONSUL_HTTP_ADDR": "127.0.0.1:port"}, EnvironmentInvalid, "plain HTTP"),
        ({"CONSUL_HTTP_TOKEN": '{"token":\n"x"}'}, EnvironmentInvalid, "is not a token"),
    ],
)
def test_a_wrong_environment_is_told_before_anything_is_asked(
    variables: dict[str, str], error: type[Exception], message: str, run: Run, task: FakeTask
) -> None:
    with pytest.raises(error, match=message):
        run(**variables)

    assert task.requests == []


def test_a_directory_that_cannot_be_written_is_told_before_anything_is_asked(
    run: Run, task: FakeTask, volume: Path
) -> None:
    (volume / "file").touch()
    for directory in (volume / "absent", volume / "file"):
        with pytest.raises(BootstrapDirUnusable, match="Mount a volume there"):
            run(config(directory))

    assert task.requests == []


@pytest.mark.parametrize("status", [400, 404, 405])
def test_a_registration_that_consul_finds_wrong_is_not_repeated(
    status: int, run: Run, task: FakeTask, time: FakeTime
) -> None:
    task.answers["/v1/agent/service/register"] = status, "Invalid\ncheck"

    with pytest.raises(RequestRefused, match=f"HTTP {status}: Invalid check"):
        run()
    assert time.pauses == []


@pytest.mark.parametrize(
    ("consul", "message"),
    [
        ({"says": "flag provided but not defined: -x", "code": 1}, "not defined: -x"),
        ({"prints": "hello"}, "is not JSON"),
        ({"prints": "[]"}, "without node.cluster, node.id, static_resources.clusters, dyn"),
        ({"prints": '{"admin": {"a": 1}, "node": {"id": "a", "cluster": "b"}}'},
         "without static_resources.clusters, dynamic_resources.ads_config"),
    ],
)  # fmt: skip
def test_a_command_that_fails_otherwise_is_not_repeated(
    consul: dict[str, Any], message: str, run: Run, time: FakeTime, volume: Path
) -> None:
    put_consul(volume, **consul)

    with pytest.raises(BootstrapFailed, match=message):
        run()
    assert time.pauses == []
    assert not (volume / "envoy-bootstrap.json").exists()


def test_a_binary_for_another_processor_is_named(run: Run, volume: Path) -> None:
    (volume / "inject" / "consul").write_bytes(b"\x7fELF nothing")

    with pytest.raises(BootstrapFailed, match="CPU architecture"):
        run()


def test_a_command_that_was_killed_is_run_again(run: Run, time: FakeTime, volume: Path) -> None:
    consul = volume / "inject" / "consul"
    consul.write_text("#!/bin/sh\nkill -9 $$\n")
    time.at_pause = lambda: void(put_consul(volume))

    run()

    assert len(time.pauses) == 1


def test_a_command_that_hangs_is_run_again(
    run: Run, time: FakeTime, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(envoy_bootstrap, "_TIMEOUT_SECONDS", 0.05)
    (volume / "inject" / "consul").write_text("#!/bin/sh\nexec sleep 60\n")

    def mend() -> None:
        monkeypatch.undo()
        put_consul(volume)

    time.at_pause = mend
    run()

    assert len(time.pauses) == 1


def test_a_disk_that_is_full_is_told_and_nothing_half_written_stays(
    run: Run, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(BootstrapDirUnusable, match="No space left on device"):
        run()
    assert [path.name for path in volume.iterdir()] == ["inject"]


def test_a_task_that_is_stopped_is_waited_for_no_longer(
    run: Run, task: FakeTask, time: FakeTime
) -> None:
    task.answers["/v1/"] = 0, ""

    def stop() -> None:
        time.requested = True

    time.at_pause = stop
    with pytest.raises(Stopped):
        run()
    assert len(time.pauses) == 1


# --- No secret gets out --------------------------------------------------------------------------


@pytest.mark.usefixtures("own_process")
def test_nothing_that_is_logged_has_the_token_in_it(
    task: FakeTask, volume: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    complaint = "x" * 990 + f" bad token {TOKEN.upper()} " + "y" * 980
    put_consul(volume, says=complaint, code=1)
    # What a failing agent echoes, cut where the token is.
    task.answers["/v1/agent/service/register"] = 400, "z" * 280 + f" {TOKEN}"
    environment = task.environment(volume, config(volume))

    assert run_program(mesh_init.run, environment, stop_interrupts=True) == 1
    task.answers.clear()
    assert run_program(mesh_init.run, environment, stop_interrupts=True) == 1

    out, err = capfd.readouterr()
    assert out == ""
    assert "ERROR RequestRefused: The Consul agent" in err
    assert "ERROR BootstrapFailed: consul connect envoy ended with status 1" in err
    for length in range(6, len(TOKEN)):
        assert TOKEN[:length] not in err
        assert TOKEN.upper()[-length:] not in err
    assert "bootstrapDir" not in err


@pytest.mark.usefixtures("own_process")
def test_a_defect_is_logged_without_the_token_too(capfd: pytest.CaptureFixture[str]) -> None:
    def broken(environment: Any, stop: Any) -> None:
        raise LookupError(environment["CONSUL_HTTP_TOKEN"])

    assert run_program(broken, {"CONSUL_HTTP_TOKEN": TOKEN}, stop_interrupts=True) == 1

    err = capfd.readouterr().err
    assert "LookupError: <redacted>" in err
    assert TOKEN not in err


# --- As a process --------------------------------------------------------------------------------


def test_as_a_process_it_ends_with_0_when_all_is_done(task: FakeTask, volume: Path) -> None:
    put_consul(volume)

    with start("mesh-init", task.environment(volume, config(volume))) as process:
        out, err = process.communicate(timeout=30)

    assert (process.returncode, out) == (0, "")
    assert err.splitlines() == [
        f"INFO Registered the service web-{TASK_ID}.",
        f"INFO Registered its proxy web-{TASK_ID}-sidecar-proxy.",
        f"INFO Wrote the proxy's configuration to {volume}/envoy-bootstrap.json.",
    ]
    assert TOKEN not in err


@pytest.mark.parametrize("place", ["waiting", "in a request"])
def test_as_a_process_it_ends_at_once_when_the_task_is_stopped(
    place: str, task: FakeTask, volume: Path
) -> None:
    put_consul(volume)
    task.answers["/v1/status/leader"] = 200, '""'
    seen: list[str] = []

    def note(received: Received) -> None:
        seen.append(received.path)
        if place == "in a request" and received.path == "/v1/status/leader":
            with task.changed:
                task.changed.notify_all()
                # Until the process hangs up; the answer comes too late.
                task.changed.wait_for(lambda: "ended" in seen, timeout=8)

    task.before = note
    with start("mesh-init", task.environment(volume, config(volume))) as process:
        task.wait_for(lambda: "/v1/status/leader" in seen)
        process.terminate()
        _, err = process.communicate(timeout=5)
        with task.changed:
            seen.append("ended")
            task.changed.notify_all()

    assert process.returncode == 1
    assert err.splitlines()[-1] == "ERROR ECS stopped the task before this was done."


def test_metadata_of_a_short_arn_is_understood(run: Run, task: FakeTask) -> None:
    task.metadata = {**metadata(), "TaskARN": f"arn:aws-cn:ecs:cn-north-1:1:task/{TASK_ID}"}

    run()

    assert task.writes[0][1]["ID"] == f"web-{TASK_ID}"


def test_an_agent_that_listens_nowhere_is_named(
    task: FakeTask, time: FakeTime, volume: Path
) -> None:
    put_consul(volume)
    environment = task.environment(volume, config(volume), CONSUL_HTTP_ADDR="127.0.0.1:1")

    with pytest.raises(WaitedTooLong, match="does not answer: Connection refused"):
        mesh_init.run(environment, time, clock=time.clock, inject_dir=str(volume / "inject"))


def test_registrations_replace_the_checks_of_earlier_ones(run: Run, task: FakeTask) -> None:
    run()

    assert {path for path, _ in task.writes} == {
        "/v1/agent/service/register?replace-existing-checks=true"
    }
    assert [body["ID"] for _, body in task.writes] == [
        f"web-{TASK_ID}",
        f"web-{TASK_ID}-sidecar-proxy",
    ]
