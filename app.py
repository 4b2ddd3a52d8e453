"""The CDK app: reads the settings and makes the stack that they describe.

`cdk synth -c settings=other.yaml` reads another file than mesh.yaml; `-c example=greeter` makes the
stack of an example instead, for which no settings are read.
"""

from __future__ import annotations

import sys
from pathlib import Path

import aws_cdk as cdk

from examples import ExampleError, add_example
from infrastructure.lambda_asset import AssetError
from infrastructure.mesh import MeshError
from infrastructure.stack import ConsulOnEcsStack
from settings import Image, Settings, SettingsError, load_settings, problem_of

ROOT = Path(__file__).resolve().parent


def make_app() -> None:
    """Synthesize the app into the directory that the CDK command line asks for."""
    app = cdk.App()
    settings, example, image = (
        app.node.try_get_context(key) for key in ("settings", "example", "mesh_init_image")
    )
    if example:
        _check_example_options(settings, image)
        add_example(app, example, mesh_init_image=image)
    elif image is not None:
        raise ExampleError(
            "mesh_init_image is for examples. In the settings this is images.mesh_init."
        )
    else:
        add_stack(app, load_settings(ROOT / (settings or "mesh.yaml")))
    app.synth()


def _check_example_options(settings: str | None, image: str | None) -> None:
    if settings:
        raise ExampleError(
            "An example has no settings: give either example or settings. (With make: EXAMPLE or "
            "SETTINGS.)"
        )
    if image is not None and (problem := problem_of(image, Image)) is not None:
        raise ExampleError(
            "mesh_init_image must be [<registry>/]<repository>[:<tag>][@sha256:<digest>]. "
            f"It is {problem}."
        )


def add_stack(app: cdk.App, settings: Settings) -> ConsulOnEcsStack:
    """Make the stack that the settings describe.

    Raises:
        AssetError: if the file that the functions run cannot be built.

    """
    return ConsulOnEcsStack(
        app,
        stack_name(settings),
        settings=settings,
        description=f"Consul ACL tokens for the ECS cluster {settings.ecs.cluster_name}",
        # A cluster's events stay in its account and region.
        env=cdk.Environment(account=settings.ecs.arn_account, region=settings.ecs.arn_region),
    )


def stack_name(settings: Settings) -> str:
    """Return the stack's name: one stack for each cluster."""
    return f"ConsulOnEcs-{settings.ecs.cluster_name.replace('_', '-')}"


if __name__ == "__main__":
    try:
        make_app()
    except (SettingsError, AssetError, ExampleError, MeshError) as error:
        sys.exit(str(error))
