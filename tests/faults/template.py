"""What the exploration needs of the synthesized app, in a form that other processes can have."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.sandbox import Function

RULED_SERVICE = "web"
"""A service to which the settings give ACL rules of its own."""
SETTINGS = f"""\
ecs:
  cluster: my-cluster
secrets:
  prefix: consul
consul:
  http_address: http://consul.internal:8500
services:
  {RULED_SERVICE}:
    rules: web.hcl
"""


@dataclass(frozen=True)
class OwnSecret:
    """A secret that the template makes."""

    name: str
    arn: str


@dataclass(frozen=True)
class Template:
    """The functions and the workflows of one deployment."""

    functions: Mapping[str, Function]
    """By ARN."""
    definitions: Mapping[str, Mapping[str, Any]]
    """Of the workflows, by the state machine's ARN."""
    machines: Mapping[str, str]
    """The ARN of a state machine by its name."""
    cluster_arn: str
    secret_prefix: str
    secret_arn_prefix: str
    secrets: Mapping[str, OwnSecret]
    """By their names in the tree of constructs."""


def synthesized_template() -> Template:
    """Synthesize the app, which takes seconds."""
    from tests.synthesized import IRELAND, Deployed, synthesize  # noqa: PLC0415 - takes seconds

    with tempfile.TemporaryDirectory() as directory:
        return template_of(Deployed(synthesize(SETTINGS, Path(directory)), IRELAND))


def template_of(deployed: Any) -> Template:
    """Take what is needed from a synthesized app (tests.synthesized.Deployed)."""
    functions = {}
    for name, properties in deployed.of_type("AWS::Lambda::Function").items():
        if properties["Handler"].startswith("handlers."):
            arn = deployed.place.arn("lambda", f"function:{name}")
            functions[arn] = Function(
                name=name,
                arn=arn,
                handler=properties["Handler"],
                environment=properties.get("Environment", {}).get("Variables", {}),
                timeout_seconds=float(properties["Timeout"]),
            )
    machines = {
        name: deployed.place.arn("states", f"stateMachine:{name}")
        for name in deployed.of_type("AWS::StepFunctions::StateMachine")
    }
    check_tags = next(one for one in functions.values() if one.step == "check_tags")
    return Template(
        functions=functions,
        definitions={arn: deployed.definition(name) for name, arn in machines.items()},
        machines=machines,
        cluster_arn=check_tags.environment["CLUSTER_ARN"],
        secret_prefix=check_tags.environment["SECRET_PREFIX"],
        secret_arn_prefix=deployed.place.arn("secretsmanager", "secret:"),
        secrets=_own_secrets(deployed),
    )


def _own_secrets(deployed: Any) -> dict[str, OwnSecret]:
    resources = deployed.synthesized.template["Resources"]
    found = {}
    for logical_id, resource in resources.items():
        if resource["Type"] == "AWS::SecretsManager::Secret":
            arn = str(deployed.evaluate({"Ref": logical_id}))
            _, name = deployed._key(logical_id)
            found[name] = OwnSecret(arn.rpartition(":")[2].rpartition("-")[0], arn)
    return found
