"""The functions of the steps that tokens go through, and what each of them may do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from aws_cdk import ArnFormat, Duration, Stack
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from handlers.core import environment
from infrastructure.handler_functions import PUBLISH, READ, WRITE_AHEAD, HandlerFunctions, allow
from infrastructure.secret_keys import DECRYPT, ENCRYPT, key_statements
from workflows.cluster_bootstrap import BootstrapHandlers
from workflows.reconciliation import ReconciliationHandlers
from workflows.token_rotation import RotationHandlers
from workflows.token_states import TokenHandlers

_BATCH = ["secretsmanager:BatchGetSecretValue"]  # each secret in it needs `READ`, too
_CREATE = ["secretsmanager:CreateSecret", "secretsmanager:TagResource"]

_LONG_LOOK = Duration.minutes(10)
"""Of a step that reads all tokens, or all tasks: 100 tasks take about two calls."""


class TokenFunctions:
    """Makes the functions of the workflows about tokens, in the scope of the ACL controller.

    Args:
        scope: what the functions belong to.
        functions: makes them.
        cluster: the ECS cluster.
        secret_prefix: begins the names of the services' secrets.
        bootstrap_token_secret: holds the management token.
        controller_token_secret: holds the controller's own token; its name has the prefix.
        client_token_secret: gets the consul-client containers' token.
        further_token_secrets: those that get a token, and whose names need not have the prefix.
        own_secret_names: the names that no service's secret may have.
        encryption_key: encrypts the secrets that are made. Default: the account's own key.
        secret_tags: for the services' secrets.

    """

    def __init__(
        self,
        scope: Construct,
        *,
        functions: HandlerFunctions,
        cluster: ecs.ICluster,
        secret_prefix: str,
        bootstrap_token_secret: secretsmanager.ISecret,
        controller_token_secret: secretsmanager.ISecret,
        client_token_secret: secretsmanager.ISecret,
        further_token_secrets: Sequence[secretsmanager.ISecret],
        own_secret_names: Sequence[str],
        encryption_key: kms.IKey | None,
        secret_tags: Mapping[str, str],
    ) -> None:
        self._scope = scope
        self._functions = functions
        self._cluster = cluster
        self._bootstrap_token_secret = bootstrap_token_secret
        self._controller_token_secret = controller_token_secret
        self._encryption_key = encryption_key
        self._secret_tags = secret_tags
        # The secrets of all services, of the controller, and of the clients if we make it.
        self._token_secrets = [
            Stack.of(scope).format_arn(
                service="secretsmanager",
                resource="secret",
                resource_name=f"{secret_prefix}-*",
                arn_format=ArnFormat.COLON_RESOURCE_NAME,
            ),
            *(secret.secret_arn for secret in further_token_secrets),
        ]
        self._token_keys = [
            encryption_key,
            *(secret.encryption_key for secret in further_token_secrets),
        ]
        self._subjects_environment = {
            environment.CLUSTER_ARN: cluster.cluster_arn,
            environment.SECRET_PREFIX: secret_prefix,
            environment.RESERVED_SECRET_NAMES: ",".join(own_secret_names),
            environment.CLIENT_TOKEN_SECRET_ARN: client_token_secret.secret_arn,
            environment.CONTROLLER_TOKEN_SECRET_ARN: controller_token_secret.secret_arn,
        }

    def token_handlers(self) -> TokenHandlers:
        """Make the steps by which a token comes to be."""
        store = self._functions.function(
            self._scope,
            "StoreSecret",
            "store_secret",
            variables={environment.SECRET_TAGS: json.dumps(dict(self._secret_tags))}
            | (
                {environment.SECRET_KMS_KEY_ARN: self._encryption_key.key_arn}
                if self._encryption_key
                else {}
            ),
            statements=[
                allow([*READ, *WRITE_AHEAD, *_CREATE], *self._token_secrets),
                *key_statements(self._scope, ENCRYPT, self._token_keys),
            ],
        )
        publish = self._functions.function(
            self._scope,
            "PublishSecret",
            "publish_secret",
            statements=[allow(PUBLISH, *self._token_secrets)],
        )
        create = self._functions.talking_to_consul(
            self._scope,
            "CreateToken",
            "create_token",
            token_secret=self._controller_token_secret,
            statements=[
                allow(READ, *self._token_secrets),
                *key_statements(self._scope, DECRYPT, self._token_keys),
            ],
        )
        return TokenHandlers(store_secret=store, create_token=create, publish_secret=publish)

    def bootstrap_handlers(self, tokens: TokenHandlers) -> BootstrapHandlers:
        """Make the steps that may use the management token. TaskProvisioning has none of them."""
        return BootstrapHandlers(
            check_consul=self._functions.talking_to_consul(
                self._scope, "CheckConsul", "check_consul", timeout=Duration.seconds(15)
            ),
            bootstrap_acls=self._functions.talking_to_consul(
                self._scope,
                "BootstrapAcls",
                "bootstrap_acls",
                token_secret=self._bootstrap_token_secret,
                statements=[
                    allow(
                        sorted({*WRITE_AHEAD, *PUBLISH}),
                        self._bootstrap_token_secret.secret_arn,
                    ),
                    *key_statements(
                        self._scope, ENCRYPT, [self._bootstrap_token_secret.encryption_key]
                    ),
                ],
                # Longer than the step waits for Consul to finish a bootstrap.
                timeout=Duration.seconds(120),
            ),
            create_policy=self._create_policy(
                "CreateBootstrapPolicies", self._bootstrap_token_secret
            ),
            controller_token=TokenHandlers(
                store_secret=tokens.store_secret,
                create_token=self._functions.talking_to_consul(
                    self._scope,
                    "CreateControllerToken",
                    "create_token",
                    token_secret=self._bootstrap_token_secret,
                    statements=[
                        allow(READ, self._controller_token_secret.secret_arn),
                        *key_statements(self._scope, DECRYPT, [self._encryption_key]),
                    ],
                ),
                publish_secret=tokens.publish_secret,
            ),
            client_token=tokens,
        )

    def create_policy(self) -> lambda_.Function:
        """Make the step that makes sure of the policy of a service with extra rules."""
        return self._create_policy("CreatePolicy", self._controller_token_secret)

    def _create_policy(
        self, construct_id: str, token_secret: secretsmanager.ISecret
    ) -> lambda_.Function:
        return self._functions.talking_to_consul(
            self._scope, construct_id, "create_policy", token_secret=token_secret
        )

    def check_tags(self) -> lambda_.Function:
        """Make the step that decides what becomes of a task."""
        return self._functions.function(
            self._scope,
            "CheckTags",
            "check_tags",
            variables=self._subjects_environment,
            statements=[allow(["ecs:DescribeTasks"], self._in_cluster("task"))],
        )

    def rotation_handlers(self, tokens: TokenHandlers) -> RotationHandlers:
        """Make the steps of TokenRotation."""
        return RotationHandlers(
            plan_rotation=self._handler_of_subjects(
                "PlanRotation", "plan_rotation", timeout=_LONG_LOOK
            ),
            store_secret=tokens.store_secret,
            create_token=tokens.create_token,
            prove_token=self._functions.talking_to_consul(
                self._scope, "ProveToken", "prove_token", statements=self._reading_tokens()
            ),
            publish_secret=tokens.publish_secret,
            abandon_rotation=self._rewriting_handler("AbandonRotation", "abandon_rotation"),
            retire_tokens=self._rewriting_handler("RetireTokens", "retire_tokens"),
            check_redeployments=self._functions.function(
                self._scope,
                "CheckRedeployments",
                "check_redeployments",
                variables=self._subjects_environment,
                statements=[
                    *self._looking_at_tasks(),
                    allow(["ecs:DescribeServices"], self._in_cluster("service")),
                ],
                timeout=_LONG_LOOK,
            ),
            redeploy_service=self._functions.function(
                self._scope,
                "RedeployService",
                "redeploy_service",
                variables={environment.CLUSTER_ARN: self._cluster.cluster_arn},
                statements=[
                    allow(
                        ["ecs:DescribeServices", "ecs:UpdateService"], self._in_cluster("service")
                    )
                ],
            ),
            delete_unused=self._looking_handler("DeleteUnused", "delete_unused"),
            report_rotation=self._report("ReportRotation", "report_rotation"),
        )

    def reconciliation_handlers(self, rotating: RotationHandlers) -> ReconciliationHandlers:
        """Make the steps of Reconciliation, which deletes tokens as TokenRotation does."""
        return ReconciliationHandlers(
            find_drift=self._looking_handler("FindDrift", "find_drift"),
            retire_tokens=rotating.retire_tokens,
            delete_unused=rotating.delete_unused,
            report_reconciliation=self._report("ReportReconciliation", "report_reconciliation"),
        )

    def write_intention(self) -> lambda_.Function:
        """Make the step that lets a service call another one."""
        return self._functions.talking_to_consul(
            self._scope,
            "WriteIntention",
            "write_intention",
            token_secret=self._controller_token_secret,
        )

    def _looking_handler(self, construct_id: str, step: str) -> lambda_.Function:
        """Make a step that compares Consul with the tasks and with the secrets."""
        return self._handler_of_subjects(
            construct_id,
            step,
            statements=[
                *self._reading_tokens(),
                allow(_BATCH, "*"),  # it has no resource-level permissions
                *self._looking_at_tasks(),
            ],
            timeout=_LONG_LOOK,
        )

    def _rewriting_handler(self, construct_id: str, step: str) -> lambda_.Function:
        """Make a step that changes tokens, and who can publish which version of a secret."""
        return self._handler_of_subjects(
            construct_id,
            step,
            statements=[
                allow(sorted({*READ, *WRITE_AHEAD, *PUBLISH}), *self._token_secrets),
                *key_statements(self._scope, ENCRYPT, self._token_keys),
            ],
        )

    def _handler_of_subjects(
        self,
        construct_id: str,
        step: str,
        *,
        statements: Sequence[iam.PolicyStatement] = (),
        timeout: Duration | None = None,
    ) -> lambda_.Function:
        """Make a step that knows whose tokens there are, and has the controller's token."""
        return self._functions.talking_to_consul(
            self._scope,
            construct_id,
            step,
            token_secret=self._controller_token_secret,
            variables=self._subjects_environment,
            statements=statements,
            timeout=timeout,
        )

    def _report(self, construct_id: str, step: str) -> lambda_.Function:
        return self._functions.function(
            self._scope,
            construct_id,
            step,
            variables={environment.CLUSTER_ARN: self._cluster.cluster_arn},
        )

    def _reading_tokens(self) -> list[iam.PolicyStatement]:
        return [
            allow(READ, *self._token_secrets),
            *key_statements(self._scope, DECRYPT, self._token_keys),
        ]

    def _looking_at_tasks(self) -> list[iam.PolicyStatement]:
        return [
            # The service authorization reference knows container instances only as the resource of
            # ListTasks; which cluster is listed, a condition says.
            iam.PolicyStatement(
                actions=["ecs:ListTasks"],
                resources=["*"],
                conditions={"ArnEquals": {"ecs:cluster": self._cluster.cluster_arn}},
            ),
            allow(["ecs:DescribeTasks"], self._in_cluster("task")),
        ]

    def _in_cluster(self, resource: str) -> str:
        return Stack.of(self._scope).format_arn(
            service="ecs", resource=resource, resource_name=f"{self._cluster.cluster_name}/*"
        )
