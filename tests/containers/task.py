"""A task to run the programs in: its metadata endpoint, its agent and a stand-in for `consul`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from containers.layout import ENVOY_UID
from containers.task_config import ProxyConfig, ServiceConfig, TaskConfig
from tests.unit.loopback import Answer, LoopbackServer, Received

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "local" / "task" / "stand_in" / "envoy-bootstrap-1.10.1.json"

TASK_ID = "0123456789abcdef0123456789abcdef"
TASK_ARN = f"arn:aws:ecs:eu-west-1:123456789012:task/prod/{TASK_ID}"
TOKEN = "a0000001-0000-4000-8000-00000000cafe"
METADATA_PATH = "/v4/abc-1"

__all__ = ["ENVOY_UID", "RECORDED", "ROOT", "TASK_ARN", "TASK_ID", "TOKEN"]


def config(directory: Path | str = "/consul/envoy", **fields: Any) -> TaskConfig:
    service = {"name": "web", "port": 8080, **fields.pop("service", {})}
    return TaskConfig(
        bootstrap_dir=str(directory),
        service=ServiceConfig(**service),
        proxy=ProxyConfig(**fields.pop("proxy", {})),
        **fields,
    )


def metadata(health: Mapping[str, str | None] | None = None) -> dict[str, Any]:
    containers: list[dict[str, Any]] = []
    for name, status in (health or {}).items():
        container: dict[str, Any] = {"Name": name, "KnownStatus": "RUNNING", "Type": "NORMAL"}
        if status is not None:
            container["Health"] = {"status": status, "statusSince": "2026-01-01T00:00:00Z"}
        containers.append(container)
    return {"Cluster": "prod", "TaskARN": TASK_ARN, "Family": "web", "Containers": containers}


class FakeTask:
    """One loopback server for the metadata endpoint and the agent, with a state to change.

    `answers` overrides what is answered: a status and a text by the beginning of a path, or a
    function of the request that returns None to leave it to the default.
    """

    def __init__(self) -> None:
        self.metadata: Any = metadata()
        self.answers: dict[str, tuple[int, str]] = {}
        self.before: Callable[[Received], None] = lambda _: None
        self.writes: list[tuple[str, Any]] = []
        self.changed = threading.Condition()
        self._server = LoopbackServer(self._respond)

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.__exit__(*exception)

    @property
    def address(self) -> str:
        return self._server.address

    @property
    def requests(self) -> list[Received]:
        return self._server.requests

    @property
    def statuses(self) -> list[str]:
        """What was written to checks."""
        return [body["Status"] for path, body in self.writes if path.startswith("/v1/agent/check/")]

    def environment(self, directory: Path, task_config: TaskConfig, **more: str) -> dict[str, str]:
        inject = directory / "inject"
        return {
            "PATH": f"{inject}{os.pathsep}{os.environ['PATH']}",
            "CONSUL_ECS_CONFIG_JSON": task_config.to_json(),
            "CONSUL_HTTP_ADDR": self.address,
            "CONSUL_HTTP_TOKEN": TOKEN,
            "ECS_CONTAINER_METADATA_URI_V4": f"{self.address}{METADATA_PATH}",
            **more,
        }

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, timeout=20)

    def _respond(self, received: Received) -> Answer:
        self.before(received)
        with self.changed:
            self.changed.notify_all()
        for prefix, (status, text) in self.answers.items():
            if received.path.startswith(prefix):
                return Answer(status, text.encode(), drop=status == 0)
        if received.path == f"{METADATA_PATH}/task":
            return Answer(body=json.dumps(self.metadata).encode())
        if received.path == "/v1/status/leader":
            return Answer(body=b'"10.0.0.1:8300"')
        if received.path == "/v1/acl/token/self":
            return Answer(body=b"{}")
        if received.method == "PUT":
            with self.changed:
                self.writes.append((received.path, json.loads(received.body)))
                self.changed.notify_all()
            return Answer()
        return Answer(404)


class FakeTime:
    """A clock, and pauses that move it; `at_pause` may change the world or ask to stop."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self.requested = False
        self.at_pause: Callable[[], None] = lambda: None

    def clock(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds
        self.at_pause()


def put_consul(
    directory: Path, *, prints: str | None = None, says: str = "", code: int = 0
) -> Path:
    """Put a program in the place of `consul`; it notes how it was called."""
    inject = directory / "inject"
    inject.mkdir(exist_ok=True)
    output = inject / "output"
    output.write_text(RECORDED.read_text() if prints is None else prints)
    complaint = inject / "complaint"
    complaint.write_text(says)
    consul = inject / "consul"
    consul.write_text(
        f"#!/bin/sh\n"
        f'printf "%s\\n" "$@" > {inject}/arguments\n'
        f"env > {inject}/environment\n"
        f"cat {output}\n"
        f"cat {complaint} >&2\n"
        f"exit {code}\n"
    )
    consul.chmod(0o755)
    return inject


def start(command: str, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start a program as its container would."""
    return subprocess.Popen(
        [sys.executable, "-m", "containers", command],
        cwd=ROOT,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
