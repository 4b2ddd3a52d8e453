"""docs/consul-servers.md: its arithmetic is right, and what it names is there."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from handlers.core import metrics
from infrastructure.consul_server_cluster import ConsulServerCluster, Snapshots

if TYPE_CHECKING:
    from tests.synthesized import Deployed

_FILE = Path(__file__).parents[1] / "docs" / "consul-servers.md"
TEXT = _FILE.read_text(encoding="utf-8").replace("\N{MULTIPLICATION SIGN}", "*")
WORDS = " ".join(TEXT.split())

# Such as "3 * (100 + 20) * 0.08 = $28.80".
_SUMS = re.findall(r"([0-9(][0-9.,() *+]*[0-9)]) = \$([0-9,]+\.[0-9]{2})", TEXT)
_COSTS = re.compile(r"\$([0-9,]+\.[0-9]{2})")


def dollars(text: str) -> float:
    return float(text.replace(",", ""))


def calculated(expression: str) -> float:
    """Calculate sums and products, with brackets."""
    assert re.fullmatch(r"[0-9.() *+]+", expression), expression
    total = 0.0
    for term in _split(expression, "+"):
        product = 1.0
        for factor in _split(term, "*"):
            inner = factor.removeprefix("(").removesuffix(")")
            product *= calculated(inner) if inner != factor else float(factor)
        total += product
    return total


def _split(expression: str, operator: str) -> list[str]:
    """Split at an operator that is in no brackets."""
    parts, depth = [""], 0
    for character in expression:
        depth += (character == "(") - (character == ")")
        if character == operator and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def rows() -> list[list[str]]:
    """Return the rows of the table of sizes."""
    table = TEXT.partition("| servers | each |")[2].partition("\n\n")[0]
    return [
        [cell.strip() for cell in line.strip("| ").split("|")] for line in table.split("\n")[2:]
    ]


@pytest.mark.parametrize(("expression", "result"), _SUMS)
def test_every_sum_is_right(expression: str, result: str) -> None:
    assert calculated(expression) == pytest.approx(dollars(result), abs=0.005)


def test_the_sums_are_found() -> None:
    assert len(_SUMS) >= 12


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_the_last_column_is_what_the_others_and_the_rest_come_to(row: list[str]) -> None:
    servers, *_, machines, volumes, together = row
    rest = {"3": 5.60, "5": 6.60}.get(servers[0], 4.50)
    parts = [dollars(found) for cell in (machines, volumes) for found in _COSTS.findall(cell)]

    assert sum(parts) + rest == pytest.approx(dollars(together.removeprefix("$")), abs=0.005)


def test_the_default_is_what_the_construct_makes(served: Deployed) -> None:
    (default,) = (row for row in rows() if "(default)" in row[0])
    templates = made(served, "AWS::EC2::LaunchTemplate")
    types = {template["LaunchTemplateData"]["InstanceType"] for template in templates}
    roots = {
        device["Ebs"]["VolumeSize"]
        for template in templates
        for device in template["LaunchTemplateData"]["BlockDeviceMappings"]
    }
    volumes = made(served, "AWS::EC2::Volume")
    (size,) = {volume["Size"] for volume in volumes}

    assert f"{len(volumes)} * `{types.pop()}`" in default[0]
    assert f"{len(volumes)} * ({size} + {roots.pop()}) * 0.08" in default[5]
    secrets = [name for name in served.of_type("AWS::SecretsManager::Secret") if "Consul/" in name]
    assert len(secrets) == 7
    assert "7 or 9 * $0.40" in WORDS
    assert len(made(served, "AWS::KMS::Key")) == 2


def made(deployed: Deployed, kind: str) -> list[dict[str, Any]]:
    """Return the properties of all resources of a type, as the template has them."""
    resources = deployed.synthesized.template["Resources"].values()
    return [each["Properties"] for each in resources if each["Type"] == kind]


def test_the_times_are_those_of_the_construct() -> None:
    kept, every = Snapshots().keep.to_days(), Snapshots().every

    assert every is not None
    assert every.to_hours() == 1
    assert "ServerSnapshot takes one every hour" in WORDS
    assert f"where it stays for {kept} days" in WORDS
    assert "certificates last 90 days" in WORDS
    assert "Default: 90 days" in " ".join((inspect.getdoc(ConsulServerCluster) or "").split())


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\$\(output (\w+)\)", TEXT))))
def test_every_output_that_a_command_uses_is_one_of_the_examples(name: str) -> None:
    root = Path(__file__).parents[1]
    sources = [
        *(root / "examples").rglob("*.py"),
        root / "infrastructure" / "controller_outputs.py",
    ]

    for suffix in ("SecretArn", "SecretName", "Arn"):
        if f'"{name}"' not in "".join(source.read_text(encoding="utf-8") for source in sources):
            name = name.removesuffix(suffix)
    assert any(f'"{name}"' in source.read_text(encoding="utf-8") for source in sources)


def test_a_servers_certificate_is_found_by_its_description(served: Deployed) -> None:
    (description,) = re.findall(r'Key=description,Values="(.+)"', TEXT)
    secrets = made(served, "AWS::SecretsManager::Secret")

    assert [secret["Description"] for secret in secrets].count(description) == 1


def test_the_metrics_exist() -> None:
    known = vars(metrics)

    for name in ("SnapshotBytes", "CertificateDaysLeft"):
        assert name in TEXT
        assert name in known.values()
