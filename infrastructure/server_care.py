"""Looks after the Consul servers that the same app makes: their keys and certificates."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from handlers.core import environment
from infrastructure.handler_functions import (
    PUBLISH,
    READ,
    WRITE_AHEAD,
    HandlerFunctions,
    allow,
)
from infrastructure.secret_keys import ENCRYPT, key_statements
from infrastructure.server_secrets import CA_LIFETIME, ServerSecrets
from workflows.certificate_renewal import CertificateRenewal
from workflows.server_secret_states import ServerSecretHandlers, ServerSecretNeeds


class ServerCare(Construct):
    """Fills the secrets that servers start with, and renews their certificates.

    Args:
        scope: the construct that it belongs to.
        construct_id: its ID there.
        secrets: the servers' secrets.
        functions: makes the steps' functions.
        cluster_arn: the ECS cluster, for the metrics.

    Attributes:
        handlers: the steps.
        needs: which secrets there are, and what their values are to be.
        certificate_renewal: the workflow.

    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        secrets: ServerSecrets,
        functions: HandlerFunctions,
        cluster_arn: str,
    ) -> None:
        super().__init__(scope, construct_id)
        self._secrets = secrets
        self._functions = functions
        self._cluster_arn = cluster_arn
        management_token = (
            secrets.management_token_secret if secrets.chooses_management_token else None
        )
        signing = iam.PolicyStatement(
            actions=["kms:Sign"],
            resources=[secrets.ca_key.key_arn],
            conditions={"StringEquals": {"kms:SigningAlgorithm": "ECDSA_SHA_256"}},
        )
        reading_ca_key = allow(["kms:GetPublicKey"], secrets.ca_key.key_arn)
        self.handlers = ServerSecretHandlers(
            choose_secret=self._function(
                "ChooseSecret",
                "choose_secret",
                writing=[
                    secrets.gossip_key_secret,
                    *([management_token] if management_token else []),
                ],
            ),
            issue_ca_certificate=self._function(
                "IssueCaCertificate",
                "issue_ca_certificate",
                writing=[secrets.ca_secret],
                statements=[signing, reading_ca_key],
            ),
            issue_server_certificate=self._function(
                "IssueServerCertificate",
                "issue_server_certificate",
                writing=list(secrets.certificate_secrets.values()),
                statements=[
                    allow(READ, secrets.ca_secret.secret_arn),
                    signing,
                    reading_ca_key,
                    allow(["kms:GenerateDataKeyPair"], secrets.encryption_key.key_arn),
                ],
            ),
        )
        ca = {"secret_id": secrets.ca_secret.secret_arn, "key_id": secrets.ca_key.key_arn}
        self.needs = ServerSecretNeeds(
            gossip_key_secret_arn=secrets.gossip_key_secret.secret_arn,
            management_token_secret_arn=management_token.secret_arn if management_token else None,
            ca=ca
            | {
                "common_name": f"Consul CA {secrets.datacenter}",
                "lifetime_days": CA_LIFETIME.to_days(),
            },
            servers=[
                {
                    "name": name,
                    "secret_id": secret.secret_arn,
                    "dns_names": list(secrets.dns_names),
                    "lifetime_days": secrets.certificate_lifetime.to_days(),
                }
                for name, secret in secrets.certificate_secrets.items()
            ],
            key_pair_key_id=secrets.encryption_key.key_arn,
        )
        self.certificate_renewal = CertificateRenewal(
            self,
            "CertificateRenewal",
            handlers=self.handlers,
            needs=self.needs,
            log_group=functions.log_group(self, "CertificateRenewalLogs"),
        ).state_machine

    def _function(
        self,
        construct_id: str,
        step: str,
        *,
        writing: Sequence[secretsmanager.ISecret],
        statements: Sequence[iam.PolicyStatement] = (),
    ) -> lambda_.Function:
        return self._functions.function(
            self,
            construct_id,
            step,
            variables={
                environment.CLUSTER_ARN: self._cluster_arn,
                environment.CONSUL_DATACENTER: self._secrets.datacenter,
            },
            statements=[
                allow(
                    sorted({*READ, *WRITE_AHEAD, *PUBLISH}),
                    *(secret.secret_arn for secret in writing),
                ),
                *key_statements(self, ENCRYPT, [self._secrets.encryption_key]),
                *statements,
            ],
        )
