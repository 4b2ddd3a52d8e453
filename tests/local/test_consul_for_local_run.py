"""Which Consul a local run takes, and what it says when it cannot take it.

There is no real ``consul`` executable here: a stand-in takes its place, which notes its arguments
and serves the embedded Consul where its configuration file says. So the start, the wait and the
stop are tested for real, and that a real Consul accepts the configuration is not.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from local.consul import EmbeddedConsul, consul_for_local_run
from local.consul.binary import ConsulBinaryError, running_consul
from local.consul.remote import RemoteConsulError

MANAGEMENT = "e3e4f0d1-0000-4000-8000-00000000aaaa"
ROOT = Path(__file__).parents[2]

# Not ready at first, as a real server: until it is asked for its leader a second time.
_STAND_IN = f"""
import json, os, pathlib, signal, sys, threading
sys.path.insert(0, {str(ROOT)!r})
here = pathlib.Path(__file__).parent
if sys.argv[1:] == ["version"]:
    print("Consul v1.17.3\\nRevision abc")
    sys.exit()
(here / "process-id").write_text(str(os.getpid()))
(here / "arguments.json").write_text(json.dumps(sys.argv[1:]))
config_file = pathlib.Path(sys.argv[2].removeprefix("-config-file="))
config = json.loads(config_file.read_text())
from local.consul import EmbeddedConsul
BEHAVIOUR
server = EmbeddedConsul(port=config["ports"]["http"])
server.state = "starting"
def on_request(method, path):
    if len(server.requests) >= 2:
        server.state = "ready"
server.on_request = on_request
ended = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ended.set())
with server:
    ended.wait()
(here / "ended").touch()
"""


@pytest.fixture(autouse=True)
def _no_consul_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("CONSUL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def _stand_in(tmp_path: Path, behaviour: str = "") -> Path:
    executable = tmp_path / "bin" / "consul"
    executable.parent.mkdir(exist_ok=True)
    program = executable.with_suffix(".py")
    program.write_text(_STAND_IN.replace("BEHAVIOUR", behaviour))
    # By way of a shell, since the path of an interpreter may be too much for a first line.
    executable.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{program}" "$@"\n')
    executable.chmod(0o755)
    return executable


def _refuses_connections(address: str) -> bool:
    host, _, port = address.removeprefix("http://").partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) != 0


# Embedded ---------------------------------------------------------------------------------------


def test_without_any_consul_the_embedded_one_runs_and_is_new(tmp_path: Path) -> None:
    with consul_for_local_run(workdir=tmp_path) as server:
        assert (server.kind, server.version, server.management_token) == (
            "embedded",
            "1.10.1",
            None,
        )
        assert requests.put(f"{server.address}/v1/acl/bootstrap", timeout=10).ok
    assert _refuses_connections(server.address)


# A binary ---------------------------------------------------------------------------------------


def test_an_executable_on_the_path_is_run_until_the_end_and_gets_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executable = _stand_in(tmp_path)
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", MANAGEMENT)
    with consul_for_local_run(workdir=tmp_path / "work") as server:
        assert (server.kind, server.version, server.management_token) == ("binary", "1.17.3", None)
        assert requests.put(f"{server.address}/v1/acl/bootstrap", timeout=10).ok
    arguments = json.loads((executable.parent / "arguments.json").read_text())
    config_file = tmp_path / "work" / "consul-1" / "server.json"
    assert arguments == ["agent", f"-config-file={config_file}"]
    config = json.loads(config_file.read_text())
    ports = config.pop("ports")
    assert config == {
        "server": True,
        "bootstrap_expect": 1,
        "node_name": "srv1",
        "datacenter": "dc1",
        "data_dir": str(tmp_path / "work" / "consul-1" / "data"),
        "bind_addr": "127.0.0.1",
        "client_addr": "127.0.0.1",
        "disable_update_check": True,
        "acl": {
            "enabled": True,
            "default_policy": "deny",
            "enable_token_persistence": True,
        },
    }
    listening = {ports.pop(name) for name in ("http", "server", "serf_lan", "serf_wan")}
    assert len(listening) == 4
    assert ports == {"dns": -1, "grpc": -1, "grpc_tls": -1}
    assert (executable.parent / "ended").exists()
    assert _refuses_connections(server.address)


def test_an_executable_can_be_the_server_of_a_service_mesh(tmp_path: Path) -> None:
    executable = _stand_in(tmp_path)
    with running_consul(executable, workdir=tmp_path, connect=True) as server:
        config = json.loads((tmp_path / "consul-1" / "server.json").read_text())
        assert config["connect"] == {"enabled": True}
        assert server.gossip_address == f"127.0.0.1:{config['ports']['serf_lan']}"


def test_an_executable_that_ends_early_is_reported_with_its_log(tmp_path: Path) -> None:
    executable = _stand_in(tmp_path, "sys.exit('bad config')")
    with (
        pytest.raises(ConsulBinaryError, match="ended with 1 before it was ready") as failed,
        running_consul(executable, workdir=tmp_path),
    ):
        pass
    log = Path(str(failed.value).rpartition("Its log: ")[2])
    assert "bad config" in log.read_text()


def test_an_executable_that_finds_its_port_taken_gets_others(tmp_path: Path) -> None:
    behaviour = """
if "consul-1" in str(config_file):
    sys.exit("listen tcp 127.0.0.1:1: bind: address already in use")
"""
    executable = _stand_in(tmp_path, behaviour)
    with running_consul(executable, workdir=tmp_path) as server:
        assert requests.get(f"{server.address}/v1/status/leader", timeout=10).ok
    assert (tmp_path / "consul-2" / "server.json").exists()


def test_an_executable_that_never_finds_a_port_is_given_up(tmp_path: Path) -> None:
    executable = _stand_in(tmp_path, "sys.exit('bind: address already in use')")
    with (
        pytest.raises(ConsulBinaryError, match="consul-3"),
        running_consul(executable, workdir=tmp_path),
    ):
        pass


def test_an_executable_that_does_not_get_ready_is_ended_at_the_deadline(tmp_path: Path) -> None:
    behaviour = "threading.Event().wait()"
    executable = _stand_in(tmp_path, behaviour)
    with (
        pytest.raises(ConsulBinaryError, match=r"not ready after 0\.5 s"),
        running_consul(executable, workdir=tmp_path, ready_seconds=0.5),
    ):
        pass


def test_an_executable_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    behaviour = "signal.signal = lambda *_: None\nsignal.pthread_sigmask(0, {signal.SIGTERM})"
    executable = _stand_in(tmp_path, behaviour)
    with running_consul(executable, workdir=tmp_path, stop_seconds=0.2):
        process_id = int((executable.parent / "process-id").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(process_id, 0)
    assert not (executable.parent / "ended").exists()


def test_an_executable_that_is_not_consul_is_refused(tmp_path: Path) -> None:
    executable = _stand_in(tmp_path)
    executable.write_text("#!/bin/sh\necho something else\n")
    with (
        pytest.raises(ConsulBinaryError, match="is not Consul"),
        running_consul(executable, workdir=tmp_path),
    ):
        pass
    executable.write_text("#!/bin/sh\nexit 3\n")
    with (
        pytest.raises(ConsulBinaryError, match="does not run"),
        running_consul(executable, workdir=tmp_path),
    ):
        pass


# Remote -----------------------------------------------------------------------------------------


@pytest.fixture
def somebodys() -> Iterator[EmbeddedConsul]:
    with EmbeddedConsul(initial_management=MANAGEMENT, version="1.10.7") as server:
        yield server


def test_a_consul_that_the_environment_names_is_used_and_left_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, somebodys: EmbeddedConsul
) -> None:
    _stand_in(tmp_path)  # does not matter: the environment wins
    # Consul's own tools take an address without a scheme.
    monkeypatch.setenv("CONSUL_HTTP_ADDR", somebodys.address.removeprefix("http://"))
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", MANAGEMENT)
    with consul_for_local_run(workdir=tmp_path) as server:
        assert (server.kind, server.version) == ("remote", "1.10.7")
        assert server.address == somebodys.address
        assert server.management_token == MANAGEMENT
        assert MANAGEMENT not in repr(server)
    assert requests.get(f"{somebodys.address}/v1/status/leader", timeout=10).ok


def _error(tmp_path: Path) -> str:
    with pytest.raises(RemoteConsulError) as failed, consul_for_local_run(workdir=tmp_path):
        pass
    return str(failed.value)


def test_a_consul_without_a_token_to_it_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, somebodys: EmbeddedConsul
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_ADDR", somebodys.address)
    error = _error(tmp_path)
    assert somebodys.address in error
    assert "CONSUL_HTTP_TOKEN is not set" in error


def test_a_consul_that_does_not_answer_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, somebodys: EmbeddedConsul
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_ADDR", somebodys.address)
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", MANAGEMENT)
    somebodys.stop()
    error = _error(tmp_path)
    assert f"CONSUL_HTTP_ADDR is set to {somebodys.address}, where no Consul answers" in error


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("unknown", "ACL not found"),
        ("powerless", "Permission denied"),
        ("reader", "it may read ACLs, but not write them"),
    ],
)
def test_a_token_that_is_not_a_management_token_is_not_used(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    somebodys: EmbeddedConsul,
    token: str,
    why: str,
) -> None:
    secrets = {"unknown": "e3e4f0d1-0000-4000-8000-00000000dead"}
    headers = {"X-Consul-Token": MANAGEMENT}
    policy = {"Name": "reader", "Rules": 'acl = "read"'}
    requests.put(f"{somebodys.address}/v1/acl/policy", json=policy, headers=headers, timeout=10)
    for name, body in (("powerless", {}), ("reader", {"Policies": [{"Name": "reader"}]})):
        created = requests.put(
            f"{somebodys.address}/v1/acl/token", json=body, headers=headers, timeout=10
        )
        secrets[name] = created.json()["SecretID"]
    monkeypatch.setenv("CONSUL_HTTP_ADDR", somebodys.address)
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", secrets[token])
    error = _error(tmp_path)
    assert somebodys.address in error
    assert why in error
    assert secrets[token] not in error


def test_a_consul_that_is_not_ready_or_has_no_acls_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, somebodys: EmbeddedConsul
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_ADDR", somebodys.address)
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", MANAGEMENT)
    somebodys.state = "no_leader"
    assert "is not ready" in _error(tmp_path)
    with EmbeddedConsul(acl="disabled") as open_to_all:
        monkeypatch.setenv("CONSUL_HTTP_ADDR", open_to_all.address)
        assert "has its ACLs disabled" in _error(tmp_path)
