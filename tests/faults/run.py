"""Runs one schedule, and judges it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.faults import invariants
from tests.faults.kinds import BY_NAME
from tests.faults.scenarios import HOUR, SCENARIOS, Scenario
from tests.faults.schedule import Decider, Follow, Schedule
from tests.faults.simulation import Simulation
from tests.faults.step_functions import Execution
from tests.faults.template import Template
from tests.faults.world import Saved

_LATER = 6 * HOUR
"""A rotation that has published nothing after three is taken for dead (handlers/retire_tokens)."""
_LONGER_THAN_ANYBODY_WAITS = 45 * 60.0
_TOO_MANY_FAULTS = 3
"""One that lasts for a while costs a step several of its attempts; two have to be survived."""
_MARGIN = 5 * 60.0
"""Tasks that start right after a token was superseded count as if they could have pulled it."""


@dataclass(frozen=True)
class Outcome:
    """What a run has shown.

    Args:
        violations: which rules were broken, and how.
        points: how many scheduling points there were.
        injected: how often which fault (third) hit which call (second) of which step (first).
        turns: how often which other deviation was made.
        reached: the first point of each call of each step.

    """

    violations: tuple[str, ...]
    points: int
    injected: Counter[tuple[str, str, str]]
    turns: Counter[str]
    reached: dict[tuple[str, str], int]


class Runner:
    """Runs schedules of one template. What a scenario presupposes is made once."""

    def __init__(self, template: Template) -> None:
        self._template = template
        self._prepared: dict[str, Saved] = {}

    def run(
        self,
        schedule: Schedule,
        decider: Decider | None = None,
        watch: Callable[[Simulation], None] = lambda _: None,
    ) -> Outcome:
        """Run a schedule; another decider may decide in its place, and somebody may watch."""
        scenario = SCENARIOS[schedule.scenario]
        saved = self._saved(scenario)
        simulation = Simulation(
            self._template,
            ids="run",
            flavour=scenario.flavour,
            decider=decider or Follow(schedule),
        )
        simulation.world.restore(saved)
        watch(simulation)
        network = simulation.network
        violations: list[str] = []
        try:
            scenario.begin(simulation)
            simulation.run()
            points, reached = network.points, dict(network.reached)
            network.decider = None
            violations += _judged(simulation, scenario)
        except Exception as error:  # noqa: BLE001 - the schedule has to be told, to be replayed
            points, reached = network.points, dict(network.reached)
            violations.append(f"the experiment broke: {type(error).__name__}: {error}")
        return Outcome(
            tuple(dict.fromkeys(violations)), points, network.injected, network.turns, reached
        )

    def _saved(self, scenario: Scenario) -> Saved:
        if scenario.name not in self._prepared:
            simulation = Simulation(self._template, ids="preparation", flavour=scenario.flavour)
            scenario.prepare(simulation)
            assert not simulation.world.violations, simulation.world.violations
            self._prepared[scenario.name] = simulation.world.save()
        return self._prepared[scenario.name]


def _judged(simulation: Simulation, scenario: Scenario) -> Iterator[str]:
    """Yield which rules the run has broken, and what one Reconciliation has not put right."""
    world = simulation.world
    yield from _after_the_run(simulation, scenario)
    _some_hours_pass(simulation, scenario)
    yield from _reconciled(simulation, scenario)
    yield from invariants.one_token_each(world, strictly=False)
    yield from invariants.held_tokens_exist(world)
    if list(invariants.one_token_each(world, strictly=True)):
        # A superseded token is still there for tasks that may hold it: it goes with them.
        _replace_all_tasks(simulation)
        yield from _reconciled(simulation, scenario)
        yield from invariants.one_token_each(world, strictly=True)
        yield from invariants.held_tokens_exist(world)
    yield from invariants.foreign_objects_untouched(world)
    yield from invariants.no_secret_published(simulation)
    yield from world.violations


def _after_the_run(simulation: Simulation, scenario: Scenario) -> Iterator[str]:
    executions = list(simulation.step_functions.executions.values())
    faults = {BY_NAME[fault] for _, _, fault in simulation.network.injected}
    reasons = scenario.explained.union(*(fault.explains for fault in faults))
    outage = any(fault.lasts >= _LONGER_THAN_ANYBODY_WAITS for fault in faults)
    if outage or simulation.network.ordered >= _TOO_MANY_FAULTS:
        reasons |= invariants.PASSING
    yield from _ends(simulation, executions, reasons)
    if all(one.ended is not None and one.ended.status == "SUCCEEDED" for one in executions):
        yield from invariants.held_tokens_exist(simulation.world)
    if scenario.one_token:
        for subject, tokens in invariants.tokens_of_ours(simulation.world).items():
            if len(tokens) > 1:
                yield f"one writer wins: {len(tokens)} tokens were made for {subject}"


def _some_hours_pass(simulation: Simulation, scenario: Scenario) -> None:
    """Let everything recover: servers, and services whose scheduler has lost patience."""
    simulation.network.troubles.end()
    simulation.clock.pass_seconds(_LATER)
    if scenario.is_deployment:
        _deploy_again(simulation)
    cluster = simulation.ecs.cluster
    for service in cluster.services.values():
        if service.desired_count and not cluster.tasks_of(service.name):
            simulation.world.start_task(service.name, ecs_service=service.name)
    simulation.run()


def _replace_all_tasks(simulation: Simulation) -> None:
    world = simulation.world
    simulation.clock.pass_seconds(_MARGIN)
    for service in list(simulation.ecs.cluster.services.values()):
        if service.desired_count:
            simulation.ecs.on_redeploy(service.name)
    for task in world.live_tasks:
        if task.ecs_service is None:
            simulation.stage.enter_script("stop", world.stop_task(task.arn))
    simulation.run()
    simulation.clock.pass_seconds(_LATER)


def _deploy_again(simulation: Simulation) -> None:
    """Repeat a deployment, and do what its error asks for if there is one."""
    for _ in range(2):
        execution = simulation.start("ClusterBootstrap", {})
        simulation.run()
        if execution.ended is None or execution.ended.error != "ConsulAlreadyBootstrapped":
            return
        simulation.consul.reset_bootstrap()


def _reconciled(simulation: Simulation, scenario: Scenario) -> Iterator[str]:
    """Run one Reconciliation without faults; yield how it failed, if it did."""
    before = set(simulation.step_functions.executions)
    simulation.start("Reconciliation", {})
    simulation.run()
    new = [e for arn, e in simulation.step_functions.executions.items() if arn not in before]
    yield from _ends(simulation, new, scenario.explained)
    for execution in new:
        ended = execution.ended
        if ended is not None and ended.status != "SUCCEEDED" and not scenario.explained:
            yield f"invariant 6: without faults, {execution.workflow} ended with {ended}"


def _ends(
    simulation: Simulation, executions: list[Execution], explained: frozenset[str]
) -> Iterator[str]:
    for execution in executions:
        definition = simulation.template.definitions[execution.machine_arn]
        wrong = invariants.documented_end(execution, definition, explained)
        if wrong is not None:
            yield wrong
