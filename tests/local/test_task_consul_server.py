"""The stand-in for a Consul server takes what a real one takes, and serves it with TLS."""

from __future__ import annotations

import datetime
import json
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from infrastructure.server_config import ServerConfig
from local.cloud.waiting import until
from local.task.addresses import free_task_address
from local.task.images import consul_image
from local.task.stand_in.config import ConfigError, read_config

MANAGEMENT = "e3e4f0d1-0000-4000-8000-00000000aaaa"
GOSSIP_KEY = "A" * 43 + "="
SECRETS = {
    "encrypt": GOSSIP_KEY,
    "acl": {"tokens": {"initial_management": MANAGEMENT, "agent": MANAGEMENT}},
}
TIMEOUT_SECONDS = 10
LONG_SECONDS = 30


# What it takes ------------------------------------------------------------------------------------


def good() -> dict[str, Any]:
    return ServerConfig(node_name="one", datacenter="dc1", bootstrap_expect=1).config


def test_a_server_takes_the_configuration_of_our_servers_in_several_files() -> None:
    config = read_config(
        json.dumps(good()), json.dumps({"bind_addr": "10.0.0.1"}), json.dumps(SECRETS)
    )

    assert config == good() | SECRETS | {
        "bind_addr": "10.0.0.1",
        "acl": good()["acl"] | SECRETS["acl"],
    }


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"bootstrap_expect": 0}, "bootstrap_expect is not set"),
        ({"encrypt": "U0VDUkVU"}, "encrypt has invalid key"),
        ({"encrypt": "SECRET!"}, "encrypt has invalid key"),
        ({"tls": {}}, "ports.https needs a certificate"),
        ({"tls": {"default": {}}}, "invalid config key tls.default"),
        ({"autopilot": {"min_quorums": 3}}, "invalid config key autopilot.min_quorums"),
        ({"tls": {"defaults": {"verify_outgoing": True}}}, "verify_outgoing needs a CA"),
        ({"server": False}, "invalid config key"),
    ],
)
def test_a_server_refuses_a_configuration_and_says_why_without_values(
    changed: dict[str, Any], why: str
) -> None:
    with pytest.raises(ConfigError, match=why) as refused:
        read_config(json.dumps(good() | changed))
    assert "SECRET" not in str(refused.value)
    assert "U0VD" not in str(refused.value)


# What it does -------------------------------------------------------------------------------------


class Ca:
    """Signs certificates."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Consul CA")])
        self.pem = self._signed(self._key, self._name, ca=True, names=[])

    def issue(self, *names: str, days: int = 1) -> tuple[str, str]:
        """Return a certificate for names, and its private key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        return self._signed(key, subject, ca=False, names=names, days=days), private

    def _signed(
        self,
        key: ec.EllipticCurvePrivateKey,
        subject: x509.Name,
        *,
        ca: bool,
        names: Any,
        days: int = 1,
    ) -> str:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=9))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            alternatives = [x509.DNSName(name) for name in names]
            builder = builder.add_extension(
                x509.SubjectAlternativeName(alternatives), critical=False
            )
        return builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM).decode()


class Machine:
    """Runs the stand-in, each at an address of its own."""

    def __init__(self, stack: ExitStack, directory: Path, *, ignore_dates: bool = False) -> None:
        self._stack = stack
        self.directory = directory
        self.hosts_file = directory / "hosts"
        image = consul_image(
            directory / "image", hosts_file=self.hosts_file, ignore_dates=ignore_dates
        )
        self._program = f"{image.programs}/consul"

    def address(self) -> str:
        return self._stack.enter_context(free_task_address())

    def server(self, address: str, ca: str, certificate: str, key: str) -> subprocess.Popen[str]:
        """Start a server, with these files and our configuration."""
        home = self.directory / address
        (home / "tls").mkdir(parents=True)
        files = {"ca": ca, "server": certificate, "server-key": key}
        for name, pem in files.items():
            (home / "tls" / f"{name}.pem").write_text(pem)
        config = ServerConfig(
            node_name="one",
            datacenter="dc1",
            bootstrap_expect=1,
            config_dir=PurePosixPath(home),
            data_dir=PurePosixPath(home, "data"),
        )
        text = config.text.replace("127.0.0.1", address).replace("0.0.0.0", address)  # noqa: S104
        (home / "server.json").write_text(text)
        (home / "secrets.json").write_text(json.dumps(SECRETS))
        return self.start(f"-config-dir={home}")

    def agent(self, address: str, ca: str) -> subprocess.Popen[str]:
        """Start a client agent that joins `server.consul.internal`."""
        home = self.directory / address
        home.mkdir()
        (home / "ca.pem").write_text(ca)
        config = {
            "data_dir": str(home / "data"),
            "bind_addr": address,
            "client_addr": address,
            "retry_join": ["server.consul.internal"],
            "ca_file": str(home / "ca.pem"),
            "verify_outgoing": True,
            "verify_server_hostname": True,
            "acl": {"enabled": True, "tokens": {"agent": MANAGEMENT}},
        }
        (home / "agent.json").write_text(json.dumps(config))
        return self.start(f"-config-file={home / 'agent.json'}")

    def start(self, *flags: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [self._program, "agent", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._stack.callback(process.communicate)
        self._stack.callback(process.kill)
        return process

    def end(self, process: subprocess.Popen[str]) -> str:
        """Return what a process has written that ends by itself."""
        output, _ = process.communicate(timeout=LONG_SECONDS)
        assert process.returncode == 1
        return output


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    if not sys.platform.startswith("linux"):
        pytest.skip("only on Linux is all of 127.0.0.0/8 there")
    with ExitStack() as stack:
        yield Machine(stack, tmp_path)


def status(url: str) -> int:
    """Ask who leads, as soon as somebody answers at all; returns the answer's status."""

    def answer() -> int | None:
        with suppress(requests.ConnectionError):
            return requests.get(f"{url}/v1/status/leader", timeout=TIMEOUT_SECONDS).status_code
        return None

    return until(answer, within=LONG_SECONDS, what=f"{url} answers")


def test_a_server_answers_with_the_certificate_given_and_knows_the_token_given(
    machine: Machine,
) -> None:
    ca, address = Ca(), machine.address()
    machine.server(address, ca.pem, *ca.issue("server.dc1.consul"))
    assert status(f"http://{address}:8500") == 200
    machine.hosts_file.write_text(f"{address}\tserver.consul.internal\n")
    agent = machine.address()

    machine.agent(agent, ca.pem)

    assert status(f"http://{agent}:8500") == 200
    own = requests.get(
        f"http://{agent}:8500/v1/acl/token/self",
        headers={"X-Consul-Token": MANAGEMENT},
        timeout=TIMEOUT_SECONDS,
    )
    assert own.json()["Policies"][0]["Name"] == "global-management"


@pytest.mark.parametrize("wrong", ["the CA", "the name", "the date"])
def test_an_agent_does_not_join_a_server_with_a_wrong_certificate(
    machine: Machine, wrong: str
) -> None:
    ca, address, agent = Ca(), machine.address(), machine.address()
    name = "client.dc1.consul" if wrong == "the name" else "server.dc1.consul"
    days = -1 if wrong == "the date" else 1
    machine.server(address, ca.pem, *ca.issue(name, days=days))
    assert status(f"http://{address}:8500") == 200
    machine.hosts_file.write_text(f"{address}\tserver.consul.internal\n")

    machine.agent(agent, Ca().pem if wrong == "the CA" else ca.pem)

    assert status(f"http://{agent}:8500") == 500


def test_dates_do_not_count_where_a_faster_clock_writes_them(tmp_path: Path) -> None:
    with ExitStack() as stack:
        machine = Machine(stack, tmp_path, ignore_dates=True)
        ca, address, agent = Ca(), machine.address(), machine.address()
        machine.server(address, ca.pem, *ca.issue("server.dc1.consul", days=-1))
        assert status(f"http://{address}:8500") == 200
        machine.hosts_file.write_text(f"{address}\tserver.consul.internal\n")

        machine.agent(agent, ca.pem)

        assert status(f"http://{agent}:8500") == 200


def test_a_server_reads_its_certificate_again_when_it_is_told_to(machine: Machine) -> None:
    ca, address = Ca(), machine.address()
    process = machine.server(address, ca.pem, *ca.issue("server.dc1.consul"))
    assert status(f"http://{address}:8500") == 200
    (certificate, key), (_, key_of_another) = (ca.issue("server.dc1.consul") for _ in range(2))
    tls = machine.directory / address / "tls"

    (tls / "server.pem").write_text(certificate)
    (tls / "server-key.pem").write_text(key_of_another)
    process.send_signal(signal.SIGHUP)
    said = [process.stdout.readline() for _ in range(2)] if process.stdout else []
    assert "KEY_VALUES_MISMATCH" in said[1]
    assert ssl.get_server_certificate((address, 8501)) != certificate

    (tls / "server-key.pem").write_text(key)
    process.send_signal(signal.SIGHUP)
    until(
        lambda: ssl.get_server_certificate((address, 8501)) == certificate,
        within=LONG_SECONDS,
        what="the new certificate is served",
    )


def test_a_server_does_not_start_with_a_key_of_another_certificate(machine: Machine) -> None:
    ca = Ca()
    (certificate, _), (_, key) = ca.issue("server.dc1.consul"), ca.issue("server.dc1.consul")

    output = machine.end(machine.server(machine.address(), ca.pem, certificate, key))

    assert "KEY_VALUES_MISMATCH" in output
    assert "Traceback" not in output


def test_a_server_does_not_start_without_its_files(machine: Machine) -> None:
    home = machine.directory / "home"
    home.mkdir()
    config = ServerConfig(
        node_name="one",
        datacenter="dc1",
        bootstrap_expect=1,
        data_dir=PurePosixPath(home, "data"),
    )
    (home / "server.json").write_text(config.text)

    output = machine.end(machine.start(f"-config-dir={home}"))

    assert "No such file or directory" in output
    assert "Traceback" not in output
