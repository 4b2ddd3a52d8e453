"""What both programs do at their beginning and at their end."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from typing import Final

from containers.errors import EnvironmentInvalid, TaskError
from containers.layout import CONFIG_VARIABLE
from containers.redaction import Redact, redactor
from containers.stopping import Stop, Stopped, StopSignal
from containers.task_config import TaskConfig

_LOG: Final = logging.getLogger(__name__)

Program = Callable[[Mapping[str, str], Stop], None]


def read_config(environment: Mapping[str, str]) -> TaskConfig:
    """Return the task's configuration.

    Raises:
        EnvironmentInvalid: if there is none.
        TaskConfigError: if it is not valid.

    """
    text = environment.get(CONFIG_VARIABLE, "")
    if not text:
        raise EnvironmentInvalid(
            f"{CONFIG_VARIABLE} is not set. It holds what to register; the MeshTask construct "
            "writes it into the task definition."
        )
    return TaskConfig.from_json(text)


def run_program(program: Program, environment: Mapping[str, str], *, stop_interrupts: bool) -> int:
    """Run a program of a container and return its exit status: 0 if it did its work, else 1.

    Args:
        program: what to run.
        environment: the container's.
        stop_interrupts: whether SIGTERM breaks off what the program is doing; a program that is
            asked to end and does so in its own time has done its work.

    """
    start_log(redactor(environment))
    try:
        program(environment, StopSignal(interrupts=stop_interrupts))
    except TaskError as error:
        _LOG.error("%s: %s", type(error).__name__, error)
        return 1
    except Stopped:
        _LOG.error("ECS stopped the task before this was done.")
        return 1
    except Exception:  # noqa: BLE001 - its traceback must be redacted like all else
        _LOG.exception("This is a defect of the program.")
        return 1
    return 0


def start_log(redact: Redact) -> None:
    """Write a line for each message to stderr, where the container's log driver reads it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Redacting(redact))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)


class _Redacting(logging.Formatter):
    """The last thing that every line passes, tracebacks included. ECS adds the time."""

    def __init__(self, redact: Redact) -> None:
        super().__init__("%(levelname)s %(message)s")
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        return self._redact(super().format(record))
