"""Lambda: runs the real handlers, each invocation in a sandbox of its function."""

from __future__ import annotations

import importlib
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from handlers.core.step import logger
from tests.faults.asl import TaskFailed
from tests.faults.sandbox import Function, Killed, Sandbox, entered
from tests.faults.virtual_time import VirtualClock

_OF_EVERY_RECORD = frozenset(vars(logging.makeLogRecord({})))


class Lambda:
    """All functions of a deployment."""

    def __init__(
        self,
        functions: Mapping[str, Function],
        clock: VirtualClock,
        publish: Callable[[str], None],
    ) -> None:
        self._functions = functions
        self._clock = clock
        self._publish = publish
        self._free: defaultdict[str, list[Sandbox]] = defaultdict(list)

    def invoke(self, function_arn: str, payload: Any, *, execution_arn: str) -> Any:
        """Invoke a function.

        Raises:
            TaskFailed: as Step Functions reports what went wrong.

        """
        function = self._functions[function_arn]
        event = self._through_json(payload)
        deadline = self._clock.now() + timedelta(seconds=function.timeout_seconds)
        free = self._free[function_arn]
        sandbox = free.pop() if free else Sandbox(function, deadline)
        sandbox.deadline = deadline
        sandbox.execution = execution_arn
        sandbox.look = None
        handler = importlib.import_module(function.handler.rpartition(".")[0]).handler
        with entered(sandbox):
            try:
                result = self._through_json(handler(event, None))
            except Killed:
                raise self._end_of(sandbox) from None
            except Exception as error:  # noqa: BLE001 - Lambda takes any
                failed = self._failure(error)
                if self._clock.now() >= deadline:
                    raise self._end_of(sandbox) from None
                free.append(sandbox)
                raise failed from None
        if self._clock.now() >= deadline:
            raise self._end_of(sandbox)
        free.append(sandbox)
        return result

    def _through_json(self, value: Any) -> Any:
        text = json.dumps(value)
        self._publish(text)
        return json.loads(text)

    def _end_of(self, sandbox: Sandbox) -> TaskFailed:
        sandbox.dead = True
        if self._clock.now() >= sandbox.deadline:
            seconds = sandbox.function.timeout_seconds
            return _task_failed("Sandbox.Timedout", f"Task timed out after {seconds:.2f} seconds")
        return _task_failed("Runtime.ExitError", "Runtime exited with error: signal: killed")

    def _failure(self, error: Exception) -> TaskFailed:
        # Lambda logs the traceback, with everything that hangs on the exception.
        hanging: BaseException | None = error
        while hanging is not None:
            self._publish(f"{hanging!r} {hanging}")
            suppressed = hanging.__suppress_context__
            hanging = hanging.__cause__ or (None if suppressed else hanging.__context__)
        return _task_failed(type(error).__name__, str(error))


def _task_failed(error: str, message: str) -> TaskFailed:
    answer = {"errorMessage": message, "errorType": error, "stackTrace": []}
    return TaskFailed(error, json.dumps(answer, separators=(",", ":")))


class LogTap(logging.Handler):
    """Hands on everything that the steps log."""

    def __init__(self, publish: Callable[[str], None]) -> None:
        super().__init__()
        self._publish = publish

    def emit(self, record: logging.LogRecord) -> None:
        """Hand on a record, with its extra fields."""
        extra = {key: value for key, value in vars(record).items() if key not in _OF_EVERY_RECORD}
        self._publish(f"{record.getMessage()} {extra}")

    def __enter__(self) -> None:
        logger.addHandler(self)
        self._propagated, logger.propagate = logger.propagate, False

    def __exit__(self, *_: object) -> None:
        logger.propagate = self._propagated
        logger.removeHandler(self)
