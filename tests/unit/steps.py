"""Running steps as Lambda does."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import ModuleType
from typing import Any, TypeVar

import pytest

from handlers.core import remote_calls
from handlers.core.errors import StepError

T = TypeVar("T")
Error = TypeVar("Error", bound=Exception)


class Steps:
    """Runs steps, and keeps everything that gets out of them."""

    def __init__(self) -> None:
        self.outputs: list[str] = []
        self.remote_calls: dict[str, int] = {}
        """What the last step sent."""

    def run(self, step: ModuleType, state: Any) -> dict[str, Any]:
        """Return the step's result, as Step Functions gets it."""
        result: dict[str, Any] = json.loads(json.dumps(step.handler(state, None)))
        self.remote_calls = remote_calls.counted()
        self.outputs.append(json.dumps(result))
        return result

    def fail(self, step: ModuleType, state: Any, kind: type[Error]) -> Error:
        """Return the error of a step, which has to be of exactly this kind."""
        return self.failure(lambda: step.handler(state, None), kind)

    def failure(self, call: Callable[[], object], kind: type[Error]) -> Error:
        """Return the error of any call."""
        with pytest.raises(kind) as caught:
            call()
        self.remote_calls = remote_calls.counted()
        assert type(caught.value) is kind
        self.outputs += traceback.format_exception(caught.value)
        return caught.value


def at_the_same_time(calls: Sequence[Callable[[], T]]) -> list[T | StepError]:
    """Make all calls at once; return what each returned or raised."""
    barrier = Barrier(len(calls))

    def run(call: Callable[[], T]) -> T | StepError:
        barrier.wait()
        try:
            return call()
        except StepError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(run, calls))
