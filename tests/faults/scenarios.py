"""What happens in the runs: each scenario is a world, and what goes on in it at the same time."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from handlers.core import names
from handlers.core.subjects import Subject
from local.consul.acl import ServiceIdentity, Token
from local.consul.api import Flavour
from tests.faults.invariants import foreign_objects, tokens_of_ours
from tests.faults.schedule import STOP, Options
from tests.faults.simulation import Simulation
from tests.faults.stage import Script
from tests.faults.template import RULED_SERVICE
from tests.faults.world import World

HOUR = 3600.0
_GRACE = 15 * 60.0
"""The grace period, if the settings do not say otherwise."""


@dataclass(frozen=True)
class Scenario:
    """One situation.

    Args:
        name: as it stands in schedules.
        prepare: what has happened before, without faults.
        begin: what begins at the same time.
        flavour: which Consul.
        explained: errors that somebody has to do something about, and why there may be some: a
            person has broken something.
        one_token: whether no run of it may ever make a second token of a service, not even one
            that Reconciliation removes.
        is_deployment: whether what runs is part of a deployment, which is repeated if it fails.

    """

    name: str
    prepare: Callable[[Simulation], None]
    begin: Callable[[Simulation], None]
    flavour: Flavour = "current"
    explained: frozenset[str] = frozenset()
    one_token: bool = False
    is_deployment: bool = False


# A server that chooses the management token itself tells it once. If that answer is lost, so is the
# token; newer ones take the one that was stored before (handlers/bootstrap_acls.py).
_OLD_BOOTSTRAP = frozenset({"ConsulAlreadyBootstrapped"})

# --- what has happened before ---------------------------------------------------------------------


def nothing(simulation: Simulation) -> None:
    """A deployment that is about to run for the first time."""
    _plant_foreign_objects(simulation.world)


def bootstrapped(simulation: Simulation) -> None:
    """ClusterBootstrap has run."""
    nothing(simulation)
    simulation.start("ClusterBootstrap", {})
    simulation.run()
    simulation.world.foreign = foreign_objects(simulation.world)


def running_service(simulation: Simulation) -> None:
    """A service runs, with two tasks."""
    bootstrapped(simulation)
    simulation.world.create_service("api", tasks=2)
    simulation.run()
    _an_hour_passes(simulation)


def two_services(simulation: Simulation) -> None:
    """Two services run; one of them has rules of its own, and three tasks."""
    bootstrapped(simulation)
    simulation.world.create_service("api", tasks=1)
    simulation.world.create_service(RULED_SERVICE, tasks=3)
    simulation.run()
    _an_hour_passes(simulation)


def service_that_is_gone(simulation: Simulation) -> None:
    """A service had a task, and has none any more; its token is still there."""
    bootstrapped(simulation)
    world = simulation.world
    world.create_service("api", tasks=1)
    simulation.run()
    simulation.stage.enter_script("deletion", world.delete_service("api"))
    simulation.run()
    _an_hour_passes(simulation)


def dead_rotation(simulation: Simulation) -> None:
    """A rotation was stopped before it published, hours ago."""
    running_service(simulation)
    ours = Subject(service="api")

    def has_made_its_token() -> bool:
        return len(tokens_of_ours(simulation.world)[ours]) > 1

    simulation.network.decider = _StopWhen(has_made_its_token)
    simulation.start("TokenRotation", {"service": "api"})
    simulation.run()
    simulation.network.decider = None
    simulation.clock.pass_seconds(5 * HOUR)


@dataclass(frozen=True)
class _StopWhen:
    """Stops executions as soon as something is so (tests.faults.schedule.Decider)."""

    is_so: Callable[[], bool]

    def decide(self, point: int, options: Options, *, writes: bool) -> str | None:
        """Return what is to happen."""
        del point, options, writes
        return STOP if self.is_so() else None


def _an_hour_passes(simulation: Simulation) -> None:
    simulation.clock.pass_seconds(HOUR)


def _plant_foreign_objects(world: World) -> None:
    """Tokens that are not ours, as close to ours as can be."""
    arn = world.template.cluster_arn
    for number, description in enumerate(
        (
            "Token for api service",
            f"Token for api service\n{names.cluster_line(arn)}-2",
            f"Token for api service\n{names.cluster_line(arn[:-1])}",
            f"Token for api service ({names.cluster_line(arn)})",
            "somebody's own",
        )
    ):
        world.consul.plant(
            Token(
                accessor_id=str(uuid.UUID(int=10**30 + number)),
                secret_id=str(uuid.UUID(int=2 * 10**30 + number)),
                description=description,
                service_identities=(ServiceIdentity("api"),),
                create_time=world.stage.clock.now(),
                create_index=0,
                modify_index=0,
            )
        )
    world.foreign = foreign_objects(world)


# --- what begins ----------------------------------------------------------------------------------


def _person(simulation: Simulation, act: Callable[[World], None]) -> None:
    """Let a person do something, at once unless a schedule lets others go first."""

    def script() -> Script:
        act(simulation.world)
        yield 0.0

    simulation.stage.enter_script("person", script())


def _three_starts(simulation: Simulation) -> None:
    simulation.world.create_service("api", tasks=3)


def _two_bootstraps(simulation: Simulation) -> None:
    simulation.start("ClusterBootstrap", {})
    simulation.start("ClusterBootstrap", {})


def _one_bootstrap(simulation: Simulation) -> None:
    simulation.start("ClusterBootstrap", {})


def _start_around_the_deletion(seconds: float) -> Callable[[Simulation], None]:
    """Let a task start so many seconds after the second look, unless a schedule hurries it."""

    def begin(simulation: Simulation) -> None:
        simulation.start("Reconciliation", {})
        start = _later(_GRACE + seconds, simulation.world, "api")
        simulation.stage.enter_script("start", start)

    return begin


def _later(seconds: float, world: World, service: str) -> Script:
    yield seconds
    found = world.ecs.cluster.services[service]
    world.create_service(service, tasks=1, controller=found.controller)


def _start_and_rotation(simulation: Simulation) -> None:
    simulation.world.start_task("api")
    simulation.start("TokenRotation", {"service": "api"})


def _rotation_and_reconciliation(simulation: Simulation) -> None:
    simulation.start("TokenRotation", {"service": "api"})
    simulation.start("Reconciliation", {})


def _reconciliation_and_rotation(simulation: Simulation) -> None:
    simulation.start("Reconciliation", {})
    simulation.start("TokenRotation", {"service": "api"})


def _two_rotations(simulation: Simulation) -> None:
    simulation.start("TokenRotation", {"service": "api"})
    simulation.start("TokenRotation", {"service": "api"})


def _client_rotation(simulation: Simulation) -> None:
    simulation.start("TokenRotation", {"token": "client"})


def _controller_rotation(simulation: Simulation) -> None:
    simulation.start("TokenRotation", {"token": "controller"})
    simulation.world.start_task("db")


def _all_rotations(simulation: Simulation) -> None:
    simulation.start("TokenRotation", {"services": "all"})


def _edited(value: Callable[[World], str]) -> Callable[[Simulation], None]:
    def begin(simulation: Simulation) -> None:
        simulation.world.start_task("api")
        simulation.start("Reconciliation", {})
        _person(
            simulation,
            lambda world: world.edit_secret(world.secret_name("api"), value(world)),
        )

    return begin


def _other_secret_id(world: World) -> str:
    ids = world.ids_in(world.secret_name("api"))
    assert ids is not None
    other = str(uuid.UUID(int=3 * 10**30))
    return json.dumps({"accessor_id": ids.accessor_id, "token": other})


def _other_ids(_: World) -> str:
    accessor_id, secret_id = (str(uuid.UUID(int=number * 10**30)) for number in (4, 5))
    return json.dumps({"accessor_id": accessor_id, "token": secret_id})


def _token_deleted(simulation: Simulation) -> None:
    simulation.world.start_task("api")

    def delete(world: World) -> None:
        ids = world.ids_in(world.secret_name("api"))
        assert ids is not None
        world.delete_token(ids.accessor_id)

    _person(simulation, delete)
    simulation.start("Reconciliation", {})


def _delete_and_reconciliation(simulation: Simulation) -> None:
    world = simulation.world
    # Longer than the grace period: deregistration delays may be an hour.
    simulation.stage.enter_script("deletion", world.delete_service("api", drains_for=HOUR))
    simulation.start("Reconciliation", {})


def _delete_and_rotation(simulation: Simulation) -> None:
    simulation.stage.enter_script("deletion", simulation.world.delete_service("api"))
    simulation.start("TokenRotation", {"service": "api"})


def _drifted(simulation: Simulation) -> None:
    world = simulation.world

    def change(world: World) -> None:
        ids = world.ids_in(world.secret_name(RULED_SERVICE))
        assert ids is not None
        world.change_token(ids.accessor_id, policy_ids=(), service_identities=())
        prefix = world.template.secret_prefix
        world.consul.change_policy(names.service_policy_name(prefix, RULED_SERVICE), "")
        world.consul.change_policy(names.client_policy_name(prefix), "")

    change(world)
    world.start_task(RULED_SERVICE)
    simulation.start("Reconciliation", {})


def _client_token_deleted(simulation: Simulation) -> None:
    def delete(world: World) -> None:
        ids = world.ids_in(world.client_secret_name)
        assert ids is not None
        world.delete_token(ids.accessor_id)

    _person(simulation, delete)
    simulation.start("Reconciliation", {})
    simulation.start("Reconciliation", {})


def _externally_deployed(simulation: Simulation) -> None:
    """Another tool deploys the service: its tasks are not replaced by us."""
    simulation.world.ecs.page = 1
    simulation.start("TokenRotation", {"service": "ext"})
    simulation.start("Reconciliation", {})


def external_service(simulation: Simulation) -> None:
    """A service runs that an external controller deploys, and a task without any service."""
    bootstrapped(simulation)
    simulation.world.create_service("ext", tasks=2, controller="EXTERNAL")
    simulation.world.start_task("ext")
    simulation.run()
    _an_hour_passes(simulation)


_ALL = (
    Scenario("starts", bootstrapped, _three_starts, one_token=True),
    Scenario("starts-1.10", bootstrapped, _three_starts, "1.10", one_token=True),
    Scenario("bootstrap", nothing, _one_bootstrap, is_deployment=True),
    Scenario("bootstrap-1.10", nothing, _one_bootstrap, "1.10", _OLD_BOOTSTRAP, is_deployment=True),
    Scenario("bootstraps", nothing, _two_bootstraps, is_deployment=True),
    Scenario(
        "bootstraps-1.10", nothing, _two_bootstraps, "1.10", _OLD_BOOTSTRAP, is_deployment=True
    ),
    Scenario("start-delete", service_that_is_gone, _start_around_the_deletion(-5)),
    Scenario("delete-start", service_that_is_gone, _start_around_the_deletion(5)),
    Scenario("delete-start-1.10", service_that_is_gone, _start_around_the_deletion(5), "1.10"),
    Scenario("start-rotation", running_service, _start_and_rotation),
    Scenario("rotation-reconciliation", running_service, _rotation_and_reconciliation),
    Scenario("rotations", running_service, _two_rotations),
    Scenario("client-rotation", two_services, _client_rotation),
    Scenario("controller-rotation", running_service, _controller_rotation),
    Scenario("all-rotations", two_services, _all_rotations),
    Scenario("external", external_service, _externally_deployed),
    Scenario("dead-rotation", dead_rotation, _reconciliation_and_rotation),
    Scenario("drain", running_service, _delete_and_reconciliation),
    Scenario("delete-rotation", running_service, _delete_and_rotation),
    Scenario("drifted", two_services, _drifted),
    Scenario("client-token-deleted", running_service, _client_token_deleted),
    Scenario("emptied", running_service, _edited(lambda _: "{}")),
    Scenario("edited-secret-id", running_service, _edited(_other_secret_id)),
    Scenario("edited-ids", running_service, _edited(_other_ids)),
    Scenario("token-deleted", running_service, _token_deleted),
)
SCENARIOS = {scenario.name: scenario for scenario in _ALL}
