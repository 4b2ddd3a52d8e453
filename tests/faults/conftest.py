"""What the fault experiments share: the synthesized app, and something that runs schedules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from tests.faults.run import Runner
from tests.faults.simulation import simulating
from tests.faults.template import SETTINGS, Template, template_of

if TYPE_CHECKING:
    from tests.synthesized import Synthesized


@pytest.fixture(scope="session")
def template(synthesize_once: Callable[[str], Synthesized]) -> Template:
    """What is deployed."""
    from tests.synthesized import IRELAND, Deployed  # noqa: PLC0415 - takes seconds

    return template_of(Deployed(synthesize_once(SETTINGS), IRELAND))


TOLD = pytest.StashKey[list[str]]()
"""What is told at the end of the test run."""


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Tell what was explored."""
    told = config.stash.get(TOLD, [])
    if told:
        terminalreporter.section("fault experiments")
        for line in told:
            terminalreporter.write_line(line)


@pytest.fixture
def tell(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Keep a line for the end of the test run."""
    return pytestconfig.stash.setdefault(TOLD, []).append


@pytest.fixture(scope="module")
def _simulating() -> Iterator[None]:
    with simulating():
        yield


@pytest.fixture(scope="module")
def runner(template: Template, _simulating: None) -> Runner:
    """Runs schedules in this process."""
    return Runner(template)
