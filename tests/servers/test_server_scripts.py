"""The scripts that make a machine a Consul server, run for real in a directory that is its root."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.servers.machine import MACHINE, VOLUME, Machine

GOSSIP_KEY = base64.b64encode(b"gossip key of thirty-two bytes..").decode()
TOKEN = "5ec12e70-0000-4000-8000-00000000aaaa"
CA = "-----BEGIN CERTIFICATE-----\nthe CA\n-----END CERTIFICATE-----\n"
FIRST = {
    "certificate": "-----BEGIN CERTIFICATE-----\nfirst\n-----END CERTIFICATE-----\n",
    "private_key": "-----BEGIN PRIVATE KEY-----\nSECRET-KEY-1\n-----END PRIVATE KEY-----\n",
}
SECOND = {
    "certificate": "-----BEGIN CERTIFICATE-----\nsecond\n-----END CERTIFICATE-----\n",
    "private_key": "-----BEGIN PRIVATE KEY-----\nSECRET-KEY-2\n-----END PRIVATE KEY-----\n",
}
SECRETS = {
    "arn:gossip": GOSSIP_KEY,
    "arn:ca": CA,
    "arn:certificate-2": json.dumps(FIRST),
    "arn:token": json.dumps({"accessor_id": "accessor", "token": TOKEN}),
}
SECRET_VALUES = (GOSSIP_KEY, TOKEN, "SECRET-KEY-1", "SECRET-KEY-2", "imds-token")
FREE = ["available", "None"]
OURS = ["in-use", "i-new"]
THEIRS = ["in-use", "i-old"]
DEVICE = "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0"


def server(number: int, **changes: Any) -> dict[str, Any]:
    """Return what autopilot says of a server."""
    return {
        "Name": f"consul-server-{number}",
        "Address": f"10.0.1.{number + 5}:8300",
        "SerfStatus": "alive",
        "Healthy": True,
        "Voter": True,
        **changes,
    }


def health(*servers: dict[str, Any], tolerance: int = 1) -> dict[str, Any]:
    return {"Healthy": tolerance > 0, "FailureTolerance": tolerance, "Servers": list(servers)}


HEALTHY = health(server(1), server(2), server(3))


def state(**changes: Any) -> dict[str, Any]:
    """Return the world of a machine whose predecessor is gone, and has left its data."""
    return {
        "volume": [FREE],
        "file_system": "xfs",
        "data": True,
        "secrets": SECRETS,
        "operation": [["SUCCESS", "None"]],
        "health": [HEALTHY],
        **changes,
    }


BLANK = {"file_system": None, "data": False}
# ClusterBootstrap, which makes the token, can only run when the first servers are there.
NO_TOKEN_YET = {**SECRETS, "arn:token": None}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path


def signals(machine: Machine) -> list[str]:
    return [call.rpartition(" ")[2] for call in machine.called("aws cloudformation")]


def assert_no_leak(machine: Machine, *said: str) -> None:
    """Nothing secret is in an argument, in the environment of a program, or in what is said."""
    for call in machine.calls:
        for value in SECRET_VALUES:
            assert value not in str(call), call.program
            assert value not in call.environment, call.program
    for text in said:
        for value in SECRET_VALUES:
            assert value not in text


# --------------------------------------------------------------------------------------------------
# boot.sh
# --------------------------------------------------------------------------------------------------


def test_a_first_machine_formats_its_volume_and_starts_consul_without_waiting_for_others(
    directory: Path,
) -> None:
    machine = Machine(directory, **state(**BLANK, secrets=NO_TOKEN_YET, health=[None]))

    ended = machine.run("boot.sh")

    assert ended.code == 0, ended.said
    device = machine.path(DEVICE)
    mounted = machine.path("/opt/consul")
    assert machine.called("mkfs.xfs") == [f"mkfs.xfs -q {device}"]
    assert machine.called("mount ") == [f"mount {mounted}"]
    assert machine.called("aws ec2 attach-volume") == [
        f"aws ec2 attach-volume --volume-id {VOLUME} --instance-id i-new --device /dev/sdf"
    ]
    assert machine.path("/etc/fstab").read_text() == (
        "UUID=root / xfs defaults 0 1\n"
        f"UUID=11111111-2222-4333-8444-555555555555 {mounted} xfs "
        "defaults,nofail,x-systemd.device-timeout=60s 0 2\n"
    )
    assert machine.called("systemctl enable") == [
        "systemctl enable --now consul.service consul-secrets.timer",
        "systemctl enable --now consul-dns.service",
    ]
    assert signals(machine) == ["SUCCESS"]
    assert not [call for call in machine.called("curl") if "autopilot" in call]
    assert "consul-server-2 is one of the first servers" in ended.said
    assert_no_leak(machine, ended.said)


def test_a_server_that_comes_to_the_cluster_with_a_blank_volume_is_waited_for_too(
    directory: Path,
) -> None:
    catching_up = health(server(1), server(2, Voter=False), server(3))
    machine = Machine(directory, **state(**BLANK, health=[catching_up, HEALTHY]))

    ended = machine.run("boot.sh")

    assert ended.code == 0, ended.said
    assert len(machine.called("mkfs.xfs")) == 1
    assert len([call for call in machine.calls if "autopilot" in str(call)]) == 2
    assert "it has no vote" in ended.said
    assert signals(machine) == ["SUCCESS"]


def test_what_consul_reads_is_there_before_it_starts_and_is_for_nobody_else(
    directory: Path,
) -> None:
    machine = Machine(directory, **state(**BLANK))

    machine.run("boot.sh")

    etc = machine.path("/etc/consul.d")
    written = {path.relative_to(etc).as_posix(): path for path in etc.rglob("*") if path.is_file()}
    assert {name: path.read_text().strip() for name, path in written.items()} == {
        "server.json": '{"node_name": "consul-server-2"}',
        "machine.json": '{"bind_addr": "10.0.1.7"}',
        "secrets.json": json.dumps(
            {"encrypt": GOSSIP_KEY, "acl": {"tokens": {"agent": TOKEN}}}, indent=2
        ),
        "tls/ca.pem": CA.strip(),
        "tls/server.pem": FIRST["certificate"].strip(),
        "tls/server-key.pem": FIRST["private_key"].strip(),
    }
    assert {path.stat().st_mode & 0o777 for path in written.values()} == {0o640}
    assert (etc / "tls").stat().st_mode & 0o777 == 0o750
    # Whom they are given to, in the new file, before it takes its place.
    owned = {call.rpartition("/")[2] for call in machine.called("chown root:consul")}
    assert owned >= {"ca.pem", "certificate", "private_key", "secrets.json"}
    assert machine.called("chown -R consul:consul") == [
        f"chown -R consul:consul {machine.path('/opt/consul/data')}"
    ]
    units = machine.path("/etc/systemd/system")
    assert {path.name for path in units.iterdir()} == {
        "consul.service",
        "consul-dns.service",
        "consul-secrets.service",
        "consul-secrets.timer",
    }
    order = [str(call) for call in machine.calls]
    started = next(index for index, call in enumerate(order) if "systemctl enable" in call)
    assert max(i for i, call in enumerate(order) if call.startswith("chown")) < started


def test_a_replacement_takes_over_the_data_and_signals_when_it_is_healthy(
    directory: Path,
) -> None:
    waiting = [
        "",
        "Permission denied: token lacks operator:read",
        health(server(1), server(3), tolerance=0),
        health(server(1), server(2, Address="10.0.1.99:8300", SerfStatus="failed"), tolerance=0),
        health(server(1), server(2, Healthy=False, Voter=False), tolerance=0),
        health(server(1), server(2, Voter=False), tolerance=0),
        health(server(1), server(2), server(3, Healthy=False), tolerance=0),
        HEALTHY,
    ]
    machine = Machine(directory, **state(health=waiting))

    ended = machine.run("boot.sh")

    assert ended.code == 0, ended.said
    assert machine.called("mkfs") == []
    asked = [index for index, call in enumerate(machine.calls) if "autopilot" in str(call)]
    signalled = next(i for i, call in enumerate(machine.calls) if "signal-resource" in str(call))
    assert len(asked) == len(waiting)
    assert max(asked) < signalled
    assert signals(machine) == ["SUCCESS"]
    reasons = [line for line in ended.said.splitlines() if line.startswith("Waiting for consul")]
    start = "Waiting for consul-server-2 to be healthy: "
    assert [line.removeprefix(start) for line in reasons] == [
        'Consul answers "".',
        'Consul answers "Permission denied: token lacks operator:read".',
        "it is not among the servers.",
        "the servers know it as 10.0.1.99:8300.",
        "it is not healthy (gossip: alive).",
        "it has no vote.",
        "it is healthy, but no other server may be lost.",
    ]
    assert_no_leak(machine, ended.said)


def test_a_volume_that_the_predecessor_still_has_is_waited_for(directory: Path) -> None:
    machine = Machine(
        directory, **state(volume=[THEIRS, THEIRS, FREE, THEIRS, FREE], attach_refused=1)
    )

    ended = machine.run("boot.sh")

    assert ended.code == 0, ended.said
    assert len(machine.called("aws ec2 attach-volume")) == 2
    assert ended.said.count(f"Waiting for the volume {VOLUME}") == 4
    assert 'it is "in-use", and attached to i-old' in ended.said
    assert machine.called("mkfs") == []


def test_a_volume_that_never_gets_free_fails_the_update(directory: Path) -> None:
    machine = Machine(directory, **state(volume=[THEIRS]))

    ended = machine.run("boot.sh")

    assert ended.code != 0
    assert machine.called("aws ec2 attach-volume") == []
    assert machine.called("sleep 10") == ["sleep 10"] * 59
    assert f"the volume {VOLUME} is still not free" in ended.said
    assert "attached to i-old" in ended.said
    assert signals(machine) == ["FAILURE"]
    assert machine.called("systemctl enable") == []


def test_a_device_that_never_appears_fails_the_update(directory: Path) -> None:
    machine = Machine(directory, **state(appears=False))

    ended = machine.run("boot.sh")

    assert ended.code != 0
    assert "there is no" in ended.said
    assert "Nitro" in ended.said
    assert machine.called("mkfs") == machine.called("mount ") == []
    assert signals(machine) == ["FAILURE"]


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ("ext4", '"ext4" (blkid: 0)'),  # another file system
        ("", '"" (blkid: 0)'),  # partitions, and nothing on the whole of it
        ("several", '"" (blkid: 8)'),  # file systems that contradict each other
    ],
)
def test_nothing_is_written_on_a_volume_that_is_not_ours(
    directory: Path, found: str, told: str
) -> None:
    machine = Machine(directory, **state(file_system=found))

    ended = machine.run("boot.sh")

    assert ended.code != 0
    assert machine.called("mkfs") == machine.called("mount ") == []
    assert f"has something on it that is not ours, {told}" in ended.said
    assert signals(machine) == ["FAILURE"]


def test_a_server_that_never_gets_healthy_fails_the_update(directory: Path) -> None:
    sick = health(server(1), server(2, Healthy=False, SerfStatus="failed"), tolerance=0)
    machine = Machine(directory, **state(health=[sick]))

    ended = machine.run("boot.sh")

    assert ended.code != 0
    assert len([call for call in machine.calls if "autopilot" in str(call)]) == 60
    assert "After ten minutes consul-server-2 is not a healthy server: it is not healthy" in (
        ended.said
    )
    assert ended.said.count("Waiting for consul-server-2 to be healthy") == 1
    assert signals(machine) == ["FAILURE"]
    assert_no_leak(machine, ended.said)


def test_secrets_that_are_not_there_yet_are_waited_for(directory: Path) -> None:
    secrets = {**SECRETS, "arn:gossip": [None, None, GOSSIP_KEY]}
    machine = Machine(directory, **state(**BLANK, secrets=secrets))

    ended = machine.run("boot.sh")

    assert ended.code == 0, ended.said
    assert machine.called("sleep 10") == ["sleep 10"] * 2
    assert ended.said.count("The gossip key could not be had from arn:gossip") == 2


def test_secrets_that_never_come_fail_the_update(directory: Path) -> None:
    machine = Machine(directory, **state(secrets={**SECRETS, "arn:gossip": None}))

    ended = machine.run("boot.sh")

    assert ended.code != 0
    assert machine.called("sleep 10") == ["sleep 10"] * 29
    assert "there is not every secret that consul-server-2 starts with" in ended.said
    assert "CertificateRenewal" in ended.said
    assert signals(machine) == ["FAILURE"]
    assert machine.called("systemctl enable") == []
    assert_no_leak(machine, ended.said)


def test_a_registration_of_the_address_that_fails_at_first_is_no_reason_to_give_up(
    directory: Path,
) -> None:
    machine = Machine(directory, **state(failing_units={"consul-dns.service": 2}))

    ended = machine.run("boot.sh")

    assert ended.code == 0, ended.said
    assert machine.called("sleep 10") == ["sleep 10"] * 2
    assert signals(machine) == ["SUCCESS"]


def test_an_address_that_is_never_registered_fails_the_update(directory: Path) -> None:
    machine = Machine(directory, **state(failing_units={"consul-dns.service": 1000}))

    ended = machine.run("boot.sh")

    assert ended.code != 0
    assert machine.called("sleep 10") == ["sleep 10"] * 29
    assert "journalctl --unit=consul-dns.service says why" in ended.said
    assert signals(machine) == ["FAILURE"]


def test_a_second_run_does_no_harm(directory: Path) -> None:
    machine = Machine(directory, **state(**BLANK))
    machine.run("boot.sh")
    etc = machine.path("/etc")
    before = {path: path.read_bytes() for path in etc.rglob("*") if path.is_file()}
    machine.state = {**machine.state, "volume": [OURS]}
    machine.path("/opt/consul/data/raft").mkdir()
    machine.forget()

    ended = machine.run("boot.sh")

    assert ended.code == 0, ended.said
    for start in ("mkfs", "mount ", "useradd", "aws ec2 attach-volume", "systemctl reload"):
        assert machine.called(start) == [], start
    assert {path: path.read_bytes() for path in etc.rglob("*") if path.is_file()} == before


def test_a_signal_that_nobody_waits_for_is_no_failure(directory: Path) -> None:
    machine = Machine(directory, **state(nobody_waits=True))

    ended = machine.run("boot.sh")

    assert ended.code == 0
    assert "matters only in an update: An error occurred (ValidationError)" in (
        ended.said.replace("\n", " ")
    )


def test_an_update_hears_of_the_machine_by_the_names_that_cloudformation_knows(
    directory: Path,
) -> None:
    machine = Machine(directory, **state())
    machine.run("boot.sh")

    (call,) = machine.called("aws cloudformation")
    assert call == (
        f"aws cloudformation signal-resource --stack-name {MACHINE['STACK_ID']} "
        f"--logical-resource-id {MACHINE['GROUP_LOGICAL_ID']} --unique-id i-new --status SUCCESS"
    )


# --------------------------------------------------------------------------------------------------
# install_consul.sh
# --------------------------------------------------------------------------------------------------


def test_what_hashicorp_has_signed_is_installed(directory: Path) -> None:
    machine = Machine(directory, **state())

    ended = machine.unit("install_consul.sh")

    assert ended.code == 0, ended.said
    installed = machine.path("/usr/local/bin/consul")
    assert installed.read_text() == "#!/bin/sh\necho Consul v1.21.5\n"
    assert installed.stat().st_mode & 0o777 == 0o755
    release = "https://releases.hashicorp.com/consul/1.21.5/consul_1.21.5"
    assert [call.split(" ")[-1] for call in machine.called("curl")] == [
        f"{release}_SHA256SUMS",
        f"{release}_SHA256SUMS.sig",
        f"{release}_linux_arm64.zip",
        "https://www.hashicorp.com/.well-known/pgp-key.txt",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tampered": True}, "consul_1.21.5_linux_arm64.zip is not what HashiCorp has signed."),
        (
            {"processor": "x86_64"},
            "consul_1.21.5_linux_amd64.zip is not what HashiCorp has signed.",
        ),
        ({"signed_by": "B" * 40}, "are not signed by HashiCorp's key C874011F0AB4"),
        ({"signed_by": None}, "are not signed by HashiCorp's key C874011F0AB4"),
        ({"processor": "riscv64"}, "There is no Consul for the processor riscv64."),
    ],
    ids=["other content", "not in the list", "other key", "bad signature", "other processor"],
)
def test_anything_else_is_refused(directory: Path, changes: dict[str, Any], message: str) -> None:
    machine = Machine(directory, **state(**changes))

    ended = machine.unit("install_consul.sh")

    assert ended.code == 1
    assert message in ended.said
    assert not machine.path("/usr/local/bin/consul").exists()


def test_an_image_that_has_this_consul_downloads_nothing(directory: Path) -> None:
    machine = Machine(directory, **state(present="1.21.5"))

    ended = machine.unit("install_consul.sh")

    assert ended.code == 0
    assert machine.called("curl") == []
    assert machine.path("/usr/local/bin/consul").is_symlink()


GPG = shutil.which("gpg")
PINNED = "C874011F0AB405110D02105534365D9472D7468F"


def gpg(home: Path, *arguments: object) -> str:
    assert GPG
    return subprocess.run(
        [GPG, "--homedir", home, "--batch", "--quiet", "--passphrase", "", *map(str, arguments)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


@pytest.fixture
def signed(directory: Path) -> tuple[Machine, str]:
    """A machine with the real gpg, and the fingerprint of who has signed what it downloads."""
    machine = Machine(directory, **state())
    home = directory / "signer"
    home.mkdir(mode=0o700)
    gpg(home, "--quick-generate-key", "Releases <releases@example.com>", "ed25519", "cert", "never")
    listed = gpg(home, "--list-keys", "--with-colons").splitlines()
    primary = next(line.split(":")[9] for line in listed if line.startswith("fpr"))
    gpg(home, "--quick-add-key", primary, "ed25519", "sign", "never")
    (directory / "key").write_text(gpg(home, "--armor", "--export"))
    # What the stand-in for curl makes, downloaded once.
    machine.unit("install_consul.sh")
    sums = directory / "sums"
    subprocess.run(
        [machine._programs / "curl", "--output", sums, "https://x/consul_1.21.5_SHA256SUMS"],
        check=True,
    )
    gpg(home, "--output", directory / "sums.sig", "--detach-sign", sums)
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)  # noqa: S607
    machine.path("/usr/local/bin/consul").unlink()
    files = {
        "consul_1.21.5_SHA256SUMS": "sums",
        "consul_1.21.5_SHA256SUMS.sig": "sums.sig",
        "pgp-key.txt": "key",
    }
    machine.state = state(files={name: str(directory / path) for name, path in files.items()})
    machine.use_real("gpg")
    return machine, primary


@pytest.mark.skipif(GPG is None, reason="there is no gpg on the PATH: signatures not tried with it")
@pytest.mark.parametrize("case", ["signed", "signed by another key", "changed afterwards"])
def test_a_real_gpg_takes_only_what_the_pinned_key_has_signed(
    signed: tuple[Machine, str], directory: Path, case: str
) -> None:
    machine, primary = signed
    if case != "signed by another key":
        script = machine.home / "install_consul.sh"
        script.write_text(script.read_text().replace(PINNED, primary))
    if case == "changed afterwards":
        (directory / "sums").write_text((directory / "sums").read_text() + "\n")

    ended = machine.unit("install_consul.sh")

    assert (ended.code == 0) == (case == "signed"), ended.said
    assert machine.path("/usr/local/bin/consul").exists() == (case == "signed")


# --------------------------------------------------------------------------------------------------
# refresh_secrets.sh
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def running(directory: Path) -> Machine:
    """A server that runs, with its secrets."""
    machine = Machine(directory, **state())
    machine.path("/etc/consul.d/tls").mkdir(parents=True)
    assert machine.unit("refresh_secrets.sh").code == 0
    machine.state = {**machine.state, "active": True}
    machine.forget()
    return machine


def secrets_of(machine: Machine) -> dict[str, str]:
    etc = machine.path("/etc/consul.d")
    return {
        path.relative_to(etc).as_posix(): path.read_text()
        for path in etc.rglob("*")
        if path.is_file()
    }


def change(machine: Machine, **secrets: Any) -> None:
    known = machine.state
    named = {f"arn:{name.replace('_', '-')}": value for name, value in secrets.items()}
    machine.state = {**known, "secrets": {**known["secrets"], **named}}


def test_nothing_new_means_no_reload(running: Machine) -> None:
    before = secrets_of(running)

    ended = running.unit("refresh_secrets.sh")

    assert (ended.code, ended.said) == (0, "")
    assert running.called("systemctl") == []
    assert secrets_of(running) == before


def test_a_renewed_certificate_replaces_both_files_and_consul_reads_them_once(
    running: Machine,
) -> None:
    before = secrets_of(running)
    change(running, certificate_2=json.dumps(SECOND))

    ended = running.unit("refresh_secrets.sh")
    again = running.unit("refresh_secrets.sh")

    assert ended.code == again.code == 0
    assert {name: text.strip() for name, text in secrets_of(running).items()} == {
        **{name: text.strip() for name, text in before.items()},
        "tls/server.pem": SECOND["certificate"].strip(),
        "tls/server-key.pem": SECOND["private_key"].strip(),
    }
    assert running.called("systemctl reload") == ["systemctl reload consul.service"]
    mode = running.path("/etc/consul.d/tls/server-key.pem").stat().st_mode
    assert mode & 0o777 == 0o640
    assert_no_leak(running, ended.said, again.said)


def test_a_server_that_does_not_run_is_not_reloaded(running: Machine) -> None:
    running.state = {**running.state, "active": False}
    change(running, certificate_2=json.dumps(SECOND))

    assert running.unit("refresh_secrets.sh").code == 0
    assert running.called("systemctl reload") == []


def test_consul_is_told_by_the_next_run_if_one_could_not(running: Machine) -> None:
    change(running, certificate_2=json.dumps(SECOND))
    running.state = {**running.state, "reload_fails": True}
    assert running.unit("refresh_secrets.sh").code != 0
    running.state = {**running.state, "reload_fails": False}
    running.forget()

    assert running.unit("refresh_secrets.sh").code == 0
    assert running.unit("refresh_secrets.sh").code == 0
    assert running.called("systemctl reload") == ["systemctl reload consul.service"]


def test_the_token_comes_when_there_is_one_and_stays(directory: Path) -> None:
    machine = Machine(directory, **state(active=True, secrets={**SECRETS, "arn:token": None}))
    machine.path("/etc/consul.d/tls").mkdir(parents=True)

    assert machine.unit("refresh_secrets.sh").code == 0
    first = json.loads(secrets_of(machine)["secrets.json"])
    change(machine, token=SECRETS["arn:token"])
    assert machine.unit("refresh_secrets.sh").code == 0
    second = json.loads(secrets_of(machine)["secrets.json"])
    change(machine, token=None)
    machine.forget()
    assert machine.unit("refresh_secrets.sh").code == 0

    assert first == {"encrypt": GOSSIP_KEY}
    assert second == {"encrypt": GOSSIP_KEY, "acl": {"tokens": {"agent": TOKEN}}}
    assert json.loads(secrets_of(machine)["secrets.json"]) == second
    assert machine.called("systemctl reload") == []


@pytest.mark.parametrize(
    ("secrets", "message"),
    [
        ({"gossip": "DENIED"}, "The gossip key could not be had from arn:gossip."),
        ({"ca": None}, "The certificate of the CA could not be had from arn:ca."),
        ({"certificate_2": "DENIED"}, "The certificate could not be had from arn:certificate-2."),
        ({"token": "DENIED"}, "The token could not be had from arn:token."),
        ({"gossip": f"not {GOSSIP_KEY}"}, "One of them holds something else."),
        ({"ca": "None"}, "from arn:ca. The files of consul-server-2 stay as they are. It holds"),
        (
            {"certificate_2": json.dumps({**SECOND, "private_key": TOKEN})},
            "The private_key could not be had from arn:certificate-2.",
        ),
        (
            {"certificate_2": f'"{TOKEN}"'},
            "The certificate could not be had from arn:certificate-2",
        ),
        (
            {"certificate_2": f"{{{TOKEN}"},
            "The certificate could not be had from arn:certificate-2",
        ),
        ({"token": TOKEN}, "One of them holds something else."),
        ({"token": f'"{TOKEN}"'}, "One of them holds something else."),
    ],
)
def test_what_cannot_be_had_leaves_everything_as_it_is(
    running: Machine, secrets: dict[str, Any], message: str
) -> None:
    before = secrets_of(running)
    # Something else is new, but comes with the next run.
    change(running, **{"certificate_2": json.dumps(SECOND), **secrets})

    ended = running.unit("refresh_secrets.sh")

    assert ended.code == 1
    assert message in ended.said
    assert secrets_of(running) == before
    assert running.called("systemctl") == []
    assert_no_leak(running, ended.said)


# --------------------------------------------------------------------------------------------------
# register_dns.sh
# --------------------------------------------------------------------------------------------------


def test_the_address_is_registered_under_the_name_of_the_server(directory: Path) -> None:
    machine = Machine(
        directory, operation=[["SUBMITTED", "None"], ["PENDING", "None"], ["SUCCESS", "None"]]
    )

    ended = machine.unit("register_dns.sh", "register")

    assert ended.code == 0
    (call,) = machine.called("aws servicediscovery register-instance")
    assert call == (
        "aws servicediscovery register-instance --service-id srv-0123456789abcdef --instance-id "
        "consul-server-2 --attributes AWS_INSTANCE_IPV4=10.0.1.7 --query OperationId --output text"
    )
    assert len(machine.called("aws servicediscovery get-operation")) == 3


@pytest.mark.parametrize(
    ("operation", "asked"),
    [([["FAIL", "AccessDenied on the zone"]], 1), ([["PENDING", "None"]], 30)],
)
def test_a_registration_that_fails_is_told_with_its_reason(
    directory: Path, operation: list[list[str]], asked: int
) -> None:
    machine = Machine(directory, operation=operation)

    ended = machine.unit("register_dns.sh", "register")

    assert ended.code == 1
    assert ended.said == (
        "consul-server-2 could not be registered in Cloud Map: "
        f"{operation[0][0]}, {operation[0][1]}\n"
    )
    assert len(machine.called("aws servicediscovery get-operation")) == asked


@pytest.mark.parametrize(("registered", "calls"), [("10.0.1.7", 1), ("10.0.1.99", 0)])
def test_a_machine_takes_out_only_its_own_address(
    directory: Path, registered: str, calls: int
) -> None:
    machine = Machine(directory, registered=registered)

    ended = machine.unit("register_dns.sh", "deregister")

    assert ended.code == 0
    assert len(machine.called("aws servicediscovery deregister-instance")) == calls


def test_anything_else_is_answered_with_how_it_is_used(directory: Path) -> None:
    ended = Machine(directory).unit("register_dns.sh", "remove")

    assert (ended.code, ended.said) == (2, "Usage: register_dns.sh register|deregister\n")


# --------------------------------------------------------------------------------------------------
# wait_until_healthy.sh, identify.sh
# --------------------------------------------------------------------------------------------------


def test_a_server_without_a_token_waits_for_it_and_does_not_ask(directory: Path) -> None:
    machine = Machine(directory, **state())
    machine.path("/etc/consul.d").mkdir()
    machine.path("/etc/consul.d/secrets.json").write_text(json.dumps({"encrypt": GOSSIP_KEY}))

    ended = machine.unit("wait_until_healthy.sh")

    assert ended.code == 1
    assert "it has no token yet, which the workflow ClusterBootstrap makes" in ended.said
    assert machine.called("curl") == []


def test_a_consul_that_does_not_answer_is_waited_for(running: Machine) -> None:
    running.state = {**running.state, "health": [None, None, HEALTHY]}

    ended = running.unit("wait_until_healthy.sh")

    assert ended.code == 0
    assert "Consul does not answer: curl: (7) Failed to connect" in ended.said
    assert_no_leak(running, ended.said)


def test_the_token_is_given_to_curl_where_nobody_sees_it(running: Machine) -> None:
    assert running.unit("wait_until_healthy.sh").code == 0

    (asked,) = [call for call in running.calls if call.program == "curl"]
    assert asked.given == f"X-Consul-Token: {TOKEN}"
    assert asked.arguments[-1] == "http://127.0.0.1:8500/v1/operator/autopilot/health"
    assert_no_leak(running)


def test_the_machine_says_who_it_is(directory: Path) -> None:
    machine = Machine(directory)

    ended = machine.run("identify.sh")

    assert (ended.code, ended.said) == (0, "INSTANCE_ID=i-new\nADDRESS=10.0.1.7\n")
    assert_no_leak(machine)
