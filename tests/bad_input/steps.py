"""What each step is given when all is well: its input, and what is there before."""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import handlers
from handlers.clients.secrets_manager import derived_version_id
from handlers.core import clock, environment, names
from handlers.core.deployment import client_token, controller_token
from local.consul.acl import ANONYMOUS_ACCESSOR
from tests.bad_input.kms import CA_KEY, DNS_NAMES, ENCRYPTION_KEY, ca_certificate
from tests.bad_input.wire import REGION
from tests.bad_input.world import (
    ACCOUNT,
    ANSWER_URL,
    CLUSTER,
    DEPLOYMENT_RUN,
    EXECUTION,
    FOREIGN,
    OTHER_CLUSTER,
    PREFIX,
    RULES,
    SNAPSHOT,
    World,
    ids_of,
    task_arn,
    world,
)
from tests.faults.virtual_time import BEGINNING

CLIENT_SECRET: Final = names.client_secret_name(PREFIX)
CONTROLLER_SECRET: Final = names.controller_secret_name(PREFIX)
_NOW: Final = clock.to_text(BEGINNING)


@dataclass(frozen=True)
class Scenario:
    """A step, with an input that it takes."""

    step: str
    name: str
    state: Callable[[World], dict[str, Any]]
    arrange: Callable[[World], None] = lambda _: None

    def __str__(self) -> str:
        return f"{self.step}: {self.name}"

    def begin(self) -> tuple[World, dict[str, Any]]:
        """Make the world what it has to be; return it, and the input."""
        scene = world()
        scene.reset()
        self.arrange(scene)
        return scene, {**self.state(scene), "execution": EXECUTION}


def all_steps() -> list[str]:
    """Return the names of all steps there are."""
    found = [module.name for module in pkgutil.iter_modules(handlers.__path__) if not module.ispkg]
    return sorted(found)


# --- inputs --------------------------------------------------------------------------------------


def _version(scene: World, name: str, *, pending: bool = False) -> dict[str, Any]:
    arn, current = scene.arn(name), scene.current_id(name)
    version_id = derived_version_id(arn, current) if pending else current
    return {"arn": arn, "version_id": version_id, "replaces_version_id": current}


def _event() -> dict[str, Any]:
    return {
        "version": "0",
        "id": "0b9c6e1f-7a3d-4c58-9f21-6e8d2a4b7c10",
        "detail-type": "ECS Task State Change",
        "source": "aws.ecs",
        "account": ACCOUNT,
        "time": _NOW,
        "region": REGION,
        "resources": [task_arn("web-1")],
        "detail": {
            "clusterArn": CLUSTER,
            "taskArn": task_arn("web-1"),
            "desiredStatus": "RUNNING",
            "lastStatus": "PENDING",
            "containers": [{"name": "web", "lastStatus": "PENDING"}],
        },
    }


def _with_rules(event: Any) -> Callable[[World], dict[str, Any]]:
    return lambda _: {"event": event, "service_rules": {"api": RULES}}


def _service_token(service: str) -> dict[str, Any]:
    return {
        "description": names.service_token_description(service, CLUSTER),
        "service_identities": [service],
        "policies": [],
    }


def _token(name: str, service: str, *, pending: bool = False) -> Callable[[World], dict[str, Any]]:
    return lambda scene: {
        "secret": _version(scene, name, pending=pending),
        "token": _service_token(service),
    }


def _named(*tokens: tuple[dict[str, str], str]) -> list[dict[str, Any]]:
    return [{"subject": subject, "accessor_id": accessor_id} for subject, accessor_id in tokens]


def _request(kind: str) -> dict[str, Any]:
    return {
        "RequestType": kind,
        "ServiceToken": f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:start",
        "ResponseURL": ANSWER_URL,
        "ResourceType": "Custom::WorkflowRun",
        "StackId": f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/acme/guid",
        "RequestId": "0d1a4c8e-7f52-4b36-9e0d-5c6b7a8f9012",
        "LogicalResourceId": "BootstrapOnDeploy",
        "PhysicalResourceId": "BootstrapOnDeploy",
        "ResourceProperties": {
            "StateMachineArn": DEPLOYMENT_RUN,
            "Input": '{"a": 1}',
            "SettleSeconds": "5",
        },
    }


def _undoable(kind: str) -> dict[str, Any]:
    request = _request(kind)
    request["ResourceProperties"]["OnDelete"] = '{"a": 1, "remove": true}'
    return request


def _allowing(wanted_by: str) -> dict[str, Any]:
    return {"action": "allow", "wanted_by": wanted_by}


def _intention(event: dict[str, Any], destination: str) -> Callable[[World], dict[str, Any]]:
    intention = {"source": "cron", "destination": destination}
    intention |= {key: event[key] for key in ("action",) if key in event}
    rest = {key: value for key, value in event.items() if key != "action"}
    return lambda _: {"event": {"intention": intention, **rest}}


_ANSWERABLE: Final = {
    "response_url": ANSWER_URL,
    "stack_id": f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/acme/guid",
    "request_id": "0d1a4c8e-7f52-4b36-9e0d-5c6b7a8f9012",
    "logical_resource_id": "BootstrapOnDeploy",
    "physical_resource_id": "BootstrapOnDeploy",
    "request_type": "Delete",
}
_FAILURE: Final = {
    "Error": "States.TaskFailed",
    "Cause": json.dumps(
        {
            "Status": "FAILED",
            "Error": "ConsulUnavailable",
            "ExecutionArn": EXECUTION,
            "Cause": json.dumps({"errorMessage": "no leader", "errorType": "ConsulUnavailable"}),
        }
    ),
}
_RUN: Final = {
    "drift": {
        "found": 3,
        "provision": [{"service": "web"}],
        "retire": [],
        "suspects": [],
        "left": 1,
        "reasons": [],
        "next": {},
    },
    "provisioned": [{"run": {"Status": "SUCCEEDED"}}, {"failure": {"Error": "x"}}],
    "retired": {"since": _NOW, "retired": 1, "left": 0},
    "deletion": {"deleted": 1, "kept": 0},
    "look": {"found": 0, "left": 0},
    "put_back": [{"run": {}}],
}


def _bootstrap_secret(scene: World) -> None:
    scene.environment[environment.CONSUL_TOKEN_SECRET_ARN] = scene.arn(f"{PREFIX}-bootstrap")


def _fresh_consul(scene: World) -> None:
    _bootstrap_secret(scene)
    scene.forget_bootstrap()
    scene.set_secret(f"{PREFIX}-bootstrap", "{}")


def _choice(name: str, kind: str) -> Callable[[World], dict[str, Any]]:
    return lambda scene: {"secret": {"id": scene.arn(f"{PREFIX}-{name}")}, "kind": kind}


def _ca(name: str) -> Callable[[World], dict[str, Any]]:
    return lambda scene: {
        "ca": {
            "secret_id": scene.arn(f"{PREFIX}-{name}"),
            "key_id": CA_KEY,
            "common_name": "Consul CA dc1",
            "lifetime_days": 3650,
        }
    }


def _server(name: str, *dns_names: str) -> Callable[[World], dict[str, Any]]:
    return lambda scene: {
        "server": {
            "name": "consul-server-1",
            "secret_id": scene.arn(f"{PREFIX}-{name}"),
            "dns_names": [*DNS_NAMES, *dns_names],
            "lifetime_days": 90,
        },
        "ca": {"secret_id": scene.arn(f"{PREFIX}-ca"), "key_id": CA_KEY},
        "key_pair_key_id": ENCRYPTION_KEY,
    }


def _ending_ca(scene: World) -> None:
    scene.set_secret(f"{PREFIX}-ca", ca_certificate(days=2))


def _rolled_back(scene: World) -> None:
    scene.stack_status = "UPDATE_ROLLBACK_IN_PROGRESS"


_CLIENT: Final = client_token(PREFIX, CLUSTER)
_CONTROLLER: Final = controller_token(PREFIX, CLUSTER)
_WEB: Final = {"service": "web"}
_API: Final = {"service": "api"}

SCENARIOS: Final = (
    Scenario("check_tags", "an event of ECS", _with_rules(_event())),
    Scenario("check_tags", "a service by its name", _with_rules(_API)),
    Scenario("check_tags", "the client's token", _with_rules({"token": "client"})),
    Scenario(
        "store_secret",
        "a secret that has IDs",
        lambda _: {"secret": {"id": f"{PREFIX}-web", "description": "d", "tags": {"a": "b"}}},
    ),
    Scenario(
        "store_secret",
        "a secret that is not there yet",
        lambda _: {"secret": {"id": f"{PREFIX}-new", "description": "d", "tags": {"a": "b"}}},
    ),
    Scenario(
        "store_secret",
        "a secret without IDs",
        lambda scene: {"secret": {"id": scene.arn(f"{PREFIX}-waiting")}},
    ),
    Scenario(
        "store_secret", "a secret without a value", lambda _: {"secret": {"id": f"{PREFIX}-bare"}}
    ),
    Scenario(
        "store_secret",
        "IDs to be renewed",
        lambda scene: {"secret": {"id": scene.arn(f"{PREFIX}-api")}, "renew": _API},
    ),
    Scenario("create_token", "a token that is there", _token(f"{PREFIX}-api", "api")),
    Scenario("create_token", "a pending one", _token(f"{PREFIX}-web", "web", pending=True)),
    Scenario("create_token", "a token that is gone", _token(f"{PREFIX}-gone", "gone")),
    Scenario(
        "create_token",
        "the client's",
        lambda scene: {"secret": _version(scene, CLIENT_SECRET), "token": _CLIENT["token"]},
    ),
    Scenario(
        "publish_secret",
        "a pending version",
        lambda scene: {"secret": _version(scene, f"{PREFIX}-web", pending=True)},
    ),
    Scenario("create_policy", "the client's", lambda _: {"policy": _CLIENT["policy"]}),
    Scenario(
        "create_policy",
        "one that differs",
        lambda _: {"policy": {**_CONTROLLER["policy"], "rules": 'acl = "read"'}},
    ),
    Scenario(
        "create_policy",
        "one that is attached",
        lambda _: {
            "policy": {
                "name": names.ANONYMOUS_POLICY_NAME,
                "description": names.ANONYMOUS_POLICY_DESCRIPTION,
                "rules": names.ANONYMOUS_POLICY_RULES,
                "shared": True,
                "attach_to": ANONYMOUS_ACCESSOR,
            }
        },
    ),
    Scenario("bootstrap_acls", "a token in the secret", lambda _: {}, _bootstrap_secret),
    Scenario("bootstrap_acls", "a fresh Consul", lambda _: {}, _fresh_consul),
    Scenario("choose_secret", "a gossip key that is there", _choice("gossip", "gossip key")),
    Scenario("choose_secret", "a gossip key that is not", _choice("waiting", "gossip key")),
    Scenario("choose_secret", "a token that is there", _choice("bootstrap", "management token")),
    Scenario("choose_secret", "a token that is not", _choice("bare", "management token")),
    Scenario("issue_ca_certificate", "one that lasts", _ca("ca")),
    Scenario("issue_ca_certificate", "one that is not there", _ca("waiting")),
    Scenario("issue_ca_certificate", "one that ends", _ca("ca"), _ending_ca),
    Scenario("issue_server_certificate", "one that is good", _server("server")),
    Scenario("issue_server_certificate", "one for other names", _server("server", "a.example.com")),
    Scenario("issue_server_certificate", "one that is not there", _server("waiting")),
    Scenario("check_consul", "a Consul that is ready", lambda _: {}),
    Scenario(
        "answer_cloudformation",
        "a failure",
        lambda _: {"request": _ANSWERABLE, "failure": _FAILURE},
    ),
    Scenario("answer_cloudformation", "a success", lambda _: {"request": _ANSWERABLE}),
    Scenario("start_deployment_run", "a create", lambda _: _request("Create")),
    Scenario("start_deployment_run", "an update", lambda _: _request("Update")),
    Scenario("start_deployment_run", "a rollback", lambda _: _request("Update"), _rolled_back),
    Scenario("start_deployment_run", "a delete", lambda _: _request("Delete")),
    Scenario("start_deployment_run", "a delete that undoes", lambda _: _undoable("Delete")),
    Scenario("start_deployment_run", "an update that replaces", lambda _: _undoable("Update")),
    *(
        Scenario("write_intention", f"{what} that {state}", _intention(event, destination))
        for what, event in (
            ("one to be written", _allowing("0a1b2c3d4e5f")),
            ("one to be removed", {"remove": True, "wanted_by": "0a1b2c3d4e5f"}),
            ("one to be removed at once", {"remove": True}),
        )
        for state, destination in (
            ("is there", "web"),
            ("is not there", "api"),
            ("is somebody else's", "db"),
        )
    ),
    Scenario(
        "abandon_rotation",
        "a service's",
        lambda scene: {
            "subject": _WEB,
            "secret": _version(scene, f"{PREFIX}-web", pending=True),
        },
    ),
    Scenario(
        "abandon_rotation",
        "the client's",
        lambda scene: {
            "subject": {"token": "client"},
            "secret": _version(scene, CLIENT_SECRET, pending=True),
        },
    ),
    Scenario(
        "retire_tokens",
        "superseded tokens",
        lambda _: {
            "tokens": _named(
                (_API, ids_of("old api").accessor_id),
                (_WEB, ids_of(f"new {PREFIX}-web").accessor_id),
                (_WEB, ids_of("web").accessor_id),
            ),
            "superseded": False,
        },
    ),
    Scenario(
        "delete_unused",
        "suspects of all kinds",
        lambda _: {
            "tokens": _named(
                (_API, ids_of("old api").accessor_id),
                (_WEB, ids_of("web").accessor_id),
                ({"service": "batch"}, ids_of("batch").accessor_id),
                (_WEB, ids_of("their web").accessor_id),
                ({"token": "client"}, ids_of("client").accessor_id),
            )
        },
    ),
    Scenario(
        "delete_unused",
        "the controller's",
        lambda _: {
            "tokens": _named(({"token": "controller"}, ids_of("controller").accessor_id)),
        },
    ),
    Scenario("find_drift", "everything", _with_rules({})),
    Scenario("find_drift", "one service", _with_rules(_WEB)),
    Scenario("find_drift", "the rest", _with_rules({"after": "api"})),
    Scenario(
        "find_drift",
        "suspects",
        _with_rules({"suspects": _named((_WEB, ids_of("web").accessor_id))}),
    ),
    Scenario("plan_rotation", "one service", _with_rules(_API)),
    Scenario("plan_rotation", "the controller's", _with_rules({"token": "controller"})),
    Scenario("plan_rotation", "all services", _with_rules({"services": "all", "after": "api"})),
    Scenario(
        "prove_token",
        "a pending one",
        lambda scene: {"secret": _version(scene, f"{PREFIX}-web", pending=True)},
    ),
    Scenario(
        "check_redeployments",
        "a service's",
        lambda _: {
            "subject": _WEB,
            "since": _NOW,
            "keep_ecs_services": ["legacy"],
            "limit_minutes": 60,
        },
    ),
    Scenario(
        "check_redeployments",
        "the client's",
        lambda _: {
            "subject": {"token": "client"},
            "since": _NOW,
            "keep_ecs_services": [],
            "limit_minutes": 5,
        },
    ),
    Scenario(
        "redeploy_service", "an old deployment", lambda _: {"ecs_service": "web", "since": _NOW}
    ),
    Scenario("save_snapshot", "a Consul that is ready", lambda _: {}),
    Scenario(
        "restore_snapshot",
        "one by its key",
        lambda _: {"event": {"snapshot": SNAPSHOT}},
        _bootstrap_secret,
    ),
    Scenario("restore_snapshot", "the newest", lambda _: {"event": {}}, _bootstrap_secret),
    Scenario("report_reconciliation", "a full run", lambda _: {"run": _RUN}),
    Scenario(
        "report_rotation",
        "some that failed",
        lambda _: {"rotations": [{"service": "web", "run": {}}, {"service": "api"}]},
    ),
)


def likely_mistakes() -> list[str]:
    """Return texts that are valid somewhere else: of another object, another cluster, odd forms."""
    scene = world()
    scene.reset()
    web = f"{PREFIX}-web"
    return [
        *(scene.arn(name) for name in (web, f"{PREFIX}-api", "other-web", CONTROLLER_SECRET)),
        *(scene.current_id(name) for name in (web, f"{PREFIX}-api", CLIENT_SECRET)),
        derived_version_id(scene.arn(web), scene.current_id(web)),
        *(ids_of(what).accessor_id for what in ("web", "api", "old api", "client", "their web")),
        *(FOREIGN.accessor_id, ids_of("controller").accessor_id, ids_of("nobody").accessor_id),
        ids_of("web").accessor_id.upper(),
        *(web, "other-web", CONTROLLER_SECRET, f"{PREFIX}-bootstrap", f"{PREFIX}-db-service"),
        *("web", "api", "gone", "Web", "consul-client-token", "a" * 300, "web\n", "../web", "."),
        *(CLUSTER, OTHER_CLUSTER, f"{CLUSTER}\n", CLUSTER.replace("aws", "aws-cn"), "mesh"),
        *(task_arn("web-1"), task_arn("nobody"), task_arn("web-1").replace("mesh", "mesh-2")),
        *(SNAPSHOT, SNAPSHOT.upper(), "acme/", "acme/20991231T235959Z-1.snap"),
        *("client", "controller", "all", "service", "Create", "Delete"),
        *(CA_KEY, ENCRYPTION_KEY, f"{CA_KEY}0", "gossip key", "management token", "*.a", "a..b"),
        *(scene.arn(f"{PREFIX}-{name}") for name in ("ca", "server", "gossip", "bare", "waiting")),
        *(_NOW, "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+23:59", "2026-01-05T12:00:00"),
        *(
            "{}",
            "[]",
            '{"Cause": 5}',
            "NaN",
            "http://",
            "https://[",
            "//a b",
            "%zz",
            "-1",
            "9" * 30,
        ),
    ]
