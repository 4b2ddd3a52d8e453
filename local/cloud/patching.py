"""Replacing one attribute of moto while the cloud runs, and putting it back afterwards."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

_ABSENT = object()


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[Any]:
    """Give ``owner`` (a class or module) the attribute ``name`` = ``value`` within the context.

    Yields what was there before, looked up as callers would see it, so that a replacement can
    call the original; None if there was nothing. Afterwards the owner is exactly as it was: an
    attribute that it had only inherited is removed again, and a ``staticmethod`` or
    ``classmethod`` is put back as one.
    """
    visible = getattr(owner, name, None)
    own = vars(owner).get(name, _ABSENT)
    setattr(owner, name, value)
    try:
        yield visible
    finally:
        if own is _ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


def locked(lock: AbstractContextManager[Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` as one that nobody interrupts who has the same ``lock``."""

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        with lock:
            return function(*args, **kwargs)

    return called


@contextmanager
def environment_variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable of this process within the context."""
    previous = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if previous is None:
            del os.environ[name]
        else:
            os.environ[name] = previous
