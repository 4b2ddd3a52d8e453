"""The example `production`: one of its machines becomes a server, and the workflows look after it.

`cdk deploy` deploys it into a local cloud. While it waits for Consul, the user data of the first
server's instance is run with the real AWS command line. That server is alone, where on AWS there
would be three; it is the stand-in for a Consul server, which keeps nothing on its volume.
"""

from __future__ import annotations

import base64
import json
import shutil
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import pytest
import requests
from cryptography import x509
from rich.console import Console

from handlers.core import names
from infrastructure.consul_server_cluster import CLUSTER_TAG, SERVER_TAG
from local.cdk_cli import CdkCli
from local.cloud import LocalCloud
from local.cloud.waiting import until
from local.consul_api import ConsulApi
from local.deployment import deployed_stack, local_cloud
from local.progress import Progress
from local.task.addresses import free_task_address
from local.task.runner import why_tasks_do_not_run
from local.task.stand_in.server import VERSION
from local.tasks import LocalTasks
from tests.local.leaks import capture_events, every_secret, every_text
from tests.local.server_machine import Ended, ServerMachine

SERVER = "consul-server-1"
SERVICE = "storefront"
DEPLOYED_WITHIN_SECONDS = 120
TIMEOUT_SECONDS = 10
LONG_SECONDS = 60


@dataclass(frozen=True)
class ServersConsul:
    """The Consul of a machine."""

    address: str
    management_token: str = field(repr=False)
    kind: Literal["embedded"] = "embedded"
    version: str = VERSION


@dataclass(frozen=True)
class Production:
    """The deployed example, with its first machine."""

    cloud: LocalCloud
    outputs: Mapping[str, str]
    first: ServerMachine
    booted: Ended
    launched: Mapping[str, Any]
    directory: Path
    secret_prefix: str = "production"

    @property
    def cluster(self) -> str:
        return self.outputs["ClusterName"]

    @property
    def cluster_arn(self) -> str:
        (found,) = self.cloud.client("ecs").describe_clusters(clusters=[self.cluster])["clusters"]
        arn: str = found["clusterArn"]
        return arn

    @property
    def consul(self) -> ServersConsul:
        return ServersConsul(
            f"http://{self.first.address}:8500",
            self.secret(self.outputs["BootstrapTokenSecretArn"]),
        )

    def secret(self, secret_id: str) -> str:
        value: str = self.cloud.client("secretsmanager").get_secret_value(SecretId=secret_id)[
            "SecretString"
        ]
        return value

    def run(self, workflow: str, workflow_input: object) -> dict[str, Any]:
        """Run a workflow to its end, which has to be a good one."""
        ended = LocalTasks(self).run_to_its_end(self.outputs[workflow], workflow_input)
        assert ended["status"] == "SUCCEEDED", ended
        output: dict[str, Any] = json.loads(ended["output"])
        return output


def instance_of(cloud: LocalCloud) -> dict[str, Any] | None:
    """Return the instance that has to become the server, once there is one."""
    found = cloud.client("ec2").describe_instances(
        Filters=[
            {"Name": f"tag:{SERVER_TAG}", "Values": [SERVER]},
            {"Name": "instance-state-name", "Values": ["running"]},
        ]
    )["Reservations"]
    instances = [each for reservation in found for each in reservation["Instances"]]
    return instances[0] if instances else None


def launch_data(cloud: LocalCloud, instance: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the template has that an instance was launched with."""
    tags = tags_of(instance)
    (version,) = cloud.client("ec2").describe_launch_template_versions(
        LaunchTemplateId=tags["aws:ec2launchtemplate:id"],
        Versions=[tags["aws:ec2launchtemplate:version"]],
    )["LaunchTemplateVersions"]
    data: dict[str, Any] = version["LaunchTemplateData"]
    return data


def tags_of(resource: Mapping[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in resource["Tags"]}


def machine_of(
    cloud: LocalCloud, instance: Mapping[str, Any], address: str, directory: Path
) -> ServerMachine:
    return ServerMachine(
        directory / instance["InstanceId"],
        instance_id=instance["InstanceId"],
        address=address,
        volumes=directory / "volumes",
        environment=cloud.environment,
    )


@pytest.fixture(scope="module")
def production() -> Iterator[Production]:
    """The deployed example."""
    if reason := why_tasks_do_not_run():
        pytest.skip(reason)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="production-")))
        address = stack.enter_context(free_task_address())
        deploying = stack.enter_context(ThreadPoolExecutor(1))
        cloud = stack.enter_context(
            local_cloud(directory, port=0, task_stage_seconds=0.3, speed=1.0)
        )
        cdk = CdkCli(cloud.environment, home=directory)
        # Without a server a deployment would wait for one for many minutes.
        stack.callback(cdk.end)
        outputs = deploying.submit(
            deployed_stack,
            Progress(Console(file=StringIO())),
            cloud,
            ["-c", "example=production"],
            workdir=directory,
            cdk=cdk,
        )
        instance = until(
            lambda: outputs.done() or instance_of(cloud),
            within=DEPLOYED_WITHIN_SECONDS,
            what=f"{SERVER} has an instance",
            every=0.2,
        )
        if not isinstance(instance, dict):
            pytest.fail(f"The deployment has ended without a server: {outputs.result()}")
        launched = launch_data(cloud, instance)
        machine = machine_of(cloud, instance, address, directory)
        stack.callback(machine.stop)
        booted = machine.boot(user_data(launched))
        assert booted.code == 0, booted.said
        deployed = Production(
            cloud, outputs.result(DEPLOYED_WITHIN_SECONDS), machine, booted, launched, directory
        )
        capture_events(deployed)
        yield deployed


@dataclass(frozen=True)
class Life:
    """What was seen in the life of the server and its successor."""

    volume: Mapping[str, Any]
    registered: list[tuple[str, str]]
    secrets_at_first: dict[str, Any] = field(repr=False)
    refreshed: Ended
    secrets: dict[str, Any] = field(repr=False)
    token: dict[str, str] = field(repr=False)
    known: dict[str, dict[str, str] | None] = field(repr=False)
    """The task's token as Consul has it, by when; none if Consul does not know it."""
    snapshot: dict[str, Any]
    stored: dict[str, Any]
    second: ServerMachine
    second_booted: Ended
    registered_afterwards: list[tuple[str, str]]
    restored: dict[str, Any]
    token_afterwards: dict[str, str] = field(repr=False)
    certificates: list[x509.Certificate]
    """Those that were served: before the renewal, before the machine had it, and after that."""
    renewed: Ended
    reloads: list[str]
    bootstrapped_afterwards: dict[str, Any]


@pytest.fixture(scope="module")
def life(production: Production) -> Iterator[Life]:
    """Live through all of it: a token, a snapshot, the loss of the server, and a renewal."""
    cloud, first = production.cloud, production.first
    known: dict[str, dict[str, str] | None] = {}
    with ExitStack() as stack:
        volume = volume_of(production)
        registered = registered_at(production)
        secrets_at_first = first.secrets()
        refreshed = first.refresh_secrets()

        tasks = LocalTasks(production)
        tasks.register(SERVICE)
        task = tasks.run(SERVICE, {names.MESH_TAG: "true"})
        tasks.wait_for_workflows([task])
        token = token_of_service(production)
        known["provisioned"] = own_token(first, token)

        snapshot = production.run("ServerSnapshotArn", {})
        stored = cloud.client("s3").head_object(
            Bucket=production.outputs["SnapshotBucketName"], Key=snapshot_key(snapshot)
        )

        destroy(production)
        second = machine_of(
            cloud,
            until(lambda: instance_of(cloud), what="the group has another instance"),
            stack.enter_context(free_task_address()),
            production.directory,
        )
        stack.callback(second.stop)
        # It waits to be healthy, which it is not before it has its data again.
        booting = stack.enter_context(ThreadPoolExecutor(1)).submit(
            second.boot, user_data(production.launched)
        )
        until(second.has_consul, within=LONG_SECONDS, what="the other server's Consul runs")
        until(
            lambda: registered_at(production) == [(SERVER, second.address)],
            within=LONG_SECONDS,
            what="the other server is in the DNS name",
        )
        known["lost"] = own_token(second, token)
        restored = production.run("SnapshotRestoreArn", {})
        known["restored"] = own_token(second, token)
        second_booted = booting.result()

        certificates = [served(second)]
        cloud.client("secretsmanager").put_secret_value(
            SecretId=machine_settings(second)["CERTIFICATE_SECRET"], SecretString="{}"
        )
        production.run("CertificateRenewalArn", {})
        certificates.append(served(second))
        before = len(second.calls("systemctl reload"))
        renewed = second.refresh_secrets()
        until(
            lambda: served(second) != certificates[0],
            within=TIMEOUT_SECONDS,
            what="the new certificate is served",
        )
        yield Life(
            volume=volume,
            registered=registered,
            secrets_at_first=secrets_at_first,
            refreshed=refreshed,
            secrets=first.secrets(),
            token=token,
            known=known,
            snapshot=snapshot,
            stored=stored,
            second=second,
            second_booted=second_booted,
            registered_afterwards=registered_at(production),
            restored=restored,
            token_afterwards=token_of_service(production),
            certificates=[*certificates, served(second)],
            renewed=renewed,
            reloads=second.calls("systemctl reload")[before:],
            bootstrapped_afterwards=production.run("ClusterBootstrapArn", {}),
        )


def user_data(launched: Mapping[str, Any]) -> str:
    return base64.b64decode(launched["UserData"]).decode()


def machine_settings(machine: ServerMachine) -> dict[str, str]:
    """Return what the user data have written of the server."""
    lines = machine.path("/opt/consul-server/server.env").read_text().splitlines()
    return {name: value.strip("'") for name, value in (line.split("=", 1) for line in lines)}


def volume_of(production: Production) -> dict[str, Any]:
    (volume,) = production.cloud.client("ec2").describe_volumes(
        VolumeIds=[machine_settings(production.first)["VOLUME_ID"]]
    )["Volumes"]
    found: dict[str, Any] = volume
    return found


def registered_at(production: Production) -> list[tuple[str, str]]:
    """Return who is in the servers' DNS name, and the addresses."""
    instances = production.cloud.client("servicediscovery").list_instances(
        ServiceId=machine_settings(production.first)["DNS_SERVICE_ID"]
    )["Instances"]
    return [(each["Id"], each["Attributes"]["AWS_INSTANCE_IPV4"]) for each in instances]


def token_of_service(production: Production) -> dict[str, str]:
    secret = names.service_secret_name(production.secret_prefix, SERVICE)
    value: dict[str, str] = json.loads(production.secret(secret))
    return value


def own_token(machine: ServerMachine, token: Mapping[str, str]) -> dict[str, str] | None:
    """Return a token as its Consul has it; none if it does not know it."""
    answer = requests.get(
        f"http://{machine.address}:8500/v1/acl/token/self",
        headers={"X-Consul-Token": token["token"]},
        timeout=TIMEOUT_SECONDS,
    )
    if answer.status_code in {requests.codes.forbidden, requests.codes.not_found}:
        return None
    answer.raise_for_status()
    return {"accessor_id": answer.json()["AccessorID"], "token": answer.json()["SecretID"]}


def snapshot_key(snapshot: Mapping[str, Any]) -> str:
    return str(snapshot["snapshot"]["key"])


def destroy(production: Production) -> None:
    """Lose the server, and all that is on its volume; its group starts another instance."""
    lost = volume_of(production)
    (attachment,) = lost["Attachments"]
    production.first.stop()
    production.cloud.client("autoscaling").terminate_instance_in_auto_scaling_group(
        InstanceId=attachment["InstanceId"], ShouldDecrementDesiredCapacity=False
    )
    shutil.rmtree(production.directory / "volumes")


def served(machine: ServerMachine) -> x509.Certificate:
    """Return the certificate that its Consul has for who connects now."""
    return x509.load_pem_x509_certificate(
        ssl.get_server_certificate((machine.address, 8501), timeout=TIMEOUT_SECONDS).encode()
    )


def test_the_user_data_make_the_instance_a_server_while_the_deployment_waits_for_it(
    production: Production,
) -> None:
    bootstraps = production.cloud.client("stepfunctions").list_executions(
        stateMachineArn=production.outputs["ClusterBootstrapArn"]
    )["executions"]
    (stack,) = production.cloud.client("cloudformation").describe_stacks(
        StackName="ConsulProduction"
    )["Stacks"]

    assert [each["status"] for each in bootstraps][-1] == "SUCCEEDED"
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    assert f"{SERVER} is one of the first servers: nothing waits for it." in production.booted.said
    (signal,) = production.first.calls("aws cloudformation signal-resource")
    assert f"--stack-name {stack['StackId']} " in signal
    assert signal.endswith("--status SUCCESS")


def test_the_servers_find_each_other_by_the_tags_of_their_instances(
    production: Production, life: Life
) -> None:
    (join,) = json.loads(life.second.path("/etc/consul.d/server.json").read_text())["retry_join"]
    key, value = (part.partition("=")[2] for part in join.split()[1:])
    found = production.cloud.client("ec2").describe_instances(
        Filters=[
            {"Name": f"tag:{key}", "Values": [value]},
            {"Name": "instance-state-name", "Values": ["running"]},
        ]
    )["Reservations"]
    servers = [
        tags_of(each)[SERVER_TAG] for reservation in found for each in reservation["Instances"]
    ]

    assert key == CLUSTER_TAG
    assert sorted(servers) == ["consul-server-1", "consul-server-2", "consul-server-3"]


def test_the_server_has_its_encrypted_volume_and_is_in_the_dns_name(
    production: Production, life: Life
) -> None:
    volume = life.volume
    assert (volume["State"], volume["VolumeType"], volume["Size"]) == ("in-use", "gp3", 100)
    assert volume["Encrypted"]
    assert tags_of(volume)[SERVER_TAG] == SERVER
    assert "is blank: it gets a file system." in production.booted.said
    assert life.registered == [(SERVER, production.first.address)]
    assert life.registered_afterwards == [(SERVER, life.second.address)]


def test_the_servers_own_token_comes_once_clusterbootstrap_has_made_it(
    production: Production, life: Life
) -> None:
    settings = machine_settings(production.first)
    token = json.loads(production.secret(settings["AGENT_TOKEN_SECRET"]))["token"]
    gossip_key = production.secret(settings["GOSSIP_KEY_SECRET"])

    assert life.secrets_at_first == {"encrypt": gossip_key}
    assert life.refreshed.code == 0
    assert life.secrets == {"encrypt": gossip_key, "acl": {"tokens": {"agent": token}}}
    assert production.first.calls("systemctl reload") == ["systemctl reload consul.service"]


def test_a_snapshot_is_stored_encrypted_with_the_key_of_the_servers(life: Life) -> None:
    taken = life.snapshot["snapshot"]
    assert life.stored["ContentLength"] == taken["bytes"]
    assert life.stored["ServerSideEncryption"] == "aws:kms"
    assert life.stored["SSEKMSKeyId"] == life.volume["KmsKeyId"]


def test_after_the_loss_of_all_data_a_restore_brings_the_tasks_token_back(life: Life) -> None:
    restored = life.restored["restored"]

    assert life.known == {"provisioned": life.token, "lost": None, "restored": life.token}
    assert life.token_afterwards == life.token
    assert (restored["key"], restored["bootstrapped"]) == (life.snapshot["snapshot"]["key"], True)
    assert life.restored["run"] == {"status": "SUCCEEDED"}


def test_a_server_that_comes_back_empty_runs_and_says_what_is_missing(life: Life) -> None:
    # Where it is alone, its autopilot never says that it is healthy; the stand-in has none.
    said = life.second_booted.said
    assert "is blank: it gets a file system." in said
    assert f"Waiting for {SERVER} to be healthy: Consul answers " in said
    assert [call.rpartition(" ")[2] for call in life.second.calls("aws cloudformation")] == [
        "FAILURE"
    ]


def test_a_renewed_certificate_is_served_after_one_reload(life: Life) -> None:
    before, still, renewed = life.certificates
    directory = life.second.path("/etc/consul.d/tls")

    assert (before == still, before == renewed) == (True, False)
    assert life.renewed.said.splitlines() == [
        f"{directory}/server-key.pem is new.",
        f"{directory}/server.pem is new.",
    ]
    assert life.reloads == ["systemctl reload consul.service"]
    # The functions still trust it: the execution has succeeded.
    assert life.bootstrapped_afterwards["server"]["token"] == {"change": "none"}


def test_no_secret_is_anywhere_but_in_its_store(production: Production, life: Life) -> None:
    consul = ServersConsul(f"http://{life.second.address}:8500", production.consul.management_token)
    # `{}` is an emptied secret.
    secrets = {
        where: secret
        for where, secret in every_secret(
            production, ConsulApi(consul, consul.management_token)
        ).items()
        if secret != "{}"
    }
    places = every_text(production) | {
        "user data": user_data(production.launched),
        **{
            f"{machine.address} {kind}": text
            for machine in (production.first, life.second)
            for kind, text in machine.texts().items()
        },
        **{
            f"said {number}": ended.said
            for number, ended in enumerate(
                (production.booted, life.refreshed, life.second_booted, life.renewed)
            )
        },
    }

    leaks = {
        place: [where for where, secret in secrets.items() if secret in text]
        for place, text in places.items()
    }

    assert {place: found for place, found in leaks.items() if found} == {}
    # Those of the servers are among them.
    for kind in ("Certificate", "GossipKey", "ManagementToken", "AgentToken", SERVICE):
        assert any(kind in where for where in secrets), kind
