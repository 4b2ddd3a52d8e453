"""`python -m local` as a person starts and ends it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from local import cdk_cli

_ROOT = Path(__file__).resolve().parent.parent.parent
_DEADLINE_SECONDS = 120.0
# The AWS command line takes a second for each call, and its waiters look every 6 or 15 s.
_LONG_DEADLINE_SECONDS = 200.0


@contextmanager
def started(*arguments: str, temporary: Path) -> Iterator[subprocess.Popen[str]]:
    """Start the command line in a session of its own, so that all it starts can be found."""
    process = subprocess.Popen(
        [sys.executable, "-m", "local", *arguments],
        cwd=_ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Return what a process prints up to a text; it is killed if it takes too long."""
    assert process.stdout is not None
    printed = ""
    watchdog = threading.Timer(_DEADLINE_SECONDS, process.kill)
    watchdog.start()
    try:
        while text not in printed:
            line = process.stdout.readline()
            assert line, f"it ended before it printed {text!r}:\n{printed}"
            printed += line
    finally:
        watchdog.cancel()
    return printed


def processes_with(marker: str) -> list[str]:
    """Return the command lines of processes whose environment has a marker in it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has ended meanwhile
            continue
        if marker.encode() in environment:
            found.append(command)
    return found


@pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="finds left-over processes through /proc"
)
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_in_the_middle_leaves_nothing_behind(
    tmp_path: Path, ending: signal.Signals
) -> None:
    with started("demo", temporary=tmp_path) as process:
        # The CDK command line is at work then, with a Python and a Node below it.
        read_until(process, "Start AWS")
        os.kill(process.pid, ending)
        output, _ = process.communicate(timeout=_DEADLINE_SECONDS)

    assert process.returncode != 0
    assert "Traceback" not in output
    assert list(tmp_path.iterdir()) == []
    assert processes_with(f"TMPDIR={tmp_path}") == []


@pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="looks at a left-over process through /proc"
)
def test_a_command_of_the_cdk_is_ended_with_all_that_it_has_started() -> None:
    # It ends at once, and what it has started does not.
    slow = "trap 'sleep 0.3; exit' TERM; echo $$; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        ["/bin/sh", "-c", '/bin/sh -c "$0" & wait', slow],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    status = Path(f"/proc/{int(process.stdout.readline())}/stat")

    cdk_cli._end(process)

    assert process.returncode == -signal.SIGTERM
    assert not status.exists() or ") Z " in status.read_text()


def test_up_prints_commands_that_work_as_they_are(tmp_path: Path) -> None:
    with started("up", "--port", "0", "--speed", "60", temporary=tmp_path) as process:
        printed = read_until(process, "Ctrl-C")
        script = printed[printed.index("export ") : printed.index("Consul (")]
        # The real AWS command line, in a shell that has nothing but what was printed.
        shell = subprocess.run(
            ["/bin/bash", "-eu"],
            input=script,
            env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=_LONG_DEADLINE_SECONDS,
            check=False,
        )
        os.kill(process.pid, signal.SIGINT)
        rest, _ = process.communicate(timeout=_DEADLINE_SECONDS)

    assert shell.stderr == ""
    *lines, reconciled, rotation, new_secret = shell.stdout.splitlines()
    *of_example, greeting, secret, first, second, states, stopped = lines
    *services_and_tasks, greeter_secret = (line.split("\t") for line in of_example)
    services, tasks = services_and_tasks[:3], services_and_tasks[3:]
    assert greeting == "The greeting is: Hello from the mesh"
    assert [counts for _, *counts in services] == [["1", "0"]] * 3
    assert {tuple(task[:2]) for task in tasks} == {
        ("None", "RUNNING"),  # the Consul server
        ("greeter", "RUNNING"),
        ("greeting", "RUNNING"),
    }
    assert set(json.loads(greeter_secret[0])) == {"accessor_id", "token"}
    assert set(json.loads(secret)) == {"accessor_id", "token"}
    assert [line.split("\t")[0] for line in (first, second)] == ["SUCCEEDED", "SUCCEEDED"]
    assert "Check tags" in states
    assert "Token ready" in states
    assert stopped == "STOPPED"
    status, output = reconciled.split("\t")
    assert status == "SUCCEEDED"
    assert set(json.loads(output)["report"].values()) == {0}
    assert rotation.split("\t")[-1] == "Rotated"
    assert json.loads(new_secret)["accessor_id"] != json.loads(greeter_secret[0])["accessor_id"]
    assert rest.splitlines()[-1] == "Ended."
    assert process.returncode == 0
    assert [path for path in tmp_path.iterdir() if path.name != ".aws"] == []


def test_a_port_in_use_is_told_without_a_traceback(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with started("up", "--port", str(port), temporary=tmp_path) as process:
            output, _ = process.communicate(timeout=_DEADLINE_SECONDS)

    assert process.returncode == 1
    assert f"can not listen on port {port} of localhost" in output
    assert "Traceback" not in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("port", ["-1", "65536"])
def test_a_port_that_cannot_be_is_told_without_a_traceback(tmp_path: Path, port: str) -> None:
    with started("up", "--port", port, temporary=tmp_path) as process:
        output, _ = process.communicate(timeout=_DEADLINE_SECONDS)

    assert process.returncode == 2
    assert "Invalid value for '--port'" in output
    assert "Traceback" not in output
    assert list(tmp_path.iterdir()) == []
