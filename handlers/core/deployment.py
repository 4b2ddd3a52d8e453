"""What a deployment's environment says, and what each of its tokens has to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from handlers.core import environment, names
from handlers.core.step_input import take
from handlers.core.subjects import CLIENT, Subject


@dataclass(frozen=True)
class Deployment:
    """One controller's names: of its cluster, and of its secrets."""

    cluster_arn: str
    secret_prefix: str
    reserved_secret_names: frozenset[str]
    client_secret_arn: str | None = None
    """None: the function has nothing to do with the client's token."""
    controller_secret_arn: str | None = None

    @classmethod
    def from_environment(cls) -> Deployment:
        """Read the function's environment variables.

        Raises:
            InvalidConfiguration: if one is missing.

        """
        reserved = environment.optional(environment.RESERVED_SECRET_NAMES) or ""
        return cls(
            cluster_arn=environment.required(environment.CLUSTER_ARN),
            secret_prefix=environment.required(environment.SECRET_PREFIX),
            reserved_secret_names=frozenset(filter(None, reserved.split(","))),
            client_secret_arn=environment.optional(environment.CLIENT_TOKEN_SECRET_ARN),
            controller_secret_arn=environment.optional(environment.CONTROLLER_TOKEN_SECRET_ARN),
        )

    def is_reserved(self, service_name: str) -> bool:
        """Whether the service's secret would be one of the controller's own."""
        secret_name = names.service_secret_name(self.secret_prefix, service_name)
        return secret_name in self.reserved_secret_names

    def secret_id(self, subject: Subject) -> str:
        """Return the name or the ARN of the secret that holds a subject's token."""
        if subject.service:
            return names.service_secret_name(self.secret_prefix, subject.service)
        if subject == CLIENT:
            return self.client_secret_arn or environment.required(
                environment.CLIENT_TOKEN_SECRET_ARN
            )
        return self.controller_secret_arn or environment.required(
            environment.CONTROLLER_TOKEN_SECRET_ARN
        )

    def wanted(self, subject: Subject, rules: Mapping[str, Any]) -> dict[str, Any]:
        """Return the secret, the token and the policy that a subject has to have.

        Args:
            subject: whose.
            rules: extra ACL rules, HCL, by service name.

        The result is what `store_secret`, `create_token` and `create_policy` take::

            {"secret": {"id": …, "description": …, "tags": {…}},    # the last two: of services only
             "token": {"description": …, "service_identities": [service], "policies": [name, …]},
             "policy": {"name": …, "description": …, "rules": HCL}}    # only if it has its own

        """
        if subject.service:
            return self._service(subject.service, rules)
        of = client_token if subject == CLIENT else controller_token
        wanted = {"secret": {"id": self.secret_id(subject)}}
        return wanted | of(self.secret_prefix, self.cluster_arn)

    def _service(self, service_name: str, rules: Mapping[str, Any]) -> dict[str, Any]:
        wanted: dict[str, Any] = {
            "secret": {
                "id": self.secret_id(Subject(service=service_name)),
                "description": f"Consul token of the service {service_name}",
                "tags": {
                    names.CLUSTER_TAG: self.cluster_arn,
                    names.SERVICE_NAME_TAG: service_name,
                },
            },
            "token": {
                "description": names.service_token_description(service_name, self.cluster_arn),
                "service_identities": [service_name],
                "policies": [],
            },
        }
        if service_name in rules:
            policy_name = names.service_policy_name(self.secret_prefix, service_name)
            wanted["token"]["policies"] = [policy_name]
            wanted["policy"] = {
                "name": policy_name,
                "description": names.service_policy_description(service_name, self.cluster_arn),
                "rules": take(rules, service_name, str),
            }
        return wanted


def client_token(secret_prefix: str, cluster_arn: str) -> dict[str, Any]:
    """Return the token and the policy of all consul-client containers."""
    wanted = _with_own_policy(
        cluster_arn,
        token=names.CLIENT_TOKEN_DESCRIPTION,
        policy=names.CLIENT_POLICY_DESCRIPTION,
        policy_name=names.client_policy_name(secret_prefix),
        rules=names.CLIENT_POLICY_RULES,
    )
    # What HashiCorp's controller made before us says only this.
    wanted["policy"]["adopt"] = names.CLIENT_POLICY_DESCRIPTION
    return wanted


def controller_token(secret_prefix: str, cluster_arn: str) -> dict[str, Any]:
    """Return the token and the policy of the controller itself."""
    return _with_own_policy(
        cluster_arn,
        token=names.CONTROLLER_TOKEN_DESCRIPTION,
        policy=names.CONTROLLER_POLICY_DESCRIPTION,
        policy_name=names.controller_policy_name(secret_prefix),
        rules=names.CONTROLLER_POLICY_RULES,
    )


def server_token(secret_prefix: str, cluster_arn: str) -> dict[str, Any]:
    """Return the token and the policy of the servers' own agents."""
    return _with_own_policy(
        cluster_arn,
        token=names.SERVER_TOKEN_DESCRIPTION,
        policy=names.SERVER_POLICY_DESCRIPTION,
        policy_name=names.server_policy_name(secret_prefix),
        rules=names.SERVER_POLICY_RULES,
    )


def _with_own_policy(
    cluster_arn: str, *, token: str, policy: str, policy_name: str, rules: str
) -> dict[str, Any]:
    """Return a shared token, and the policy that it alone has; the texts describe the two."""
    return {
        "token": {
            "description": names.with_cluster_line(token, cluster_arn),
            "service_identities": [],
            "policies": [policy_name],
        },
        "policy": {
            "name": policy_name,
            "description": names.with_cluster_line(policy, cluster_arn),
            "rules": rules,
        },
    }
