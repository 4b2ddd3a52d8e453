"""The docstrings of the controller and of its options say everything that can be said of them."""

from __future__ import annotations

import inspect
import re

import pytest
from aws_cdk import App, Stack
from aws_cdk import aws_ecs as ecs

from infrastructure.acl_controller import (
    AclController,
    ReconciliationOptions,
    RotationSchedule,
)
from infrastructure.external_consul import ExternalConsul
from tests.synthesized import context
from workflows.reconciliation import Reconciliation
from workflows.task_provisioning import TaskProvisioning
from workflows.token_rotation import RotationOptions, TokenRotation

KINDS = [
    *(AclController, ReconciliationOptions, RotationOptions, RotationSchedule),
    *(Reconciliation, TaskProvisioning, TokenRotation),
]


def section(kind: type, title: str) -> list[str]:
    """Return the names that a section of a docstring explains, in its order."""
    _, found, rest = (inspect.getdoc(kind) or "").partition(f"{title}:\n")
    assert found, f"there is no section {title}"
    return re.findall(r"^    (\w+): ", rest.partition("\n\n")[0], re.MULTILINE)


@pytest.mark.parametrize("kind", KINDS)
def test_every_argument_is_explained_in_the_order_of_the_arguments(kind: type) -> None:
    # A class of CDK hides the signature behind one of its own.
    arguments = list(inspect.signature(vars(kind)["__init__"]).parameters)

    assert section(kind, "Args") == arguments[1:]


def test_everything_that_a_controller_offers_is_explained() -> None:
    stack = Stack(App(context=context()), "Mesh")
    controller = AclController(
        stack,
        "Controller",
        cluster=ecs.Cluster.from_cluster_arn(
            stack, "Cluster", "arn:aws:ecs:eu-west-1:123456789012:cluster/mesh"
        ),
        secret_prefix="acme",
        servers=ExternalConsul(http_address="http://consul.internal:8500"),
    )
    offered = {name for name in vars(controller) if not name.startswith("_")}

    assert set(section(AclController, "Attributes")) == offered
