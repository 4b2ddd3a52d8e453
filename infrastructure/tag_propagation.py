"""A mesh task whose tags do not reach it gets no token: find out while synthesizing.

ECS puts the tags of a task definition on its tasks only if whoever starts them asks for that.
`MeshTask.service` does; this is for everything else in an app that can start the task.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jsii
from aws_cdk import Stack
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_events as events
from aws_cdk import aws_scheduler as scheduler
from aws_cdk import aws_stepfunctions as sfn
from constructs import IConstruct, IValidation

_WANTED = "TASK_DEFINITION"


@jsii.implements(IValidation)
class TagsReachTheTasks:
    """The rule that whatever starts a task propagates the tags of its definition.

    Args:
        task_definition: of the mesh task.

    """

    def __init__(self, task_definition: ecs.TaskDefinition) -> None:
        self._definition = task_definition

    def validate(self) -> list[str]:
        """Return what starts the task without its tags, and what to do."""
        return [
            f"{construct.node.path} starts the mesh task {self._definition.node.path} without its "
            f"tags, so that it would get no token. {advice}"
            for construct in self._definition.node.root.node.find_all()
            for propagated, advice in self._starts(construct)
            if propagated != _WANTED
        ]

    def _starts(self, construct: IConstruct) -> Iterator[tuple[Any, str]]:
        """Yield how a construct starts the task: which tags it propagates, and what to do."""
        for kind, starts, advice in _STARTERS:
            if isinstance(construct, kind):
                for reference, propagated in starts(construct):
                    if self._is_meant(construct, reference):
                        yield propagated, advice

    def _is_meant(self, construct: IConstruct, reference: Any) -> bool:
        """Whether a reference, ARN or family, names the task definition."""
        if reference is None:
            return False
        found = _text(_resolved(construct, reference))
        arn = _text(_resolved(construct, self._definition.task_definition_arn))
        family = self._definition.family
        return found in {arn, family} or found.startswith(f"{family}:")


def _resolved(construct: IConstruct, value: Any) -> Any:
    return Stack.of(construct).resolve(value)


def _text(resolved: Any) -> str:
    """Write a resolved value as text.

    What is only known when deploying becomes a number, the same one for the same thing: in a
    definition it stands inside a text as well as for a number.
    """
    if isinstance(resolved, str):
        return resolved
    if isinstance(resolved, Mapping) and "Fn::Join" in resolved:
        separator, parts = resolved["Fn::Join"]
        return str(separator).join(_text(part) for part in parts)
    canonical = json.dumps(resolved, sort_keys=True).encode()
    return str(int.from_bytes(hashlib.sha256(canonical).digest()[:8], "big"))


def _run_task_parameters(machine: sfn.CfnStateMachine) -> Iterator[Mapping[str, Any]]:
    """Yield the parameters of all states that run an ECS task, as far as they are known."""
    definition = _resolved(machine, machine.definition_string)
    if definition is None:
        return
    try:
        pending = [json.loads(_text(definition))]
    except ValueError:
        # A parameter of the stack, or a text with placeholders: only the deployment knows it.
        return
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending += value
        elif isinstance(value, Mapping):
            pending += value.values()
            parameters = value.get("Parameters") or value.get("Arguments")
            if "ecs:runTask" in str(value.get("Resource")) and isinstance(parameters, Mapping):
                yield parameters


# What a construct starts: references to task definitions, and which tags each start propagates.
Starts = Iterator[tuple[Any, Any]]


def _of_service(service: ecs.CfnService) -> Starts:
    yield service.task_definition, service.propagate_tags


def _of_rule(rule: events.CfnRule) -> Starts:
    for target in _resolved(rule, rule.targets) or []:
        yield from _of_target(target)


def _of_schedule(schedule: scheduler.CfnSchedule) -> Starts:
    yield from _of_target(_resolved(schedule, schedule.target) or {})


def _of_target(target: Mapping[str, Any]) -> Starts:
    parameters = target.get("ecsParameters") or {}
    yield parameters.get("taskDefinitionArn"), parameters.get("propagateTags")


def _of_state_machine(machine: sfn.CfnStateMachine) -> Starts:
    for parameters in _run_task_parameters(machine):
        yield parameters.get("TaskDefinition"), parameters.get("PropagateTags")


_STARTERS: Sequence[tuple[type, Callable[[Any], Starts], str]] = (
    (
        ecs.CfnService,
        _of_service,
        (
            "Make the service with MeshTask.service(…), or give it "
            "propagate_tags=PropagatedTagSource.TASK_DEFINITION."
        ),
    ),
    (
        events.CfnRule,
        _of_rule,
        "Give its target propagate_tags=PropagatedTagSource.TASK_DEFINITION.",
    ),
    (scheduler.CfnSchedule, _of_schedule, "Give its target propagate_tags=True."),
    (
        sfn.CfnStateMachine,
        _of_state_machine,
        "Give its EcsRunTask propagated_tag_source=PropagatedTagSource.TASK_DEFINITION.",
    ),
)
