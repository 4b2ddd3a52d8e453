"""How Reconciliation's look at everything grows with the cluster: seconds, calls, memory.

`make scale` runs it. The step runs in a process of its own for each size, against a Consul on
loopback and an ECS and a Secrets Manager in the process, all of which make up their answers as
they are asked, so that what grows is the step's. What AWS needs to answer comes on top: the calls
say how often.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

from rich.console import Console
from rich.table import Table

from handlers import find_drift
from handlers.clients import aws
from handlers.core import environment, names, remote_calls

_SIZES = [(1_000, 100), (10_000, 1_000), (100_000, 10_000)]
"""Tasks and services."""
_CLUSTER = "arn:aws:ecs:eu-west-1:123456789012:cluster/bench"
_SECRET = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:{}-AbCdEf"
_MADE = datetime(2026, 1, 5, tzinfo=UTC)
_PAGE = 100


def main() -> None:
    """Measure each size in a new process, and print a table."""
    table = Table("Tasks", "Services", "Seconds", "Remote calls", "Memory (MiB)", "State (KiB)")
    for tasks, services in _SIZES:
        measured = json.loads(
            subprocess.run(  # noqa: S603 - this very program
                [sys.executable, "-m", "bench.scale", str(tasks), str(services)],
                stdout=subprocess.PIPE,
                check=True,
            ).stdout
        )
        table.add_row(f"{tasks:,}", f"{services:,}", *map(str, measured))
    Console().print(table)


def _measure(tasks: int, services: int) -> list[float]:
    """Return what one look costs: of every tenth service the token is missing."""
    with HTTPServer(("127.0.0.1", 0), _consul(services)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        os.environ |= {
            environment.CLUSTER_ARN: _CLUSTER,
            environment.SECRET_PREFIX: "bench",
            environment.CLIENT_TOKEN_SECRET_ARN: _SECRET.format("bench-client"),
            environment.CONTROLLER_TOKEN_SECRET_ARN: _SECRET.format("bench-controller"),
            environment.CONSUL_TOKEN_SECRET_ARN: _SECRET.format("bench-controller"),
            environment.CONSUL_HTTP_ADDR: f"http://127.0.0.1:{server.server_port}",
        }
        ecs, secrets_manager = _Ecs(tasks, services), _SecretsManager()
        clients = {"ecs": ecs, "secretsmanager": secrets_manager}
        aws.client = lambda service, **_: clients[service]  # type: ignore[assignment]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        found = find_drift.handler({"event": {}, "service_rules": {}}, None)
        seconds = time.perf_counter() - started
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        calls = ecs.calls + secrets_manager.calls
        calls += sum(count for name, count in remote_calls.counted().items() if "consul" in name)
        server.shutdown()
    return [round(seconds, 1), calls, round(grown / 1024), round(len(json.dumps(found)) / 1024)]


def _service(number: int) -> str:
    return f"service-{number:06}"


def _ids(name: str) -> tuple[str, str]:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name)), str(uuid.uuid5(uuid.NAMESPACE_URL, name))


class _Ecs:
    """A cluster whose tasks belong to the services in turn; none drains."""

    def __init__(self, tasks: int, services: int) -> None:
        self.calls = 0
        self._tasks, self._services = tasks, services

    def list_tasks(self, *, desiredStatus: str, nextToken: str = "0", **_: Any) -> Any:  # noqa: N803
        self.calls += 1
        start = int(nextToken)
        end = min(start + _PAGE, self._tasks) if desiredStatus == "RUNNING" else start
        more = {"nextToken": str(end)} if start < end < self._tasks else {}
        return {"taskArns": [f"arn:task/{number}" for number in range(start, end)], **more}

    def describe_tasks(self, *, tasks: list[str], **_: Any) -> Any:
        self.calls += 1
        return {"tasks": [self._task(arn) for arn in tasks]}

    def _task(self, arn: str) -> dict[str, Any]:
        service = _service(int(arn.rpartition("/")[2]) % self._services)
        return {
            "taskArn": arn,
            "taskDefinitionArn": f"arn:task-definition/{service}:1",
            "desiredStatus": "RUNNING",
            "lastStatus": "RUNNING",
            "createdAt": _MADE,
            "group": f"service:{service}",
            "tags": [{"key": names.MESH_TAG, "value": "true"}],
        }


class _SecretsManager:
    """Every secret there can be."""

    def __init__(self) -> None:
        self.calls = 0

    def batch_get_secret_value(self, *, SecretIdList: list[str]) -> Any:  # noqa: N803
        self.calls += 1
        return {"SecretValues": [_secret(secret_id) for secret_id in SecretIdList]}

    def get_secret_value(self, *, SecretId: str) -> Any:  # noqa: N803
        self.calls += 1
        return _secret(SecretId)


def _secret(secret_id: str) -> dict[str, Any]:
    accessor_id, token = _ids(secret_id.removeprefix("bench-"))
    return {
        "ARN": secret_id,
        "Name": secret_id,
        "VersionId": "1",
        "SecretString": json.dumps({"accessor_id": accessor_id, "token": token}),
    }


def _consul(services: int) -> type[BaseHTTPRequestHandler]:
    """Return what answers with a list of tokens, of which every tenth service lacks its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/v1/acl/tokens"
            self.send_response(200 if found else 404)
            self.end_headers()
            if found:
                for piece in _tokens(services):
                    self.wfile.write(piece)

        def log_message(self, *_: Any) -> None:
            """Nothing: the output is the measurement."""

    return Handler


def _tokens(services: int) -> Iterator[bytes]:
    separator = "["
    for number in range(services):
        if number % 10 == 0:
            continue
        service = _service(number)
        accessor_id, secret_id = _ids(service)
        token = {
            "AccessorID": accessor_id,
            "SecretID": secret_id,
            "Description": names.service_token_description(service, _CLUSTER),
            "ServiceIdentities": [{"ServiceName": service}],
            "Local": False,
            "CreateTime": "2026-01-05T20:10:01Z",
            "Hash": "2Fz9hsnBYRRkkMFDyg8cSBQUtoDFWjFsZkdkrDP7tXI=",
            "CreateIndex": number,
            "ModifyIndex": number,
        }
        yield f"{separator}{json.dumps(token)}".encode()
        separator = ","
    yield b"]"


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.stdout.write(json.dumps(_measure(*map(int, sys.argv[1:]))))
    else:
        main()
