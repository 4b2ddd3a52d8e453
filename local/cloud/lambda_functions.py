"""Lambda: invoking a function of moto's runs the code that was deployed.

moto keeps the functions, their code and configuration. Without Docker it answers each invocation
with a constant; here the invocation goes to ``local.cloud.lambda_runtime``. moto also forgets the
logging configuration and most of what CloudFormation says about a function.
"""

from __future__ import annotations

import base64
import json
import logging
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from moto.awslambda.models import LambdaFunction
from moto.awslambda.utils import get_backend
from moto.awslambda_simple.models import LambdaSimpleBackend, lambda_simple_backends
from moto.core.config import default_user_config
from moto.logs.models import LogGroup, LogsBackend, logs_backends

from local.cloud.clock import CloudClock
from local.cloud.lambda_runtime import (
    Function,
    Invocation,
    LambdaRuntime,
    LambdaRuntimeStoppedError,
    Sandbox,
    code_fingerprint,
)
from local.cloud.patching import locked, replaced

_LOG = logging.getLogger(__name__)

_RECORDS_KEPT = 200_000
_TEXT = "Text"


class LambdaFunctions:
    """Runs the functions of one cloud and keeps what they log.

    Use it as ``with functions.connected():`` while the cloud runs.
    """

    def __init__(
        self,
        *,
        workdir: Path,
        environment: Mapping[str, str],
        extra_environment: Mapping[str, str],
        max_workers_per_function: int,
        clock: CloudClock,
        function_clock: str | None,
        hosts_file: Path,
    ) -> None:
        self._runtime = LambdaRuntime(
            workdir=workdir,
            base_environment=environment,
            extra_environment=extra_environment,
            max_workers_per_function=max_workers_per_function,
            log_sink=self._write_log,
            clock=clock,
            function_clock=function_clock,
            hosts_file=hosts_file,
        )
        self._log_lock = threading.RLock()
        self._lines: deque[tuple[str, int, str]] = deque(maxlen=_RECORDS_KEPT)

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Route moto's invocations here within the context; end every sandbox after it."""
        with ExitStack() as patches:
            previous = default_user_config["lambda"]
            default_user_config["lambda"] = {"use_docker": False}
            patches.callback(default_user_config.__setitem__, "lambda", previous)
            functions = self

            def invoke(  # noqa: PLR0917 - moto's signature
                backend: LambdaSimpleBackend,
                function_name: str,
                qualifier: str | None,
                body: Any,
                headers: Any,
                response_headers: dict[str, str],
            ) -> bytes:
                function = backend.get_function(function_name, qualifier)
                return functions._invoke(function, body, headers, response_headers)

            def delete_function(
                backend: LambdaSimpleBackend, function_name: str, qualifier: str | None = None
            ) -> None:
                function = backend.get_function(function_name, qualifier)
                original_delete(backend, function_name, qualifier)
                functions._runtime.forget(function.function_arn)

            patches.enter_context(replaced(LambdaSimpleBackend, "invoke", invoke))
            original_delete = patches.enter_context(
                replaced(LambdaSimpleBackend, "delete_function", delete_function)
            )
            patches.enter_context(_orderly_logs(self._log_lock))
            patches.enter_context(_remembered_configuration())
            patches.enter_context(_complete_cloudformation_support())
            patches.callback(self._runtime.stop)
            yield

    def invoke(self, function_arn: str, event: Any) -> Invocation:
        """Run the function of that ARN on ``event`` (anything JSON) and wait for the outcome."""
        _, _, _, region, account, *_ = function_arn.split(":")
        function = lambda_simple_backends[account][region].get_function(function_arn)
        return self._runtime.invoke(_as_deployed(function), json.dumps(event).encode())

    def prewarm(self, names: list[str], account: str, region: str) -> None:
        """Start one sandbox of each function, all at the same time, and wait for them."""
        backend = lambda_simple_backends[account][region]
        threads = [
            threading.Thread(
                target=self._runtime.prewarm, args=(_as_deployed(backend.get_function(name)),)
            )
            for name in names
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def logs(self, function_name: str | None = None) -> list[dict[str, Any]]:
        """Return what functions wrote, oldest first; see ``LocalCloud.lambda_logs``."""
        # A handler that has told somebody something may have written it down before.
        self._runtime.read_output()
        with self._log_lock:
            lines = list(self._lines)
        return [
            {"function": name, "timestamp": timestamp, "record": _parsed(line)}
            for name, timestamp, line in lines
            if function_name in (None, name)
        ]

    def _invoke(
        self,
        function: LambdaFunction,
        body: Any,
        headers: Mapping[str, str],
        response_headers: dict[str, str],
    ) -> bytes:
        payload = (body.encode() if isinstance(body, str) else bytes(body or b"")) or b"{}"
        kind = headers.get("X-Amz-Invocation-Type", "RequestResponse")
        response_headers["X-Amz-Executed-Version"] = str(function.version)
        if kind == "DryRun":
            return b""
        deployed = _as_deployed(function)
        if not deployed.runtime.startswith("python"):
            # Other languages' handlers, such as those of CDK's own custom resources.
            response_headers["X-Amz-Function-Error"] = "Unhandled"
            message = f"The local cloud runs Python functions only, not {deployed.runtime}"
            problem = {"errorType": "LocalCloud.UnsupportedRuntime", "errorMessage": message}
            return json.dumps(problem).encode()
        if kind == "Event":
            threading.Thread(
                target=self._invoke_unattended, args=(deployed, payload), daemon=True
            ).start()
            return b""
        invocation = self._runtime.invoke(deployed, payload)
        if invocation.error is not None:
            response_headers["X-Amz-Function-Error"] = invocation.error
        response_headers["x-amz-log-result"] = base64.b64encode(invocation.log_tail).decode()
        return invocation.result

    def _invoke_unattended(self, function: Function, payload: bytes) -> None:
        # AWS tries such an invocation twice again, after one and two minutes; here it is told.
        try:
            invocation = self._runtime.invoke(function, payload)
        except LambdaRuntimeStoppedError:
            return
        if invocation.error is not None:
            _LOG.warning(
                "Asynchronous invocation of %s failed: %s",
                function.name,
                invocation.result.decode(errors="replace"),
            )

    def _write_log(self, sandbox: Sandbox, timestamp: int, line: str) -> None:
        function = sandbox.function
        _, _, _, region, account, *_ = function.arn.split(":")
        with self._log_lock:
            self._lines.append((function.name, timestamp, line))
            logs: LogsBackend = logs_backends[account][region]
            logs.ensure_log_group(function.log_group)
            streams = logs.groups[function.log_group].streams
            if sandbox.log_stream not in streams:
                logs.create_log_stream(function.log_group, sandbox.log_stream)
            logs.put_log_events(
                function.log_group,
                sandbox.log_stream,
                [{"timestamp": timestamp, "message": line}],
            )


def _parsed(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        return {"message": line}
    return record if isinstance(record, dict) else {"message": line}


def _as_deployed(function: LambdaFunction) -> Function:
    logging_config: dict[str, Any] = function.__dict__["logging_config"]
    return Function(
        arn=function.function_arn,
        name=function.function_name,
        version=str(function.version),
        handler=str(function.handler),
        runtime=str(function.run_time),
        timeout_seconds=int(function.timeout),
        memory_mb=int(function.memory_size),
        code_sha256=code_fingerprint(function.code_bytes),
        code=function.code_bytes,
        environment=tuple(sorted(function.environment_vars.items())),
        in_vpc=bool((function.vpc_config or {}).get("SubnetIds")),
        log_group=logging_config["LogGroup"],
        log_format=logging_config["LogFormat"],
        log_level=logging_config.get("ApplicationLogLevel"),
    )


@contextmanager
def _orderly_logs(lock: threading.RLock) -> Iterator[None]:
    """Let nobody read which log groups and streams there are while another one is made.

    A sandbox begins a stream whenever it starts, and moto goes through them as they are.
    """
    with ExitStack() as patches:
        for owner, names in (
            (LogsBackend, ("create_log_group", "create_log_stream", "describe_log_groups")),
            (LogGroup, ("describe_log_streams", "filter_log_events", "to_describe_dict")),
        ):
            for name in names:
                patches.enter_context(replaced(owner, name, locked(lock, getattr(owner, name))))
        yield


@contextmanager
def _remembered_configuration() -> Iterator[None]:
    """Keep what moto drops of a function's configuration: LoggingConfig."""
    with ExitStack() as patches:

        def init(self: LambdaFunction, *args: Any, **kwargs: Any) -> None:
            original_init(self, *args, **kwargs)
            spec = kwargs["spec"] if "spec" in kwargs else args[1]
            given = spec.get("LoggingConfig")
            self.__dict__["logging_config"] = _logging_config(self, given)

        def update_configuration(self: LambdaFunction, updates: dict[str, Any]) -> dict[str, Any]:
            if "LoggingConfig" in updates:
                given = updates["LoggingConfig"]
                self.__dict__["logging_config"] = _logging_config(self, given)
            configuration: dict[str, Any] = original_update(self, updates)
            return configuration

        def get_configuration(self: LambdaFunction, on_create: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002 - moto's signature
            return {
                **original_get(self, on_create),
                "LoggingConfig": self.__dict__["logging_config"],
            }

        original_init = patches.enter_context(replaced(LambdaFunction, "__init__", init))
        original_update = patches.enter_context(
            replaced(LambdaFunction, "update_configuration", update_configuration)
        )
        original_get = patches.enter_context(
            replaced(LambdaFunction, "get_configuration", get_configuration)
        )
        yield


def _logging_config(function: LambdaFunction, given: dict[str, Any] | None) -> dict[str, Any]:
    config = {"LogFormat": _TEXT, "LogGroup": f"/aws/lambda/{function.function_name}"}
    config.update(given or {})
    if config["LogFormat"] == "JSON":
        config.setdefault("ApplicationLogLevel", "INFO")
        config.setdefault("SystemLogLevel", "INFO")
    return config


@contextmanager
def _complete_cloudformation_support() -> Iterator[None]:
    """Let a template's AWS::Lambda::Function say all that an API call can say.

    moto takes seven properties on creation (not LoggingConfig, Architectures, Tags and others)
    and on an update leaves in place whatever the new template no longer mentions.
    """
    with ExitStack() as patches:

        def create(
            cls: type[LambdaFunction],
            resource_name: str,
            cloudformation_json: dict[str, Any],
            account_id: str,
            region_name: str,
            **_: Any,
        ) -> LambdaFunction:
            spec = _spec(cls, cloudformation_json["Properties"], resource_name)
            return get_backend(account_id, region_name).create_function(spec)

        def update(  # noqa: PLR0917 - moto's signature
            cls: type[LambdaFunction],
            original_resource: LambdaFunction,
            new_resource_name: str,
            cloudformation_json: dict[str, Any],
            account_id: str,
            region_name: str,
        ) -> LambdaFunction:
            del new_resource_name, account_id, region_name
            spec = _spec(cls, cloudformation_json["Properties"], original_resource.function_name)
            original_resource.update_configuration({**_DEFAULTS, **spec})
            original_resource.update_function_code(spec["Code"])
            original_resource.architectures = spec.get("Architectures", ["x86_64"])
            original_resource.tags = spec["Tags"]
            return original_resource

        replacements: tuple[tuple[str, Any], ...] = (
            ("create_from_cloudformation_json", create),
            ("update_from_cloudformation_json", update),
        )
        for name, function in replacements:
            patches.enter_context(replaced(LambdaFunction, name, classmethod(function)))
        yield


# What an update returns to when a template stops mentioning it.
_DEFAULTS: dict[str, Any] = {
    "Description": "",
    "MemorySize": 128,
    "Timeout": 3,
    "Environment": {"Variables": {}},
    "VpcConfig": None,
    "LoggingConfig": None,
    "Layers": [],
}
_NUMBERS = ("MemorySize", "Timeout", "ReservedConcurrentExecutions")


def _spec(
    cls: type[LambdaFunction], properties: dict[str, Any], function_name: str
) -> dict[str, Any]:
    """Translate a resource's properties into the request of CreateFunction."""
    spec = {**properties, "FunctionName": function_name}
    spec["Tags"] = {tag["Key"]: tag["Value"] for tag in properties.get("Tags", [])}
    # A template may write a number as a string.
    spec.update({name: int(spec[name]) for name in _NUMBERS if name in spec})
    code = dict(properties["Code"])
    if "ZipFile" in code:
        # In a template it is the source itself, not an archive.
        archive = cls._create_zipfile_from_plaintext_code(code["ZipFile"])
        code["ZipFile"] = base64.b64encode(archive)
    spec["Code"] = code
    environment = spec.get("Environment", {}).get("Variables", {})
    spec["Environment"] = {"Variables": {key: str(value) for key, value in environment.items()}}
    return spec
