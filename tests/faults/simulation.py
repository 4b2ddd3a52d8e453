"""One world with the controller in it: everything that a run is made of."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from handlers.clients.consul import ConsulClient
from local.consul.api import Flavour
from tests.faults.consul_server import SimulatedConsul
from tests.faults.consul_transport import ConsulSession
from tests.faults.ecs import EcsClient, EcsStore
from tests.faults.lambda_functions import Lambda, LogTap
from tests.faults.network import FaultyNetwork, Network
from tests.faults.sandbox import installed
from tests.faults.schedule import Decider
from tests.faults.secrets_manager import Secret, SecretsManagerClient, SecretsStore
from tests.faults.stage import Stage
from tests.faults.step_functions import Execution, StepFunctions
from tests.faults.template import Template
from tests.faults.virtual_time import VirtualClock
from tests.faults.world import World

_running: list[Simulation] = []


@contextmanager
def simulating() -> Iterator[None]:
    """Let the handlers of this process live in simulations, one at a time."""

    def current() -> Simulation:
        return _running[-1]  # none does yet

    def publish(text: str) -> None:
        current().published.append(text)

    with installed(current), LogTap(publish):
        yield


class Simulation:
    """A world, and how to let things happen in it.

    Attributes:
        published: everything that got out of the steps: inputs, results, errors, log records.

    """

    def __init__(
        self,
        template: Template,
        *,
        ids: str,
        flavour: Flavour = "current",
        decider: Decider | None = None,
    ) -> None:
        """Make an empty world; `ids` is the seed of all IDs that are made in it."""
        self.template = template
        self.random = random.Random(ids)  # noqa: S311 - the same in each run
        _running[:] = [self]
        self.published: list[str] = []
        self.clock = VirtualClock()
        self.stage = Stage(self.clock)
        self.network = FaultyNetwork(self.stage, decider)
        self._way: Network = self.network
        self.consul = SimulatedConsul(self.clock, flavour, self.network.troubles)
        self.secrets = SecretsStore(self.clock, template.secret_arn_prefix)
        self.ecs = EcsStore(self.clock, template.cluster_arn)
        functions = Lambda(template.functions, self.clock, self.published.append)
        self.step_functions = StepFunctions(
            template.definitions, self.stage, functions, self.published.append
        )
        self.network.executions = self.step_functions
        self.world = World(
            template,
            self.stage,
            self.secrets,
            self.ecs,
            consul=self.consul,
            step_functions=self.step_functions,
        )
        for own in template.secrets.values():
            self.secrets.secrets[own.name] = Secret(own.arn, own.name)

    # --- what is around the handlers (tests.faults.sandbox.Surroundings) --------------------------

    def now(self) -> datetime:
        """Return the time."""
        return self.clock.now()

    def aws_client(self, service: str) -> Any:
        """Make a client of a service of AWS."""
        match service:
            case "secretsmanager":
                return SecretsManagerClient(self.secrets, self._way)
            case "ecs":
                return EcsClient(self.ecs, self._way)
        raise NotImplementedError(service)

    def connect(self, client: ConsulClient) -> None:
        """Connect a client to Consul."""
        session: Any = ConsulSession(self.consul, self._way)
        client._session = session

    def watched_by(self, watch: Callable[[FaultyNetwork], Network]) -> None:
        """Let calls go through something that looks at them."""
        self._way = watch(self.network)

    # --- letting things happen ------------------------------------------------------------------

    def start(self, workflow: str, given: Any) -> Execution:
        """Start an execution; `run` lets it go on."""
        return self.step_functions.start(self.template.machines[workflow], given)

    def run(self) -> None:
        """Let everybody act until all have ended."""
        self.stage.run()
