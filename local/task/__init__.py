"""An ECS task on this machine: the containers of a task definition, run as local processes."""

from local.task.addresses import UnsupportedMachineError, free_task_address
from local.task.definition import ContainerDefinition, TaskDefinition, TaskDefinitionError
from local.task.images import (
    Image,
    consul_image,
    envoy_image,
    mesh_init_image,
    missing_programs,
    python_image,
)
from local.task.record import Event, LogLine, Milestones, milestones
from local.task.secrets import SecretUnavailableError, secrets_from
from local.task.task import LocalTask

__all__ = [
    "ContainerDefinition",
    "Event",
    "Image",
    "LocalTask",
    "LogLine",
    "Milestones",
    "SecretUnavailableError",
    "TaskDefinition",
    "TaskDefinitionError",
    "UnsupportedMachineError",
    "consul_image",
    "envoy_image",
    "free_task_address",
    "mesh_init_image",
    "milestones",
    "missing_programs",
    "python_image",
    "secrets_from",
]
