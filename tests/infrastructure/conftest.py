"""Stacks together with what is expected of them."""

from __future__ import annotations

import pytest

from tests.infrastructure.expected import EVERYTHING, MINIMAL, Expected
from tests.synthesized import Deployed

Case = tuple[Deployed, Expected]


@pytest.fixture(params=["minimal", "everything"])
def case(request: pytest.FixtureRequest) -> Case:
    """A stack, and what is expected of it."""
    deployed: Deployed = request.getfixturevalue(request.param)
    return deployed, {"minimal": MINIMAL, "everything": EVERYTHING}[request.param]
