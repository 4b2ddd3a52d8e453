"""The example `greeter` on this machine: a stack of its own, whose tasks run as processes.

Its Consul is not given to it: it is the development server of the stack, a task like the others.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from local.cloud import LocalCloud
from local.deployment import deployed_stack, local_cloud
from local.progress import Progress
from local.task.runner import LocalTaskRunner, running_tasks, why_tasks_do_not_run
from local.task.task import LocalTask

EXAMPLE = "greeter"
SECRET_PREFIX = "greeter"
CLIENT, SERVER = "greeter", "greeting"
_CONSUL_SERVER = "consul-server"
# Nothing is built: that would need Docker, and nothing is pulled here.
_SYNTH_OPTIONS = ("-c", f"example={EXAMPLE}", "-c", "mesh_init_image=consul-ecs-mesh-init:local")
_HTTP_PORT = 8500
_SHORT = "/tmp"  # noqa: S108 - the folder in it has a random name


def why_no_example(speed: float = 1) -> str | None:
    """Return why the example cannot be run on this machine at a speed; none if it can."""
    if os.environ.get("CONSUL_HTTP_ADDR"):
        return "CONSUL_HTTP_ADDR names another Consul than its own"
    if speed != 1 and shutil.which("consul"):
        return "the consul on the PATH takes no certificates that a faster clock has dated"
    return why_tasks_do_not_run()


@dataclass(frozen=True)
class ConsulOfStack:
    """The Consul server that is a task of the stack.

    Attributes:
        kind: what its container runs: the stand-in, which is the embedded Consul, or a `consul`.
        version: its version.

    """

    kind: Literal["embedded", "binary"]
    version: str
    _cloud: LocalCloud = field(repr=False)
    _runner: LocalTaskRunner = field(repr=False)
    _management_secret: str = field(repr=False)

    @property
    def address(self) -> str:
        """Where its task listens without TLS, which on AWS is the task's own loopback address."""
        (task,) = (
            each for each in self._runner.tasks() if _CONSUL_SERVER in each.definition.containers
        )
        return f"http://{task.address}:{_HTTP_PORT}"

    @property
    def management_token(self) -> str:
        """The token that the deployment has chosen."""
        value: str = self._cloud.client("secretsmanager").get_secret_value(
            SecretId=self._management_secret
        )["SecretString"]
        return value


@dataclass(frozen=True)
class DeployedExample:
    """The cloud with the deployed example.

    Attributes:
        cloud: the AWS.
        consul: the stack's Consul.
        cluster: the name of the ECS cluster.
        cluster_arn: its ARN.
        secret_prefix: the prefix of the secrets' names.
        outputs: the outputs of the stack, by name.
        runner: runs its tasks.

    """

    cloud: LocalCloud
    consul: ConsulOfStack
    cluster: str
    cluster_arn: str
    secret_prefix: str
    outputs: Mapping[str, str]
    runner: LocalTaskRunner

    def task(self, container: str) -> LocalTask:
        """Return the one task that is not to stop and has a container of this name."""
        ecs = self.cloud.client("ecs")
        arns = ecs.list_tasks(cluster=self.cluster, desiredStatus="RUNNING")["taskArns"]
        (task,) = (
            each
            for each in self.runner.tasks()
            if each.arn in arns and container in each.definition.containers
        )
        return task


@contextmanager
def deployed_example(
    progress: Progress,
    *,
    port: int = 0,
    task_stage_seconds: float = 1.0,
    speed: float = 1.0,
    check_interval: float | None = None,
) -> Iterator[DeployedExample]:
    """Deploy the example into a local cloud that runs its tasks, and leave nothing behind.

    Args:
        progress: told about each stage.
        port: where the cloud listens; 0 for any free port.
        task_stage_seconds: how long a task stays in each stage.
        speed: how much faster than ours the cloud's clock goes. The tasks keep to ours.
        check_interval: the seconds between two health checks of a container. Default: what the
            task definitions say.

    """
    with ExitStack() as stack:
        workdir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="consul-on-ecs-")))
        # There are sockets in it, whose paths have to be short, whatever TMPDIR is.
        tasks = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mesh-", dir=_SHORT)))
        runners: list[LocalTaskRunner] = []

        @contextmanager
        def runner(client: Any, hosts_file: Path) -> Iterator[LocalTaskRunner]:
            with running_tasks(
                client,
                hosts_file,
                workdir=tasks,
                check_interval=check_interval,
                ignore_dates=speed != 1,
            ) as made:
                runners.append(made)
                yield made

        with progress.stage("Start AWS"):
            cloud = stack.enter_context(
                local_cloud(
                    workdir,
                    port=port,
                    task_stage_seconds=task_stage_seconds,
                    speed=speed,
                    task_runner=runner,
                )
            )
        outputs = deployed_stack(progress, cloud, _SYNTH_OPTIONS, workdir=workdir)
        cluster = outputs["ClusterName"]
        (described,) = cloud.client("ecs").describe_clusters(clusters=[cluster])["clusters"]
        yield DeployedExample(
            cloud=cloud,
            consul=ConsulOfStack(
                kind="binary" if runners[0].consul else "embedded",
                version=runners[0].consul_version,
                _cloud=cloud,
                _runner=runners[0],
                _management_secret=outputs["BootstrapTokenSecretArn"],
            ),
            cluster=cluster,
            cluster_arn=described["clusterArn"],
            secret_prefix=SECRET_PREFIX,
            outputs=outputs,
            runner=runners[0],
        )
