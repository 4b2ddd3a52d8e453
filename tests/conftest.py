"""What tests of several folders share."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.synthesized import Deployed, Synthesized

# Who is started in the background by a shell ignores SIGINT, and so would all that tests start and
# interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Everything here is on loopback, whose addresses a proxy of the machine's does not know.
for _name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
    os.environ.pop(_name, None)
    os.environ.pop(_name.lower(), None)

SynthesizeOnce = Callable[[str], "Synthesized"]


@pytest.fixture(scope="session")
def synthesize_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SynthesizeOnce]:
    """Return a function from the text of a settings file to the stack; the same text, once."""
    with pytest.MonkeyPatch.context() as patch:
        # CDK starts the `node` of the PATH, and the environment of this Python has one.
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        from tests.synthesized import synthesize  # noqa: PLC0415 - takes seconds: who needs it pays

        known: dict[str, Synthesized] = {}

        def once(text: str) -> Synthesized:
            if text not in known:
                known[text] = synthesize(text, tmp_path_factory.mktemp("synthesized"))
            return known[text]

        yield once


@pytest.fixture(scope="session")
def minimal(synthesize_once: SynthesizeOnce) -> Deployed:
    """The app with nothing but the required settings, in an ordinary region."""
    from tests.synthesized import IRELAND, MINIMAL, Deployed  # noqa: PLC0415 - see above

    return Deployed(synthesize_once(MINIMAL), IRELAND)


@pytest.fixture(scope="session")
def everything(synthesize_once: SynthesizeOnce) -> Deployed:
    """The app with every setting set, in another partition."""
    from tests.synthesized import EVERYTHING, GOVERNMENT, Deployed  # noqa: PLC0415 - see above

    return Deployed(synthesize_once(EVERYTHING), GOVERNMENT)


@pytest.fixture(scope="session")
def vpc_only(synthesize_once: SynthesizeOnce) -> Deployed:
    """The app in a VPC, without security groups to use."""
    from tests.synthesized import IRELAND, VPC_ONLY, Deployed  # noqa: PLC0415 - see above

    return Deployed(synthesize_once(VPC_ONLY), IRELAND)


@pytest.fixture(scope="session")
def served(synthesize_once: SynthesizeOnce, tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    """A stack with three Consul servers of its own, and the controller that looks after them."""
    from tests.synthesized import (  # noqa: PLC0415 - see above
        IRELAND,
        Deployed,
        synthesize_with_servers,
    )

    return Deployed(synthesize_with_servers(tmp_path_factory.mktemp("served")), IRELAND)


@pytest.fixture(scope="session")
def snapshots_stack(
    tmp_path_factory: pytest.TempPathFactory, synthesize_once: SynthesizeOnce
) -> Deployed:
    """The workflows of snapshots, in a stack of their own."""
    del synthesize_once  # it has put the right Node.js on the PATH
    from tests.snapshot_stack import synthesize_snapshots  # noqa: PLC0415 - see above

    return synthesize_snapshots(tmp_path_factory.mktemp("snapshots"))


@pytest.fixture(params=["minimal", "everything", "vpc_only"])
def deployed(request: pytest.FixtureRequest) -> Deployed:
    """Each of the stacks above."""
    stack: Deployed = request.getfixturevalue(request.param)
    return stack
