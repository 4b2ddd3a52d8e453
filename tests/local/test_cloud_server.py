"""The local cloud starts fresh, is found by any client, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import boto3
import pytest

from local.cloud import LocalCloud, PortInUseError
from local.cloud.waiting import until


def test_each_start_gives_an_empty_cloud(tmp_path: Path) -> None:
    cloud = LocalCloud(workdir=tmp_path)
    for _ in range(2):
        with cloud:
            secrets = cloud.client("secretsmanager")
            assert secrets.list_secrets()["SecretList"] == []
            secrets.create_secret(Name="s", SecretString="x")


def test_stopping_leaves_no_thread_socket_or_file(tmp_path: Path) -> None:
    with LocalCloud(workdir=tmp_path):
        pass  # whatever is loaded only once, is now
    threads = set(threading.enumerate())
    with LocalCloud(workdir=tmp_path) as cloud:
        cloud.client("ecs").create_cluster(clusterName="c")
        cloud.client("events").put_rule(Name="r", ScheduleExpression="rate(1 minute)")
        begin_to_wait(cloud)
        port = int(cloud.endpoint.rsplit(":", 1)[1])
    cloud.stop()
    until(lambda: set(threading.enumerate()) <= threads, what="all threads have ended")
    assert list(tmp_path.iterdir()) == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert "MOTO_PORT" not in os.environ


def begin_to_wait(cloud: LocalCloud) -> None:
    """Start an execution that waits for a year: a list, one of whose items does."""
    wait = {"Type": "Wait", "Seconds": 365 * 24 * 60 * 60, "End": True}
    iteration = {"StartAt": "Wait", "States": {"Wait": wait}}
    each = {"Type": "Map", "ItemsPath": "$.items", "ItemProcessor": iteration, "End": True}
    workflows = cloud.client("stepfunctions")
    machine = workflows.create_state_machine(
        name="m",
        definition=json.dumps({"StartAt": "Each", "States": {"Each": each}}),
        roleArn="arn:aws:iam::123456789012:role/r",
    )["stateMachineArn"]
    execution = workflows.start_execution(stateMachineArn=machine, input='{"items": [1]}')

    def waits() -> bool:
        history = workflows.get_execution_history(executionArn=execution["executionArn"])
        return any(event["type"] == "WaitStateEntered" for event in history["events"])

    until(waits, what="the execution waits")


def test_only_one_cloud_runs_at_a_time(tmp_path: Path) -> None:
    with (
        LocalCloud(workdir=tmp_path),
        pytest.raises(RuntimeError, match="Only one"),
        LocalCloud(workdir=tmp_path),
    ):
        pass


def test_a_port_in_use_is_named_with_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with (
            pytest.raises(PortInUseError, match=rf"port {port} .*choose another port"),
            LocalCloud(workdir=tmp_path, port=port),
        ):
            pass
    with LocalCloud(workdir=tmp_path, port=port) as cloud:
        assert cloud.endpoint == f"http://localhost:{port}"


def test_any_client_finds_it_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalCloud(workdir=tmp_path) as cloud:
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        client = boto3.session.Session().client("sts")
        assert client.get_caller_identity()["Account"] == cloud.account


def test_it_listens_on_loopback_only(tmp_path: Path) -> None:
    with LocalCloud(workdir=tmp_path) as cloud:
        port = int(cloud.endpoint.rsplit(":", 1)[1])
        listening = f":{port:04X}"
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        addresses = {line[1] for line in lines if line[1].endswith(listening) and line[3] == "0A"}
    assert addresses == {f"0100007F{listening}"}


def test_what_moto_can_not_do_is_an_error_that_no_client_repeats(tmp_path: Path) -> None:
    with LocalCloud(workdir=tmp_path) as cloud:
        client = cloud.client("cloudtrail")
        with pytest.raises(client.exceptions.ClientError, match="has not been implemented"):
            client.lookup_events()


@pytest.mark.parametrize("seconds", ["0", "0.01", "0.1"])
def test_an_interrupt_at_any_moment_stops_it_cleanly(tmp_path: Path, seconds: str) -> None:
    program = textwrap.dedent(
        f"""
        import os, signal, threading
        from pathlib import Path
        from local.cloud import LocalCloud
        try:
            threading.Timer({seconds}, os.kill, (os.getpid(), signal.SIGINT)).start()
            with LocalCloud(workdir=Path({str(tmp_path)!r})) as cloud:
                threading.Event().wait(20)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.stdout == "interrupted\n", result.stderr
    assert result.returncode == 0
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
