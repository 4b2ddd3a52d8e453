"""Lambda's execution environments: subprocesses that run deployed code through AWS's own client.

A function's zip is unpacked and run by ``awslambdaric``, the program that runs Python functions on
AWS. It asks a small HTTP server here, one for each sandbox, for the next event, as it asks
Lambda's Runtime API on AWS (https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html).

A function keeps its warm sandboxes; it gets more while all of them are busy, up to a limit, and
then waits for one. New code or configuration gets new sandboxes.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import logging
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import zipfile
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from local.cloud.clock import CloudClock

_LOG = logging.getLogger(__name__)

# What AWS's Python runtime holds besides the standard library.
_RUNTIME_PACKAGES = (
    "awslambdaric",
    "boto3",
    "botocore",
    "dateutil",
    "jmespath",
    "runtime_client",
    "s3transfer",
    "simplejson",
    "six",
    "snapshot_restore_py",
    "urllib3",
)
_API = "/2018-06-01/runtime"
# Generous, because on a busy laptop several sandboxes import their libraries at the same time.
# On AWS it is ten seconds.
_INIT_TIMEOUT_SECONDS = 60.0
_HOST_READY_TIMEOUT_SECONDS = 60.0
_HOST_STOP_SECONDS = 30.0
_LOG_TAIL_BYTES = 4096  # what Invoke returns of the log when asked to

LogSink = Callable[["Sandbox", int, str], None]
"""Called with each line that a sandbox writes: the sandbox, epoch milliseconds, the line."""


class LambdaRuntimeStoppedError(RuntimeError):
    """The cloud is stopping; nothing is invoked any more."""


@dataclass(frozen=True)
class Function:
    """All that a sandbox is made from; two equal ones can share sandboxes.

    ``code_sha256`` stands for ``code``, the zip, when two are compared.
    """

    arn: str
    name: str
    version: str
    handler: str
    runtime: str
    timeout_seconds: int
    memory_mb: int
    code_sha256: str
    code: bytes = field(compare=False, repr=False)
    environment: tuple[tuple[str, str], ...]
    in_vpc: bool
    log_group: str
    log_format: str
    log_level: str | None


@dataclass
class Invocation:
    """One event on its way through a sandbox.

    ``error`` is None for a normal answer, else the kind of failure that Invoke reports in
    ``FunctionError``; ``payload`` is then Lambda's JSON for it.
    """

    payload: bytes
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    error: str | None = None
    result: bytes = b""
    log_tail: bytes = b""
    done: threading.Event = field(default_factory=threading.Event)

    def finish(self, result: bytes, error: str | None = None) -> None:
        """Set the outcome and wake whoever waits for it; only the first call counts."""
        if not self.done.is_set():
            self.result, self.error = result, error
            self.done.set()

    def fail(self, error_type: str, message: str) -> None:
        """Finish with a failure of the sandbox itself, worded as Lambda words it."""
        text = f"RequestId: {self.request_id} Error: {message}"
        self.finish(
            json.dumps({"errorType": error_type, "errorMessage": text}).encode(), "Unhandled"
        )


class LambdaRuntime:
    """All sandboxes of one cloud.

    ``workdir`` holds the unpacked code. ``base_environment`` is what every sandbox gets besides
    the function's own variables; ``extra_environment`` wins over both. ``function_clock`` is the
    function of the code, as ``module:name``, that is to tell the time of ``clock``. ``hosts_file``
    has the names that a function finds which is in a VPC.
    """

    def __init__(
        self,
        *,
        workdir: Path,
        base_environment: Mapping[str, str],
        extra_environment: Mapping[str, str],
        max_workers_per_function: int,
        log_sink: LogSink,
        clock: CloudClock,
        function_clock: str | None,
        hosts_file: Path,
    ) -> None:
        self._hosts_file = str(hosts_file)
        self._workdir = workdir
        self._base_environment = dict(base_environment)
        self._extra_environment = dict(extra_environment)
        self._max_workers = max_workers_per_function
        self._log_sink = log_sink
        self._clock: dict[str, Any] | None = None
        if function_clock is not None and clock.speed != 1:
            self._clock = {
                "function": function_clock,
                "started": clock.started,
                "origin": clock.origin,
                "speed": clock.speed,
            }
        self._lock = threading.Lock()
        self._pools: dict[str, _Pool] = {}
        self._hosts: dict[str, _SandboxHost] = {}
        self._sandboxes: list[Sandbox] = []
        self._stopped = False

    def invoke(self, function: Function, payload: bytes) -> Invocation:
        """Run ``function`` on ``payload`` and wait for the outcome.

        Raises
        ------
        LambdaRuntimeStoppedError
            The cloud is stopping.
        """
        while True:
            pool = self._pool(function)
            sandbox = pool.acquire()
            if sandbox is not None:
                break
            # The pool was retired between finding it and asking it: the function has changed.
            self._raise_if_stopped()
        try:
            return sandbox.run(Invocation(payload))
        finally:
            pool.release(sandbox)

    def prewarm(self, function: Function) -> None:
        """Start one sandbox of ``function`` and wait until it is ready for an event."""
        pool = self._pool(function)
        sandbox = pool.acquire()
        if sandbox is not None:
            sandbox.ready.wait(_INIT_TIMEOUT_SECONDS)
            pool.release(sandbox)

    def forget(self, arn: str) -> None:
        """End the sandboxes of a function that has been deleted or changed."""
        with self._lock:
            pool = self._pools.pop(arn, None)
        if pool is not None:
            pool.retire()

    def read_output(self) -> None:
        """Log all that sandboxes have written by now, be it that nobody has come to it yet."""
        with self._lock:
            sandboxes = list(self._sandboxes)
        for sandbox in sandboxes:
            sandbox.drain_output()

    def stop(self) -> None:
        """End every sandbox; invocations that are under way fail. May be called again."""
        with self._lock:
            self._stopped = True
            pools, self._pools = list(self._pools.values()), {}
            hosts, self._hosts = list(self._hosts.values()), {}
            sandboxes, self._sandboxes = self._sandboxes, []
        for pool in pools:
            pool.retire(kill_busy=True)
        for host in hosts:
            host.stop()
        for sandbox in sandboxes:
            sandbox.end()
            sandbox.join()

    def _raise_if_stopped(self) -> None:
        if self._stopped:
            raise LambdaRuntimeStoppedError("The local cloud is stopping.")

    def _pool(self, function: Function) -> _Pool:
        with self._lock:
            self._raise_if_stopped()
            pool = self._pools.get(function.arn)
            if pool is not None and pool.function == function:
                return pool
            outdated = pool
            pool = self._pools[function.arn] = _Pool(function, self._max_workers, self._start)
        if outdated is not None:
            outdated.retire()
        return pool

    def _start(self, function: Function) -> Sandbox:
        host = self._host(function)
        sandbox = Sandbox(function, self._log_sink)
        with self._lock:
            self._sandboxes = [known for known in self._sandboxes if not known.ended]
            self._sandboxes.append(sandbox)
        environment = {
            **self._base_environment,
            **dict(function.environment),
            **_function_environment(function, sandbox, host.task_root, host.runtime_root),
            # Its /tmp: nobody else's files are in it, and none stay on this machine.
            "TMPDIR": tempfile.mkdtemp(prefix="tmp-", dir=self._workdir),
            **self._extra_environment,
        }
        sandbox.start(host, environment)
        return sandbox

    def _host(self, function: Function) -> _SandboxHost:
        with self._lock:
            self._raise_if_stopped()
            host = self._hosts.get(function.code_sha256)
            if host is None or not host.is_alive():
                host = _SandboxHost(
                    self._workdir,
                    function.code_sha256,
                    function.code,
                    clock=self._clock,
                    hosts_file=self._hosts_file,
                )
                self._hosts[function.code_sha256] = host
        # Outside the lock: importing takes a second, and another asset's need not wait for it.
        host.start()
        return host


def _function_environment(
    function: Function, sandbox: Sandbox, task_root: Path, runtime_root: Path
) -> dict[str, str]:
    """Build Lambda's reserved variables.

    https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html
    """
    environment = {
        "_HANDLER": function.handler,
        "AWS_EXECUTION_ENV": f"AWS_Lambda_{function.runtime}",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_mb),
        "AWS_LAMBDA_FUNCTION_NAME": function.name,
        "AWS_LAMBDA_FUNCTION_VERSION": function.version,
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_FORMAT": function.log_format,
        "AWS_LAMBDA_LOG_GROUP_NAME": function.log_group,
        "AWS_LAMBDA_LOG_STREAM_NAME": sandbox.log_stream,
        "AWS_LAMBDA_RUNTIME_API": sandbox.api_address,
        "LAMBDA_RUNTIME_DIR": str(runtime_root),
        "LAMBDA_TASK_ROOT": str(task_root),
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "TZ": ":UTC",
    }
    if function.log_level:
        environment["AWS_LAMBDA_LOG_LEVEL"] = function.log_level
    return environment


class _Pool:
    """The sandboxes of one state of one function."""

    def __init__(
        self, function: Function, limit: int, start: Callable[[Function], Sandbox]
    ) -> None:
        self.function = function
        self._limit = limit
        self._start = start
        self._changed = threading.Condition()
        self._idle: list[Sandbox] = []
        self._busy: set[Sandbox] = set()
        self._starting = 0
        self._retired = False

    def acquire(self) -> Sandbox | None:
        """Take a warm sandbox, start one, or wait for one; None if the pool has been retired."""
        with self._changed:
            while True:
                if self._retired:
                    return None
                while self._idle:
                    sandbox = self._idle.pop()
                    if sandbox.is_alive():
                        self._busy.add(sandbox)
                        return sandbox
                    sandbox.end()
                if len(self._busy) + self._starting < self._limit:
                    self._starting += 1
                    break
                self._changed.wait()
        # Starting takes a while; others may use what becomes idle meanwhile.
        started = None
        try:
            started = self._start(self.function)
        finally:
            with self._changed:
                self._starting -= 1
                if started is not None and not self._retired:
                    self._busy.add(started)
                self._changed.notify_all()
        if started in self._busy:
            return started
        started.end()
        return None

    def release(self, sandbox: Sandbox) -> None:
        """Give a sandbox back; one that has died is not used again."""
        with self._changed:
            self._busy.discard(sandbox)
            reusable = sandbox.is_alive() and not self._retired
            if reusable:
                self._idle.append(sandbox)
            self._changed.notify()
        if not reusable:
            sandbox.end()

    def retire(self, *, kill_busy: bool = False) -> None:
        """Start nothing any more and end what is idle; what is busy may finish unless told."""
        with self._changed:
            self._retired = True
            ending, self._idle = self._idle, []
            if kill_busy:
                ending += self._busy
            self._changed.notify_all()
        for sandbox in ending:
            sandbox.end()


class Sandbox:
    """One execution environment: a subprocess and the Runtime API that it talks to.

    Handles one event at a time. ``ready`` is set when it first asks for one.
    """

    def __init__(self, function: Function, log_sink: LogSink) -> None:
        self.function = function
        self.ready = threading.Event()
        today = time.strftime("%Y/%m/%d", time.gmtime())
        self.log_stream = f"{today}/[{function.version}]{uuid.uuid4().hex}"
        self._log_sink = log_sink
        self._started = time.monotonic()
        self._init_seconds: float | None = None
        self._changed = threading.Condition()
        self._next: Invocation | None = None
        self._current: Invocation | None = None
        # How it has failed to start, or why it has ended, before there was an event to fail.
        self._init_error: tuple[bytes, str | None] | None = None
        self._exit_reason = "Runtime exited without providing a reason"
        self._exited = False
        self._deadline_ms = 0
        self._host: _SandboxHost | None = None
        self._ended = False
        self._killed = False
        self._threads: list[threading.Thread] = []
        self._tail: deque[bytes] = deque(maxlen=200)
        self._output_lock = threading.Lock()
        self._partial_line = b""
        self._api = _RuntimeApiServer(self)
        self._output_reader, self._output_writer = os.pipe()
        os.set_blocking(self._output_reader, False)
        # Wakes the output thread when the sandbox ends although something still holds its pipe.
        self._wake_reader, self._wake_writer = os.pipe()

    @property
    def api_address(self) -> str:
        """Host and port of the Runtime API, as ``AWS_LAMBDA_RUNTIME_API`` has it."""
        host, port = self._api.server_address[:2]
        return f"{host!s}:{port}"

    @property
    def ended(self) -> bool:
        """Whether ``end`` has been called."""
        return self._ended

    def start(self, host: _SandboxHost, environment: Mapping[str, str]) -> None:
        """Start the process. It is not ready yet when this returns."""
        self._host = host
        for target in (self._api.serve, self._read_output):
            thread = threading.Thread(
                target=target, name=f"lambda-{self.function.name}", daemon=True
            )
            thread.start()
            self._threads.append(thread)
        try:
            host.fork(self, self.function.handler, environment, self._output_writer)
        finally:
            os.close(self._output_writer)

    def is_alive(self) -> bool:
        """Tell whether the process may still take an event."""
        if self._ended or self._killed or self._exited or self._host is None:
            return False
        return self._host.has(self)

    def run(self, invocation: Invocation) -> Invocation:
        """Hand over ``invocation``, wait for its outcome, and enforce the function's time-out."""
        function = self.function
        with self._changed:
            self._tail.clear()
            if self._init_error is not None:
                invocation.finish(*self._init_error)
            elif self.is_alive():
                self._next = self._current = invocation
                self._changed.notify_all()
            else:
                invocation.fail("Runtime.ExitError", self._exit_reason)
        cold = not self.ready.is_set()
        if cold:
            self._wait_until_ready(invocation)
        begun = time.monotonic()
        if not invocation.done.wait(function.timeout_seconds):
            seconds = f"{function.timeout_seconds:.2f}"
            self.kill()
            invocation.fail("Sandbox.Timedout", f"Task timed out after {seconds} seconds")
        self.drain_output()
        with self._changed:
            self._current = self._next = None
        if invocation.error is not None and not self.ready.is_set():
            # It failed while importing the handler; the next event gets a fresh attempt.
            self.kill()
        self._report(invocation, time.monotonic() - begun, cold=cold)
        invocation.log_tail = b"".join(self._tail)[-_LOG_TAIL_BYTES:]
        return invocation

    def _wait_until_ready(self, invocation: Invocation) -> None:
        deadline = time.monotonic() + _INIT_TIMEOUT_SECONDS
        with self._changed:
            self._changed.wait_for(
                lambda: self.ready.is_set() or invocation.done.is_set(),
                deadline - time.monotonic(),
            )
        if not self.ready.is_set() and not invocation.done.is_set():
            self.kill()
            invocation.fail("Sandbox.Timedout", "Init phase timed out")

    def _report(self, invocation: Invocation, seconds: float, *, cold: bool) -> None:
        """Write the record with which Lambda closes every invocation."""
        status = {"Sandbox.Timedout": "timeout"}.get(_error_type(invocation), "error")
        metrics: dict[str, Any] = {
            "durationMs": round(seconds * 1000, 3),
            "memorySizeMB": self.function.memory_mb,
        }
        if cold and self._init_seconds is not None:
            metrics["initDurationMs"] = round(self._init_seconds * 1000, 3)
        if self.function.log_format == "JSON":
            line = json.dumps(
                {
                    "time": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()),
                    "type": "platform.report",
                    "record": {
                        "requestId": invocation.request_id,
                        "metrics": metrics,
                        "status": "success" if invocation.error is None else status,
                    },
                }
            )
        else:
            line = (
                f"REPORT RequestId: {invocation.request_id}\tDuration: {metrics['durationMs']} ms"
                f"\tMemory Size: {self.function.memory_mb} MB"
            )
        self._log(line.encode())

    # What the Runtime API's server calls.

    def next_event(self) -> tuple[Invocation, int] | None:
        """Wait for the next event and its deadline in epoch ms; None if the sandbox has ended."""
        if not self.ready.is_set():
            self._init_seconds = time.monotonic() - self._started
        with self._changed:
            self.ready.set()
            self._changed.notify_all()
            while self._next is None and not self._ended:
                self._changed.wait()
            invocation, self._next = self._next, None
        if invocation is None:
            return None
        return invocation, int((time.time() + self.function.timeout_seconds) * 1000)

    def finish(self, request_id: str | None, result: bytes, error: str | None) -> None:
        """Take the outcome of ``request_id``; None is a failed init, of this event or the next."""
        # Lines written before the answer must be in the log before the answer is out.
        self.drain_output()
        with self._changed:
            current = self._current
            if current is not None and request_id in (None, current.request_id):
                current.finish(result, error)
            elif request_id is None:
                self._init_error = result, error
            self._changed.notify_all()

    def exited(self, wait_status: int) -> None:
        """Note that the process has ended; the event that it was handling fails."""
        self.drain_output()
        if os.WIFSIGNALED(wait_status):
            name = signal.strsignal(os.WTERMSIG(wait_status)) or str(os.WTERMSIG(wait_status))
            reason = f"Runtime exited with error: signal: {name.lower()}"
        elif (code := os.waitstatus_to_exitcode(wait_status)) != 0:
            reason = f"Runtime exited with error: exit status {code}"
        else:
            reason = "Runtime exited without providing a reason"
        with self._changed:
            self._exited, self._exit_reason = True, reason
            if self._current is not None:
                self._current.fail("Runtime.ExitError", reason)
            self._changed.notify_all()

    # Ending.

    def kill(self) -> None:
        """Kill the process and all that it started."""
        self._killed = True
        if self._host is not None:
            self._host.kill(self)

    def end(self) -> None:
        """Kill the process and close all that belongs to the sandbox. May be called again."""
        with self._changed:
            if self._ended:
                return
            self._ended = True
            if self._current is not None:
                self._current.fail("Runtime.ExitError", "Runtime exited with error: signal: killed")
            self._changed.notify_all()
        self.kill()
        # From another thread, because it waits until the server has noticed.
        threading.Thread(target=self._api.shutdown, daemon=True).start()
        os.write(self._wake_writer, b"x")

    def join(self) -> None:
        """Wait until an ended sandbox has closed its sockets and pipes."""
        for thread in self._threads:
            thread.join(timeout=5)

    # Output.

    def _read_output(self) -> None:
        """Log what the process writes until it has ended; runs in a thread of its own."""
        try:
            while True:
                readable, _, _ = select.select([self._output_reader, self._wake_reader], [], [])
                if not self.drain_output() or self._wake_reader in readable:
                    break
            if self._partial_line:
                self._log(self._partial_line)
            # A process that has ended by itself is told by its host; wait for the end of ours.
            select.select([self._wake_reader], [], [])
        finally:
            with self._output_lock:
                for descriptor in (self._output_reader, self._wake_reader, self._wake_writer):
                    os.close(descriptor)
                self._output_reader = -1

    def drain_output(self) -> bool:
        """Log all that has been written so far; False at the end of the output."""
        with self._output_lock:
            while self._output_reader >= 0:
                try:
                    chunk = os.read(self._output_reader, 1 << 16)
                except BlockingIOError:
                    return True
                if not chunk:
                    return False
                *lines, self._partial_line = (self._partial_line + chunk).split(b"\n")
                for line in lines:
                    self._log(line)
            return False

    def _log(self, line: bytes) -> None:
        self._tail.append(line + b"\n")
        self._log_sink(self, int(time.time() * 1000), line.decode(errors="replace"))


def _error_type(invocation: Invocation) -> str:
    if invocation.error is None:
        return ""
    try:
        return str(json.loads(invocation.result)["errorType"])
    except (ValueError, KeyError, TypeError):
        return "Unknown"


class _RuntimeApiServer(ThreadingHTTPServer):
    """Lambda's Runtime API for one sandbox, on loopback."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        super().__init__(("127.0.0.1", 0), _RuntimeApiHandler)

    def serve(self) -> None:
        """Serve until shut down; runs in a thread of its own."""
        # The interval is only how soon a shutdown is noticed.
        self.serve_forever(poll_interval=0.1)
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing when a process was killed in the middle of a call; that is reported."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _RuntimeApiHandler(BaseHTTPRequestHandler):
    """The four calls that a Python runtime makes."""

    protocol_version = "HTTP/1.1"
    # Head and body leave in two writes: without this each answer would wait for a delayed ACK.
    disable_nagle_algorithm = True
    server: _RuntimeApiServer

    def do_GET(self) -> None:
        """Give out the next event, whenever it comes."""
        if self.path != f"{_API}/invocation/next":
            self._answer(404)
            return
        sandbox = self.server.sandbox
        event = sandbox.next_event()
        if event is None:
            self.close_connection = True
            return
        invocation, deadline_ms = event
        self._answer(
            200,
            invocation.payload,
            {
                "Lambda-Runtime-Aws-Request-Id": invocation.request_id,
                "Lambda-Runtime-Deadline-Ms": str(deadline_ms),
                "Lambda-Runtime-Invoked-Function-Arn": sandbox.function.arn,
                "Lambda-Runtime-Trace-Id": "Root=1-00000000-000000000000000000000000;Sampled=0",
            },
        )

    def do_POST(self) -> None:
        """Take an answer, an error, or a failure to start."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = self.path.removeprefix(_API).strip("/").split("/")
        sandbox = self.server.sandbox
        if parts == ["init", "error"]:
            sandbox.finish(None, body, "Unhandled")
        else:
            match parts:
                case ["invocation", request_id, "response"]:
                    sandbox.finish(request_id, body, None)
                case ["invocation", request_id, "error"]:
                    sandbox.finish(request_id, body, "Unhandled")
                case _:
                    self._answer(404)
                    return
        self._answer(202)

    def _answer(
        self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            # The process may have been killed meanwhile; then nobody waits for this.
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing: the base class would write each request to standard error."""


class _SandboxHost:
    """The process that forks the sandboxes of one code asset: ``local/cloud/lambda_sandbox.py``."""

    def __init__(
        self,
        workdir: Path,
        code_sha256: str,
        code: bytes,
        *,
        clock: dict[str, Any] | None,
        hosts_file: str,
    ) -> None:
        self._clock = clock
        self._hosts_file = hosts_file
        self.task_root = workdir / "code" / code_sha256
        self.runtime_root = workdir / "runtime"
        self._code = code
        self._start_lock = threading.Lock()
        self._request_lock = threading.Lock()
        self._answered = threading.Condition()
        self._pids: dict[str, int] = {}
        self._sandboxes: dict[str, Sandbox] = {}
        self._ids: dict[Sandbox, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._ready = False
        self._gone = False

    def start(self) -> None:
        """Unpack the code, start the process, and wait until it has imported its libraries."""
        with self._start_lock:
            if self._process is None:
                _unpack(self._code, self.task_root)
                _expose_runtime_packages(self.runtime_root)
                self._control, theirs = socket.socketpair()
                with theirs:
                    self._process = subprocess.Popen(
                        # Isolated and without site-packages: see the program's docstring.
                        [
                            *(sys.executable, "-I", "-S", "-B"),
                            str(Path(__file__).with_name("lambda_sandbox.py")),
                            *(str(self.task_root), str(self.runtime_root)),
                        ],
                        stdin=theirs.fileno(),
                        env={"PATH": os.defpath, "LANG": "C.UTF-8"},
                        # A Ctrl-C in the terminal is for the cloud, which ends this one.
                        start_new_session=True,
                    )
                threading.Thread(target=self._listen, name="lambda-host", daemon=True).start()
        with self._answered:
            self._answered.wait_for(lambda: self._ready or self._gone, _HOST_READY_TIMEOUT_SECONDS)
            if not self._ready:
                raise LambdaRuntimeStoppedError("The Lambda sandbox host did not start.")

    def is_alive(self) -> bool:
        """Tell whether sandboxes can still be forked; a host not started yet counts as alive."""
        return not self._gone

    def fork(
        self, sandbox: Sandbox, handler: str, environment: Mapping[str, str], output: int
    ) -> None:
        """Start the process of ``sandbox``, writing to the descriptor ``output``."""
        id_ = uuid.uuid4().hex
        request = {
            "id": id_,
            "handler": handler,
            "environment": dict(environment),
            "clock": self._clock,
            "hosts_file": self._hosts_file if sandbox.function.in_vpc else None,
        }
        with self._answered:
            self._sandboxes[id_] = sandbox
            self._ids[sandbox] = id_
        with self._request_lock:
            self._send(json.dumps(request).encode() + b"\n", output)
            with self._answered:
                self._answered.wait_for(
                    lambda: id_ in self._pids or id_ not in self._sandboxes or self._gone
                )

    def _send(self, line: bytes, descriptor: int) -> None:
        if self._control is None or self._gone:
            raise LambdaRuntimeStoppedError("The Lambda sandbox host has ended.")
        try:
            sent = socket.send_fds(self._control, [line], [descriptor])
            self._control.sendall(line[sent:])
        except OSError as error:
            raise LambdaRuntimeStoppedError("The Lambda sandbox host has ended.") from error

    def has(self, sandbox: Sandbox) -> bool:
        """Tell whether the process of ``sandbox`` is running."""
        return not self._gone and sandbox in self._ids

    def kill(self, sandbox: Sandbox) -> None:
        """Kill the process group of ``sandbox`` if it is still running."""
        with self._answered:
            pid = self._pids.get(self._ids.get(sandbox, ""))
            if pid is None:
                return
            # Under the lock: once the host has told of its end, the number may be anybody's.
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                # It has been forked, but has not yet made its own group.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """End the process and with it every sandbox; returns when it is gone."""
        with self._start_lock:
            process, control = self._process, self._control
        if process is None or control is None:
            return
        with contextlib.suppress(OSError):
            control.shutdown(socket.SHUT_RDWR)
        # One that still imports has no sandbox, and looks at its socket only afterwards. Any other
        # ends its sandboxes before itself, and on a busy machine takes its time for that.
        if self._ready:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=_HOST_STOP_SECONDS)
        process.kill()
        process.wait()

    def _listen(self) -> None:
        """Follow what the process tells of its sandboxes; runs in a thread of its own."""
        control, process = self._control, self._process
        if control is None or process is None:
            return
        with control, control.makefile("rb") as lines, contextlib.suppress(OSError):
            for line in lines:
                self._handle(json.loads(line))
        with self._answered:
            self._gone = True
            orphans = list(self._sandboxes.values())
            self._sandboxes.clear()
            self._answered.notify_all()
        for sandbox in orphans:
            sandbox.exited(signal.SIGKILL)
        process.wait()

    def _handle(self, message: dict[str, Any]) -> None:
        ended = None
        with self._answered:
            if "ready" in message:
                self._ready = True
            elif "pid" in message:
                self._pids[message["id"]] = message["pid"]
            else:
                self._pids.pop(message["id"], None)
                ended = self._sandboxes.get(message["id"])
            self._answered.notify_all()
        if ended is not None:
            # First: who finds that it is gone finds why, too.
            ended.exited(message["status"])
            with self._answered:
                del self._sandboxes[message["id"]], self._ids[ended]
                self._answered.notify_all()


_unpack_lock = threading.Lock()


def _unpack(code: bytes, target: Path) -> None:
    """Unpack a deployment package, once."""
    with _unpack_lock:
        if target.exists():
            return
        partial = target.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        with zipfile.ZipFile(io.BytesIO(code)) as archive:
            archive.extractall(partial)
        partial.rename(target)


def _expose_runtime_packages(target: Path) -> None:
    """Make a directory that holds of the virtual environment only what AWS's runtime has."""
    with _unpack_lock:
        if target.exists():
            return
        partial = target.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name in _RUNTIME_PACKAGES:
            spec = importlib.util.find_spec(name)
            if spec is None or spec.origin is None:
                _LOG.warning("%s is not installed; Lambda functions go without it.", name)
                continue
            origin = Path(spec.origin)
            source = origin.parent if spec.submodule_search_locations else origin
            (partial / source.name).symlink_to(source)
        partial.rename(target)


def code_fingerprint(code: bytes) -> str:
    """Name a deployment package by its content."""
    return hashlib.sha256(code).hexdigest()
