"""Three real servers from the files that a cluster's machines have, where there is a real Consul.

Their keys and certificates are made by the steps of ClusterBootstrap, which then bootstrap them and
make tokens, all in this process. They keep their own ports, on 127.0.0.2 to 127.0.0.4; the DNS name
of the API is those three addresses, of which some do not answer at times.

Not run for real where this project's tests usually run: there is no `consul` on the PATH there.
What stands in for it: tests/servers runs the machines' scripts, with stand-ins that record.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import pytest
import requests
from moto import mock_aws

from handlers import (
    bootstrap_acls,
    check_consul,
    choose_secret,
    create_policy,
    create_token,
    issue_ca_certificate,
    issue_server_certificate,
    publish_secret,
    restore_snapshot,
    save_snapshot,
    store_secret,
)
from handlers.clients import aws, consul_connection
from handlers.core import deployment, environment, names
from handlers.core.errors import Retryable
from handlers.core.subjects import Subject
from infrastructure.server_config import HTTPS_PORT, ServerConfig
from local.cloud.kms import corrected_kms
from local.cloud.secrets_manager import corrected_secrets_manager
from local.cloud.waiting import until
from tests.local import mesh_service

ADDRESSES = {f"consul-server-{number}": f"127.0.0.{number + 1}" for number in (1, 2, 3)}
HOST = "server.consul.internal"
DATACENTER, PREFIX = "dc1", "acme"
CLUSTER_ARN = "arn:aws:ecs:us-east-1:123456789012:cluster/mesh"
BUCKET = "acme-snapshots"
WITHIN_SECONDS = 90
TIMEOUT_SECONDS = 10
POLL_SECONDS = 0.2

CONSUL = mesh_service.real_consul()
pytestmark = [
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="only on Linux is all of 127.0.0.0/8 there"
    ),
    pytest.mark.skipif(
        CONSUL is None,
        reason="there is no consul on the PATH: no cluster of real servers was run",
    ),
]


# --------------------------------------------------------------------------------------------------
# The controller's steps, in this process
# --------------------------------------------------------------------------------------------------


class Controller:
    """Runs steps as their functions do, one token secret at a time."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self._secrets = aws.client("secretsmanager")
        self.arns = {
            name: str(self._secrets.create_secret(Name=f"{PREFIX}-{name}")["ARN"])
            for name in ("gossip", "ca", "bootstrap", "controller-token", "agent", *ADDRESSES)
        }
        keys = aws.client("kms")
        signing = keys.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
        self._ca_key = signing["KeyMetadata"]["Arn"]
        self._key = keys.create_key()["KeyMetadata"]["Arn"]
        aws.client("s3").create_bucket(Bucket=BUCKET)
        for name, value in {
            environment.CLUSTER_ARN: CLUSTER_ARN,
            environment.SECRET_PREFIX: PREFIX,
            environment.CONSUL_HTTP_ADDR: f"https://{HOST}:{HTTPS_PORT}",
            environment.CONSUL_DATACENTER: DATACENTER,
            environment.CONSUL_CA_SECRET_ARN: self.arns["ca"],
            environment.CONTROLLER_TOKEN_SECRET_ARN: self.arns["controller-token"],
            environment.SNAPSHOT_BUCKET: BUCKET,
            environment.SNAPSHOT_PREFIX: "consul",
        }.items():
            patch.setenv(name, value)
        self.authenticate("bootstrap")

    def authenticate(self, secret: str) -> None:
        """Let the steps from here on use the token in a secret."""
        self._patch.setenv(environment.CONSUL_TOKEN_SECRET_ARN, self.arns[secret])
        consul_connection.consul.cache_clear()
        consul_connection.unauthenticated_consul.cache_clear()

    def value(self, secret: str) -> str:
        return str(self._secrets.get_secret_value(SecretId=self.arns[secret])["SecretString"])

    def token(self, secret_id: str) -> str:
        value = self._secrets.get_secret_value(SecretId=secret_id)["SecretString"]
        return str(json.loads(value)["token"])

    def run(self, step: ModuleType, state: Any, *, what: str) -> dict[str, Any]:
        """Run a step, again while it may be tried again, as every workflow does."""

        def result() -> tuple[dict[str, Any]] | None:
            try:
                return (step.handler(state, None),)
            except Retryable:
                return None

        (done,) = until(result, within=WITHIN_SECONDS, what=what, every=POLL_SECONDS)
        return done

    def make_server_secrets(self) -> None:
        """Run what ClusterBootstrap does before servers start."""
        ca = {"secret_id": self.arns["ca"], "key_id": self._ca_key}
        gossip = {"secret": {"id": self.arns["gossip"]}, "kind": "gossip key"}
        self.run(choose_secret, gossip, what="a gossip key")
        issued = ca | {"common_name": f"Consul CA {DATACENTER}", "lifetime_days": 3650}
        self.run(issue_ca_certificate, {"ca": issued}, what="a CA")
        for name in ADDRESSES:
            server = {
                "name": name,
                "secret_id": self.arns[name],
                "dns_names": [HOST],
                "lifetime_days": 90,
            }
            state = {"server": server, "ca": ca, "key_pair_key_id": self._key}
            self.run(issue_server_certificate, state, what=f"the certificate of {name}")

    def bootstrap(self) -> None:
        """Run what ClusterBootstrap does once there is a leader."""
        self.run(check_consul, {}, what="a leader, and an ACL system that answers")
        self.run(bootstrap_acls, {}, what="a management token")
        controller = deployment.controller_token(PREFIX, CLUSTER_ARN)
        agent = deployment.server_token(PREFIX, CLUSTER_ARN)
        for needs in (controller, agent):
            self.run(create_policy, {"policy": needs["policy"]}, what="a policy")
        self._make_token(controller | {"secret": {"id": self.arns["controller-token"]}})
        self.authenticate("controller-token")
        self._make_token(agent | {"secret": {"id": self.arns["agent"]}})

    def provision(self, service: str) -> str:
        """Make sure of a service's token, as TaskProvisioning does; return the token."""
        wanted = deployment.Deployment.from_environment().wanted(Subject(service=service), {})
        self._make_token(wanted)
        return self.token(names.service_secret_name(PREFIX, service))

    def _make_token(self, wanted: dict[str, Any]) -> None:
        stored = self.run(store_secret, {"secret": wanted["secret"]}, what="a secret")
        state = {"secret": stored, "token": wanted["token"]}
        made = self.run(create_token, state, what=f"the token of {wanted['secret']['id']}")
        if not stored["public"] and made["change"] != "superseded":
            self.run(publish_secret, {"secret": stored}, what="a secret that tasks can pull")


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Controller]:
    for name in list(os.environ):
        if name.startswith(("AWS_", "CONSUL_")):
            monkeypatch.delenv(name)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    resolve = socket.getaddrinfo

    def resolved(host: Any, *arguments: Any, **options: Any) -> Any:
        """Answer as Cloud Map's DNS does: with the addresses of all servers."""
        if host != HOST:
            return resolve(host, *arguments, **options)
        return [
            answer
            for address in ADDRESSES.values()
            for answer in resolve(address, *arguments, **options)
        ]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    with mock_aws(), corrected_secrets_manager(), corrected_kms():
        yield Controller(monkeypatch)
    consul_connection.consul.cache_clear()
    consul_connection.unauthenticated_consul.cache_clear()


# --------------------------------------------------------------------------------------------------
# The servers
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """A server that can be started again and again, on the same files."""

    home: Path
    config: ServerConfig
    address: str

    @property
    def name(self) -> str:
        return self.config.node_name

    def write_files(self, controller: Controller, *, with_token: bool) -> None:
        """Write what the machine's scripts write."""
        identity = json.loads(controller.value(self.name))
        secrets: dict[str, Any] = {"encrypt": controller.value("gossip").strip()}
        if with_token:
            token = controller.token(controller.arns["agent"])
            secrets["acl"] = {"tokens": {"agent": token}}
        # Consul reads the files in the order of their names, and the last one counts.
        here = dict.fromkeys(("http", "https", "dns"), self.address)
        for path, content in {
            self.config.file: self.config.text,
            self.config.secrets_file: json.dumps(secrets),
            self.config.machine_file: json.dumps({"bind_addr": self.address}),
            self.config.config_dir / "test.json": json.dumps({"addresses": here}),
            self.config.ca_file: controller.value("ca"),
            self.config.certificate_file: identity["certificate"],
            self.config.key_file: identity["private_key"],
        }.items():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(content)
            Path(path).chmod(0o600)

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run it; when it is no longer wanted it gets SIGTERM, as from systemd."""
        Path(self.config.data_dir).mkdir(exist_ok=True)
        with (self.home / "consul.log").open("ab") as log:
            process = subprocess.Popen(
                [str(CONSUL), "agent", f"-config-dir={self.config.config_dir}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Cluster:
    """The servers that run at the moment."""

    def __init__(self, servers: list[Server], controller: Controller) -> None:
        self.servers = {server.name: server for server in servers}
        self._controller = controller
        self._stacks: dict[str, ExitStack] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        stack = self._stacks[name] = ExitStack()
        self._processes[name] = stack.enter_context(self.servers[name].running())

    def stop(self, name: str) -> None:
        self._stacks.pop(name).close()

    def stop_all(self) -> None:
        for name in list(self._stacks):
            self.stop(name)

    def kill(self, name: str) -> None:
        self._processes[name].kill()
        self.stop(name)

    def take_over_the_token(self) -> None:
        """Do what refresh_secrets.sh does when there is something new."""
        for name, server in self.servers.items():
            server.write_files(self._controller, with_token=True)
            self._processes[name].send_signal(signal.SIGHUP)

    def call(self, path: str, name: str, token: str | None = None) -> requests.Response:
        """Ask one server, on the port that only its own machine reaches."""
        token = token or self._controller.token(self._controller.arns["agent"])
        return requests.get(
            f"http://{self.servers[name].address}:8500{path}",
            headers={"X-Consul-Token": token},
            timeout=TIMEOUT_SECONDS,
        )

    def leader(self) -> str:
        """Return the name of the server that leads."""
        running = next(iter(self._stacks))
        found = self.call("/v1/status/leader", running).json()
        return next(n for n, s in self.servers.items() if found.startswith(f"{s.address}:"))

    def wait_until_healthy(self) -> dict[str, str]:
        """Wait for what wait_until_healthy.sh waits for, of all servers; return their IDs."""

        def healthy() -> dict[str, str] | None:
            found: dict[str, str] = {}
            for name in self._stacks:
                try:
                    report = self.call("/v1/operator/autopilot/health", name).json()
                except requests.RequestException:
                    return None
                good = [s for s in report.get("Servers") or () if s["Healthy"] and s["Voter"]]
                if len(good) < len(self.servers) or report["FailureTolerance"] < 1:
                    return None
                found = {server["Name"]: server["ID"] for server in good}
                addresses = {server["Name"]: server["Address"] for server in good}
                expected = {n: f"{s.address}:8300" for n, s in self.servers.items()}
                if addresses != expected:
                    return None
            return found

        return until(
            healthy,
            within=WITHIN_SECONDS,
            what="all servers are healthy voters",
            every=POLL_SECONDS,
        )


@pytest.fixture
def cluster(controller: Controller, tmp_path: Path) -> Iterator[Cluster]:
    template = ServerConfig(
        node_name="",
        datacenter=DATACENTER,
        bootstrap_expect=len(ADDRESSES),
        # In the place of cloud auto-join, which would ask AWS.
        retry_join=list(ADDRESSES.values()),
    )
    servers = [
        Server(
            home=tmp_path / name,
            address=address,
            config=replace(
                template,
                node_name=name,
                config_dir=PurePosixPath(tmp_path / name / "consul.d"),
                data_dir=PurePosixPath(tmp_path / name / "data"),
            ),
        )
        for name, address in ADDRESSES.items()
    ]
    controller.make_server_secrets()
    for server in servers:
        server.write_files(controller, with_token=False)
    cluster = Cluster(servers, controller)
    try:
        for name in ADDRESSES:
            cluster.start(name)
        yield cluster
    finally:
        cluster.stop_all()


# --------------------------------------------------------------------------------------------------
# The test
# --------------------------------------------------------------------------------------------------


def known(cluster: Cluster, token: str) -> bool:
    """Whether every server that runs knows a token."""
    return all(
        cluster.call("/v1/acl/token/self", name, token).status_code == requests.codes.ok
        for name in cluster._stacks
    )


def registered(cluster: Cluster, token: str) -> dict[str, str]:
    """Return the IDs of the servers in the catalog, by their names."""
    name = next(iter(cluster.servers))
    entries = cluster.call("/v1/catalog/service/consul", name, token).json()
    return {entry["Node"]: entry["ID"] for entry in entries}


def test_consul_finds_each_file_valid(cluster: Cluster) -> None:
    for server in cluster.servers.values():
        validated = subprocess.run(
            [str(CONSUL), "validate", str(server.config.config_dir)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert validated.returncode == 0, validated.stdout + validated.stderr


def test_three_servers_outlive_their_leader_a_replacement_and_with_a_snapshot_their_end(
    cluster: Cluster, controller: Controller
) -> None:
    controller.bootstrap()
    cluster.take_over_the_token()
    identities = cluster.wait_until_healthy()
    web = controller.provision("web")
    assert known(cluster, web)

    # The leader is lost: the others elect another one, and the DNS name still has its address.
    leader = cluster.leader()
    cluster.stop(leader)
    api = controller.provision("api")
    assert known(cluster, api)
    assert cluster.leader() != leader

    # A new machine takes over its volume, and with it its place; then one whose end was sudden.
    cluster.start(leader)
    assert cluster.wait_until_healthy() == identities
    sudden = next(name for name in ADDRESSES if name != cluster.leader())
    cluster.kill(sudden)
    cluster.start(sudden)
    assert cluster.wait_until_healthy() == identities
    assert known(cluster, api)

    saved = controller.run(save_snapshot, {}, what="a snapshot")
    assert saved["bytes"] > 0

    # Everything is lost, but for the secrets and the bucket.
    cluster.stop_all()
    for server in cluster.servers.values():
        shutil.rmtree(server.config.data_dir)
    for name in ADDRESSES:
        cluster.start(name)
    controller.run(check_consul, {}, what="a leader of the new servers")
    controller.authenticate("bootstrap")
    restored = controller.run(restore_snapshot, {"event": {}}, what="the snapshot is restored")
    assert restored == {
        "key": saved["key"],
        "index": saved["index"],
        "bootstrapped": True,
        "forgotten": sorted(identities),
    }

    new = cluster.wait_until_healthy()
    assert set(new) == set(identities)
    assert not set(new.values()) & set(identities.values())
    until(
        lambda: registered(cluster, controller.value("bootstrap")) == new,
        within=WITHIN_SECONDS,
        what="the catalog has the new servers",
        every=POLL_SECONDS,
    )
    assert known(cluster, web)
    assert known(cluster, api)
    controller.authenticate("controller-token")
    assert known(cluster, controller.provision("shop"))


def test_a_renewed_certificate_is_taken_without_a_restart(
    cluster: Cluster, controller: Controller
) -> None:
    controller.bootstrap()
    cluster.take_over_the_token()
    cluster.wait_until_healthy()
    name = next(iter(ADDRESSES))
    before = _served(cluster, controller, name)
    secrets = aws.client("secretsmanager")
    secrets.put_secret_value(SecretId=controller.arns[name], SecretString="{}")
    controller.make_server_secrets()
    cluster.take_over_the_token()

    def renewed() -> bool:
        return _served(cluster, controller, name) != before

    until(renewed, within=WITHIN_SECONDS, what="the server shows its new certificate")
    assert cluster.wait_until_healthy()


def _served(cluster: Cluster, controller: Controller, name: str) -> bytes:
    """Return the certificate that a server shows; it has to be valid for the DNS name."""
    context = ssl.create_default_context(cadata=controller.value("ca"))
    address = (cluster.servers[name].address, HTTPS_PORT)
    with (
        socket.create_connection(address, timeout=TIMEOUT_SECONDS) as connection,
        context.wrap_socket(connection, server_hostname=HOST) as encrypted,
    ):
        shown = encrypted.getpeercert(binary_form=True)
    assert shown
    return shown
