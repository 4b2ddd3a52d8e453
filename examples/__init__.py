"""Examples: stacks that are deployed next to the controller's, by their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import aws_cdk as cdk

from examples.greeter.stack import GreeterStack
from infrastructure.stack import ConsulOnEcsStack


class ExampleError(Exception):
    """An example is not there, or cannot be deployed with these settings; says what to do."""


def _greeter(app: cdk.App, controller: ConsulOnEcsStack, cluster_name: str) -> None:
    if controller.network is None:
        raise ExampleError(
            "The example runs its tasks in the VPC that the settings name, and there is none.\n"
            "Set network.vpc_id and network.subnet_ids: subnets from which the Consul servers can "
            "be reached,\nthe AWS APIs, and the registries of the images (NAT gateway)."
        )
    GreeterStack(
        app,
        f"Greeter-{cluster_name.replace('_', '-')}",
        servers=controller.servers,
        controller=controller.controller,
        network=controller.network,
        images=controller.images,
        description=f"Two services in the Consul mesh of the ECS cluster {cluster_name}",
        env=cdk.Environment(account=_given(controller.account), region=_given(controller.region)),
    )


def _given(value: str) -> str | None:
    """Return what the settings say of account or region; None where the credentials decide."""
    return None if cdk.Token.is_unresolved(value) else value


_EXAMPLES: Mapping[str, Callable[[cdk.App, ConsulOnEcsStack, str], None]] = {"greeter": _greeter}


def add_example(app: cdk.App, name: str, *, controller: ConsulOnEcsStack) -> None:
    """Add the stack of an example.

    Args:
        app: the app.
        name: of the example.
        controller: the stack that the settings describe.

    Raises:
        ExampleError: if there is no such example, or if it cannot be deployed with the settings.
        SettingsError: if the settings do not say how tasks join the servers.

    """
    if name not in _EXAMPLES:
        raise ExampleError(
            f'There is no example "{name}". There is: {", ".join(sorted(_EXAMPLES))}.'
        )
    _EXAMPLES[name](app, controller, controller.controller.cluster.cluster_name)
