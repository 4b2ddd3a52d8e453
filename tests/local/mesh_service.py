"""What the task of a mesh service needs to be run on this machine.

The service itself is in tests/local/synthesized_service.py: who imports that, imports CDK.
"""

from __future__ import annotations

import copy
import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import requests

from handlers.core import names
from local.task.images import (
    Image,
    consul_image,
    envoy_image,
    mesh_init_image,
    missing_programs,
    python_image,
)
from local.task.record import CONSUL_CLIENT, SIDECAR, Milestones

SERVICE = "web"
APP = "app"
PORT = 8080
UPSTREAM_PORT = 1234
GREETING = "hello from the app"
SECRET_PREFIX = "consul"
CLIENT_SECRET = names.client_secret_name(SECRET_PREFIX)
SERVICE_SECRET = names.service_secret_name(SECRET_PREFIX, SERVICE)
MANAGEMENT = "e3e4f0d1-0000-4000-8000-00000000aaaa"
_TIMEOUT_SECONDS = 10
# Far more than a start takes; but one that hangs takes longer.
_T1_WITHIN_SECONDS, _T2_WITHIN_SECONDS = 30, 45
_TEMPLATE_REGION = "eu-west-1"

APP_IMAGE, MESH_INIT_IMAGE = "registry/app", "registry/mesh-init"


def quicker(definition: Mapping[str, Any], seconds: float = 0.2) -> dict[str, Any]:
    """Return a definition whose health checks come at another interval."""
    changed = copy.deepcopy(dict(definition))
    for container in changed["containerDefinitions"]:
        if container.get("healthCheck"):
            container["healthCheck"]["interval"] = seconds
    return changed


def with_late_agent(definition: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Return a definition whose consul-client does not do anything until there is a file.

    Args:
        definition: the task definition.
        file: its path in consul-client, in a volume.

    """
    changed = copy.deepcopy(dict(definition))
    client = by_name(changed)[CONSUL_CLIENT]
    (script,) = client["command"]
    client["command"] = [f"until [ -e {file} ]; do sleep 0.05; done\n{script}"]
    return changed


def check_moments(moments: Milestones, definition: Mapping[str, Any]) -> None:
    """Check the order of a start's moments, and how far apart they are.

    Args:
        moments: those of the start.
        definition: the task definition, with the intervals that it has on AWS.

    """
    interval = by_name(definition)[SIDECAR]["healthCheck"]["interval"]
    assert interval == 5
    assert 0 <= moments.t0 <= moments.t1 <= _T1_WITHIN_SECONDS
    # Docker probes for the first time when one interval is over, however soon Envoy listens.
    assert moments.t2 - moments.t1 >= interval
    assert moments.t2 <= moments.apps
    assert moments.t2 <= _T2_WITHIN_SECONDS


def by_name(definition: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the containers of a definition by their names."""
    return {each["name"]: each for each in definition["containerDefinitions"]}


def images(
    definition: Mapping[str, Any],
    directory: Path,
    *,
    server: str,
    consul: Path | None = None,
    preparation: str = "",
) -> dict[str, Image]:
    """Make an image for each name that a definition has.

    Args:
        definition: the task definition.
        directory: gets the programs.
        server: the HTTP address of the server.
        consul: a real `consul`; by default there is the stand-in.
        preparation: Python code to run before mesh-init and health-sync.

    """
    names = {name: each["image"] for name, each in by_name(definition).items()}
    return {
        names["consul-client"]: consul_image(
            directory / "consul", server=server, executable=consul
        ),
        names["sidecar-proxy"]: envoy_image(directory / "envoy"),
        MESH_INIT_IMAGE: mesh_init_image(directory / "mesh-init", preparation=preparation),
        APP_IMAGE: python_image(directory / "app"),
    }


def of_template(resolve: Callable[[str], str], region: str) -> Callable[[str], str]:
    """Return a function that takes the ARNs of the template.

    Args:
        resolve: what resolves ARNs of secrets.
        region: where the secrets are; and they have another suffix there.

    """

    def resolved(value_from: str) -> str:
        *parts, name, key, stage, version = value_from.split(":")
        text = ":".join([*parts, name.removesuffix("-AbCdEf"), key, stage, version])
        return resolve(text.replace(_TEMPLATE_REGION, region))

    return resolved


def token(address: str, management: str, **fields: Any) -> str:
    """Make a token in a Consul server and return its secret."""
    return str(_put(address, management, "/v1/acl/token", fields)["SecretID"])


def client_token(address: str, management: str) -> str:
    """Make the token of consul-client, with the policy that the ACL controller gives it."""
    name = names.client_policy_name(SECRET_PREFIX)
    policy = {"Name": name, "Rules": names.CLIENT_POLICY_RULES}
    _put(address, management, "/v1/acl/policy", policy)
    return token(address, management, Policies=[{"Name": name}])


def service_token(address: str, management: str) -> str:
    """Make the token of the service."""
    return token(address, management, ServiceIdentities=[{"ServiceName": SERVICE}])


def _put(address: str, management: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    answer = requests.put(
        address + path,
        json=body,
        headers={"X-Consul-Token": management},
        timeout=_TIMEOUT_SECONDS,
    )
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def secret_value(secret: str) -> str:
    """Return what the ACL controller stores for a token."""
    return json.dumps({"accessor_id": str(uuid.uuid4()), "token": secret})


def why_not_here() -> str | None:
    """Return why mesh tasks cannot be run on this machine; none if they can."""
    if lacking := missing_programs():
        return f"a mesh task's containers need {', '.join(lacking)}"
    return None


def real_consul() -> Path | None:
    """Return the `consul` that is on the PATH."""
    found = shutil.which("consul")
    return Path(found) if found else None
