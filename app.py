"""The CDK app: reads the settings and makes the stack that they describe.

`cdk synth -c settings=other.yaml` reads another file than mesh.yaml; `-c example=greeter` adds the
stack of an example.
"""

from __future__ import annotations

import sys
from pathlib import Path

import aws_cdk as cdk

from examples import ExampleError, add_example
from infrastructure.lambda_asset import AssetError
from infrastructure.mesh import MeshError
from infrastructure.stack import ConsulOnEcsStack
from settings import Settings, SettingsError, load_settings

ROOT = Path(__file__).resolve().parent


def make_app() -> None:
    """Synthesize the app into the directory that the CDK command line asks for."""
    app = cdk.App()
    settings = load_settings(ROOT / (app.node.try_get_context("settings") or "mesh.yaml"))
    stack = add_stack(app, settings)
    if example := app.node.try_get_context("example"):
        add_example(app, example, controller=stack)
    app.synth()


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
