"""Stacks together with what is expected of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.conftest import SynthesizeOnce
from tests.infrastructure.expected import EVERYTHING, MINIMAL, Expected
from tests.synthesized import Deployed

if TYPE_CHECKING:
    from aws_cdk import Stack

    from tests.infrastructure.mesh_apps import SynthesizeMesh

Case = tuple[Deployed, Expected]


@pytest.fixture(params=["minimal", "everything"])
def case(request: pytest.FixtureRequest) -> Case:
    """A stack, and what is expected of it."""
    deployed: Deployed = request.getfixturevalue(request.param)
    return deployed, {"minimal": MINIMAL, "everything": EVERYTHING}[request.param]


@pytest.fixture(scope="session")
def synthesize_mesh(
    tmp_path_factory: pytest.TempPathFactory, synthesize_once: SynthesizeOnce
) -> SynthesizeMesh:
    """Return a function from what makes a stack to that stack; the same stack, once."""
    # `synthesize_once` has put the right Node.js on the PATH.
    from tests.infrastructure.mesh_apps import synthesize_stack  # noqa: PLC0415 - imports CDK

    known: dict[Callable[[Stack], None], Deployed] = {}

    def once(make: Callable[[Stack], None]) -> Deployed:
        if make not in known:
            known[make] = synthesize_stack(make, tmp_path_factory.mktemp("mesh"))
        return known[make]

    return once
