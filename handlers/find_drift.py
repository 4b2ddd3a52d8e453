"""What is wrong with the tokens of the cluster?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from handlers.clients.consul import ConsulClient, Json
from handlers.clients.consul_connection import consul
from handlers.clients.ecs import Ecs
from handlers.clients.secrets_manager import SecretsManager
from handlers.clients.token_state import ids_in_secrets, seen, seen_token
from handlers.clients.token_users import oldest_tasks
from handlers.core import clock
from handlers.core.deployment import Deployment
from handlers.core.drift import SeenToken, judge
from handlers.core.errors import InvalidEvent
from handlers.core.findings import Findings
from handlers.core.step import step
from handlers.core.step_input import take
from handlers.core.subjects import CLIENT, CONTROLLER, Subject, owned_subject
from handlers.core.workflow_input import named_subject


@step
def handler(state: Mapping[str, Any]) -> dict[str, Any]:
    """Compare Consul with ECS and with Secrets Manager, and say what is to be done.

    Tokens are read before tasks: a service of which a task starts meanwhile has one too many in
    the worst case, never one too few. All tasks of the cluster are read, a page at a time.

    Input: `{"event": …, "service_rules": {service name: HCL}}`. The event is `{}` for everything;
    `{"service": name}` or `{"token": "client"}` for one token; `{"after": service name}` to go on
    after a part; `{"suspects": […]}`, as an earlier look returned them, for those alone.

    Result: see `handlers.core.findings.Findings.to_state`.

    Raises:
        InvalidEvent, InvalidServiceName: for other inputs.
        ClusterNotBootstrapped: if there is no controller token yet.

    """
    is_wanted = _scope(take(state, "event", dict))
    rules = take(state, "service_rules", dict)
    deployment = Deployment.from_environment()
    client = consul()
    tokens: dict[Subject, list[SeenToken]] = {}

    def keep(token: Json) -> tuple[Subject, SeenToken] | None:
        subject = owned_subject(token, deployment.cluster_arn)
        if subject is None or not is_wanted(subject):
            return None
        return subject, seen_token(token, deployment.wanted(subject, rules))

    for subject, token in client.list_tokens(keep):
        tokens.setdefault(subject, []).append(token)
    oldest = oldest_tasks(Ecs().live_tasks(deployment.cluster_arn), deployment)
    subjects = sorted(filter(is_wanted, {*tokens, *oldest, CLIENT, CONTROLLER}))
    findings = Findings()
    for subject, in_secret in ids_in_secrets(subjects, deployment, SecretsManager()):
        found = seen(subject, tokens.get(subject, ()), in_secret, oldest)
        if found.is_needed:
            wanted = deployment.wanted(subject, rules)
            found = replace(found, policy_as_wanted=_policy_as_wanted(client, wanted))
        findings.add(subject, judge(found, clock.now()))
        if findings.is_full:
            break
    return findings.to_state()


def _scope(event: Mapping[str, Any]) -> Callable[[Subject], bool]:
    """Return what tells whether a subject is to be looked at."""
    if "suspects" in event:
        suspects = take(event, "suspects", list)
        subjects = {Subject.from_state(take(item, "subject", dict)) for item in suspects}
        return subjects.__contains__
    named = named_subject(event)
    if named is not None:
        return named.__eq__
    after = event.get("after", "")
    if set(event) - {"after"} or not isinstance(after, str):
        message = (
            'Start the workflow with {} for everything, {"service": "…"} or {"token": "client"} '
            'for one token, or {"after": "…"}, the name of a service, to go on after it.'
        )
        raise InvalidEvent(message)
    # The shared tokens come first, and have no name.
    return lambda subject: not after or subject.service > after


def _policy_as_wanted(client: ConsulClient, wanted: Mapping[str, Any]) -> bool:
    policy = wanted.get("policy")
    if policy is None:
        return True
    found = client.read_policy(policy["name"])
    return found is not None and (found.get("Description"), found.get("Rules")) == (
        policy["description"],
        policy["rules"],
    )
