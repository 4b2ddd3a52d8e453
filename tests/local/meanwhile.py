"""What somebody else does in the midst of something."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from local.cloud.patching import replaced

# Who is let in needs less; who is kept out, as it should be, has to wait for longer.
_A_MOMENT_SECONDS = 0.3


class Meanwhile:
    """Something that somebody else, a thread, does once: when this is called for the first time.

    The call waits for it, but only for a moment, for whoever called may keep others out.
    """

    def __init__(self, action: Callable[[], object]) -> None:
        self._action = action
        self._thread: threading.Thread | None = None
        self._problem: BaseException | None = None

    def __call__(self) -> None:
        """Let it begin, and give it a moment."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._act, daemon=True)
            self._thread.start()
            self._thread.join(_A_MOMENT_SECONDS)

    def end(self) -> None:
        """Wait until it is done, and raise what it has raised."""
        assert self._thread is not None, "nobody has called it"
        self._thread.join()
        if self._problem is not None:
            raise self._problem

    def _act(self) -> None:
        try:
            self._action()
        except BaseException as problem:  # noqa: BLE001 - it is raised in the test's thread
            self._problem = problem


@contextmanager
def meanwhile(
    owner: Any,
    name: str,
    action: Callable[[], object],
    *,
    when: Callable[..., bool] = lambda *_, **__: True,
) -> Iterator[None]:
    """Let somebody else do something just when ``owner.name`` is called with such arguments."""
    somebody = Meanwhile(action)
    original = getattr(owner, name)

    def called(*args: Any, **kwargs: Any) -> Any:
        if when(*args, **kwargs):
            somebody()
        return original(*args, **kwargs)

    with replaced(owner, name, called):
        yield
    somebody.end()
