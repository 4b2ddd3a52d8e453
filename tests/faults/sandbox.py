"""Lambda's sandboxes, all in one process: what a handler takes for its process is a sandbox's own.

A handler keeps things for as long as its process lives: clients, and through them the token that it
authenticates with. Here every handler runs in the same process, so those globals of modules are
replaced by ones that look at the sandbox of the running invocation. `installed` is the one place
that does this. A sandbox belongs to one function, is reused when it is free, and is gone when it is
killed.
"""

from __future__ import annotations

import random
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from types import SimpleNamespace
from typing import Any, Protocol

from handlers.clients import aws, consul_connection
from handlers.clients.consul import ConsulClient
from handlers.core import clock, environment, remote_calls
from local.cloud.patching import replaced


class Killed(BaseException):
    """The process of a handler is no more. No handler may catch this."""


@dataclass(frozen=True)
class Function:
    """A Lambda function, as the template says."""

    name: str
    arn: str
    handler: str
    """Such as `handlers.check_tags.handler`."""
    environment: Mapping[str, str]
    timeout_seconds: float

    @property
    def step(self) -> str:
        """The name of the handler's module."""
        return self.handler.split(".")[1]


@dataclass(eq=False)
class Sandbox:
    """A process of a function."""

    function: Function
    deadline: datetime
    """When Lambda ends the invocation."""
    kept: dict[Any, Any] = field(default_factory=dict)
    """What the code keeps for as long as the process lives."""
    calls: Counter[str] = field(default_factory=Counter)
    dead: bool = False
    execution: str = ""
    """The ARN of the execution that it works for."""
    look: datetime | None = None
    """As of when its invocation has seen the tasks of the cluster, if it has looked."""

    def keep(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return something that is made once a process."""
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]


class Surroundings(Protocol):
    """What is around the handlers, in one simulated world."""

    random: random.Random

    def now(self) -> datetime:
        """Return the time."""

    def aws_client(self, service: str) -> Any:
        """Make a client of a service of AWS."""

    def connect(self, client: ConsulClient) -> None:
        """Connect a client to Consul, instead of to a network."""


_running = threading.local()
_CLIENTS = {
    "consul": consul_connection.consul,
    "unauthenticated": consul_connection.unauthenticated_consul,
}


def current_sandbox() -> Sandbox:
    """Return the sandbox of the invocation that runs in this thread."""
    sandbox: Sandbox = _running.sandbox
    return sandbox


def running_sandbox() -> Sandbox | None:
    """Return the same, or None: this thread runs no invocation."""
    return getattr(_running, "sandbox", None)


@contextmanager
def entered(sandbox: Sandbox) -> Iterator[None]:
    """Let this thread be the sandbox's process."""
    before = getattr(_running, "sandbox", None)
    _running.sandbox = sandbox
    try:
        yield
    finally:
        _running.sandbox = before


class _Environment:
    """Stands for `os.environ` in the handlers."""

    def get(self, name: str, default: str | None = None) -> str | None:
        return current_sandbox().function.environment.get(name, default)


class _Calls:
    """Stands for the counter of remote calls."""

    def __getattr__(self, name: str) -> Any:
        return getattr(current_sandbox().calls, name)

    def __getitem__(self, key: str) -> int:
        return current_sandbox().calls[key]

    def __setitem__(self, key: str, value: int) -> None:
        current_sandbox().calls[key] = value


@contextmanager
def installed(surroundings: Callable[[], Surroundings]) -> Iterator[None]:
    """Let handlers, in whatever sandbox, meet the surroundings that the function returns then."""

    def aws_client(service: str, *, attempts: int = 2) -> Any:
        del attempts  # how often the SDK tries is a matter of the fakes: see the fault "twice"
        return current_sandbox().keep(service, lambda: surroundings().aws_client(service))

    def consul_client(which: str) -> Callable[[], ConsulClient]:
        def make() -> ConsulClient:
            client: ConsulClient = _CLIENTS[which].__wrapped__()
            surroundings().connect(client)
            return client

        return lambda: current_sandbox().keep(which, make)

    def new_uuid() -> uuid.UUID:
        return uuid.UUID(int=surroundings().random.getrandbits(128), version=4)

    with ExitStack() as patches:
        for which, original in _CLIENTS.items():
            # Handlers import these by name, so each module has a reference of its own.
            for module in [m for name, m in sys.modules.items() if name.startswith("handlers")]:
                for name, value in list(vars(module).items()):
                    if value is original:
                        patches.enter_context(replaced(module, name, consul_client(which)))
        patches.enter_context(replaced(aws, "client", aws_client))
        patches.enter_context(replaced(clock, "now", lambda: surroundings().now()))
        patches.enter_context(replaced(environment, "os", SimpleNamespace(environ=_Environment())))
        patches.enter_context(replaced(remote_calls, "_calls", _Calls()))
        patches.enter_context(replaced(uuid, "uuid4", new_uuid))
        yield
