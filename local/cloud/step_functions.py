"""Step Functions: what keeps moto's engine from behaving as AWS's.

moto carries LocalStack's interpreter of the Amazon States Language, which runs JSONPath machines
faithfully. What got lost on the way is put back here: names of executions, the casing of service
integrations, and waits that end when an execution is stopped.
"""

from __future__ import annotations

import datetime
import functools
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import botocore.session
from botocore.model import StructureShape
from moto.core.config import default_user_config
from moto.core.utils import utcnow
from moto.stepfunctions.exceptions import InvalidName
from moto.stepfunctions.parser.api import ExecutionStatus
from moto.stepfunctions.parser.asl.component.common.retry import retrier_decl
from moto.stepfunctions.parser.asl.component.common.retry.retrier_decl import RetrierDecl
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service import (
    state_task_service_aws_sdk,
    state_task_service_callback,
)
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service import (  # noqa: E501
    StateTaskService,
)
from moto.stepfunctions.parser.asl.eval.environment import Environment
from moto.stepfunctions.parser.asl.utils import boto_client
from moto.stepfunctions.parser.models import (
    StepFunctionsParserBackend,
    stepfunctions_parser_backends,
)
from moto.stepfunctions.parser.utils import TMP_THREADS, camel_to_snake_case

from local.cloud.patching import replaced

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
_RETRY_WAIT_SLICE_SECONDS = 0.2


@contextmanager
def corrected_step_functions() -> Iterator[None]:
    """Run state machines, and run them as AWS does, within the context.

    Works around a moto server and in or around ``mock_aws()``. Afterwards every execution that
    was still running has been stopped.
    """
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
            (StateTaskService, "_normalise_parameters", _to_client_casing),
            (StateTaskService, "_normalise_response", _to_workflow_casing),
            (StateTaskService, "_from_boto_response_value", staticmethod(_to_json_value)),
            (RetrierDecl, "_eval_body", _remember_environment(RetrierDecl._eval_body)),
            (retrier_decl, "time", _RetryClock),
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
        try:
            yield
        finally:
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
                # A worker has no environment before its thread has parsed the definition.
                if worker is None or worker.env is None:
                    continue
                if execution.status == ExecutionStatus.RUNNING.value:
                    execution.stop(utcnow(), error=None, cause="The local cloud was stopped.")


def _check_name(name: str) -> None:
    if len(name) > _MAX_NAME_LENGTH or _FORBIDDEN_IN_A_NAME.search(name):
        raise InvalidName(f"Invalid Name: '{name}'")


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

    @staticmethod
    def sleep(seconds: float) -> None:
        env: Environment = _retrying.environment
        deadline = time.monotonic() + seconds
        while env.is_running() and (left := deadline - time.monotonic()) > 0:
            env.program_state_event.wait(min(left, _RETRY_WAIT_SLICE_SECONDS))
