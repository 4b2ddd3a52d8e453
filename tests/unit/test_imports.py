"""Each handler loads what it needs and no more: a cold start is paid in imports."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import handlers
from local.consul import EmbeddedConsul

PACKAGE = Path(handlers.__file__).parent
NEVER = {
    "aws_cdk", "constructs", "jsii", "pydantic", "yaml",
    "settings", "workflows", "infrastructure", "local", "tests",
}  # fmt: skip
HEAVY = {"boto3", "pyasn1", "requests"}

# What each handler has loaded before its first invocation.
LOADS = {
    "abandon_rotation": {"boto3", "requests"},
    "answer_cloudformation": set[str](),
    "bootstrap_acls": {"boto3", "requests"},
    "check_consul": {"requests"},
    "check_redeployments": {"boto3"},
    "check_tags": {"boto3"},
    "choose_secret": {"boto3"},
    "create_policy": {"requests"},
    "create_token": {"boto3", "requests"},
    "delete_unused": {"boto3", "requests"},
    "find_drift": {"boto3", "requests"},
    "issue_ca_certificate": {"boto3", "pyasn1"},
    "issue_server_certificate": {"boto3", "pyasn1"},
    "plan_rotation": {"requests"},
    "prove_token": {"boto3", "requests"},
    "publish_secret": {"boto3"},
    "redeploy_service": {"boto3"},
    "report_reconciliation": set(),
    "report_rotation": set(),
    "restore_snapshot": {"boto3", "requests"},
    "retire_tokens": {"boto3", "requests"},
    "save_snapshot": {"boto3", "requests"},
    "start_deployment_run": {"boto3"},
    "store_secret": {"boto3"},
    "write_intention": {"requests"},
}


def modules_after(code: str, **variables: str) -> set[str]:
    """Return the top-level modules that a new process has loaded after it ran the code."""
    program = (
        f"{code}\nimport json, sys\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PACKAGE.parent,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_every_handler_is_listed() -> None:
    assert set(LOADS) == {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """What each handler has loaded; all processes at once, for each takes a while."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = threads.map(lambda name: modules_after(f"import handlers.{name}"), LOADS)
        return dict(zip(LOADS, found, strict=True))


@pytest.mark.parametrize("name", LOADS)
def test_a_handler_loads_no_more_than_it_needs(name: str, loaded: dict[str, set[str]]) -> None:
    assert loaded[name] & NEVER == set()
    assert loaded[name] & HEAVY == LOADS[name]


def test_checking_consul_without_a_private_ca_never_loads_boto3() -> None:
    with EmbeddedConsul() as server:
        loaded = modules_after(
            "from handlers.check_consul import handler\nassert handler({}, None)['leader']",
            CONSUL_HTTP_ADDR=server.address,
            CONSUL_DATACENTER="dc1",
        )
    assert "requests" in loaded
    assert loaded & {"boto3", "botocore"} == set()


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_the_code_runs_on_python_3_11_too(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 11))
