"""The whole app on this machine: a cloud, a Consul, and the deployed stack."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import yaml

from handlers.core import environment
from local.cdk_cli import CdkCli
from local.cloud import LocalCloud
from local.cloud.server import MakeTaskRunner
from local.consul import ConsulServer, consul_for_local_run
from local.consul_api import objects_removed
from local.progress import Progress

SECRET_PREFIX = "consul"
# What `cdk bootstrap` makes.
_BOOTSTRAP_STACK = "CDKToolkit"
# The only clock of the handlers.
_HANDLERS_CLOCK = "handlers.core.clock:now"


class Deployed(Protocol):
    """A deployed controller in a local cloud, and its Consul."""

    @property
    def cloud(self) -> LocalCloud:
        """The AWS."""

    @property
    def consul(self) -> ConsulServer:
        """The Consul."""

    @property
    def cluster(self) -> str:
        """The name of the ECS cluster."""

    @property
    def cluster_arn(self) -> str:
        """Its ARN."""

    @property
    def secret_prefix(self) -> str:
        """The prefix of the secrets' names."""

    @property
    def outputs(self) -> Mapping[str, str]:
        """The outputs of the controller's stack, by name."""


@dataclass(frozen=True)
class PreparedApp:
    """What runs on this machine before the app is deployed, and what it is deployed with.

    Attributes:
        cloud: the AWS.
        consul: the Consul.
        cluster: the name of the ECS cluster.
        cluster_arn: its ARN.
        secret_prefix: the prefix of the secrets' names.
        settings_file: the settings that a deployment reads.
        synth_options: what else `cdk synth` is told: which stacks there are besides the
            controller's.

    """

    cloud: LocalCloud
    consul: ConsulServer
    cluster: str
    cluster_arn: str
    secret_prefix: str
    settings_file: Path
    synth_options: Sequence[str]

    def deploy(self, progress: Progress) -> Deployment:
        """Deploy with the real CDK command line what is in the settings file by now.

        It may be called again, after a deployment that failed as well as after one that did not.

        Raises:
            CdkError: if the deployment fails; the message has the reason.

        """
        return Deployment(
            cloud=self.cloud,
            consul=self.consul,
            cluster=self.cluster,
            cluster_arn=self.cluster_arn,
            secret_prefix=self.secret_prefix,
            settings_file=self.settings_file,
            synth_options=self.synth_options,
            outputs=deployed_stack(
                progress,
                self.cloud,
                ["-c", f"settings={self.settings_file}", *self.synth_options],
                workdir=self.settings_file.parent,
            ),
        )


@dataclass(frozen=True)
class Deployment(PreparedApp):
    """What runs on this machine, with the deployed app.

    Attributes:
        outputs: the outputs of the controller's stack, by name.

    """

    outputs: dict[str, str]


@contextmanager
def prepared_app(
    progress: Progress,
    *,
    consul: ConsulServer | None = None,
    port: int = 0,
    task_stage_seconds: float = 1.0,
    speed: float = 1.0,
    settings: Mapping[str, Any] | None = None,
    synth_options: Sequence[str] = (),
) -> Iterator[PreparedApp]:
    """Bring up all that the app needs, ready to be deployed, and leave nothing behind.

    The settings are those that `mesh.yaml` would have for this Consul and this cloud. A Consul that
    is not ours is left as it was: names are made unique for it, and everything is removed again.

    Args:
        progress: told about each stage.
        consul: the server to use; by default whichever there is.
        port: where the cloud listens; 0 for any free port.
        task_stage_seconds: how long a task stays PROVISIONING, and in each later stage. On AWS it
            is seconds, too, while the network interface is attached.
        speed: how much faster than ours the cloud's clock goes. With 60 a grace period of 5 minutes
            is over after 5 seconds, and a rule that fires once an hour does so once a minute.
        settings: sections of the settings to have, besides those that this Consul and this cloud
            need.
        synth_options: what else `cdk synth` is told.

    """
    with ExitStack() as stack:
        workdir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="consul-on-ecs-")))
        with progress.stage("Start Consul"):
            if consul is None:
                consul = stack.enter_context(consul_for_local_run(workdir=workdir))
        with progress.stage("Start AWS"):
            cloud = stack.enter_context(
                local_cloud(workdir, port=port, task_stage_seconds=task_stage_seconds, speed=speed)
            )
        suffix = f"-{secrets.token_hex(3)}" if consul.kind == "remote" else ""
        cluster, prefix = f"local{suffix}", f"{SECRET_PREFIX}{suffix}"
        cluster_arn = cloud.client("ecs").create_cluster(clusterName=cluster)["cluster"][
            "clusterArn"
        ]
        if consul.kind == "remote":
            stack.enter_context(objects_removed(consul, cluster_arn))
        settings_file = workdir / "settings.yaml"
        given = {**_settings(cloud, consul, cluster, prefix), **(settings or {})}
        settings_file.write_text(yaml.safe_dump(given))
        yield PreparedApp(
            cloud, consul, cluster, cluster_arn, prefix, settings_file, tuple(synth_options)
        )


@contextmanager
def deployed_app(
    progress: Progress,
    *,
    consul: ConsulServer | None = None,
    port: int = 0,
    task_stage_seconds: float = 1.0,
    speed: float = 1.0,
    settings: Mapping[str, Any] | None = None,
    synth_options: Sequence[str] = (),
) -> Iterator[Deployment]:
    """Bring everything up, deploy the app, and leave nothing behind.

    The arguments are those of `prepared_app`.
    """
    with prepared_app(
        progress,
        consul=consul,
        port=port,
        task_stage_seconds=task_stage_seconds,
        speed=speed,
        settings=settings,
        synth_options=synth_options,
    ) as app:
        yield app.deploy(progress)


def _settings(cloud: LocalCloud, consul: ConsulServer, cluster: str, prefix: str) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "ecs": {"cluster": cluster},
        "secrets": {"prefix": prefix},
        "consul": {
            "http_address": consul.address,
            # The anonymous token is everybody's, so a Consul that is not ours keeps its own.
            "anonymous_policy": consul.kind != "remote",
            "retry_join": [urlsplit(consul.address).hostname],
        },
        "network": default_network(cloud),
        # Nothing is built: that would need Docker, and nothing is pulled here.
        "images": {"mesh_init": "consul-ecs-mesh-init:local"},
    }
    if consul.management_token is not None:
        settings["consul"]["bootstrap_token_secret_arn"] = _secret(
            cloud, f"{prefix}/given-bootstrap-token", consul.management_token
        )
    if consul.kind == "remote" and os.environ.get("CONSUL_CACERT"):
        settings["consul"]["ca_secret_arn"] = _secret(
            cloud, f"{prefix}/given-ca", Path(os.environ["CONSUL_CACERT"]).read_text()
        )
    return settings


def default_network(cloud: LocalCloud) -> dict[str, Any]:
    """Return the default VPC and two of its subnets, as the settings have them."""
    ec2 = cloud.client("ec2")
    (vpc,) = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    subnets = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc["VpcId"]]}])
    subnet_ids = sorted(subnet["SubnetId"] for subnet in subnets["Subnets"])
    return {"vpc_id": vpc["VpcId"], "subnet_ids": subnet_ids[:2]}


def _secret(cloud: LocalCloud, name: str, value: str) -> str:
    answer = cloud.client("secretsmanager").create_secret(Name=name, SecretString=value)
    arn: str = answer["ARN"]
    return arn


def local_cloud(
    workdir: Path,
    *,
    port: int,
    task_stage_seconds: float,
    speed: float,
    task_runner: MakeTaskRunner | None = None,
) -> LocalCloud:
    """Make a cloud for the app's functions; its files go into a folder of `workdir`."""
    return LocalCloud(
        workdir=workdir / "cloud",
        port=port,
        # On AWS a deployment waits until IAM and the state machine's new definition are known
        # everywhere. Here they are at once.
        lambda_environment={environment.SETTLE_SECONDS: "0"},
        task_stage_seconds=task_stage_seconds,
        speed=speed,
        function_clock=_HANDLERS_CLOCK,
        task_runner=task_runner,
    )


def deployed_stack(
    progress: Progress,
    cloud: LocalCloud,
    synth_options: Sequence[str],
    *,
    workdir: Path,
    cdk: CdkCli | None = None,
) -> dict[str, str]:
    """Deploy with the CDK command line, and return the outputs of the controller's stack.

    Args:
        progress: told about each stage.
        cloud: where to.
        synth_options: what `cdk synth` is told.
        workdir: where the command line works.
        cdk: the command line, for who may have to end it. Default: one of its own.

    Raises:
        CdkError: if it fails; the message has the reason.

    """
    cdk = cdk or CdkCli(cloud.environment, home=workdir)
    assembly, outputs_file = str(workdir / "cdk.out"), workdir / "outputs.json"
    commands = [("synth", "--quiet", "--output", assembly, *synth_options)]
    stage = "Synthesize the app"
    if not _is_bootstrapped(cloud):
        account = f"aws://{cloud.account}/{cloud.region}"
        # A folder of its own, for another local run may do the same: the command line locks it.
        commands.insert(0, ("bootstrap", account, "--output", str(workdir / "bootstrap.out")))
        stage += ", bootstrap the account"
    with progress.stage(stage):
        # They need nothing of each other, and there is more than one core.
        cdk.run_at_the_same_time(commands)
    with progress.stage("Deploy the app, which runs ClusterBootstrap"):
        cdk.run(
            *("deploy", "--all", "--app", assembly, "--outputs-file", str(outputs_file)),
            *("--require-approval", "never", "--method", "direct"),
        )
    by_stack: dict[str, dict[str, str]] = json.loads(outputs_file.read_text())
    return next(outputs for outputs in by_stack.values() if "TaskProvisioningArn" in outputs)


def _is_bootstrapped(cloud: LocalCloud) -> bool:
    stacks = cloud.client("cloudformation").describe_stacks()["Stacks"]
    return any(stack["StackName"] == _BOOTSTRAP_STACK for stack in stacks)
