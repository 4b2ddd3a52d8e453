"""The reference of mesh tasks says everything that can be said of them."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from infrastructure.external_consul import ExternalConsul
from infrastructure.mesh import CONSUL_IMAGE, ENVOY_IMAGE, MESH_PORTS, Mesh
from infrastructure.mesh_task import MeshTask, Upstream

REFERENCE = (Path(__file__).parents[2] / "docs" / "mesh-task.md").read_text(encoding="utf-8")
NOT_ARGUMENTS = {"self", "scope", "construct_id"}


def section(title: str) -> str:
    _, _, rest = REFERENCE.partition(f"\n## `{title}`\n")
    assert rest, f"there is no section {title}"
    return rest.partition("\n## ")[0]


@pytest.mark.parametrize("kind", [MeshTask, Mesh, Upstream, ExternalConsul])
def test_every_argument_is_in_the_reference(kind: type) -> None:
    rows = [line for line in section(kind.__name__).splitlines() if line.startswith("| `")]
    documented = {name.strip(" `") for row in rows for name in row.split("|")[1].split(",")}

    arguments = set(inspect.signature(vars(kind)["__init__"]).parameters) - NOT_ARGUMENTS

    assert documented == arguments


@pytest.mark.parametrize("kind", [MeshTask, Mesh, Upstream, ExternalConsul])
def test_what_is_required_is_what_has_no_default(kind: type) -> None:
    lines = section(kind.__name__).splitlines()
    required = {line.split("|")[1].strip(" `") for line in lines if "| required |" in line}

    parameters = inspect.signature(vars(kind)["__init__"]).parameters
    without = {name for name, each in parameters.items() if each.default is each.empty}

    assert required == without - NOT_ARGUMENTS


def test_the_reference_names_the_images_and_the_ports() -> None:
    assert CONSUL_IMAGE in REFERENCE
    assert ENVOY_IMAGE in REFERENCE
    named = {*range(8300, 8303), *range(8500, 8504), 8600, 19000}
    assert "8300 to 8302, 8500 to 8503, 8600, 19000" in REFERENCE
    assert named == MESH_PORTS
