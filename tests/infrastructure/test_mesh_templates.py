"""What linters say of templates with mesh tasks, and of what is inside them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cdk_nag
import pytest
from cfnlint.api import lint  # type: ignore[import-untyped]
from cfnlint.config import ManualArgs  # type: ignore[import-untyped]

from infrastructure import consul_client
from infrastructure.consul_client import ConsulClient
from tests.infrastructure import mesh_apps
from tests.infrastructure.test_templates import SECRET_LOOK, strings
from tests.synthesized import Deployed

# Of Consul's agent, in every version from 1.10 on: "Agents Configuration Reference", and Config and
# DeprecatedConfig in agent/config. `consul validate` takes any other key for an error.
KNOWN_KEYS = {
    "acl.default_policy",
    "acl.down_policy",
    "acl.enabled",
    "acl.tokens.agent",
    "advertise_addr",
    "advertise_reconnect_timeout",
    "auto_encrypt.ip_san",
    "auto_encrypt.tls",
    "bind_addr",
    "ca_file",
    "client_addr",
    "data_dir",
    "datacenter",
    "disable_update_check",
    "encrypt",
    "leave_on_terminate",
    "ports.grpc",
    "retry_join",
    "verify_outgoing",
    "verify_server_hostname",
}


@pytest.fixture(params=["make_open", "make_secure"])
def mesh(request: pytest.FixtureRequest, synthesize_mesh: mesh_apps.SynthesizeMesh) -> Deployed:
    """A stack with mesh tasks."""
    return synthesize_mesh(getattr(mesh_apps, request.param))


def test_cfn_lint_finds_nothing(mesh: Deployed) -> None:
    config = ManualArgs(
        regions=["eu-west-1"],
        include_checks=["I"],
        ignore_checks=["W3005"],  # CDK writes dependencies that a reference implies anyway
    )

    found = lint(json.dumps(mesh.with_definitions_resolved()), config=config)

    assert [f"{match.rule.id} {match.message} at {match.path}" for match in found] == []


def test_synthesizing_says_nothing_that_its_user_has_to_wonder_about(mesh: Deployed) -> None:
    assert mesh.synthesized.messages == []


def test_no_template_has_anything_that_looks_like_a_secret(mesh: Deployed) -> None:
    template = json.dumps(mesh.synthesized.template)
    found = {
        match
        for text in strings(mesh.synthesized.template)
        if mesh_apps.KEY_ARN not in text
        for match in SECRET_LOOK.findall(text)
    }

    assert found <= {"00000000-0000-0000-0000-000000000002"}  # the anonymous token's accessor ID
    assert "{{resolve:" not in template


NAG_REASONS = {
    "AwsSolutions-ECS2": "Configuration, which differs from task to task, and no secret.",
    "AwsSolutions-IAM5": "The streams of one log group, named by ECS; and Consul's cloud "
    "auto-join, which describes instances that nobody knows yet.",
    "AwsSolutions-IAM4": "One of the tests gives managed policies, as a user may.",
    "AwsSolutions-SMG4": "Only Consul can rotate these; a new token has to be made there first.",
}


def test_cdk_nag_finds_nothing_in_mesh_tasks_without_a_reason(mesh: Deployed) -> None:
    report = cdk_nag.AwsSolutionsChecks(mesh.synthesized.app).validate_scope(mesh.synthesized.app)
    assert report.violations is not None

    found = {
        violation.rule_name.partition("[")[0]
        for violation in report.violations
        for resource in violation.violating_resources
        # The controller's own are looked at in test_templates.
        if resource.construct_path and "/AclController/" not in resource.construct_path
    }

    assert found <= set(NAG_REASONS)


# --------------------------------------------------------------------------------------------------
# The shell script and the configuration of the consul-client container
# --------------------------------------------------------------------------------------------------

CLIENTS = [
    ConsulClient(
        datacenter="dc1",
        retry_join=["consul"],
        acls=acls,
        tls=tls,
        gossip=gossip,
        verify_server_hostname=True,
    )
    for acls in (False, True)
    for tls in (False, True)
    for gossip in (False, True)
]


@pytest.mark.parametrize("client", CLIENTS, ids=repr)
def test_shellcheck_finds_nothing_in_the_script(client: ConsulClient) -> None:
    shellcheck = Path(sys.executable).parent / "shellcheck"
    checked = subprocess.run(
        [shellcheck, "--shell=sh", "--severity=style", "-"],
        input="set -e\n" + client.script,
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.stdout == ""
    assert checked.returncode == 0


def configuration(client: ConsulClient, tmp_path: Path) -> dict[str, Any]:
    """Return the file that the script writes: run with stand-ins for what is only in the image."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {
        "consul": "exit 0",
        "chown": "exit 0",
        "su-exec": "exit 0",
        "curl": """echo '{"Networks": [{"IPv4Addresses": ["10.0.0.7"]}]}'""",
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    (tmp_path / "consul").mkdir()
    (tmp_path / "inject").mkdir()
    script = client.script.replace("/bin/consul-inject", f"{tmp_path}/inject").replace(
        "/consul/", f"{tmp_path}/consul/"
    )
    subprocess.run(
        ["/bin/sh", "-ec", script.replace("consul:consul /consul", "consul:consul .")],
        env={
            "PATH": f"{programs}:{Path(str(shutil.which('jq'))).parent}:/usr/bin:/bin",
            "ECS_CONTAINER_METADATA_URI_V4": "http://169.254.170.2/v4/task",
            consul_client.CONFIG: json.dumps(client.config),
            consul_client.AGENT_TOKEN: "the agent's token",
            consul_client.GOSSIP_KEY: "the gossip key",
            consul_client.CA_PEM: "the CA",
        },
        check=True,
        capture_output=True,
    )
    written: dict[str, Any] = json.loads((tmp_path / "consul/config/client.json").read_text())
    return written


def keys_of(value: dict[str, Any], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, inner in value.items():
        path = f"{prefix}{key}"
        found |= keys_of(inner, f"{path}.") if isinstance(inner, dict) else {path}
    return found


needs_jq = pytest.mark.skipif(
    shutil.which("jq") is None, reason="jq is not on PATH; the consul image has it"
)


@needs_jq
@pytest.mark.parametrize("client", CLIENTS, ids=repr)
def test_the_script_writes_only_keys_that_consul_knows(
    client: ConsulClient, tmp_path: Path
) -> None:
    assert keys_of(configuration(client, tmp_path)) <= KNOWN_KEYS


@needs_jq
def test_the_script_puts_the_secrets_into_the_file(tmp_path: Path) -> None:
    written = configuration(CLIENTS[-1], tmp_path)

    assert written["advertise_addr"] == written["bind_addr"] == "10.0.0.7"
    assert written["auto_encrypt"] == {"tls": True, "ip_san": ["10.0.0.7"]}
    assert written["acl"]["tokens"] == {"agent": "the agent's token"}
    assert written["encrypt"] == "the gossip key"
    assert (tmp_path / "consul/config/ca.pem").read_text() == "the CA\n"


@needs_jq
def test_nobody_else_can_read_what_the_script_writes(tmp_path: Path) -> None:
    configuration(CLIENTS[-1], tmp_path)

    for file in ("client.json", "ca.pem"):
        assert (tmp_path / "consul/config" / file).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "inject/consul").stat().st_mode & 0o777 == 0o755


@needs_jq
@pytest.mark.skipif(
    shutil.which("consul") is None, reason="there is no real consul on PATH to validate with"
)
def test_a_real_consul_finds_the_file_valid(tmp_path: Path) -> None:
    client = replace(CLIENTS[-1], tls=False, gossip=False)
    written = configuration(client, tmp_path)
    file = tmp_path / "validate.json"
    file.write_text(json.dumps(written))

    subprocess.run([str(shutil.which("consul")), "validate", str(file)], check=True)
