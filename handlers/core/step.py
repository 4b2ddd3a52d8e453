"""The frame of a step: from a state's input to its result or its error."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from handlers.core import remote_calls
from handlers.core.errors import InvalidStepInput, StepError

EXECUTION_KEY = "execution"
"""Where every workflow puts the ARN of its execution, so that log records can be found by it."""

logger = logging.getLogger("consul_on_ecs")
logger.setLevel(logging.INFO)

StepFunction = Callable[[Mapping[str, Any]], dict[str, Any]]
LambdaHandler = Callable[[Any, object], dict[str, Any]]


def step(function: StepFunction) -> LambdaHandler:
    """Make a Lambda handler of a function from a state's input to its result.

    Each invocation writes one log record: which step, of which execution, how long it took, which
    remote calls it made, and the name of its error if it failed. With the function's log format
    set to JSON, Lambda renders the `extra` fields. The input is never logged.
    """
    name = function.__module__.rpartition(".")[2]

    @functools.wraps(function)
    def handler(event: Any, context: object) -> dict[str, Any]:
        if not isinstance(event, Mapping):
            message = "The input of the step is not a JSON object."
            raise InvalidStepInput(message)
        record: dict[str, Any] = {"step": name, "execution": event.get(EXECUTION_KEY)}
        remote_calls.start_counting()
        started = time.perf_counter()
        try:
            result = function(event)
        except BaseException as error:
            record["error"] = type(error).__name__
            level, text = logging.WARNING, "Step failed"
            if not isinstance(error, StepError):
                level, text = logging.ERROR, "Step failed unexpectedly"
            raise
        else:
            level, text = logging.INFO, "Step finished"
            return result
        finally:
            record["seconds"] = round(time.perf_counter() - started, 3)
            record["remote_calls"] = remote_calls.counted()
            logger.log(level, text, extra=record)

    return handler
