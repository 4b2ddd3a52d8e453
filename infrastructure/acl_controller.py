"""The ACL controller: everything that gives the tasks of one ECS cluster their Consul tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from aws_cdk import CustomResource, Duration, RemovalPolicy, Token
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_sqs as sqs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from handlers.core import metrics, names
from infrastructure.consul_servers import ConsulServers, ManagedServers
from infrastructure.handler_function import Network
from infrastructure.handler_functions import HandlerFunctions
from infrastructure.server_care import ServerCare
from infrastructure.server_snapshots import ServerSnapshots
from infrastructure.token_functions import TokenFunctions
from infrastructure.token_secret import token_secret
from infrastructure.workflow_runs import WorkflowRuns, definition, digest
from workflows.cluster_bootstrap import ClusterBootstrap, OwnServers
from workflows.reconciliation import Reconciliation
from workflows.service_intention import ServiceIntention
from workflows.task_provisioning import TaskProvisioning
from workflows.token_rotation import RotationOptions, TokenRotation


@dataclass(frozen=True, kw_only=True)
class ReconciliationOptions:
    """How tokens are looked after.

    Args:
        every: how often; None: only when somebody starts it.
        grace_period: how long a service keeps its token without any task.

    """

    every: Duration | None = field(default_factory=lambda: Duration.minutes(5))
    grace_period: Duration = field(default_factory=lambda: Duration.minutes(15))


@dataclass(frozen=True, kw_only=True)
class RotationSchedule:
    """How often tokens are replaced by new ones; None: only when somebody starts it.

    Args:
        services: those of all services, one after the other, which redeploys them.
        client_token: that of all consul-client containers, which redeploys all mesh tasks.
        controller_token: the controller's own; no task notices.

    """

    services: Duration | None = None
    client_token: Duration | None = None
    controller_token: Duration | None = None


class AclController(Construct):
    """Provisions Consul ACL tokens for the mesh tasks of an ECS cluster.

    You get: the workflows ClusterBootstrap, TaskProvisioning, Reconciliation and TokenRotation with
    their handlers; an EventBridge rule that starts TaskProvisioning for every task that starts, and
    schedules for the last two; the secrets of the bootstrap token, the controller's and the
    consul-client containers' token; and ClusterBootstrap as a part of every deployment, which fails
    if it fails.

    Args:
        scope: the construct that it belongs to.
        construct_id: its ID there.
        cluster: the ECS cluster. One controller a cluster.
        secret_prefix: begins the names of the secrets; unique for each cluster.
        servers: the Consul servers. Those that the same app makes are looked after, too: their
            keys and certificates, snapshots, and what a development server forgets. One
            controller looks after them; give others `ExternalConsul` with their address.
        bootstrap_token_secret: holds a management token, or `{}` to have the ACL system
            bootstrapped. Default: the one of the servers; or one is made, and kept when the stack
            is deleted.
        client_token_secret: gets the consul-client containers' token. Default: one is made; give
            the one that HashiCorp's controller has filled, if task definitions refer to it.
        anonymous_policy: whether requests without a token may read nodes and services.
        service_rules: extra ACL rules, HCL, by service name. Default: none.
        reconciliation: when tokens are looked after, and how long a service keeps its token
            without any task. Default: every 5 minutes, 15 minutes.
        rotation: how services get new tokens. Default: see `RotationOptions`.
        rotation_schedule: when tokens are replaced. Default: only when somebody starts it.
        network: where the handlers that talk to Consul run. Default: next to the servers, if the
            same app makes them; else outside any VPC.
        log_retention: how long logs are kept. Default: 30 days.
        secret_tags: tags for the secrets that the workflows create. Default: our own only.
        encryption_key: encrypts the secrets that the construct and its workflows make; those that
            exist keep the key that they have. Default: the account's key `aws/secretsmanager`.

    Attributes:
        cluster: the ECS cluster.
        secret_prefix: begins the names of the secrets.
        servers: the Consul servers.
        encryption_key: encrypts the secrets, if it is not the account's own key.
        bootstrap_token_secret: holds the management token.
        controller_token_secret: holds the controller's own token.
        client_token_secret: holds the consul-client containers' token.
        client_token_secret_name: its name.
        cluster_bootstrap: the workflow that each deployment of the controller runs.
        task_provisioning: the workflow that makes sure of a service's token.
        reconciliation: the workflow that puts right what events have missed.
        token_rotation: the workflow that replaces tokens.
        service_intention: the workflow that lets a service call another one.
        certificate_renewal: the workflow that gives servers keys and certificates; None without
            servers that the same app makes.
        server_snapshot: the workflow that takes a snapshot of the servers; None without a store.
        snapshot_restore: the workflow that restores one; None without a store.
        dead_letter_queue: the events that started nothing.
        workflow_runs: runs workflows as a part of a deployment.

    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        cluster: ecs.ICluster,
        secret_prefix: str,
        servers: ConsulServers,
        bootstrap_token_secret: secretsmanager.ISecret | None = None,
        client_token_secret: secretsmanager.ISecret | None = None,
        anonymous_policy: bool = True,
        service_rules: Mapping[str, str] | None = None,
        reconciliation: ReconciliationOptions | None = None,
        rotation: RotationOptions | None = None,
        rotation_schedule: RotationSchedule | None = None,
        network: Network | None = None,
        log_retention: logs.RetentionDays = logs.RetentionDays.ONE_MONTH,
        secret_tags: Mapping[str, str] | None = None,
        encryption_key: kms.IKey | None = None,
    ) -> None:
        super().__init__(scope, construct_id)
        self.cluster = cluster
        self.secret_prefix = secret_prefix
        self.servers = servers
        self.encryption_key = encryption_key
        managed = servers.managed
        if managed is not None:
            bootstrap_token_secret = (
                bootstrap_token_secret or managed.secrets.management_token_secret
            )
        self._given_secrets = [
            secret
            for secret in (bootstrap_token_secret, client_token_secret, servers.ca_secret)
            if secret
        ]
        self._functions = HandlerFunctions(
            servers=servers,
            cluster_arn=cluster.cluster_arn,
            secret_prefix=secret_prefix,
            network=network or (managed.network if managed else None),
            log_retention=log_retention,
        )

        # No physical name: the secret is kept when a deployment fails or is deleted, for Consul
        # stays bootstrapped, and this is the only copy. It must not block the next deployment.
        self.bootstrap_token_secret = bootstrap_token_secret or self._secret(
            "BootstrapTokenSecret",
            None,
            "Management token of Consul's ACL system",
            RemovalPolicy.RETAIN,
        )
        self.controller_token_secret = self._secret(
            "ControllerTokenSecret",
            names.controller_secret_name(secret_prefix),
            "Consul token of the ACL controller",
            RemovalPolicy.DESTROY,
        )
        self.client_token_secret = client_token_secret or self._secret(
            "ClientTokenSecret",
            names.client_secret_name(secret_prefix),
            "Consul token of the consul-client containers",
            RemovalPolicy.DESTROY,
        )
        self.client_token_secret_name = (
            client_token_secret.secret_name
            if client_token_secret
            else names.client_secret_name(secret_prefix)  # CDK would take it from the ARN
        )
        steps = TokenFunctions(
            self,
            functions=self._functions,
            cluster=cluster,
            secret_prefix=secret_prefix,
            bootstrap_token_secret=self.bootstrap_token_secret,
            controller_token_secret=self.controller_token_secret,
            client_token_secret=self.client_token_secret,
            further_token_secrets=[
                *([client_token_secret] if client_token_secret else []),
                *([managed.secrets.agent_token_secret] if managed else []),
            ],
            own_secret_names=self._own_secret_names(),
            encryption_key=encryption_key,
            secret_tags=secret_tags or {},
        )
        tokens = steps.token_handlers()
        bootstrap = steps.bootstrap_handlers(tokens)
        care = self._server_care(managed) if managed else None
        self.cluster_bootstrap = ClusterBootstrap(
            self,
            "ClusterBootstrap",
            handlers=bootstrap,
            cluster_arn=cluster.cluster_arn,
            secret_prefix=secret_prefix,
            controller_secret=self.controller_token_secret,
            client_secret=self.client_token_secret,
            anonymous_policy=anonymous_policy,
            log_group=self._functions.log_group(self, "ClusterBootstrapLogs"),
            servers=OwnServers(
                handlers=care.handlers,
                needs=care.needs,
                agent_token=tokens,
                agent_secret=managed.secrets.agent_token_secret,
            )
            if managed and care
            else None,
        ).state_machine
        self.task_provisioning = TaskProvisioning(
            self,
            "TaskProvisioning",
            check_tags=steps.check_tags(),
            create_policy=steps.create_policy(),
            token_handlers=tokens,
            service_rules=service_rules or {},
            log_group=self._functions.log_group(self, "TaskProvisioningLogs"),
        ).state_machine
        rotating = steps.rotation_handlers(tokens)
        reconciliation = reconciliation or ReconciliationOptions()
        self.reconciliation = Reconciliation(
            self,
            "Reconciliation",
            handlers=steps.reconciliation_handlers(rotating),
            task_provisioning=self.task_provisioning,
            service_rules=service_rules or {},
            grace_period=reconciliation.grace_period,
            log_group=self._functions.log_group(self, "ReconciliationLogs"),
        ).state_machine
        self.token_rotation = TokenRotation(
            self,
            "TokenRotation",
            handlers=rotating,
            service_rules=service_rules or {},
            options=rotation or RotationOptions(),
            log_group=self._functions.log_group(self, "TokenRotationLogs"),
        ).state_machine
        self.service_intention = ServiceIntention(
            self,
            "ServiceIntention",
            write_intention=steps.write_intention(),
            log_group=self._functions.log_group(self, "ServiceIntentionLogs"),
        ).state_machine
        # By source and destination: what ServiceIntention is started with, and who wants it.
        self._allowed: dict[tuple[str, str], tuple[Mapping[str, Any], Construct]] = {}
        self.dead_letter_queue = self._dead_letter_queue()
        self._start_on_task_events()
        self._start_on_schedule(
            "ReconciliationSchedule", self.reconciliation, reconciliation.every, {}
        )
        schedule = rotation_schedule or RotationSchedule()
        for rule_id, every, event in (
            ("ServiceTokensRotation", schedule.services, {"services": "all"}),
            ("ClientTokenRotation", schedule.client_token, {"token": "client"}),
            ("ControllerTokenRotation", schedule.controller_token, {"token": "controller"}),
        ):
            self._start_on_schedule(rule_id, self.token_rotation, every, event)
        self.workflow_runs = WorkflowRuns(
            self,
            "WorkflowRuns",
            workflows=[
                self.cluster_bootstrap,
                self.task_provisioning,
                self.service_intention,
                *([care.certificate_renewal] if care else []),
            ],
            code=self._functions.code,
            log_retention=log_retention,
            log_group=self._functions.log_group(self, "DeploymentRunLogs"),
        )
        bootstrapped = self.workflow_runs.run(
            self,
            "BootstrapOnDeploy",
            workflow=self.cluster_bootstrap,
            workflow_input={},
            rerun_when_changed={
                "CodeDigest": self._functions.code_digest,
                "ConsulHttpAddress": servers.http_address,
                "ConsulDatacenter": servers.datacenter,
                "BootstrapTokenSecretArn": self.bootstrap_token_secret.secret_arn,
                "ControllerTokenSecretArn": self.controller_token_secret.secret_arn,
                "ClientTokenSecretArn": self.client_token_secret.secret_arn,
                # How functions reach Consul: the CA, the subnets and the security groups.
                "AccessDigest": digest(self, lambda: _access(bootstrap.check_consul)),
                # So that `provision` and `allow` find everything settled: this run waits, theirs
                # do not.
                "ProvisioningDigest": digest(
                    self,
                    lambda: [
                        definition(self.task_provisioning),
                        definition(self.service_intention),
                        *(_setup(function) for function in self._functions.made),
                    ],
                ),
            },
        )
        self.certificate_renewal = care.certificate_renewal if care else None
        self.server_snapshot: sfn.StateMachine | None = None
        self.snapshot_restore: sfn.StateMachine | None = None
        if managed and care:
            self._look_after(managed, care)
            # It waits for Consul for 18 minutes: let these begin when there are servers.
            bootstrapped.node.add_dependency(managed.starts_after_secrets)

    def provision(
        self,
        scope: Construct,
        construct_id: str,
        *,
        service_name: str,
        token_secret: secretsmanager.ISecret,
    ) -> CustomResource:
        """Make sure of a service's token as a part of a deployment, which fails if that fails.

        Let the ECS service depend on what is returned: its first task then finds its token. A
        later deployment does it again if the secret is another one, or if the workflow has changed,
        which the extra rules of services are a part of.

        Args:
            scope: the construct that it belongs to; its stack may be another one than the
                controller's, in the same account and region.
            construct_id: its ID there.
            service_name: the service.
            token_secret: the secret `<prefix>-<service>`, which has to exist before.

        Raises:
            ValueError: if the service cannot have such a name.

        """
        self._check_service_name(service_name)
        run = self.workflow_runs.run(
            scope,
            construct_id,
            workflow=self.task_provisioning,
            workflow_input={"service": service_name},
            rerun_when_changed={"TokenSecretArn": token_secret.secret_arn},
            # ClusterBootstrap has run before, and waited, if anything of the controller is new.
            settle=False,
        )
        run.node.add_dependency(self)
        return run

    def allow(
        self, scope: Construct, construct_id: str, *, source: str, destination: str
    ) -> CustomResource:
        """Let a service call another one: an intention in Consul, as a part of a deployment.

        It goes with the construct: when that is taken out of its stack, or the stack is deleted.
        Somebody else's intention that says the same is used as it is, and stays.

        Args:
            scope: the construct that it belongs to; its stack may be another one than the
                controller's, in the same account and region.
            construct_id: its ID there.
            source: the service that calls; `"*"` for all.
            destination: the service that is called; `"*"` for all.

        Raises:
            ValueError: if there cannot be such a service, or if this is allowed already.

        """
        path = f"{scope.node.path}/{construct_id}"
        for which, name in (("source", source), ("destination", destination)):
            _check_in_intention(path, which, name)
        if first := self._allowed.get((source, destination)):
            raise ValueError(
                f'{path}: {first[1].node.path} lets "{source}" call "{destination}" already. '
                "Leave one of the two out."
            )
        intention = {"source": source, "destination": destination}
        # What takes the place of a construct is made before that one is deleted: each has a mark
        # of its own, and the intention stays until the last has gone.
        own = hashlib.sha256(path.encode()).hexdigest()[:12]
        mark = {"wanted_by": own}
        wanted = {"intention": {**intention, "action": "allow"}, **mark}
        # Made here, not in the scope's stack: the queue for what starts nothing names its rules.
        # The step waits for the token that ClusterBootstrap makes.
        self._when_empty(f"AllowAgain{own}", self.service_intention, wanted)
        run = self.workflow_runs.run(
            scope,
            construct_id,
            workflow=self.service_intention,
            workflow_input=wanted,
            on_delete={"intention": intention, "remove": True, **mark},
            rerun_when_changed={},
            # ClusterBootstrap has run before, and waited, if anything of the controller is new.
            settle=False,
        )
        self._allowed[source, destination] = (wanted, run)
        run.node.add_dependency(self)
        # So that they are still there when it is deleted, if the same stack makes them.
        if isinstance(self.servers, Construct):
            run.node.add_dependency(self.servers)
        return run

    def metric(self, name: str, **options: Any) -> cloudwatch.Metric:
        """Return a metric of what the workflows find and do in this cluster.

        For an alarm, say, on what stays wrong::

            controller.metric("TokensLeft").create_alarm(
                stack, "TokensLeft", threshold=1, evaluation_periods=3
            )

        Args:
            name: its name; docs/operations.md has a table of them.
            **options: further properties of `cloudwatch.Metric`. Default: the sum of each five
                minutes.

        """
        properties: dict[str, Any] = {
            "namespace": metrics.NAMESPACE,
            "metric_name": name,
            "dimensions_map": {metrics.DIMENSION: self.cluster.cluster_name},
            "statistic": cloudwatch.Stats.SUM,
            "period": Duration.minutes(5),
        }
        return cloudwatch.Metric(**properties | options).attach_to(self)

    # --- the servers, if the same app makes them -------------------------------------------------

    def _server_care(self, managed: ManagedServers) -> ServerCare:
        return ServerCare(
            self,
            "ServerCare",
            secrets=managed.secrets,
            functions=self._functions,
            cluster_arn=self.cluster.cluster_arn,
        )

    def _look_after(self, managed: ManagedServers, care: ServerCare) -> None:
        """Give the servers their secrets before they start, and later what they need."""
        prepared = self.workflow_runs.run(
            self,
            "ServerSecretsOnDeploy",
            workflow=care.certificate_renewal,
            workflow_input={},
            rerun_when_changed={"CodeDigest": self._functions.code_digest},
        )
        managed.starts_after_secrets.node.add_dependency(prepared)
        # A renewal that fails has months for another try.
        self._start_on_schedule(
            "CertificateRenewalSchedule", care.certificate_renewal, Duration.days(1), {}
        )
        if managed.snapshots is not None:
            snapshots = ServerSnapshots(
                self,
                "ServerSnapshots",
                store=managed.snapshots,
                functions=self._functions,
                controller_token_secret=self.controller_token_secret,
                management_token_secret=self.bootstrap_token_secret,
                cluster_bootstrap=self.cluster_bootstrap,
                reconciliation=self.reconciliation,
                service_intention=self.service_intention,
                intentions=lambda: [wanted for wanted, _ in self._allowed.values()],
            )
            self.server_snapshot = snapshots.server_snapshot
            self.snapshot_restore = snapshots.snapshot_restore
            self._start_on_schedule(
                "ServerSnapshotSchedule", self.server_snapshot, managed.snapshots.every, {}
            )
        self._when_empty("ServerStarts", self.cluster_bootstrap, {})

    def _when_empty(
        self, construct_id: str, workflow: sfn.StateMachine, event: Mapping[str, Any]
    ) -> None:
        """Start a workflow whenever a server comes up that knows nothing, if they are like that."""
        service = self.servers.managed and self.servers.managed.loses_its_state
        if not service:
            return
        rule = events.Rule(
            self,
            construct_id,
            description=f"An empty Consul server is up: fill it again ({self.secret_prefix})",
            event_pattern=events.EventPattern(
                source=["aws.ecs"],
                detail_type=["ECS Task State Change"],
                detail={
                    "clusterArn": [service.cluster.cluster_arn],
                    "group": [f"service:{service.service_name}"],
                    "desiredStatus": ["RUNNING"],
                    "lastStatus": ["RUNNING"],
                },
            ),
        )
        self._start(rule, workflow, event)

    def _check_service_name(self, service_name: str) -> None:
        where = f"{self.node.path}: the service name"
        if Token.is_unresolved(service_name):
            raise ValueError(f"{where} has to be known at synthesis. Give the text itself.")
        if not names.is_valid_service_name(service_name):
            raise ValueError(
                f'{where} "{service_name}" is not valid in Consul. '
                f"Allowed: {names.SERVICE_NAME_RULE}."
            )
        secret_name = names.service_secret_name(self.secret_prefix, service_name)
        if secret_name in self._own_secret_names():
            raise ValueError(
                f'{where} "{service_name}" is not possible: the secret {secret_name} belongs to '
                "the controller. Choose another name."
            )

    # --- what starts the workflows -------------------------------------------------------------

    def _dead_letter_queue(self) -> sqs.Queue:
        return sqs.Queue(
            self,
            "DeadLetters",
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=True,
            retention_period=Duration.days(14),
        )

    def _start_on_task_events(self) -> None:
        """Start TaskProvisioning for every task of the cluster that begins its life."""
        rule = events.Rule(
            self,
            "TaskStarts",
            description=f"A task starts: make sure of its Consul token ({self.secret_prefix})",
            event_pattern=events.EventPattern(
                source=["aws.ecs"],
                detail_type=["ECS Task State Change"],
                detail={
                    "clusterArn": [self.cluster.cluster_arn],
                    "desiredStatus": ["RUNNING"],
                    # A task with its own network interface begins with PROVISIONING, any other
                    # with PENDING. Either event alone is enough.
                    "lastStatus": ["PROVISIONING", "PENDING"],
                },
            ),
        )
        detail = ("clusterArn", "taskArn", "lastStatus", "desiredStatus", "version")
        rule.add_target(
            targets.SfnStateMachine(
                self.task_provisioning,
                # Only what helps to understand an execution. Whole events have the overrides of
                # RunTask in them, environment variables included, and executions can be read by
                # more people than those.
                input=events.RuleTargetInput.from_object(
                    {
                        "id": events.EventField.event_id,
                        "time": events.EventField.time,
                        "detail": {
                            key: events.EventField.from_path(f"$.detail.{key}") for key in detail
                        },
                    }
                ),
                dead_letter_queue=self.dead_letter_queue,
                # EventBridge's most; a task that is still there after a day has long failed.
                retry_attempts=185,
                max_event_age=Duration.hours(24),
            )
        )

    def _start_on_schedule(
        self,
        construct_id: str,
        workflow: sfn.StateMachine,
        every: Duration | None,
        event: Mapping[str, str],
    ) -> None:
        if every is None:
            return
        rule = events.Rule(
            self,
            construct_id,
            description=f"{construct_id}, every {every.to_human_string()} ({self.secret_prefix})",
            schedule=events.Schedule.rate(every),
        )
        self._start(rule, workflow, event)

    def _start(
        self, rule: events.Rule, workflow: sfn.StateMachine, event: Mapping[str, Any]
    ) -> None:
        rule.add_target(
            targets.SfnStateMachine(
                workflow,
                input=events.RuleTargetInput.from_object(dict(event)),
                dead_letter_queue=self.dead_letter_queue,
                retry_attempts=3,
                max_event_age=Duration.minutes(10),
            )
        )

    def _own_secret_names(self) -> list[str]:
        """Return the names of the secrets that no service may land on."""
        return [
            names.controller_secret_name(self.secret_prefix),
            names.client_secret_name(self.secret_prefix),
            *(secret.secret_name for secret in self._given_secrets),
        ]

    # --- resources -----------------------------------------------------------------------------

    def _secret(
        self, construct_id: str, name: str | None, description: str, removal_policy: RemovalPolicy
    ) -> secretsmanager.Secret:
        return token_secret(
            self,
            construct_id,
            name=name,
            description=description,
            cluster_arn=self.cluster.cluster_arn,
            removal_policy=removal_policy,
            encryption_key=self.encryption_key,
        )


def _check_in_intention(path: str, which: str, name: str) -> None:
    if Token.is_unresolved(name):
        raise ValueError(f"{path}: {which} has to be known at synthesis. Give the text itself.")
    if not names.is_valid_in_intention(name):
        raise ValueError(
            f'{path}: {which} "{name}" is neither a valid service name in Consul nor "*". '
            f"Allowed: {names.SERVICE_NAME_RULE}."
        )


def _access(function: lambda_.IFunction) -> list[object]:
    """Return what decides whether a function reaches Consul."""
    resource = cast("lambda_.CfnFunction", function.node.default_child)
    return [resource.vpc_config, resource.environment]


def _setup(function: lambda_.Function) -> list[object]:
    """Return what of a function takes a moment to be known everywhere once it has changed."""
    role = cast("iam.Role", function.role)
    policy = cast("iam.Policy", role.node.find_child("DefaultPolicy"))
    return [*_access(function), policy.document]
