"""A task definition, as DescribeTaskDefinition returns it, read into what can be run here.

Rules and defaults are those of
https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task_definition_parameters.html.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal, TypeAlias, cast, get_args

Condition: TypeAlias = Literal["START", "COMPLETE", "SUCCESS", "HEALTHY"]

DEFAULT_STOP_TIMEOUT = 30.0


class TaskDefinitionError(ValueError):
    """ECS would not register the definition, or it cannot be run here; the message says why."""


@dataclass(frozen=True)
class HealthCheck:
    """A container's health check; times are in seconds."""

    command: Sequence[str]
    interval: float = 30.0
    timeout: float = 5.0
    retries: int = 3
    start_period: float = 0.0


@dataclass(frozen=True)
class Mount:
    """A volume at a path of a container."""

    volume: str
    path: str
    read_only: bool = False


@dataclass(frozen=True)
class Dependency:
    """What another container must have reached before a container starts."""

    container: str
    condition: Condition


@dataclass(frozen=True, kw_only=True)
class ContainerDefinition:
    """One container of a task definition."""

    name: str
    image: str
    essential: bool = True
    entry_point: Sequence[str] | None = None
    command: Sequence[str] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    """Names of environment variables, and what each one's value comes from."""
    mounts: Sequence[Mount] = ()
    depends_on: Sequence[Dependency] = ()
    health_check: HealthCheck | None = None
    start_timeout: float | None = None
    stop_timeout: float = DEFAULT_STOP_TIMEOUT
    read_only_root: bool = False
    user: str = ""

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> ContainerDefinition:
        """Read one element of ``containerDefinitions``."""
        return cls(
            name=described["name"],
            image=described["image"],
            essential=described.get("essential", True),
            entry_point=described.get("entryPoint") or None,
            command=described.get("command") or None,
            environment={e["name"]: e["value"] for e in described.get("environment", [])},
            secrets={s["name"]: s["valueFrom"] for s in described.get("secrets", [])},
            mounts=[
                Mount(m["sourceVolume"], m["containerPath"].rstrip("/"), bool(m.get("readOnly")))
                for m in described.get("mountPoints", [])
            ],
            depends_on=[
                Dependency(d["containerName"], d["condition"])
                for d in described.get("dependsOn", [])
            ],
            health_check=_health_check(described.get("healthCheck")),
            start_timeout=described.get("startTimeout"),
            stop_timeout=described.get("stopTimeout", DEFAULT_STOP_TIMEOUT),
            read_only_root=bool(described.get("readonlyRootFilesystem")),
            user=described.get("user", ""),
        )


def _health_check(described: Mapping[str, Any] | None) -> HealthCheck | None:
    if not described or described["command"] == ["NONE"]:
        return None
    return HealthCheck(
        command=described["command"],
        interval=described.get("interval", 30.0),
        timeout=described.get("timeout", 5.0),
        retries=described.get("retries", 3),
        start_period=described.get("startPeriod", 0.0),
    )


@dataclass(frozen=True, kw_only=True)
class TaskDefinition:
    """A task definition that ECS would accept."""

    family: str
    revision: int
    containers: Mapping[str, ContainerDefinition]
    volumes: Sequence[str]

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> TaskDefinition:
        """Read and check a description.

        Raises
        ------
        TaskDefinitionError
            A rule of ECS is broken, or a volume is of a kind that there is not here.
        """
        if described.get("networkMode") != "awsvpc":
            raise TaskDefinitionError(
                f"The network mode must be awsvpc, it is {described.get('networkMode')}: a task "
                "has an address of its own here."
            )
        definitions = [ContainerDefinition.of(each) for each in described["containerDefinitions"]]
        containers = {each.name: each for each in definitions}
        if len(containers) < len(definitions):
            raise TaskDefinitionError("Two containers have the same name.")
        volumes = [_volume(each) for each in described.get("volumes", [])]
        task = cls(
            family=described["family"],
            revision=described.get("revision", 1),
            containers=containers,
            volumes=volumes,
        )
        for definition in definitions:
            task._check(definition)
        if not any(each.essential for each in definitions):
            raise TaskDefinitionError("A task needs at least one essential container.")
        task._check_order()
        return task

    def _check(self, definition: ContainerDefinition) -> None:
        where = f"The container {definition.name}"
        for mount in definition.mounts:
            if mount.volume not in self.volumes:
                raise TaskDefinitionError(f"{where} mounts {mount.volume}, which is no volume.")
        for name in definition.secrets.keys() & definition.environment.keys():
            raise TaskDefinitionError(f"{where} has {name} as a secret and in its environment.")
        check = definition.health_check
        if check and (check.command[0] not in {"CMD", "CMD-SHELL"} or len(check.command) < 2):  # noqa: PLR2004 - the kind and the command
            raise TaskDefinitionError(f"{where} has a health check without CMD or CMD-SHELL.")
        for dependency in definition.depends_on:
            self._check_dependency(where, dependency)

    def _check_dependency(self, where: str, dependency: Dependency) -> None:
        other = self.containers.get(dependency.container)
        what = f"{where} waits for {dependency.container} to be {dependency.condition}"
        if other is None:
            raise TaskDefinitionError(f"{what}, which is no container.")
        if dependency.condition not in get_args(Condition):
            raise TaskDefinitionError(f"{what}, which is no condition.")
        if dependency.condition in {"SUCCESS", "COMPLETE"} and other.essential:
            raise TaskDefinitionError(f"{what}, which is essential and so must not end.")
        if dependency.condition == "HEALTHY" and other.health_check is None:
            raise TaskDefinitionError(f"{what}, which has no health check.")

    def _check_order(self) -> None:
        graph = {
            name: [dependency.container for dependency in definition.depends_on]
            for name, definition in self.containers.items()
        }
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            circle = " -> ".join(cast("list[str]", error.args[1]))
            raise TaskDefinitionError(f"Containers wait for each other: {circle}.") from None

    def dependents(self, name: str) -> list[str]:
        """Name the containers that depend on one."""
        return [
            other.name
            for other in self.containers.values()
            if any(dependency.container == name for dependency in other.depends_on)
        ]


def _volume(described: Mapping[str, Any]) -> str:
    kinds = [key for key in described if key not in {"name", "host"} and described[key]]
    if kinds or (described.get("host") or {}).get("sourcePath"):
        raise TaskDefinitionError(
            f"The volume {described['name']} is not of the task's own storage. Only such volumes "
            "exist here."
        )
    return str(described["name"])
