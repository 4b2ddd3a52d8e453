"""The functions of one deployment's steps: what they share is said once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aws_cdk import Duration, RemovalPolicy, Size
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from handlers.core import environment
from infrastructure.consul_servers import ConsulServers
from infrastructure.handler_function import HandlerFunction, Network
from infrastructure.lambda_asset import lambda_asset
from infrastructure.secret_keys import DECRYPT, key_statements

READ = ["secretsmanager:GetSecretValue"]
WRITE_AHEAD = ["secretsmanager:DescribeSecret", "secretsmanager:PutSecretValue"]
PUBLISH = ["secretsmanager:DescribeSecret", "secretsmanager:UpdateSecretVersionStage"]
# Secrets Manager user guide, "Secret encryption and decryption": a value is read with `DECRYPT` on
# its key, and written with `ENCRYPT`. Moving stages and describing a secret need neither.


class HandlerFunctions:
    """Makes the functions, with the environment and the permissions that all of a kind have.

    Args:
        servers: the Consul servers.
        cluster_arn: the ECS cluster that the deployment is for.
        secret_prefix: begins the names of log groups.
        network: where the functions that talk to Consul run. Default: outside any VPC.
        log_retention: how long logs are kept.

    Attributes:
        code: the asset that all steps share.
        code_digest: changes with it.
        made: the functions so far.

    """

    def __init__(
        self,
        *,
        servers: ConsulServers,
        cluster_arn: str,
        secret_prefix: str,
        network: Network | None,
        log_retention: logs.RetentionDays,
    ) -> None:
        asset = lambda_asset()
        self.code = lambda_.Code.from_asset(str(asset))
        self.code_digest = asset.stem
        self.log_retention = log_retention
        self.made: list[lambda_.Function] = []
        self._secret_prefix = secret_prefix
        self._network = network
        self._ca_secret = servers.ca_secret
        self._consul_environment = {
            environment.CONSUL_HTTP_ADDR: servers.http_address,
            environment.CONSUL_DATACENTER: servers.datacenter,
            environment.CLUSTER_ARN: cluster_arn,
        }
        if servers.ca_secret is not None:
            self._consul_environment[environment.CONSUL_CA_SECRET_ARN] = (
                servers.ca_secret.secret_arn
            )

    def talking_to_consul(
        self,
        scope: Construct,
        construct_id: str,
        step: str,
        *,
        token_secret: secretsmanager.ISecret | None = None,
        variables: Mapping[str, str] | None = None,
        statements: Sequence[iam.PolicyStatement] = (),
        timeout: Duration | None = None,
        ephemeral_storage: Size | None = None,
    ) -> lambda_.Function:
        """Make a function that talks to Consul: with its address, its CA, and a token to use.

        Args:
            scope: the construct that it belongs to.
            construct_id: its ID there.
            step: the name of the handler's module.
            token_secret: of the token that it authenticates with. Default: it has none.
            variables: further ones of its environment.
            statements: what its role may do besides reading the CA and the token.
            timeout: of one invocation. Default: 45 seconds.
            ephemeral_storage: the size of its /tmp. Default: 512 MiB.

        """
        variables = self._consul_environment | dict(variables or {})
        readable = [secret for secret in (self._ca_secret, token_secret) if secret is not None]
        if token_secret is not None:
            variables |= {environment.CONSUL_TOKEN_SECRET_ARN: token_secret.secret_arn}
        return self.function(
            scope,
            construct_id,
            step,
            variables=variables,
            statements=[
                *([allow(READ, *(secret.secret_arn for secret in readable))] if readable else []),
                *key_statements(scope, DECRYPT, (secret.encryption_key for secret in readable)),
                *statements,
            ],
            network=self._network,
            timeout=timeout,
            ephemeral_storage=ephemeral_storage,
        )

    def function(
        self,
        scope: Construct,
        construct_id: str,
        step: str,
        *,
        variables: Mapping[str, str] | None = None,
        statements: Sequence[iam.PolicyStatement] = (),
        network: Network | None = None,
        timeout: Duration | None = None,
        ephemeral_storage: Size | None = None,
    ) -> lambda_.Function:
        """Make a function that has nothing to do with Consul.

        Args:
            scope: the construct that it belongs to.
            construct_id: its ID there.
            step: the name of the handler's module.
            variables: its environment.
            statements: what its role may do.
            network: where it runs. Default: outside any VPC.
            timeout: of one invocation. Default: 45 seconds.
            ephemeral_storage: the size of its /tmp. Default: 512 MiB.

        """
        function = HandlerFunction(
            scope,
            construct_id,
            step=step,
            code=self.code,
            environment=variables or {},
            statements=statements,
            network=network,
            timeout=timeout,
            ephemeral_storage=ephemeral_storage,
            log_retention=self.log_retention,
        ).function
        self.made.append(function)
        return function

    def log_group(self, scope: Construct, construct_id: str) -> logs.LogGroup:
        """Make the log group of a state machine."""
        return logs.LogGroup(
            scope,
            construct_id,
            # Step Functions finds its log groups through a resource policy of limited size, which
            # all groups of this prefix share one entry of.
            log_group_name=f"/aws/vendedlogs/states/{self._secret_prefix}-{construct_id}",
            retention=self.log_retention,
            removal_policy=RemovalPolicy.DESTROY,
        )


def allow(
    actions: Sequence[str], *resources: str, **conditions: Mapping[str, str]
) -> iam.PolicyStatement:
    """Return the statement that allows actions on resources, under conditions: by operator."""
    return iam.PolicyStatement(
        actions=list(actions), resources=list(resources), conditions=conditions or None
    )
