"""Examples: each a stack with all that it needs, deployed by its name and without settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import aws_cdk as cdk

from examples.greeter.stack import GreeterStack
from examples.production.stack import ProductionStack


class ExampleError(Exception):
    """An example is not there, or was asked for in a wrong way; says what to do."""


def _greeter(app: cdk.App, mesh_init_image: str | None) -> cdk.Stack:
    return GreeterStack(
        app,
        "ConsulGreeter",
        mesh_init_image=mesh_init_image,
        description="Two services in a Consul mesh of their own, an example",
    )


def _production(app: cdk.App, mesh_init_image: str | None) -> cdk.Stack:
    if mesh_init_image is not None:
        raise ExampleError(
            "The example production has no mesh tasks, so leave mesh_init_image out. Give it to "
            "the Mesh that you add."
        )
    return ProductionStack(
        app,
        "ConsulProduction",
        description="Consul servers and an ECS cluster for a mesh, an example",
    )


_EXAMPLES: Mapping[str, Callable[[cdk.App, str | None], cdk.Stack]] = {
    "greeter": _greeter,
    "production": _production,
}


def add_example(app: cdk.App, name: str, *, mesh_init_image: str | None = None) -> cdk.Stack:
    """Add the stack of an example.

    Args:
        app: the app.
        name: of the example.
        mesh_init_image: the image of mesh-init and health-sync, where mesh tasks are a part of the
            example. Default: built when the app is deployed.

    Returns:
        The stack.

    Raises:
        ExampleError: if there is no such example, or if it has no use for the image.
        AssetError: if the file that the functions run cannot be built.

    """
    if name not in _EXAMPLES:
        raise ExampleError(
            f'There is no example "{name}". There are: {", ".join(sorted(_EXAMPLES))}.'
        )
    return _EXAMPLES[name](app, mesh_init_image)
