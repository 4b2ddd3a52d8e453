"""A mesh task with a real Consul, where there is one: the agent joins, Envoy is configured by xDS.

Not run for real where this project's tests usually run: there is no `consul` on the PATH there.
What the stand-in leaves out is in here: gossip, the agent's caches, `consul connect envoy`, mTLS
between proxies, intentions.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from local.cloud.waiting import until
from local.consul.binary import running_consul
from local.task.images import missing_programs
from local.task.record import CONSUL_CLIENT, MESH_INIT, milestones
from local.task.task import LocalTask
from tests.local import mesh_service
from tests.local.mesh_service import APP, GREETING, SERVICE, UPSTREAM_PORT

# Not the one that stands for the task itself, which would be translated.
SERVER = "127.0.0.2"
TIMEOUT_SECONDS = 10

CONSUL = mesh_service.real_consul()
pytestmark = [
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="only on Linux is all of 127.0.0.0/8 there"
    ),
    pytest.mark.skipif(
        CONSUL is None, reason="there is no consul on the PATH: not tried with a real one"
    ),
    pytest.mark.skipif(
        bool(missing_programs()), reason=f"not on this machine: {', '.join(missing_programs())}"
    ),
]


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory with a short path, for there is a socket in it; pytest's are long."""
    with tempfile.TemporaryDirectory(prefix="mesh-") as made:
        yield Path(made)


def _call(method: str, url: str, token: str, body: Any = None) -> Any:
    answer = requests.request(
        method, url, json=body, headers={"X-Consul-Token": token}, timeout=TIMEOUT_SECONDS
    )
    answer.raise_for_status()
    return answer.json() if answer.content else None


def test_a_task_joins_a_real_consul_and_its_app_answers_through_two_proxies_and_leaves(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CONSUL is not None
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    with running_consul(CONSUL, workdir=directory / "server", host=SERVER, connect=True) as server:
        address = server.address
        management = _call("PUT", f"{address}/v1/acl/bootstrap", "")["SecretID"]
        client = mesh_service.client_token(address, management)
        service = mesh_service.service_token(address, management)
        intention = f"{address}/v1/connect/intentions/exact?source={SERVICE}&destination={SERVICE}"
        # A real Envoy is told to listen on all addresses, and to find the app at 127.0.0.1.
        from tests.local.synthesized_service import synthesize_service  # noqa: PLC0415 - takes long

        definition = synthesize_service(directory, retry_join=[server.gossip_address], listen="")
        with LocalTask(
            definition,
            images=mesh_service.images(
                definition, directory / "images", server=address, consul=CONSUL
            ),
            resolve_secret=lambda name: client if "client-token" in name else service,
            workdir=directory / "task",
        ) as task:
            task.wait_until_event(APP, "healthy", within=120)
            moments = milestones(task.events, [APP])
            mesh_service.check_moments(moments, definition)
            upstream = f"http://127.0.0.1:{UPSTREAM_PORT}/"

            def answered() -> str | None:
                try:
                    return requests.get(upstream, timeout=TIMEOUT_SECONDS).text
                except requests.RequestException:
                    return None

            # Default deny: nobody may call the service, not even itself.
            assert answered() is None
            _call("PUT", intention, management, {"Action": "allow"})
            assert until(answered, within=60, what="the app answers through the mesh") == GREETING
            with pytest.raises(requests.RequestException):
                # The public listener wants a certificate of the mesh.
                requests.get(f"http://{task.address}:20000/", timeout=TIMEOUT_SECONDS)
            task.stop()
            task.wait_until_stopped(within=60)
            assert task.exit_code(MESH_INIT) == 0
            assert [e.container for e in task.events if "exited" in e.what][-1] == CONSUL_CLIENT

        def gone() -> bool:
            return not _call("GET", f"{address}/v1/catalog/service/{SERVICE}", management)

        until(gone, within=60, what="the service has left the catalog")
