"""The Consul of a simulated world: the embedded server, with a past, and at times in trouble."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from email.message import Message
from http import HTTPMethod

from local.consul.acl import Policy, Token
from local.consul.api import Api, Flavour, State
from local.consul.exchange import Answer, Call
from local.consul.intentions import Intention
from local.consul.raft import Table
from tests.faults.history import History, View
from tests.faults.troubles import Troubles
from tests.faults.virtual_time import VirtualClock

STATES: Mapping[str, State] = {
    "restart": "starting",
    "no-leader": "no_leader",
    "outage": "no_leader",
}
"""Troubles of which the embedded server itself knows what it answers then."""


@dataclass(frozen=True)
class AclTables:
    """Everything that the ACL system knows at one moment, and the intentions."""

    tokens: Mapping[str, Token]
    accessors: Mapping[str, str]
    policies: Mapping[str, Policy]
    intentions: Mapping[tuple[str, str], Intention]
    bootstrapped_at: int | None
    index: int
    last: Mapping[Table, int]


class SimulatedConsul:
    """One Consul server.

    Attributes:
        on_deleted: called with each token at the moment at which it is deleted.

    """

    def __init__(
        self, clock: VirtualClock, flavour: Flavour, troubles: Troubles | None = None
    ) -> None:
        self._clock = clock
        self._troubles = troubles or Troubles(clock)
        self._api = Api(
            datacenter="dc1",
            acl="deny",
            initial_management=None,
            version="1.20.1" if flavour == "current" else "1.10.1",
            flavour=flavour,
            clock=clock.now,
        )
        self._history: History[AclTables] = History()
        self.on_deleted: Callable[[Token], None] = lambda _: None
        self.known: dict[str, str] = {}
        """Every secret ID that there has ever been, by accessor ID."""

    # --- requests -------------------------------------------------------------------------------

    def template(self, method: str, path: str) -> str:
        """Return the template of a request's path, as the handlers' client writes it."""
        template = self._api.template(Call(method, path, "", Message(), b""))
        return template.replace("/policy/:id", "/policy/:policy_id")

    def reset_bootstrap(self) -> None:
        """Allow another bootstrap, as a person does with the file acl-bootstrap-reset."""
        self._api._acl._bootstrapped_at = None

    def answer(self, call: Call, view: View) -> Answer:
        """Answer a request, as of a moment."""
        trouble = self._troubles.of("consul")
        self._api.state = STATES.get(trouble.name, "ready") if trouble else "ready"
        if call.method == HTTPMethod.GET:
            with self._as_of(view):
                return self._api.answer(call)
        before = self.tables
        answer = self._api.answer(call)
        after = self._api._acl._tokens
        if self._api._raft._index != before.index:
            self._history.remember(before, until=self._clock.now())
        for accessor_id, token in after.items():
            self.known[accessor_id] = token.secret_id
        for accessor_id in before.tokens.keys() - after.keys():
            self.on_deleted(before.tokens[accessor_id])
        return answer

    @contextmanager
    def _as_of(self, view: View) -> Iterator[None]:
        if view is View.NOW:
            yield
            return
        current = self.tables
        self.tables = self._history.seen(view, current, now=self._clock.now())
        try:
            yield
        finally:
            self.tables = current

    # --- what there is --------------------------------------------------------------------------

    @property
    def tables(self) -> AclTables:
        """What there is now."""
        acl, raft = self._api._acl, self._api._raft
        return AclTables(
            tokens=dict(acl._tokens),
            accessors=dict(acl._accessors),
            policies=dict(acl._policies),
            intentions=self._api._intentions.stored,
            bootstrapped_at=acl._bootstrapped_at,
            index=raft._index,
            last=dict(raft._last),
        )

    @tables.setter
    def tables(self, tables: AclTables) -> None:
        acl, raft = self._api._acl, self._api._raft
        acl._tokens = dict(tables.tokens)
        acl._accessors = dict(tables.accessors)
        acl._policies = dict(tables.policies)
        self._api._intentions.stored = tables.intentions
        acl._bootstrapped_at = tables.bootstrapped_at
        raft._index = tables.index
        raft._last = dict(tables.last)

    def token(self, accessor_id: str) -> Token | None:
        """Return a token."""
        return self._api._acl._tokens.get(accessor_id.lower())

    @property
    def tokens(self) -> list[Token]:
        """All tokens."""
        return list(self._api._acl._tokens.values())

    @property
    def policies(self) -> list[Policy]:
        """All policies."""
        return list(self._api._acl._policies.values())

    # --- what people do -------------------------------------------------------------------------

    def plant(self, token: Token) -> None:
        """Put a token there, as a person with a management token would."""
        acl = self._api._acl
        self._history.remember(self.tables, until=self._clock.now())
        index = self._api._raft.append("tokens")
        acl._put(replace(token, create_index=index, modify_index=index))
        self.known[token.accessor_id] = token.secret_id

    def plant_server(self, name: str, node_id: str) -> None:
        """Put another server into the catalog, which no Raft knows."""
        self._api._catalog.servers[name] = node_id

    def change_policy(self, name: str, rules: str) -> None:
        """Write other rules into a policy, as a person would."""
        acl = self._api._acl
        policy = acl.policy_by_name(name)
        assert policy is not None
        self._history.remember(self.tables, until=self._clock.now())
        index = self._api._raft.append("policies")
        acl._policies[policy.id] = replace(policy, rules=rules, modify_index=index)

    def delete(self, accessor_id: str) -> None:
        """Delete a token, as a person would."""
        before = self.tables
        if self._api._acl.delete_token(accessor_id, caller_secret=""):
            self._history.remember(before, until=self._clock.now())
