"""How Hypothesis is to look for examples here."""

from __future__ import annotations

import os
from typing import Final

from hypothesis import HealthCheck, Phase, settings

_TIMES: Final = int(os.environ.get("BAD_INPUT_TIMES", "1"))


def examples(count: int) -> settings:
    """Return the settings of a property that is tried with so many examples."""
    return settings(
        max_examples=count * _TIMES,
        # The same examples at each run, unless somebody wants to find new ones.
        derandomize=_TIMES == 1,
        database=None,
        deadline=None,
        print_blob=True,
        # Whoever explains a failure tries it out some hundred times more.
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.function_scoped_fixture,
        ],
    )
