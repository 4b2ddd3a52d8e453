"""What there is when a step gets its bad input, how it runs, and what may have become of it all."""

from __future__ import annotations

import base64
import json
import logging
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from email.message import Message
from functools import cache, lru_cache
from importlib import import_module
from types import SimpleNamespace
from typing import Any, Final

from handlers.clients import consul_connection
from handlers.clients.secrets_manager import derived_version_id
from handlers.core import clock, environment, names, x509
from handlers.core.deployment import client_token, controller_token
from handlers.core.errors import Permanent, Retryable, StepError, error_names
from handlers.core.server_secrets import GOSSIP_KEY, ServerIdentity
from handlers.core.subjects import owned_subject
from handlers.core.token_secret import TokenIds
from local.cloud.patching import replaced
from local.consul.acl import (
    ANONYMOUS_ACCESSOR,
    GLOBAL_MANAGEMENT_ID,
    Policy,
    ServiceIdentity,
    Token,
)
from local.consul.exchange import Call
from local.consul.intentions import Intention
from tests.bad_input.kms import ca_certificate, kms, server_identity
from tests.bad_input.wire import REGION, Answer, Tampering, Wire, aws_answer
from tests.faults.consul_server import AclTables, SimulatedConsul
from tests.faults.ecs import Cluster, EcsClient, EcsService, EcsStore, EcsTask
from tests.faults.history import View
from tests.faults.network import Direct
from tests.faults.secrets_manager import Secret, SecretsManagerClient, SecretsStore, Version
from tests.faults.virtual_time import BEGINNING, VirtualClock

ACCOUNT: Final = "123456789012"
CLUSTER: Final = f"arn:aws:ecs:{REGION}:{ACCOUNT}:cluster/mesh"
OTHER_CLUSTER: Final = f"{CLUSTER}-2"
PREFIX: Final = "acme"
CONSUL_HOST: Final = "consul.internal:8500"
CONSUL: Final = f"http://{CONSUL_HOST}"
SIGNATURE: Final = "6f1d9c0e8b7a5f43"
ANSWER_URL: Final = f"https://s3.example.com/answer?X-Amz-Signature={SIGNATURE}"
RULES: Final = 'key_prefix "api/" {\n  policy = "write"\n}\n'
DEPLOYMENT_RUN: Final = f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:DeploymentRun"
SNAPSHOT: Final = "acme/20260105T120000Z-40.snap"
EXECUTION: Final = f"arn:aws:states:{REGION}:{ACCOUNT}:execution:TaskProvisioning:e1"

_STATE_LIMIT: Final = 256 * 1024
_DOCUMENTED: Final = frozenset(error_names(Retryable) + error_names(Permanent))
_WEB_TASKS: Final = 2
_HOUR: Final = timedelta(hours=1)


def uuid_of(what: str) -> str:
    """Return the ID that something has in every world."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, what))


def ids_of(what: str) -> TokenIds:
    """Return the IDs of a token that is there from the start."""
    return TokenIds(accessor_id=uuid_of(f"{what}/accessor"), secret_id=uuid_of(f"{what}/secret"))


def task_arn(name: str) -> str:
    """Return the ARN of a task."""
    return f"arn:aws:ecs:{REGION}:{ACCOUNT}:task/mesh/{uuid_of(name).replace('-', '')}"


MANAGEMENT: Final = ids_of("management")
CONTROLLER: Final = ids_of("controller")
GOSSIP: Final = base64.b64encode(uuid.uuid5(uuid.NAMESPACE_URL, "gossip").bytes * 2).decode()
FOREIGN: Final = ids_of("somebody's")
"""A token that a person has made, without a cluster line."""

_MESH: Final = {names.MESH_TAG: "true"}


@dataclass(frozen=True)
class Content:
    """All that is in Secrets Manager, in Consul and in ECS."""

    secrets: Mapping[str, Secret]
    consul: AclTables
    cluster: Cluster


@dataclass(frozen=True)
class Outcome:
    """What came out of a step."""

    result: dict[str, Any] | None
    error: StepError | None
    calls: tuple[str, ...]
    told: str = field(repr=False)
    """All that got out of it: the result, the traceback, the log, what CloudFormation was told."""
    before: Content = field(repr=False)
    after: Content = field(repr=False)


class World:
    """Services in memory, that are put back to where they were before each step.

    Attributes:
        content: what is there when the next step runs.
        environment: the variables of its function.
        stack_status: what CloudFormation tells of any stack.

    """

    def __init__(self) -> None:
        self._clock = VirtualClock(BEGINNING)
        network = Direct()
        self._secrets = SecretsStore(
            self._clock, f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:"
        )
        self._ecs = _Ecs(self._clock, CLUSTER)
        self._consul = SimulatedConsul(self._clock, "1.10")
        self._aws: dict[str, Any] = {
            "secretsmanager": SecretsManagerClient(self._secrets, network),
            "ecs": EcsClient(self._ecs, network),
        }
        self._answers: list[str] = []
        _fill(self._secrets, self._ecs, self._consul)
        self.beginning = self.content
        self._consul.plant_server("consul-server-9", uuid_of("consul-server-9"))
        self._snapshot = self._consul.answer(_saving(), View.NOW).body
        self._variables = _variables(self)
        self.environment = dict(self._variables)
        self.stack_status = "UPDATE_IN_PROGRESS"

    # --- what there is --------------------------------------------------------------------------

    @property
    def content(self) -> Content:
        """All that there is now. It is not changed by what comes later."""
        return Content(self._secrets.secrets, self._consul.tables, self._ecs.cluster)

    @content.setter
    def content(self, content: Content) -> None:
        self._secrets.secrets = dict(content.secrets)
        self._consul.tables = content.consul
        self._ecs.cluster = content.cluster

    def reset(self) -> None:
        """Put everything back to where it was in the beginning."""
        self.content = self.beginning
        self.environment = dict(self._variables)
        self.stack_status = "UPDATE_IN_PROGRESS"
        self._ecs.page = 100
        self._answers.clear()

    def arn(self, secret_name: str) -> str:
        """Return the ARN of a secret."""
        return self._secrets.secrets[secret_name].arn

    def current_id(self, secret_name: str) -> str:
        """Return the ID of the version that tasks pull."""
        return self._secrets.secrets[secret_name].holder("AWSCURRENT") or ""

    def set_secret(self, name: str, value: str | None, *, stage: str = "AWSCURRENT") -> None:
        """Change what a version of a secret holds; None: the secret has no version at all."""
        secret = self._secrets.secrets[name]
        versions: dict[str, Version] = {}
        for version_id, version in secret.versions.items():
            if value is not None:
                changed = replace(version, value=value) if stage in version.stages else version
                versions[version_id] = changed
        self._secrets.secrets = {**self._secrets.secrets, name: replace(secret, versions=versions)}

    def write_ahead(self, name: str, value: str) -> None:
        """Let somebody have written what is to replace the current version of a secret."""
        secret = self._secrets.secrets[name]
        version_id = derived_version_id(secret.arn, self.current_id(name))
        pending = Version(value, BEGINNING, frozenset({"AWSPENDING"}))
        versions = {**secret.versions, version_id: pending}
        self._secrets.secrets = {**self._secrets.secrets, name: replace(secret, versions=versions)}

    def forget_bootstrap(self) -> None:
        """Let Consul be one that nobody has bootstrapped."""
        tables = self._consul.tables
        tokens = {id_: one for id_, one in tables.tokens.items() if id_ != MANAGEMENT.accessor_id}
        accessors = {one.secret_id: id_ for id_, one in tokens.items()}
        self._consul.tables = replace(
            tables, tokens=tokens, accessors=accessors, bootstrapped_at=None
        )

    def set_tags(self, task: str, tags: Mapping[str, str], family: str) -> None:
        """Change the tags and the family of a task."""
        found = self._ecs.cluster.tasks[task]
        self._ecs.put_task(replace(found, tags=tags, family=family))

    def add_tasks(self, tags: Mapping[str, str], count: int, *, page: int) -> None:
        """Add tasks, and let ListTasks show a page of them at a time."""
        for number in range(count):
            arn = task_arn(f"more-{number}")
            self._ecs.put_task(EcsTask(arn, "more", BEGINNING - _HOUR, tags))
        self._ecs.page = page

    # --- services -------------------------------------------------------------------------------

    def aws(self, service: str, operation: str, arguments: Mapping[str, Any]) -> Answer:
        """Answer a call to AWS."""
        match service:
            case "cloudformation":
                return Answer(200, _STACKS.format(self.stack_status).encode())
            case "kms":
                return aws_answer(kms(operation, arguments))
            case "s3":
                return self._s3(operation, arguments)
            case "stepfunctions":
                return aws_answer({"executionArn": EXECUTION, "startDate": BEGINNING})
            case _:
                method = "".join(f"_{c.lower()}" if c.isupper() else c for c in operation)
                return aws_answer(getattr(self._aws[service], method[1:])(**arguments))

    def _s3(self, operation: str, arguments: Mapping[str, Any]) -> Answer:
        match operation:
            case "ListObjectsV2":
                listed = SNAPSHOT if SNAPSHOT.startswith(arguments.get("prefix", "")) else None
                found = f"<Contents><Key>{listed}</Key></Contents>" if listed else ""
                return Answer(200, f"<ListBucketResult>{found}</ListBucketResult>".encode())
            case "GetObject" if arguments["Key"] == SNAPSHOT:
                length = {"Content-Length": str(len(self._snapshot))}
                return Answer(200, self._snapshot, length)
            case "GetObject":
                return Answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        return Answer(200, b"")

    def consul(self, call: Call) -> Answer:
        """Answer a request to Consul."""
        answer = self._consul.answer(call, View.NOW)
        return Answer(answer.status, answer.body, answer.headers)

    def put(self, url: str, body: bytes) -> Answer:
        """Take what CloudFormation is told."""
        del url
        self._answers.append(body.decode())
        return Answer(200, b"")

    # --- steps ----------------------------------------------------------------------------------

    def run(self, step: str, state: Any, tampering: Tampering | None = None) -> Outcome:
        """Run a step as Lambda does.

        Raises whatever the step raises that is no StepError.
        """
        before = self.content
        function = import_module(f"handlers.{step}").handler
        result: dict[str, Any] | None = None
        error: StepError | None = None
        wire = Wire(self, consul_host=CONSUL_HOST, tampering=tampering)
        with self._installed(), wire.laid(), _recorded() as records:
            try:
                result = function(state, None)
            except StepError as raised:
                error = raised
        told = [*records, *self._answers]
        told += [json.dumps(result)] if error is None else shown(error)
        return Outcome(result, error, tuple(wire.calls), "\n".join(told), before, self.content)

    @contextmanager
    def installed(self, tampering: Tampering | None = None) -> Iterator[list[str]]:
        """Let code of the handlers run here; yields what it writes to the log."""
        wire = Wire(self, consul_host=CONSUL_HOST, tampering=tampering)
        with self._installed(), wire.laid(), _recorded() as records:
            yield records

    @contextmanager
    def _installed(self) -> Iterator[None]:
        with ExitStack() as patches:
            patches.enter_context(replaced(clock, "now", self._clock.now))
            variables = SimpleNamespace(environ=self.environment)
            patches.enter_context(replaced(environment, "os", variables))
            consul_connection.consul.cache_clear()
            consul_connection.unauthenticated_consul.cache_clear()
            yield
            consul_connection.consul.cache_clear()
            consul_connection.unauthenticated_consul.cache_clear()


@cache
def world() -> World:
    """Return the world; making one takes a moment."""
    return World()


def _saving() -> Call:
    headers: Message[str, str] = Message()
    headers["X-Consul-Token"] = MANAGEMENT.secret_id
    return Call("GET", "/v1/snapshot", "", headers, b"")


def shown(error: BaseException) -> list[str]:
    """Return what a traceback shows of an error, but for lines of code."""
    text = f"{type(error).__name__}: {error}"
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return [text, *(shown(earlier) if earlier is not None else ())]


@contextmanager
def _recorded() -> Iterator[list[str]]:
    """Yield what is written to the log, and keep it from everybody else."""
    records: list[str] = []
    formatter = logging.Formatter()

    class Recorder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(f"{formatter.format(record)}\n{vars(record)!r}")

    root = logging.getLogger()
    with replaced(root, "handlers", [Recorder()]):
        yield records


class _Ecs(EcsStore):
    """Nobody asks here as of when an execution looks at tasks."""

    def looks_at_tasks(self, view: View) -> None:
        """Do nothing."""

    def sees_tasks(self, view: View) -> None:
        """Do nothing."""


# --- what may have become of it ------------------------------------------------------------------


def check(outcome: Outcome, *, canaries: tuple[str, ...] = ()) -> None:
    """Fail if what came out is not documented, if anything is lost, or if a secret got out."""
    if outcome.error is not None:
        check_error(outcome.error)
    else:
        assert len(json.dumps(outcome.result, allow_nan=False)) <= _STATE_LIMIT
    assert lost(outcome.before, outcome.after) == []
    got_out(outcome.told, (*credentials(outcome.before), *credentials(outcome.after), *canaries))


def check_error(error: StepError) -> None:
    """Fail if an error is none that workflows know, or none that can be shown."""
    assert type(error).__name__ in _DOCUMENTED
    text = str(error)
    assert text
    text.encode()  # Lambda's runtime dies of what has no encoding


def got_out(told: str, secrets: tuple[str, ...]) -> None:
    """Fail if a secret is in what got out."""
    assert [secret for secret in secrets if secret in told] == []


def credentials(content: Content) -> tuple[str, ...]:
    """Return everything that nobody may see."""
    tokens = content.consul.tokens.values()
    found = {token.secret_id for token in tokens if token.accessor_id != ANONYMOUS_ACCESSOR}
    for secret in content.secrets.values():
        for version in secret.versions.values():
            pair = _ids(version.value)
            if pair is not None:
                found.add(pair.secret_id)
            found |= _keys(version.value)
    # Somebody may have put an accessor ID where the token belongs; that one is public.
    return (*(found - {token.accessor_id for token in tokens}), SIGNATURE)


def lost(before: Content, after: Content) -> list[str]:
    """Return what was there before and valid, and is not there any more, or not unchanged."""
    return [
        *_lost_secrets(before, after),
        *_changed_foreign_objects(before, after),
        *_changed_foreign_intentions(before, after),
        *_lost_tokens(before, after),
    ]


def _lost_secrets(before: Content, after: Content) -> Iterator[str]:
    for name, secret in before.secrets.items():
        now = after.secrets.get(name)
        if now is None or now.deleted != secret.deleted:
            yield f"the secret {name}"
            continue
        for version_id, version in secret.versions.items():
            if version_id not in now.versions or now.versions[version_id].value != version.value:
                yield f"the version {version_id} of the secret {name}"
        current, pulled = _current(secret), _current(now)
        if current is not None and not _keeps(current, pulled or ""):
            yield f"what servers start with from the secret {name}"
        if current is None or pulled == current or _ids(current) is None:
            continue
        ids = _ids(pulled or "")
        if ids is None or not _is_in(after, ids):
            yield f"what tasks pull from the secret {name}"


def _changed_foreign_objects(before: Content, after: Content) -> Iterator[str]:
    for accessor_id, token in before.consul.tokens.items():
        now = after.consul.tokens.get(accessor_id)
        if now is token or owned_subject({"Description": token.description}, CLUSTER) is not None:
            continue
        if now is None or not {*now.policy_ids} >= {*token.policy_ids}:
            yield f"the foreign token {token.description!r}"
        # `create_policy` attaches policies to the anonymous token, which is its purpose.
        elif _content(now) != _content(replace(token, policy_ids=now.policy_ids)):
            yield f"the content of the foreign token {token.description!r}"
    for policy_id, policy in before.consul.policies.items():
        if names.owning_cluster(policy.description) != CLUSTER:
            if policy.description == names.CLIENT_POLICY_DESCRIPTION:
                continue  # HashiCorp's, which is adopted
            if after.consul.policies.get(policy_id) != policy:
                yield f"the foreign policy {policy.name}"
        elif policy_id not in after.consul.policies:
            yield f"our policy {policy.name}"


def _changed_foreign_intentions(before: Content, after: Content) -> Iterator[str]:
    for names_, intention in before.consul.intentions.items():
        if names.owning_cluster(intention.description) == CLUSTER:
            continue
        now = after.consul.intentions.get(names_)
        # The indexes are those of all intentions of the destination.
        if (
            now is None
            or replace(
                now, create_index=intention.create_index, modify_index=intention.modify_index
            )
            != intention
        ):
            yield f"the foreign intention of {names_}"


def _content(token: Token) -> Token:
    return replace(token, modify_index=0)


def _lost_tokens(before: Content, after: Content) -> Iterator[str]:
    """Yield what a task, or the controller itself, authenticates with and Consul has forgotten."""
    for ids in (MANAGEMENT, *_NEEDED):
        if _is_in(before, ids) and not _is_in(after, ids):
            yield f"the token {ids.accessor_id}"


def _is_in(content: Content, ids: TokenIds) -> bool:
    token = content.consul.tokens.get(ids.accessor_id.lower())
    return token is not None and token.secret_id == ids.secret_id


def _current(secret: Secret) -> str | None:
    holder = secret.holder("AWSCURRENT")
    return secret.versions[holder].value if holder else None


@lru_cache(maxsize=1000)
def _ids(value: str) -> TokenIds | None:
    try:
        return TokenIds.parse(value, where="it")
    except StepError:
        return None


def _keeps(current: str, pulled: str) -> bool:
    """Whether what servers start with is as good as it was: the same, or of the same kind."""
    if GOSSIP_KEY.is_valid(current):
        return pulled == current
    identity, certificate = _identity(current), _certificate(current)
    if identity is not None:
        return _identity(pulled) is not None
    if certificate is not None:
        other = _certificate(pulled)
        return other is not None and other.public_key == certificate.public_key
    return True


@lru_cache(maxsize=1000)
def _identity(value: str) -> ServerIdentity | None:
    """Return a certificate whose private key is beside it."""
    try:
        found = ServerIdentity.parse(value, where="it")
        if found is None:
            return None
        certificate = x509.Certificate.read(found.certificate)
        return found if certificate.has_private_key(found.private_key) else None
    except (StepError, x509.UnreadableError):
        return None


@lru_cache(maxsize=1000)
def _certificate(value: str) -> x509.Certificate | None:
    try:
        return x509.Certificate.read(value)
    except x509.UnreadableError:
        return None


def _keys(value: str) -> set[str]:
    """Return what nobody may see of the key of gossip, or of a server's private key."""
    identity = _identity(value)
    if identity is not None:
        # In JSON the whole of it would look different: any line gives it away.
        return set(identity.private_key.splitlines()[1:-1])
    return {value} if GOSSIP_KEY.is_valid(value) else set()


# --- what there is in the beginning --------------------------------------------------------------

_STACKS: Final = """\
<DescribeStacksResponse xmlns="http://cloudformation.amazonaws.com/doc/2010-05-15/">
<DescribeStacksResult><Stacks><member><StackName>acme</StackName>
<CreationTime>2026-01-05T12:00:00Z</CreationTime><StackStatus>{}</StackStatus></member></Stacks>
</DescribeStacksResult></DescribeStacksResponse>"""

_SECRET_VALUES: Final[Mapping[str, str | None]] = {
    f"{PREFIX}-web": ids_of("web").to_secret_string(),
    f"{PREFIX}-api": ids_of("api").to_secret_string(),
    f"{PREFIX}-batch": ids_of("batch").to_secret_string(),
    f"{PREFIX}-gone": ids_of("gone").to_secret_string(),
    f"{PREFIX}-waiting": "{}",
    f"{PREFIX}-bare": None,
    names.client_secret_name(PREFIX): ids_of("client").to_secret_string(),
    names.controller_secret_name(PREFIX): CONTROLLER.to_secret_string(),
    f"{PREFIX}-bootstrap": MANAGEMENT.secret_id,
    f"{PREFIX}-gossip": GOSSIP,
    f"{PREFIX}-ca": ca_certificate(),
    f"{PREFIX}-server": server_identity().to_secret_string(),
    "other-web": ids_of("their web").to_secret_string(),
}
_NEEDED: Final = tuple(ids_of(what) for what in ("web", "api", "old api", "client", "controller"))


def _fill(secrets: SecretsStore, ecs: EcsStore, consul: SimulatedConsul) -> None:
    now = secrets.clock.now()
    for name, value in _SECRET_VALUES.items():
        arn = secrets.new_arn(name)
        first = uuid_of(f"{name}/first")
        versions = {}
        if value is not None:
            versions[first] = Version(value, now - _HOUR, frozenset({"AWSCURRENT"}))
        if name in {f"{PREFIX}-web", names.client_secret_name(PREFIX)}:
            # Somebody rotates it right now.
            pending = ids_of(f"new {name}").to_secret_string()
            version_id = derived_version_id(arn, first)
            versions[version_id] = Version(pending, now, frozenset({"AWSPENDING"}))
        if name == f"{PREFIX}-api":
            old = Version(ids_of("old api").to_secret_string(), now - 2 * _HOUR, _PREVIOUS)
            versions[uuid_of("old api")] = old
        secrets.put(Secret(arn, name, versions=versions))
    _fill_consul(consul)
    for arn, family, made, service, desired in (
        (task_arn("web-1"), "web", now - _HOUR, "web", "RUNNING"),
        (task_arn("web-2"), "web", now - timedelta(minutes=1), "web", "RUNNING"),
        (task_arn("api-old"), "api", now - 2 * _HOUR, "api", "STOPPED"),
        (task_arn("api-1"), "api", now - timedelta(minutes=1), "api", "RUNNING"),
    ):
        ecs.put_task(EcsTask(arn, family, made, _MESH, service, desired, "RUNNING"))
    ecs.put_task(EcsTask(task_arn("cron"), "cron", now, {"team": "shop"}))
    ecs.put_service(EcsService("web", now - 3 * _HOUR, now - 3 * _HOUR, _WEB_TASKS))
    ecs.put_service(EcsService("api", now - 3 * _HOUR, now - _HOUR, 1, controller="CODE_DEPLOY"))


_PREVIOUS: Final = frozenset({"AWSPREVIOUS"})


def _fill_consul(consul: SimulatedConsul) -> None:
    client, controller = client_token(PREFIX, CLUSTER), controller_token(PREFIX, CLUSTER)
    policies = [client["policy"], controller["policy"]]
    policies += [
        {
            "name": names.service_policy_name(PREFIX, "api"),
            "description": names.service_policy_description("api", CLUSTER),
            "rules": RULES,
        },
        {"name": f"{PREFIX}-db-service", "description": "", "rules": RULES},
        {
            "name": names.client_policy_name("other"),
            "description": names.with_cluster_line("Theirs", OTHER_CLUSTER),
            "rules": RULES,
        },
    ]
    tables = consul.tables
    made = {
        uuid_of(policy["name"]): Policy(
            id=uuid_of(policy["name"]),
            name=policy["name"],
            description=policy["description"],
            rules=policy["rules"],
            create_index=2,
            modify_index=2,
        )
        for policy in policies
    }
    consul.tables = replace(tables, policies={**tables.policies, **made}, bootstrapped_at=3)
    wanted = names.intention_description(CLUSTER, ["0a1b2c3d4e5f", "f5e4d3c2b1a0"])
    theirs = names.intention_description(OTHER_CLUSTER, ["0a1b2c3d4e5f"])
    consul.tables = replace(
        consul.tables,
        intentions={
            (intention.source, intention.destination): intention
            for intention in (
                Intention(source="cron", destination="web", action="allow", description=wanted),
                Intention(source="cron", destination="db", action="allow", description=theirs),
                Intention(source="*", destination="*", action="deny", description="by hand"),
            )
        },
    )
    mark = names.with_not_pulled_since(
        names.service_token_description("api", CLUSTER), BEGINNING - _HOUR
    )
    ours = names.service_token_description
    new_web, new_client = ids_of(f"new {PREFIX}-web"), names.client_secret_name(PREFIX)
    client_policy = uuid_of(client["policy"]["name"])
    for ids, description, policy, service in (
        (MANAGEMENT, "Bootstrap Token (Global Management)", GLOBAL_MANAGEMENT_ID, ""),
        (CONTROLLER, controller["token"]["description"], uuid_of(controller["policy"]["name"]), ""),
        (ids_of("client"), client["token"]["description"], client_policy, ""),
        (ids_of(f"new {new_client}"), client["token"]["description"], client_policy, ""),
        (ids_of("web"), ours("web", CLUSTER), "", "web"),
        (new_web, ours("web", CLUSTER), "", "web"),
        (ids_of("api"), ours("api", CLUSTER), uuid_of(f"{PREFIX}-api-service"), "api"),
        (ids_of("old api"), mark, "", "api"),
        (ids_of("batch"), ours("batch", CLUSTER), "", "batch"),
        (ids_of("their web"), ours("web", OTHER_CLUSTER), "", "web"),
        (FOREIGN, "", "", ""),
        (ids_of("almost ours"), f"{ours('web', CLUSTER)}-2\nby hand", "", "web"),
    ):
        consul.plant(
            Token(
                accessor_id=ids.accessor_id,
                secret_id=ids.secret_id,
                description=description,
                policy_ids=(policy,) if policy else (),
                service_identities=(ServiceIdentity(service),) if service else (),
                create_time=BEGINNING,
                create_index=0,
                modify_index=0,
            )
        )


def _variables(world: World) -> dict[str, str]:
    """Return the environment variables of a function that needs all of them."""
    client, controller = names.client_secret_name(PREFIX), names.controller_secret_name(PREFIX)
    return {
        environment.CLUSTER_ARN: CLUSTER,
        environment.SECRET_PREFIX: PREFIX,
        environment.RESERVED_SECRET_NAMES: f"{client},{controller}",
        environment.CONSUL_HTTP_ADDR: CONSUL,
        environment.CONSUL_DATACENTER: "dc1",
        environment.CONSUL_TOKEN_SECRET_ARN: world.arn(controller),
        environment.CLIENT_TOKEN_SECRET_ARN: world.arn(client),
        environment.CONTROLLER_TOKEN_SECRET_ARN: world.arn(controller),
        environment.DEPLOYMENT_RUN_ARN: DEPLOYMENT_RUN,
        environment.SNAPSHOT_BUCKET: "snapshots",
        environment.SNAPSHOT_PREFIX: SNAPSHOT.partition("/")[0],
        environment.SETTLE_SECONDS: "20",
    }
