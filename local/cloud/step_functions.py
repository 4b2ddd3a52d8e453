"""Step Functions: what keeps moto's engine from behaving as AWS's.

moto carries LocalStack's interpreter of the Amazon States Language, which runs JSONPath machines
faithfully. What got lost on the way is put back here: names of executions, the casing of service
integrations, waits that are as long as they should be and end when an execution is stopped, and
what becomes of a stopped execution and of those that it has started. Everything goes by the
cloud's clock.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import botocore.session
from botocore.model import StructureShape
from moto.core.config import default_user_config
from moto.core.exceptions import AWSError
from moto.core.utils import utcnow
from moto.stepfunctions.exceptions import InvalidName
from moto.stepfunctions.parser import models
from moto.stepfunctions.parser.api import ExecutionStatus
from moto.stepfunctions.parser.asl.component.common.error_name.failure_event import (
    FailureEventException,
)
from moto.stepfunctions.parser.asl.component.common.retry import retrier_decl
from moto.stepfunctions.parser.asl.component.common.retry.retrier_decl import RetrierDecl
from moto.stepfunctions.parser.asl.component.state import state
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service import (
    state_task_service_aws_sdk,
    state_task_service_callback,
)
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service import (  # noqa: E501
    StateTaskService,
)
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_callback import (  # noqa: E501
    StateTaskServiceCallback,
)
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_sfn import (  # noqa: E501
    StateTaskServiceSfn,
)
from moto.stepfunctions.parser.asl.component.state.wait.wait_function.timestamp import Timestamp
from moto.stepfunctions.parser.asl.component.state.wait.wait_function.wait_function import (
    WaitFunction,
)
from moto.stepfunctions.parser.asl.eval.environment import Environment
from moto.stepfunctions.parser.asl.eval.evaluation_details import ExecutionDetails
from moto.stepfunctions.parser.asl.eval.event.event_manager import EventManager
from moto.stepfunctions.parser.asl.eval.program_state import ProgramStopped, ProgramTimedOut
from moto.stepfunctions.parser.asl.utils import boto_client
from moto.stepfunctions.parser.backend import execution as execution_module
from moto.stepfunctions.parser.backend.execution import (
    BaseExecutionWorkerCommunication,
    Execution,
)
from moto.stepfunctions.parser.models import (
    StepFunctionsParserBackend,
    stepfunctions_parser_backends,
)
from moto.stepfunctions.parser.utils import TMP_THREADS, camel_to_snake_case

from local.cloud.clock import CloudClock, as_text
from local.cloud.patching import replaced
from local.cloud.waiting import until

# https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html
_MAX_NAME_LENGTH = 80
_FORBIDDEN_IN_A_NAME = re.compile(r"[\s<>{}\[\]?*\"#%\\^|~`$&,;:/\x00-\x1f\x7f-\x9f]")

# moto looks at a `.sync` execution twice a second, so that each nested workflow would cost 250 ms
# on average, where AWS is told at once.
_SYNC_POLL_SECONDS = 0.02

# How a workflow names the services in errors (`SecretsManager.ResourceNotFoundException`). moto
# knows two of them, and takes the others as they stand in the state's resource.
_SERVICE_ERROR_NAMES = {
    "cloudwatch": "CloudWatch",
    "dynamodb": "DynamoDb",
    "ecs": "Ecs",
    "eventbridge": "EventBridge",
    "lambda": "Lambda",
    "secretsmanager": "SecretsManager",
    "sfn": "Sfn",
    "sns": "Sns",
    "sqs": "Sqs",
    "ssm": "Ssm",
}

# A stopped execution is signalled by an event that is set and cleared at once, which a waiter can
# miss between its check and its wait; so it looks again this often.
_WAIT_SLICE_SECONDS = 0.2

# A thread of moto's parses the definition first, and cannot be stopped before it has. On a busy
# machine, where many do so at the same time, that takes a while.
_PARSED_WITHIN_SECONDS = 60.0


@contextmanager
def corrected_step_functions(clock: CloudClock | None = None) -> Iterator[None]:
    """Run state machines, and run them as AWS does, within the context.

    Works around a moto server and in or around ``mock_aws()``. Afterwards every execution that
    was still running has been stopped. Without a ``clock`` the time is ours.
    """
    clock = clock or CloudClock()
    stopping = threading.Event()
    name_lock = threading.Lock()
    client_lock = threading.Lock()
    with ExitStack() as patches:
        previous = default_user_config["stepfunctions"]
        default_user_config["stepfunctions"] = {"execute_state_machine": True}
        patches.callback(default_user_config.__setitem__, "stepfunctions", previous)

        start_execution: Any = StepFunctionsParserBackend.start_execution

        def start_named_execution(
            self: StepFunctionsParserBackend,
            state_machine_arn: str,
            name: str | None = None,
            execution_input: str | None = None,
            trace_header: str | None = None,
        ) -> Any:
            # Without a name, AWS makes one up; moto calls every such execution "None".
            name = name or str(uuid.uuid4())
            _check_name(name)
            # moto looks for the name and adds the execution in two steps; of two that start the
            # same name at the same moment exactly one must win.
            with name_lock:
                if stopping.is_set():
                    raise RuntimeError("The local cloud is stopping.")
                return start_execution(self, state_machine_arn, name, execution_input, trace_header)

        # moto makes a client for each task of each execution, which takes longer than the call.
        # Clients can be shared between threads, and each cloud has its own.
        @functools.lru_cache
        def cached_client(region: str, service: str) -> Any:
            return boto_client.boto_client_for(region, service)

        def client_for(region: str, service: str, state_credentials: Any = None) -> Any:
            del state_credentials  # nothing is checked here
            # boto3's default session does not make two clients at the same time.
            with client_lock:
                return cached_client(region, service)

        for owner, name, value in (
            (StepFunctionsParserBackend, "start_execution", start_named_execution),
            (
                StepFunctionsParserBackend,
                "_validate_definition",
                staticmethod(_strict(StepFunctionsParserBackend._validate_definition)),
            ),
            (StateTaskService, "_normalise_parameters", _to_client_casing),
            (StateTaskService, "_normalise_response", _to_workflow_casing),
            (StateTaskService, "_from_boto_response_value", staticmethod(_to_json_value)),
            (RetrierDecl, "_eval_body", _remember_environment(RetrierDecl._eval_body)),
            (retrier_decl, "time", _RetryClock(clock)),
            (Environment, "set_error", _kept_end(Environment.set_error)),
            (
                StateTaskServiceCallback,
                "_eval_sync",
                _stopping_the_child(StateTaskServiceCallback._eval_sync),
            ),
            (
                StateTaskServiceSfn,
                "_build_sync_resolver",
                _knowing_the_child(StateTaskServiceSfn._build_sync_resolver),
            ),
            (
                StateTaskServiceSfn,
                "_build_sync2_resolver",
                _knowing_the_child(StateTaskServiceSfn._build_sync2_resolver),
            ),
            (Execution, "stop", _stop_when_parsed(Execution.stop)),
            (
                BaseExecutionWorkerCommunication,
                "_reflect_execution_status",
                _status_last(BaseExecutionWorkerCommunication._reflect_execution_status),
            ),
            (state_task_service_aws_sdk, "_SERVICE_ERROR_NAMES", _SERVICE_ERROR_NAMES),
            (
                state_task_service_callback,
                "_DELAY_SECONDS_SYNC_CONDITION_CHECK",
                _SYNC_POLL_SECONDS,
            ),
        ):
            patches.enter_context(replaced(owner, name, value))
        for module in _modules_with_clients():
            patches.enter_context(replaced(module, "boto_client_for", client_for))
        _keep_time(patches, clock)
        try:
            yield
        finally:
            with name_lock:
                stopping.set()
            stop_running_executions()
            # moto remembers every thread it ever started here, and never forgets one.
            TMP_THREADS[:] = [thread for thread in TMP_THREADS if thread.is_alive()]


def _modules_with_clients() -> list[ModuleType]:
    prefix = "moto.stepfunctions.parser.asl.component."
    return [
        module
        for name, module in list(sys.modules.items())
        if name.startswith(prefix) and hasattr(module, "boto_client_for")
    ]


def stop_running_executions() -> None:
    """Abort every running execution, so that none goes on in the next cloud of this process."""
    for _, _, backend in stepfunctions_parser_backends.iter_backends():
        engine: Any = backend
        for machine in list(engine.state_machines):
            for execution in list(machine.executions):
                worker = getattr(execution, "exec_worker", None)
                if worker is None or execution.status != ExecutionStatus.RUNNING.value:
                    continue
                # One that cannot be parsed does not run, whatever its status says.
                with suppress(TimeoutError):
                    execution.stop(utcnow(), error=None, cause="The local cloud was stopped.")


def _stop_when_parsed(stop: Callable[..., None]) -> Callable[..., None]:
    """Wait until an execution can be stopped: in moto not before its definition is parsed."""

    def stop_execution(
        self: Execution, stop_date: datetime.datetime, error: str | None, cause: str | None
    ) -> None:
        worker = self.exec_worker
        until(
            lambda: worker is None or worker.env is not None,
            within=_PARSED_WITHIN_SECONDS,
            what=f"the definition of {self.exec_arn} is parsed",
        )
        stop(self, stop_date, error, cause)

    return stop_execution


def _check_name(name: str) -> None:
    if len(name) > _MAX_NAME_LENGTH or _FORBIDDEN_IN_A_NAME.search(name):
        raise InvalidName(f"Invalid Name: '{name}'")


# Definitions. moto takes what should be a path and is none for the text itself.

_TEMPLATES = ("Parameters", "ItemSelector", "ResultSelector")


class _InvalidDefinitionError(AWSError):
    """A state machine that Step Functions would not create."""

    TYPE = "InvalidDefinition"
    STATUS = 400


def _strict(validate: Callable[[str], None]) -> Callable[[str], None]:
    def validate_strictly(definition: str) -> None:
        validate(definition)
        for where, name, value in _references(json.loads(definition), ""):
            if not isinstance(value, str) or not value.startswith(("$", "States.")):
                raise _InvalidDefinitionError(
                    "Invalid State Machine Definition: 'SCHEMA_VALIDATION_FAILED: The value for "
                    f"the field '{name}' must be a valid JSONPath or a valid intrinsic function "
                    f"call at {where}'"
                )

    return validate_strictly


def _references(
    node: Any, where: str, *, in_template: bool = False
) -> Iterator[tuple[str, str, Any]]:
    """Find the fields of templates whose values are to be paths: where, which, what."""
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from _references(item, f"{where}[{index}]", in_template=in_template)
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if in_template and key.endswith(".$"):
            yield where, key, value
        else:
            inside = in_template or key in _TEMPLATES
            yield from _references(value, f"{where}/{key}", in_template=inside)


# Service integrations. A workflow spells parameters and results in PascalCase whatever the
# service itself uses (`StateMachineArn`, `ClusterArns`). LocalStack translates by botocore's
# shapes; moto has the translation but made its two entry points empty, so that
# `states:startExecution` fails with a KeyError and `aws-sdk:ecs:…` answers in camelCase.


def _to_client_casing(
    self: StateTaskService,
    parameters: dict[str, Any],
    boto_service_name: str | None = None,
    service_action_name: str | None = None,
) -> None:
    shape = _shape_of(self, "input_shape", boto_service_name, service_action_name)
    if shape is not None:
        self._to_boto_request(parameters, shape)


def _to_workflow_casing(
    self: StateTaskService,
    response: Any,
    boto_service_name: str | None = None,
    service_action_name: str | None = None,
) -> None:
    # Lambda's answer is the handler's own JSON beside fixed keys, already cased.
    if self.resource.service_name == "lambda":
        return
    shape = _shape_of(self, "output_shape", boto_service_name, service_action_name)
    if shape is not None:
        self._from_boto_response(response, shape)


def _shape_of(
    task: StateTaskService, side: str, service_name: str | None, action_name: str | None
) -> StructureShape | None:
    service = task._get_boto_service_name(service_name)
    action = task._get_boto_service_action(action_name)
    operation = _operations(service).get(action)
    return None if operation is None else getattr(_model(service).operation_model(operation), side)


@functools.lru_cache
def _model(service: str) -> Any:
    return botocore.session.get_session().get_service_model(service)


@functools.lru_cache
def _operations(service: str) -> dict[str, str]:
    return {camel_to_snake_case(name): name for name in _model(service).operation_names}


def _to_json_value(value: Any) -> Any:
    """Render what JSON cannot hold; a timestamp would make DescribeExecution fail for good."""
    if isinstance(value, datetime.datetime):
        utc = value.astimezone(datetime.UTC)
        return utc.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if hasattr(value, "read"):
        body = value.read()
        return body.decode() if isinstance(body, bytes) else body
    return value


# Time.


def _keep_time(patches: ExitStack, clock: CloudClock) -> None:
    """Let what moto waits for, and what it writes, go by the cloud's clock."""

    def wait(_function: WaitFunction, env: Environment, wait_seconds: float) -> None:
        _pause(env, clock.wait(wait_seconds))

    def seconds_left(self: Timestamp, env: Environment) -> float:
        self.string.eval(env=env)
        text = env.stack.pop()
        moment = _moment(text)
        if moment is None:
            raise FailureEventException(self._create_failure_event(env, text))
        return (moment - clock.now()).total_seconds()

    def execution_details(self: Execution) -> ExecutionDetails:
        details = get_details(self)
        return ExecutionDetails(
            arn=details.arn,
            name=details.name,
            role_arn=details.role_arn,
            inpt=details.inpt,
            # moto has an object here that no state could pass on.
            start_time=as_text(self.start_date),
        )

    def entered(**data: Any) -> dict[str, Any]:
        return {**data, "EnteredTime": clock.text()}

    get_details = patches.enter_context(
        replaced(Execution, "get_start_execution_details", execution_details)
    )
    now = SimpleNamespace(now=lambda tz: clock.now().astimezone(tz))
    datetime_module = SimpleNamespace(datetime=now, timezone=datetime.timezone)
    for owner, name, value in (
        (WaitFunction, "_wait_interval", wait),
        # moto's own ends up to a second early, and takes the time of this machine for UTC.
        (Timestamp, "_get_wait_seconds", seconds_left),
        (Timestamp, "_from_timestamp_string", staticmethod(_moment)),
        (EventManager, "_get_current_timestamp", staticmethod(clock.now)),
        (state, "StateData", entered),
        (execution_module, "datetime", datetime_module),
        (models, "datetime", datetime_module),
    ):
        patches.enter_context(replaced(owner, name, value))


# "the RFC3339 profile of ISO 8601, with the further restrictions that an uppercase T must separate
# the date and time portions, and an uppercase Z must denote that a numeric time zone offset is not
# present" https://docs.aws.amazon.com/step-functions/latest/dg/state-wait.html
_TIMESTAMP = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})", re.ASCII)


def _moment(timestamp: Any) -> datetime.datetime | None:
    """Read a timestamp; None if it is none."""
    if not isinstance(timestamp, str) or not _TIMESTAMP.fullmatch(timestamp):
        return None
    try:
        return datetime.datetime.fromisoformat(timestamp)
    except ValueError:
        return None


def _pause(env: Environment, seconds: float) -> None:
    """Wait so long, or until the execution is stopped."""
    deadline = time.monotonic() + seconds
    while env.is_running() and (left := deadline - time.monotonic()) > 0:
        env.program_state_event.wait(min(left, _WAIT_SLICE_SECONDS))


# Retries. moto sleeps between two attempts, deaf to StopExecution, so that an execution that is
# stopped (or the whole cloud) would stay "running" until its back-off is over.

_retrying = threading.local()


def _remember_environment(
    eval_body: Callable[[RetrierDecl, Environment], None],
) -> Callable[[RetrierDecl, Environment], None]:
    def remembering(self: RetrierDecl, env: Environment) -> None:
        _retrying.environment = env
        eval_body(self, env)

    return remembering


class _RetryClock:
    """Stands in for the module ``time`` where moto sleeps between two attempts."""

    def __init__(self, clock: CloudClock) -> None:
        self._clock = clock

    def sleep(self, seconds: float) -> None:
        _pause(_retrying.environment, self._clock.wait(seconds))


# Stopping. In moto the iterations of a Map state that are stopped are a failure of the execution,
# and a stopped execution leaves those that it waits for running.


def _kept_end(set_error: Callable[[Environment, Any], None]) -> Callable[[Environment, Any], None]:
    def set_error_unless_over(self: Environment, error: Any) -> None:
        with self._state_mutex:
            if not isinstance(self._program_state, (ProgramStopped, ProgramTimedOut)):
                set_error(self, error)

    return set_error_unless_over


# Ends. moto says that an execution has ended before it says how: who asks in between, be it a
# state that waits for it, finds that it has succeeded without an output.


def _status_last(
    reflect: Callable[[BaseExecutionWorkerCommunication], None],
) -> Callable[[BaseExecutionWorkerCommunication], None]:
    def reflect_execution_status(self: BaseExecutionWorkerCommunication) -> None:
        execution = self.execution
        end: Any = SimpleNamespace(exec_worker=execution.exec_worker)
        reflect(BaseExecutionWorkerCommunication(end))
        status = end.__dict__.pop("exec_status")
        execution.__dict__.update(end.__dict__)
        execution.exec_status = status

    return reflect_execution_status


@dataclass
class _Child:
    """What moto calls to ask whether an execution that a state waits for has ended."""

    ask: Callable[[], Any]
    execution_arn: str

    def __call__(self) -> Any:
        return self.ask()


def _knowing_the_child(build: Callable[..., Any]) -> Callable[..., _Child]:
    def build_resolver(self: StateTaskServiceSfn, env: Environment, **more: Any) -> _Child:
        execution_arn = env.stack[-1]["ExecutionArn"]
        return _Child(build(self, env=env, **more), execution_arn)

    return build_resolver


def _stopping_the_child(eval_sync: Callable[..., Any]) -> Callable[..., Any]:
    """Stop the execution that a state waits for when the state is not to wait any more.

    https://docs.aws.amazon.com/step-functions/latest/dg/connect-to-resource.html#connect-sync
    """

    def eval_sync_and_stop(self: StateTaskServiceCallback, env: Environment, **more: Any) -> Any:
        outcome = eval_sync(self, env=env, **more)
        child = more["sync_resolver"]
        # Anything but the child's description: the execution is stopped, or its time is over.
        if isinstance(child, _Child) and not isinstance(outcome, dict):
            details = env.aws_execution_details
            stepfunctions_parser_backends[details.account][details.region].stop_execution(
                child.execution_arn
            )
        return outcome

    return eval_sync_and_stop
