"""What has to hold: during a run, after it, and after one Reconciliation.

The numbers are those of issue and docs: 1 one token per live service, which its secret has; 2 no
token without a service; 3 a token that a task holds exists; 4 foreign objects are untouched; 5 no
secret outside its store; 6 every execution ends in a documented way.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from handlers.core import names
from handlers.core.errors import Permanent, Retryable, error_names
from handlers.core.subjects import CLIENT, CONTROLLER, Subject, owned_subject
from local.consul.acl import Token
from tests.faults.asl import Ended
from tests.faults.simulation import Simulation
from tests.faults.step_functions import Execution
from tests.faults.world import Pulled, World

# Shorter texts, such as that of the anonymous token, may be anywhere by chance.
_SHORTEST_SECRET = len("a short text")
PASSING = frozenset(error_names(Retryable)) | {"Runtime.ExitError", "Sandbox.Timedout"}
"""Errors that are waited out: nothing that passes within minutes is a reason to end with them."""
_PERMANENT = frozenset(error_names(Permanent))
# What TokenRotation says of others: of its nested executions, which are judged by themselves, and
# of tasks that ECS has not replaced in time.
_OF_OTHERS = frozenset({"ServicesNotRotated", "RedeploymentTimeout"})


def foreign_objects(world: World) -> tuple[frozenset[Any], ...]:
    """Return everything in Consul that is not ours, as it is."""
    cluster_arn = world.template.cluster_arn
    tokens = frozenset(
        token
        for token in world.consul.tokens
        if names.owning_cluster(token.description) != cluster_arn
        # Our own policy is attached to this one, on purpose.
        and token.accessor_id != names.ANONYMOUS_TOKEN_ACCESSOR_ID
    )
    policies = frozenset(
        policy
        for policy in world.consul.policies
        if names.owning_cluster(policy.description) != cluster_arn
    )
    return tokens, policies


def tokens_of_ours(world: World) -> dict[Subject, list[Token]]:
    """Return our tokens by whom they are for."""
    found: dict[Subject, list[Token]] = {}
    for token in world.consul.tokens:
        described = {"Description": token.description}
        subject = owned_subject(described, world.template.cluster_arn)
        if subject is not None:
            found.setdefault(subject, []).append(token)
    return found


def one_token_each(world: World, *, strictly: bool) -> Iterator[str]:
    """Invariants 1 and 2: yield what is wrong.

    Unless strictly, a superseded token may still be there while tasks run that may hold it, if it
    carries the mark that lets it go with them.
    """
    ours = tokens_of_ours(world)
    live = {Subject(service=name) for name in world.services_with_tasks()} | {CLIENT, CONTROLLER}
    for subject in sorted(live | set(ours)):
        tokens = ours.get(subject, [])
        if subject not in live:
            yield from (f"invariant 2: {subject} has no task, but {t.accessor_id}" for t in tokens)
            continue
        ids = world.ids_in(_secret_name(world, subject))
        current = [token for token in tokens if ids is not None and _is(token, ids)]
        if ids is None or not current:
            yield f"invariant 1: the token in the secret of {subject} does not exist"
        for token in tokens:
            if token not in current and (strictly or not _may_stay(world, token)):
                yield f"invariant 1: {subject} has one more token, {token.accessor_id}"


def held_tokens_exist(world: World) -> Iterator[str]:
    """Invariant 3: yield what is wrong."""
    for task in world.live_tasks:
        for ids in world.pulled.get(task.arn, ()):
            token = world.consul.token(ids.accessor_id)
            if ids.accessor_id not in world.tampered and (token is None or not _is(token, ids)):
                yield f"invariant 3: the token {ids.accessor_id} of task {task.arn[-4:]} is gone"


def foreign_objects_untouched(world: World) -> Iterator[str]:
    """Invariant 4: yield what is wrong."""
    now = foreign_objects(world)
    for before, after in zip(world.foreign, now, strict=True):
        for changed in before - after:
            yield f"invariant 4: a foreign object is gone or changed: {changed}"


def no_secret_published(simulation: Simulation) -> Iterator[str]:
    """Invariant 5: yield what is wrong."""
    published = "\n".join([*simulation.published, *_descriptions(simulation)])
    for secret in set(_secrets(simulation)):
        if len(secret) > _SHORTEST_SECRET and secret in published:
            where = published.index(secret)
            context = published[max(0, where - 200) : where]
            yield f"invariant 5: a secret got out, after {context!r}"


def documented_end(
    execution: Execution, definition: Mapping[str, Any], explained: frozenset[str]
) -> str | None:
    """Invariant 6: return what is wrong.

    An execution that fails needs a reason that lasts: its error has to be one of `explained`.
    """
    ended = execution.ended
    if ended is None:
        return f"invariant 6: {execution.arn} has not ended"
    told = (
        f"invariant 6: {execution.workflow} ended as {ended.status} in {ended.states[-1:]}: "
        f"{ended.error} {ended.cause}"
    )
    last_kind = _kinds(definition["States"]).get(ended.states[-1]) if ended.states else None
    match ended.status:
        case "SUCCEEDED":
            is_documented = last_kind == "Succeed"
        case "FAILED":
            is_documented = last_kind == "Fail" and _has_a_reason(ended, explained)
        case "ABORTED":
            is_documented = execution.stopped
        case _:
            is_documented = False
    return None if is_documented else told


def _has_a_reason(ended: Ended, explained: frozenset[str]) -> bool:
    error = ended.error or ""
    if error in _PERMANENT | PASSING:
        return error in explained
    return error in _OF_OTHERS or bool(_reasons(ended.cause) & explained)


def _kinds(states: Mapping[str, Any]) -> dict[str, str]:
    kinds = {}
    for name, state in states.items():
        kinds[name] = state["Type"]
        if state["Type"] == "Map":
            inner = state.get("ItemProcessor") or state["Iterator"]
            kinds |= _kinds(inner["States"])
    return kinds


def _reasons(cause: str | None) -> set[str]:
    """Return the names of errors in a cause: it may be what a Catch got, as JSON."""
    try:
        told = json.loads(cause or "")
    except ValueError:
        return set()
    if not isinstance(told, dict):
        return set()
    reasons = {str(told[key]) for key in ("Error", "errorType") if key in told}
    return reasons | _reasons(told.get("Cause"))


def _secret_name(world: World, subject: Subject) -> str:
    if subject.service:
        return world.secret_name(subject.service)
    name = names.client_secret_name if subject == CLIENT else names.controller_secret_name
    return name(world.template.secret_prefix)


def _is(token: Token, ids: Pulled) -> bool:
    return (token.accessor_id.lower(), token.secret_id) == (
        ids.accessor_id.lower(),
        ids.secret_id,
    )


def _may_stay(world: World, token: Token) -> bool:
    since = names.not_pulled_since(token.description)
    return since is not None and any(task.created_at < since for task in world.live_tasks)


def _descriptions(simulation: Simulation) -> Iterator[str]:
    consul = simulation.consul
    yield from (token.description for token in consul.tokens)
    yield from (policy.description for policy in consul.policies)
    for secret in simulation.secrets.secrets.values():
        yield f"{secret.description} {secret.tags}"


def _secrets(simulation: Simulation) -> Iterator[str]:
    yield from simulation.consul.known.values()
    for text in simulation.secrets.values():
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        token = value.get("token") if isinstance(value, dict) else value
        if isinstance(token, str):
            yield token
