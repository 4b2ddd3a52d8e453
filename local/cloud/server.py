"""The server that ties moto and the modules that complete it together."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from html import escape
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import boto3
from botocore.config import Config
from moto.core.base_backend import BackendDict
from moto.core.model_instances import reset_model_data
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

from local.cloud.clock import CloudClock
from local.cloud.cloudformation import CloudFormation
from local.cloud.cloudformation_types import ClientFactory
from local.cloud.custom_resources import RESPONSE_PATH, PendingResponses
from local.cloud.ecs import TaskLifecycle, TaskRunner
from local.cloud.events import EventDelivery
from local.cloud.kms import corrected_kms
from local.cloud.lambda_functions import LambdaFunctions
from local.cloud.patching import environment_variable
from local.cloud.schedules import ScheduledRules
from local.cloud.secrets_manager import corrected_secrets_manager
from local.cloud.service_discovery import PrivateNames
from local.cloud.step_functions import corrected_step_functions

_LOG = logging.getLogger(__name__)

_ACCOUNT = "123456789012"  # moto's only account for whoever has no other credentials
_REGION = "us-east-1"

StartResponse = Callable[[str, list[tuple[str, str]]], Any]
MakeTaskRunner = Callable[[ClientFactory, Path], AbstractContextManager[TaskRunner]]
"""Makes what runs tasks for real, from the cloud's clients and the file with its private names."""


class PortInUseError(RuntimeError):
    """Something else listens on the port that the cloud was to listen on."""


class LocalCloud:
    """An AWS on loopback; a context manager.

    Only one runs at a time in a process, because moto's state is global. Each start gives a fresh,
    empty cloud.

    Parameters
    ----------
    workdir
        Where unpacked functions go, in a directory of their own that is removed on stop. Created
        if missing.
    port
        The port to listen on, on loopback only; 0 for any that is free.
    lambda_environment
        Variables that every Lambda function gets besides, and in preference to, its own.
    max_workers_per_function
        How many events one function handles at the same time; more wait.
    task_stage_seconds
        How long an ECS task stays in each stage of its life.
    speed
        How much faster than ours the cloud's clock goes: with 60, what takes a minute of waiting
        on AWS takes a second. See ``CloudClock``.
    function_clock
        The function, as ``module:name``, that the code of Lambda functions asks for the time; it
        tells the cloud's. The code must not ask anybody else.
    task_runner
        Makes what runs the containers of ECS tasks for real. Without it no task has any.

    Raises
    ------
    PortInUseError
        On start, if ``port`` is taken.
    """

    region: str = _REGION
    account: str = _ACCOUNT

    _running = threading.Lock()

    def __init__(
        self,
        *,
        workdir: Path,
        port: int = 0,
        lambda_environment: Mapping[str, str] | None = None,
        max_workers_per_function: int = 4,
        task_stage_seconds: float = 0.03,
        speed: float = 1.0,
        function_clock: str | None = None,
        task_runner: MakeTaskRunner | None = None,
    ) -> None:
        self._task_runner = task_runner
        self._workdir = Path(workdir)
        self._port = port
        self._lambda_environment = dict(lambda_environment or {})
        self._max_workers = max_workers_per_function
        self._task_stage_seconds = task_stage_seconds
        self._function_clock = function_clock
        self.clock = CloudClock(speed)
        self._parts: ExitStack | None = None
        self._clients: dict[str, Any] = {}
        self._clients_lock = threading.Lock()
        self._functions: LambdaFunctions | None = None
        self._tasks: TaskLifecycle | None = None
        self.endpoint = ""

    def __enter__(self) -> Self:
        """Start the cloud."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the cloud."""
        self.stop()

    @property
    def environment(self) -> dict[str, str]:
        """What to export so that any AWS client, and the CDK CLI, uses this cloud.

        The host must be spelled ``localhost``: moto knows an S3 template URL by that word.
        """
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_SESSION_TOKEN": "local",
            "AWS_EC2_METADATA_DISABLED": "true",
            # No profile of the user's may send a request to a real account.
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": "localhost,127.0.0.1",
            "no_proxy": "localhost,127.0.0.1",
        }

    def start(self) -> None:
        """Start the cloud.

        Raises
        ------
        PortInUseError
            The port is taken.
        RuntimeError
            Another cloud runs in this process.
        """
        if not LocalCloud._running.acquire(blocking=False):
            raise RuntimeError("Only one local cloud can run in a process at a time.")
        parts = ExitStack()
        try:
            parts.callback(LocalCloud._running.release)
            self._start(parts)
        except BaseException:
            parts.close()
            raise
        self._parts = parts

    def stop(self) -> None:
        """Stop the cloud and leave nothing behind. May be called again."""
        parts, self._parts = self._parts, None
        if parts is not None:
            parts.close()

    def client(self, service: str) -> Any:
        """Return a boto3 client of this cloud; the same one each time."""
        with self._clients_lock:
            if service not in self._clients:
                session: Any = boto3.session.Session()
                self._clients[service] = session.client(
                    service,
                    endpoint_url=self.endpoint,
                    region_name=self.region,
                    aws_access_key_id="local",
                    aws_secret_access_key="local",
                    config=Config(
                        # An error is to be seen, not to be tried again.
                        retries={"total_max_attempts": 1},
                        max_pool_connections=50,
                        proxies={},
                    ),
                )
            return self._clients[service]

    def lambda_logs(self, function_name: str | None = None) -> list[dict[str, Any]]:
        """Return what Lambda functions have logged, oldest first.

        Each entry has ``function`` (its name), ``timestamp`` (epoch milliseconds) and ``record``:
        the JSON object that was written, or ``{"message": line}`` for a line that is none.
        """
        return self._lambda.logs(function_name)

    def prewarm(self, function_names: Iterable[str]) -> None:
        """Start one sandbox of each of these Lambda functions, concurrently, and wait for them."""
        self._lambda.prewarm(list(function_names), self.account, self.region)

    def pulled_secrets(self, task_arn: str) -> dict[str, str]:
        """Return which versions of secrets an ECS task has in its containers, by the secret's ARN.

        On AWS only the log of Secrets Manager's calls could tell.
        """
        if self._tasks is None:
            raise RuntimeError("The local cloud has not been started.")
        return self._tasks.pulled_secrets(task_arn)

    @property
    def _lambda(self) -> LambdaFunctions:
        if self._functions is None:
            raise RuntimeError("The local cloud has not been started.")
        return self._functions

    def _start(self, parts: ExitStack) -> None:
        """Build the cloud up; ``parts`` takes it down again, in the reverse order."""
        listener = _listen(self._port)
        parts.callback(listener.close)
        self.clock = clock = CloudClock(self.clock.speed)
        self.endpoint = f"http://localhost:{listener.getsockname()[1]}"
        with self._clients_lock:
            self._clients = {}
        parts.callback(self._close_clients)
        _reset_moto()
        parts.callback(_reset_moto)
        self._workdir.mkdir(parents=True, exist_ok=True)
        private = Path(tempfile.mkdtemp(prefix="cloud-", dir=self._workdir)).resolve()
        parts.callback(shutil.rmtree, private, ignore_errors=True)

        # moto's Step Functions call other services here.
        parts.enter_context(environment_variable("MOTO_PORT", str(listener.getsockname()[1])))
        parts.enter_context(_quiet_logging())
        responses = PendingResponses(self.endpoint)
        # Up before and down after all that sends requests to it; nobody else knows it yet.
        parts.enter_context(_serving(_Application(responses), listener))
        parts.enter_context(corrected_secrets_manager(clock))
        parts.enter_context(corrected_kms())
        hosts_file = private / "hosts"
        parts.enter_context(PrivateNames(hosts_file).connected())
        functions = self._functions = LambdaFunctions(
            workdir=private,
            environment={**self.environment, "HOME": str(private)},
            extra_environment=self._lambda_environment,
            max_workers_per_function=self._max_workers,
            clock=clock,
            function_clock=self._function_clock,
            hosts_file=hosts_file,
        )
        parts.enter_context(functions.connected())
        parts.enter_context(corrected_step_functions(clock))
        delivery = EventDelivery(
            client=self.client, account=self.account, region=self.region, clock=clock
        )
        parts.enter_context(delivery.connected())
        schedules = ScheduledRules(deliver=delivery.deliver, clock=clock)
        parts.enter_context(schedules.connected())
        runner = None
        if self._task_runner is not None:
            runner = parts.enter_context(self._task_runner(self.client, hosts_file))
        lifecycle = self._tasks = TaskLifecycle(
            client=self.client,
            publish=delivery.publish,
            stage_seconds=self._task_stage_seconds,
            clock=clock,
            runner=runner,
        )
        parts.enter_context(lifecycle.connected())
        cloudformation = CloudFormation(
            client=self.client, responses=responses, invoke=functions.invoke
        )
        parts.enter_context(cloudformation.connected())

    def _close_clients(self) -> None:
        with self._clients_lock:
            clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()


class _Application:
    """moto's web application, and next to it the answers to custom resources."""

    def __init__(self, responses: PendingResponses) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._responses = responses

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        path = str(environ.get("PATH_INFO", ""))
        if path.startswith(RESPONSE_PATH):
            return self._take_answer(path.removeprefix(RESPONSE_PATH), environ, start_response)
        try:
            answer: Iterable[bytes] = self._moto(environ, start_response)
        except NotImplementedError as error:
            _LOG.warning("The local cloud can not do this: %s", error)
            return _refuse("UnknownOperationException", str(error), environ, start_response)
        except Exception as error:  # noqa: BLE001 - moto raises anything
            _LOG.exception("The local cloud failed to answer a request")
            return _refuse("LocalCloudError", repr(error), environ, start_response)
        return answer

    def _take_answer(
        self, request_id: str, environ: dict[str, Any], start_response: StartResponse
    ) -> Iterable[bytes]:
        status = "200 OK"
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if environ["REQUEST_METHOD"] != "PUT":
            status = "405 Method Not Allowed"
        else:
            try:
                answer = json.loads(body)
            except ValueError:
                status = "400 Bad Request"
            else:
                if not self._responses.answer(request_id, answer):
                    status = "403 Forbidden"  # as S3 says of a URL that has expired
        start_response(status, [("Content-Length", "0")])
        return []


def _refuse(
    code: str, message: str, environ: dict[str, Any], start_response: StartResponse
) -> Iterable[bytes]:
    """Answer with an error that the client understands, and does not try again as it would a 500.

    It would fail the same way each time, and the CDK CLI tries for most of a minute.
    """
    if str(environ.get("CONTENT_TYPE", "")).startswith("application/x-www-form-urlencoded"):
        text = (
            f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code>"
            f"<Message>{escape(message)}</Message></Error></ErrorResponse>"
        )
        kind = "text/xml"
    else:
        text = json.dumps({"__type": code, "message": message})
        kind = "application/x-amz-json-1.1"
    start_response("400 Bad Request", [("Content-Type", kind)])
    return [text.encode()]


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise PortInUseError(
                f"The local cloud can not listen on port {port} of localhost ({error.strerror}). "
                "Stop what is listening there, or choose another port (0 for any that is free)."
            ) from error
        raise
    return listener


@contextmanager
def _serving(application: _Application, listener: socket.socket) -> Iterator[None]:
    """Answer requests within the context."""
    host, port = listener.getsockname()[:2]
    server = make_server(
        host,
        port,
        application,
        threaded=True,
        request_handler=MotoRequestHandler,
        # Given a descriptor, werkzeug does not bind, and so does not exit if it can not.
        fd=listener.fileno(),
    )
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="aws", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _reset_moto() -> None:
    """Empty every backend of moto's."""
    BackendDict.reset()
    reset_model_data()


_NOISY = (
    # A line for each request.
    ("werkzeug", logging.ERROR),
    # The engine logs whole evaluation environments, payloads included, for each error that a
    # workflow goes on to catch. What went wrong is in the execution's history.
    ("moto.stepfunctions", logging.CRITICAL),
)


@contextmanager
def _quiet_logging() -> Iterator[None]:
    """Silence loggers that drown everything else."""
    previous = [(logging.getLogger(name), logging.getLogger(name).level) for name, _ in _NOISY]
    for name, level in _NOISY:
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for logger, level in previous:
            logger.setLevel(level)
