"""Lambda in the local cloud runs the deployed code as AWS does."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from moto.logs.models import LogStream

from local.cloud import LocalCloud, lambda_runtime
from local.cloud.lambda_runtime import Invocation, Sandbox
from local.cloud.patching import replaced
from local.cloud.waiting import until
from tests.local.meanwhile import meanwhile

HANDLER = '''
import logging, os, signal, subprocess, sys, tempfile, time

calls = 0
log = logging.getLogger(__name__)


class ConsulUnavailable(Exception):
    """Named as the workflow catches it."""


def handler(event, context):
    global calls
    calls += 1
    if "fail" in event:
        raise ConsulUnavailable(event["fail"])
    if "exit" in event:
        os._exit(event["exit"])
    if "kill" in event:
        os.kill(os.getpid(), signal.SIGKILL)
    if "sleep" in event:
        time.sleep(event["sleep"])
    if "import" in event:
        __import__(event["import"])
    if "log" in event:
        log.info("a constant message", extra={"given": event["log"]})
    if "print" in event:
        print(event["print"])
    if "child" in event:
        return subprocess.Popen(["sleep", "300"]).pid
    if "file" in event:
        with open(os.path.join(tempfile.gettempdir(), event["file"]), "x") as file:
            return file.name
    if "environment" in event:
        return dict(os.environ)
    return {
        "calls": calls,
        "pid": os.getpid(),
        "path": sys.path[0],
        "left": context.get_remaining_time_in_millis(),
        "arn": context.invoked_function_arn,
    }
'''

Create = Callable[..., str]
Invoke = Callable[..., dict[str, Any]]


def zipped(**files: str) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as target:
        for name, text in files.items():
            target.writestr(name.replace("__", "/") + ".py", text)
    return archive.getvalue()


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    with LocalCloud(
        workdir=tmp_path_factory.mktemp("cloud"),
        lambda_environment={"ADDED": "by the cloud"},
        max_workers_per_function=2,
    ) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def role(cloud: LocalCloud) -> str:
    arn: str = cloud.client("iam").create_role(RoleName="r", AssumeRolePolicyDocument="{}")["Role"][
        "Arn"
    ]
    return arn


@pytest.fixture
def create(cloud: LocalCloud, role: str, request: pytest.FixtureRequest) -> Create:
    """Create the function of this test, named after it."""

    def create_function(name: str = request.node.name[:60], **more: Any) -> str:
        arguments = {
            "FunctionName": name,
            "Runtime": "python3.13",
            "Role": role,
            "Handler": "handlers.step.handler",
            "Timeout": 10,
            "Code": {"ZipFile": zipped(handlers__step=HANDLER)},
            "LoggingConfig": {"LogFormat": "JSON"},
        }
        cloud.client("lambda").create_function(**arguments | more)
        return name

    return create_function


@pytest.fixture
def invoke(cloud: LocalCloud) -> Invoke:
    def invoke_function(function: str, **event: Any) -> dict[str, Any]:
        answer = cloud.client("lambda").invoke(FunctionName=function, Payload=json.dumps(event))
        return {
            "error": answer.get("FunctionError"),
            "version": answer["ExecutedVersion"],
            "payload": json.loads(answer["Payload"].read()),
        }

    return invoke_function


def is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_the_deployed_zip_is_what_runs(create: Create, invoke: Invoke) -> None:
    answer = invoke(create())
    assert answer["error"] is None
    assert answer["version"] == "$LATEST"
    assert Path(answer["payload"]["path"], "handlers/step.py").read_text() == HANDLER


def test_a_warm_sandbox_is_used_again(create: Create, invoke: Invoke) -> None:
    function = create()
    answers = [invoke(function)["payload"] for _ in range(3)]
    assert [answer["calls"] for answer in answers] == [1, 2, 3]
    assert len({answer["pid"] for answer in answers}) == 1


def test_concurrent_events_get_sandboxes_up_to_the_limit_and_then_wait(
    create: Create, invoke: Invoke
) -> None:
    function = create()
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: invoke(function, sleep=0.1)["payload"], range(6)))
    assert len({answer["pid"] for answer in answers}) == 2
    assert sum(answer["calls"] for answer in answers) >= 6


def test_an_exception_is_reported_as_lambda_does(create: Create, invoke: Invoke) -> None:
    answer = invoke(create(), fail="no leader")
    assert answer["error"] == "Unhandled"
    payload = answer["payload"]
    assert payload["errorType"] == "ConsulUnavailable"
    assert payload["errorMessage"] == "no leader"
    assert payload["requestId"]
    assert any("ConsulUnavailable" in line for line in payload["stackTrace"])


class Hasty(threading.Event):
    """One for which a minute takes a second."""

    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(None if timeout is None else timeout / 60)


def test_a_time_out_kills_the_sandbox_and_the_next_event_gets_a_new_one(
    create: Create, invoke: Invoke
) -> None:
    function = create(Timeout=60)
    first = invoke(function)["payload"]["pid"]
    # Only this one's time goes faster: a busy machine may need a second for the others.
    with replaced(lambda_runtime, "Invocation", partial(Invocation, done=Hasty())):
        answer = invoke(function, sleep=300)
    assert answer["error"] == "Unhandled"
    assert answer["payload"]["errorType"] == "Sandbox.Timedout"
    assert answer["payload"]["errorMessage"].endswith("Task timed out after 60.00 seconds")
    second = invoke(function)["payload"]
    assert (second["calls"], second["pid"] != first) == (1, True)
    until(lambda: not is_running(first), what="the sandbox that timed out is gone")


@pytest.mark.parametrize(
    ("event", "reason"), [({"exit": 3}, "exit status 3"), ({"kill": True}, "signal: killed")]
)
def test_a_sandbox_that_dies_is_reported_and_replaced(
    create: Create, invoke: Invoke, event: dict[str, Any], reason: str
) -> None:
    function = create()
    answer = invoke(function, **event)
    assert answer["error"] == "Unhandled"
    assert answer["payload"]["errorType"] == "Runtime.ExitError"
    assert reason in answer["payload"]["errorMessage"]
    assert invoke(function)["payload"]["calls"] == 1


def test_a_handler_that_can_not_be_imported_is_reported_each_time(
    create: Create, invoke: Invoke
) -> None:
    function = create(Handler="handlers.absent.handler")
    for _ in range(2):
        answer = invoke(function)
        assert answer["payload"]["errorType"] == "Runtime.ImportModuleError"


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        (
            {"Handler": "handlers.absent.handler"},
            "Runtime.ImportModuleError",
            "Unable to import module 'handlers.absent'",
        ),
        (
            {"Code": {"ZipFile": zipped(handlers__step="import os; os._exit(3)")}},
            "Runtime.ExitError",
            "exit status 3",
        ),
    ],
)
def test_a_sandbox_that_has_failed_before_its_event_comes_is_reported_all_the_same(
    create: Create, invoke: Invoke, more: dict[str, Any], error: str, message: str
) -> None:
    function = create(f"failed-with-{error.rpartition('.')[2]}", **more)
    run = Sandbox.run

    def run_late(self: Sandbox, invocation: Invocation) -> Invocation:
        until(lambda: not self.is_alive(), what="the process has ended")
        return run(self, invocation)

    with replaced(Sandbox, "run", run_late):
        payload = invoke(function)["payload"]
    assert payload["errorType"] == error
    assert message in payload["errorMessage"]


def test_only_what_the_asset_or_the_runtime_has_can_be_imported(
    create: Create, invoke: Invoke
) -> None:
    function = create()
    assert invoke(function, **{"import": "boto3"})["error"] is None
    missing = invoke(function, **{"import": "pydantic"})["payload"]
    assert missing["errorType"] == "ModuleNotFoundError"


def test_temporary_files_are_the_sandboxs_own_and_in_the_clouds_directory(
    tmp_path: Path, create: Create, invoke: Invoke
) -> None:
    functions = [create(name) for name in ("one-writes", "another-writes")]
    files = [Path(invoke(function, file="kept")["payload"]) for function in functions]
    assert files[0] != files[1]
    for file in files:
        assert file.is_relative_to(tmp_path.parent)
        assert file.exists()


def test_the_environment_is_lambdas_and_the_functions_and_nothing_of_the_users(
    cloud: LocalCloud, create: Create, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "not to be seen")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    function = create(
        Environment={"Variables": {"OWN": "value", "ADDED": "overridden"}},
        LoggingConfig={"LogFormat": "JSON", "ApplicationLogLevel": "WARN", "LogGroup": "/g"},
    )
    environment = invoke(function, environment=True)["payload"]
    expected = {
        "OWN": "value",
        "ADDED": "by the cloud",
        "AWS_ENDPOINT_URL": cloud.endpoint,
        "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",
        "AWS_LAMBDA_FUNCTION_NAME": function,
        "AWS_LAMBDA_LOG_FORMAT": "JSON",
        "AWS_LAMBDA_LOG_GROUP_NAME": "/g",
        "AWS_LAMBDA_LOG_LEVEL": "WARN",
        "AWS_REGION": "us-east-1",
        "_HANDLER": "handlers.step.handler",
    }
    assert {name: environment.get(name) for name in expected} == expected
    assert not {"CONSUL_HTTP_TOKEN", "HTTPS_PROXY", "VIRTUAL_ENV"} & set(environment)
    assert environment["HOME"] != os.environ["HOME"]


def test_new_code_and_new_configuration_take_effect(
    cloud: LocalCloud, create: Create, invoke: Invoke
) -> None:
    function = create()
    client = cloud.client("lambda")
    first = invoke(function)["payload"]["pid"]
    client.update_function_configuration(
        FunctionName=function, Environment={"Variables": {"OWN": "new"}}
    )
    assert invoke(function, environment=True)["payload"]["OWN"] == "new"
    until(lambda: not is_running(first), what="the outdated sandbox is gone")
    new = zipped(handlers__step="def handler(event, context): return 'new code'")
    client.update_function_code(FunctionName=function, ZipFile=new)
    assert invoke(function)["payload"] == "new code"


def test_what_a_handler_logs_is_in_its_log_group_when_the_answer_is_there(
    cloud: LocalCloud, create: Create, invoke: Invoke
) -> None:
    function = create(LoggingConfig={"LogFormat": "JSON", "LogGroup": "/a/group"})
    records: list[dict[str, Any]] = []
    for number in range(20):
        invoke(function, log=number)
        records = [entry["record"] for entry in cloud.lambda_logs(function)]
        logged = [record for record in records if record.get("message") == "a constant message"]
        assert logged[-1]["given"] == number
    events = cloud.client("logs").filter_log_events(logGroupName="/a/group")["events"]
    assert json.loads(events[0]["message"])["given"] == 0
    assert records[-1]["type"] == "platform.report"


def test_a_line_that_is_no_json_is_kept_as_a_message(
    cloud: LocalCloud, create: Create, invoke: Invoke
) -> None:
    function = create(LoggingConfig={"LogFormat": "Text"})
    invoke(function, print="plain text")
    assert {"message": "plain text"} in [x["record"] for x in cloud.lambda_logs(function)]
    groups = cloud.client("logs").describe_log_groups(logGroupNamePrefix="/aws/lambda/")
    assert f"/aws/lambda/{function}" in [group["logGroupName"] for group in groups["logGroups"]]


def test_streams_are_listed_while_a_sandbox_begins_another_one(
    cloud: LocalCloud, create: Create, invoke: Invoke
) -> None:
    logs = cloud.client("logs")
    invoke(create(LoggingConfig={"LogFormat": "JSON", "LogGroup": "/listed"}))

    def begin_another() -> None:
        logs.create_log_stream(logGroupName="/listed", logStreamName="another")

    with meanwhile(LogStream, "to_describe_dict", begin_another):
        listed = logs.describe_log_streams(logGroupName="/listed")["logStreams"]
    assert len(listed) == 1
    assert len(logs.describe_log_streams(logGroupName="/listed")["logStreams"]) == 2


WRITING = """
import pathlib, time

def handler(event, context):
    print("written")
    pathlib.Path(event["told"]).touch()
    time.sleep(300)
"""


def test_what_a_handler_has_written_before_it_told_somebody_is_in_its_log(
    cloud: LocalCloud, create: Create, tmp_path: Path
) -> None:
    function = create(Code={"ZipFile": zipped(handlers__step=WRITING)})
    late, told = threading.Event(), tmp_path / "told"
    read_output = Sandbox._read_output

    def read_output_late(self: Sandbox) -> None:
        late.wait()
        read_output(self)

    with replaced(Sandbox, "_read_output", read_output_late):
        cloud.client("lambda").invoke(
            FunctionName=function, InvocationType="Event", Payload=json.dumps({"told": str(told)})
        )
        until(told.exists, what="the handler has told it")
        records = [entry["record"] for entry in cloud.lambda_logs(function)]
        late.set()
    cloud.client("lambda").delete_function(FunctionName=function)
    assert {"message": "written"} in records


def test_an_asynchronous_invocation_is_answered_at_once(cloud: LocalCloud, create: Create) -> None:
    function = create()
    answer = cloud.client("lambda").invoke(
        FunctionName=function, InvocationType="Event", Payload=json.dumps({"log": "later"})
    )
    assert answer["StatusCode"] == 202
    until(lambda: cloud.lambda_logs(function), what="the function has run")


def test_an_unknown_function_is_not_found(cloud: LocalCloud) -> None:
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        cloud.client("lambda").invoke(FunctionName="absent", Payload="{}")


def test_prewarming_starts_sandboxes_before_the_first_event(
    cloud: LocalCloud, create: Create, invoke: Invoke
) -> None:
    function = create()
    cloud.prewarm([function])
    invoke(function)
    reports = [
        entry["record"] for entry in cloud.lambda_logs(function) if "type" in entry["record"]
    ]
    assert "initDurationMs" not in reports[0]["record"]["metrics"]


def test_what_a_handler_started_ends_with_its_sandbox(
    cloud: LocalCloud, create: Create, invoke: Invoke
) -> None:
    function = create()
    child = invoke(function, child=True)["payload"]
    assert is_running(child)
    cloud.client("lambda").delete_function(FunctionName=function)
    until(lambda: not is_running(child), what="the handler's own process is gone")


def test_sandboxes_end_by_themselves_when_the_cloud_is_killed(tmp_path: Path) -> None:
    program = textwrap.dedent(
        f"""
        import io, json, sys, time, zipfile
        from pathlib import Path
        from local.cloud import LocalCloud
        cloud = LocalCloud(workdir=Path({str(tmp_path)!r}))
        cloud.start()
        role = cloud.client("iam").create_role(RoleName="r", AssumeRolePolicyDocument="{{}}")
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as target:
            target.writestr("a.py", "import os\\ndef handler(e, c): return os.getpid()")
        cloud.client("lambda").create_function(
            FunctionName="f", Runtime="python3.13", Role=role["Role"]["Arn"], Handler="a.handler",
            Code={{"ZipFile": archive.getvalue()}},
        )
        answer = cloud.client("lambda").invoke(FunctionName="f", Payload="{{}}")
        print(answer["Payload"].read().decode(), flush=True)
        sys.stdin.read()
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert is_running(pid)
        process.kill()
        process.wait()
    until(lambda: not is_running(pid), what="the orphaned sandbox is gone")


def test_stopping_fails_what_is_under_way_and_leaves_nothing(
    tmp_path: Path, role: str, cloud: LocalCloud
) -> None:
    # Only one cloud runs in a process; this one needs another process, or a turn of its own.
    del role
    cloud.stop()
    before = threading.active_count()
    other = LocalCloud(workdir=tmp_path)
    with other:
        arn = other.client("iam").create_role(RoleName="r", AssumeRolePolicyDocument="{}")
        other.client("lambda").create_function(
            FunctionName="f",
            Runtime="python3.13",
            Role=arn["Role"]["Arn"],
            Handler="handlers.step.handler",
            Timeout=300,
            Code={"ZipFile": zipped(handlers__step=HANDLER)},
        )
        client = other.client("lambda")
        answers: list[Any] = []

        def sleep_long() -> None:
            try:
                answers.append(client.invoke(FunctionName="f", Payload='{"sleep": 250}'))
            except Exception as error:  # noqa: BLE001 - any end will do
                answers.append(error)

        caller = threading.Thread(target=sleep_long)
        caller.start()
        pid = client.invoke(FunctionName="f", Payload="{}")
        pid = json.loads(pid["Payload"].read())["pid"]
        begun = time.monotonic()
    # It has not waited for the handler, which would have slept for longer.
    assert time.monotonic() - begun < 60
    caller.join(timeout=60)
    assert answers
    assert not is_running(pid)
    assert list(tmp_path.iterdir()) == []
    until(lambda: threading.active_count() <= before, what="all threads have ended")
