"""The ACL system: tokens, policies, and what they allow.

Pure state and rules, no HTTP. Field names and texts are Consul's. Every operation either happens
completely or raises a :class:`~local.consul.errors.Refusal` and changes nothing; the caller
serialises operations.
"""

from __future__ import annotations

import base64
import hashlib
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from local.consul.decoding import format_duration
from local.consul.errors import AclNotFound, Invalid, PermissionDenied
from local.consul.raft import RaftLog
from local.consul.rules import (
    Authorizer,
    Default,
    RuleSet,
    node_identity_rules,
    parse_rules,
    service_identity_rules,
)

ANONYMOUS_ACCESSOR = "00000000-0000-0000-0000-000000000002"
ANONYMOUS_SECRET = "anonymous"
GLOBAL_MANAGEMENT_ID = "00000000-0000-0000-0000-000000000001"
_GLOBAL_MANAGEMENT_RULES = """
acl = "write"
agent_prefix "" {
	policy = "write"
}
event_prefix "" {
	policy = "write"
}
key_prefix "" {
	policy = "write"
}
keyring = "write"
node_prefix "" {
	policy = "write"
}
operator = "write"
query_prefix "" {
	policy = "write"
}
service_prefix "" {
	policy = "write"
	intentions = "write"
}
session_prefix "" {
	policy = "write"
}"""  # the text of Consul 1.10.1, byte for byte: its hash is part of what clients see
_RESERVED_PREFIX = "00000000-0000-0000-0000-0000000000"

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_UUID_LENGTH = 36
_POLICY_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
# First and last character alphanumeric, no upper case: for services up to 256 characters.
_IDENTITY_NAME = re.compile(r"[a-z0-9]|[a-z0-9][a-z0-9_-]{0,254}[a-z0-9]")
_ALPHANUMERIC = "Only alphanumeric characters, '-' and '_' are allowed"

_SHORTEST_LIFE = timedelta(minutes=1)
_LONGEST_LIFE = timedelta(hours=24)


@dataclass(frozen=True, order=True)
class ServiceIdentity:
    """The right to be a service and its sidecar proxy, in some datacenters or (none) in all."""

    service_name: str
    datacenters: tuple[str, ...] = ()


@dataclass(frozen=True, order=True)
class NodeIdentity:
    """The right to be a node of a datacenter."""

    node_name: str
    datacenter: str


@dataclass(frozen=True, kw_only=True)
class Token:
    """An ACL token as it is stored. Its SecretID is not part of its repr."""

    accessor_id: str
    secret_id: str = field(repr=False)
    description: str = ""
    policy_ids: tuple[str, ...] = ()
    service_identities: tuple[ServiceIdentity, ...] = ()
    node_identities: tuple[NodeIdentity, ...] = ()
    local: bool = False
    # Tokens from `acl bootstrap` and from the configuration carry a type of the old ACL system,
    # which nothing shows, except that it goes into their hash.
    legacy_type: str = ""
    expiration_time: datetime | None = None
    create_time: datetime
    create_index: int
    modify_index: int

    @property
    def hash(self) -> str:
        """Consul's hash of everything that a user may set."""
        return _hash(
            self.description,
            self.legacy_type,
            "local" if self.local else "global",
            *self.policy_ids,
            *(part for s in self.service_identities for part in (s.service_name, *s.datacenters)),
            *(part for n in self.node_identities for part in (n.node_name, n.datacenter)),
        )


@dataclass(frozen=True, kw_only=True)
class Policy:
    """An ACL policy as it is stored."""

    id: str
    name: str
    description: str = ""
    rules: str = ""
    datacenters: tuple[str, ...] = ()
    create_index: int
    modify_index: int

    @property
    def hash(self) -> str:
        """Consul's hash of everything that a user may set."""
        return _hash(self.name, self.description, self.rules, *self.datacenters)


@dataclass(frozen=True, kw_only=True)
class TokenRequest:
    """What a client wants a token to be; ``policies`` are links with an ``ID`` or a ``Name``."""

    accessor_id: str = ""
    secret_id: str = field(default="", repr=False)
    description: str = ""
    policies: Sequence[Mapping[str, str]] = ()
    roles: Sequence[Mapping[str, str]] = ()
    service_identities: Sequence[ServiceIdentity] = ()
    node_identities: Sequence[NodeIdentity] = ()
    local: bool = False
    expiration_time: datetime | None = None
    expiration_ttl: timedelta | None = None


@dataclass(frozen=True, kw_only=True)
class PolicyRequest:
    """What a client wants a policy to be."""

    id: str = ""
    name: str = ""
    description: str = ""
    rules: str = ""
    datacenters: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class SavedAcls:
    """What a snapshot has of the ACL system."""

    policies: tuple[Policy, ...]
    tokens: tuple[Token, ...]
    bootstrapped_at: int | None


class AclState:
    """All tokens and policies of one datacenter.

    Parameters
    ----------
    raft
        Counts the writes.
    default
        Consul's ``default_policy``.
    initial_management
        SecretID of a management token that exists from the start, as from Consul's configuration;
        the ACL system counts as bootstrapped then.
    clock
        The current time; tokens expire by it.
    """

    def __init__(
        self,
        *,
        raft: RaftLog,
        datacenter: str,
        default: Default,
        initial_management: str | None,
        clock: Callable[[], datetime],
    ) -> None:
        self._raft = raft
        self._datacenter = datacenter
        self._default = default
        self._clock = clock
        # By accessor ID, and from secret to accessor ID; the keys are in lower case.
        self._tokens: dict[str, Token] = {}
        self._accessors: dict[str, str] = {}
        self._policies: dict[str, Policy] = {}
        self._bootstrapped_at: int | None = None
        index = raft.append("policies")
        self._policies[GLOBAL_MANAGEMENT_ID] = Policy(
            id=GLOBAL_MANAGEMENT_ID,
            name="global-management",
            description="Builtin Policy that grants unlimited access",
            rules=_GLOBAL_MANAGEMENT_RULES,
            create_index=index,
            modify_index=index,
        )
        if initial_management is not None:
            token = self._add_management_token("Master Token", initial_management)
            self._bootstrapped_at = token.create_index
        index = raft.append("tokens")
        self._put(
            Token(
                accessor_id=ANONYMOUS_ACCESSOR,
                secret_id=ANONYMOUS_SECRET,
                description="Anonymous Token",
                create_time=clock(),
                create_index=index,
                modify_index=index,
            )
        )

    # Snapshots ----------------------------------------------------------------------------------

    def save(self) -> SavedAcls:
        """Everything that there is."""
        return SavedAcls(
            policies=tuple(self._policies.values()),
            tokens=tuple(self._tokens.values()),
            bootstrapped_at=self._bootstrapped_at,
        )

    def restore(self, saved: SavedAcls) -> None:
        """Replace everything by what was saved."""
        self._policies = {policy.id: policy for policy in saved.policies}
        self._tokens, self._accessors = {}, {}
        for token in saved.tokens:
            self._put(token)
        self._bootstrapped_at = saved.bootstrapped_at

    # What a caller may do -----------------------------------------------------------------------

    def authorizer(self, secret_id: str) -> Authorizer:
        """What the holder of a secret may do; an empty secret is the anonymous token.

        Raises
        ------
        AclNotFound
            No token has this secret, or it has expired.
        """
        token = self.token_by_secret(secret_id or ANONYMOUS_SECRET)
        if token is None:
            raise AclNotFound
        return Authorizer(RuleSet.merged(self._rules_of(token)), self._default)

    def _rules_of(self, token: Token) -> Iterable[RuleSet]:
        for policy_id in token.policy_ids:
            policy = self._policies.get(policy_id)
            if policy and (not policy.datacenters or self._datacenter in policy.datacenters):
                yield parse_rules(policy.rules)
        for service in token.service_identities:
            if not service.datacenters or self._datacenter in service.datacenters:
                yield service_identity_rules(service.service_name)
        for node in token.node_identities:
            if node.datacenter == self._datacenter:
                yield node_identity_rules(node.node_name)

    # Bootstrap ----------------------------------------------------------------------------------

    def bootstrap(self, secret_id: str | None = None) -> Token:
        """Make the first management token, once; with a secret of the caller's choice or ours.

        Raises
        ------
        PermissionDenied
            It has been done before.
        """
        if self._bootstrapped_at is not None:
            index = self._bootstrapped_at
            raise PermissionDenied(f"ACL bootstrap no longer allowed (reset index: {index})")
        if secret_id is not None:
            self._check_free("SecretID", secret_id)
        token = self._add_management_token(
            "Bootstrap Token (Global Management)", secret_id or self._new_uuid()
        )
        self._bootstrapped_at = token.create_index
        return token

    def _add_management_token(self, description: str, secret_id: str) -> Token:
        index = self._raft.append("tokens")
        token = Token(
            accessor_id=self._new_uuid(),
            secret_id=secret_id,
            description=description,
            policy_ids=(GLOBAL_MANAGEMENT_ID,),
            legacy_type="management",
            create_time=self._clock(),
            create_index=index,
            modify_index=index,
        )
        self._put(token)
        return token

    # Tokens -------------------------------------------------------------------------------------

    def token_by_accessor(self, accessor_id: str) -> Token | None:
        """Find a token that has not expired.

        Raises
        ------
        Invalid
            The accessor ID is not a UUID.
        """
        _check_uuid_index("token", accessor_id)
        return self._alive(self._tokens.get(accessor_id.lower()))

    def token_by_secret(self, secret_id: str) -> Token | None:
        """Find a token that has not expired, by its exact SecretID."""
        accessor_id = self._accessors.get(secret_id.lower())
        token = self._alive(self._tokens[accessor_id]) if accessor_id else None
        return token if token and token.secret_id == secret_id else None

    def tokens(self, *, policy_id: str = "", service_name: str = "") -> list[Token]:
        """All tokens that have not expired, in Consul's order: by SecretID.

        A filter that is empty does not filter. ``policy_id`` also finds tokens that still link a
        policy that has been deleted.
        """
        return sorted(
            (
                token
                for token in self._tokens.values()
                if self._alive(token)
                and (not policy_id or policy_id in token.policy_ids)
                and (not service_name or _is_for_service(token, service_name))
            ),
            key=lambda token: token.secret_id,
        )

    def create_token(self, request: TokenRequest) -> Token:
        """Create a token, with the IDs that the request gives or with new ones.

        Raises
        ------
        Invalid
            IDs that are malformed, reserved or in use; unknown policies; wrong identities.
        """
        accessor_id = request.accessor_id
        if accessor_id:
            _check_uuid_index("token", accessor_id, "Failed acl token lookup by accessor: ")
            self._check_free("AccessorID", accessor_id)
        if request.secret_id:
            self._check_free("SecretID", request.secret_id)
        now = self._clock()
        expiration = _expiration(request, now)
        links = self._links(request)
        index = self._raft.append("tokens")
        token = Token(
            accessor_id=accessor_id or self._new_uuid(),
            secret_id=request.secret_id or self._new_uuid(),
            description=request.description,
            local=request.local,
            expiration_time=expiration,
            create_time=now,
            create_index=index,
            modify_index=index,
            **links,
        )
        self._put(token)
        return token

    def update_token(self, request: TokenRequest) -> Token:
        """Replace a token by what the request says; what it leaves out is dropped.

        Raises
        ------
        Invalid
            No such token, something that cannot be changed, or a wrong link or identity.
        """
        accessor_id = request.accessor_id
        _check_uuid_index("token", accessor_id, "Failed acl token lookup by accessor: ")
        existing = self.token_by_accessor(accessor_id)
        if existing is None:
            raise Invalid(f'Cannot find token "{accessor_id}"')
        if request.secret_id not in {"", existing.secret_id}:
            raise Invalid("Changing a tokens SecretID is not permitted")
        if request.local != existing.local:
            raise Invalid(f"cannot toggle local mode of {accessor_id}")
        changed_time = request.expiration_time not in {None, existing.expiration_time}
        if changed_time or request.expiration_ttl:
            raise Invalid(f"Cannot change expiration time of {accessor_id}")
        links = self._links(request)
        token = replace(
            existing,
            description=request.description,
            legacy_type="",
            modify_index=self._raft.append("tokens"),
            **links,
        )
        self._put(token)
        return token

    def clone_token(self, accessor_id: str, description: str) -> Token:
        """Create a token that may do what another one may; both IDs are new.

        Raises
        ------
        AclNotFound
            There is no token to clone.
        """
        source = self.token_by_accessor(accessor_id)
        if source is None:
            raise AclNotFound
        index = self._raft.append("tokens")
        clone = replace(
            source,
            accessor_id=self._new_uuid(),
            secret_id=self._new_uuid(),
            description=description or source.description,
            legacy_type="",
            create_time=self._clock(),
            create_index=index,
            modify_index=index,
        )
        self._put(clone)
        return clone

    def delete_token(self, accessor_id: str, *, caller_secret: str) -> bool:
        """Delete a token; says whether there was one.

        Raises
        ------
        Invalid
            The accessor ID is no UUID, or is the anonymous token's or the caller's own.
        """
        if not _UUID.fullmatch(accessor_id):
            raise Invalid("Accessor ID is missing or an invalid UUID")
        if accessor_id == ANONYMOUS_ACCESSOR:
            raise Invalid("Delete operation not permitted on the anonymous token")
        token = self.token_by_accessor(accessor_id)
        if token is None:
            return False
        if token.secret_id == caller_secret:
            raise Invalid("Deletion of the request's authorization token is not permitted")
        del self._tokens[accessor_id.lower()]
        del self._accessors[token.secret_id.lower()]
        self._raft.append("tokens")
        return True

    def _put(self, token: Token) -> None:
        self._tokens[token.accessor_id.lower()] = token
        self._accessors[token.secret_id.lower()] = token.accessor_id.lower()

    def _alive(self, token: Token | None) -> Token | None:
        expired = token and token.expiration_time and token.expiration_time <= self._clock()
        return None if expired else token

    def _check_free(self, what: str, given: str) -> None:
        """Check an ID that a client has chosen: accessors and secrets share one name space."""
        if not _UUID.fullmatch(given):
            raise Invalid(f"Invalid Token: {what} is not a valid UUID")
        if given.startswith(_RESERVED_PREFIX):
            raise Invalid(f'Invalid Token: UUIDs with the prefix "{_RESERVED_PREFIX}" are reserved')
        if self._in_use(given):
            raise Invalid(f"Invalid Token: {what} is already in use")

    def _in_use(self, given: str) -> bool:
        wanted = given.lower()
        accessor_ids = (wanted, self._accessors.get(wanted, ""))
        return any(self._alive(self._tokens.get(each)) for each in accessor_ids)

    def _links(self, request: TokenRequest) -> dict[str, Any]:
        """Everything of a token that refers to something else, checked and without repetitions."""
        policy_ids = dict.fromkeys(self._policy_id(link) for link in request.policies)
        for link in request.roles:
            # There are no roles here, so every link to one leads nowhere.
            raise Invalid(f"No such ACL role with {_key(link)}")
        return {
            "policy_ids": tuple(policy_ids),
            "service_identities": _service_identities(request),
            "node_identities": _node_identities(request.node_identities),
        }

    def _policy_id(self, link: Mapping[str, str]) -> str:
        policy_id = link.get("ID", "")
        name = link.get("Name", "")
        policy = self._policies.get(policy_id) if policy_id else self.policy_by_name(name)
        if policy is None:
            raise Invalid(f"No such ACL policy with {_key(link)}")
        return policy.id

    def _new_uuid(self) -> str:
        return str(uuid.uuid4())

    # Policies -----------------------------------------------------------------------------------

    def policy_by_id(self, policy_id: str) -> Policy | None:
        """Find a policy.

        Raises
        ------
        Invalid
            The ID is not a UUID.
        """
        _check_uuid_index("policy", policy_id)
        return self._policies.get(policy_id.lower())

    def policy_by_name(self, name: str) -> Policy | None:
        """Find a policy by its name, in any case."""
        wanted = name.lower()
        return next((p for p in self._policies.values() if p.name.lower() == wanted), None)

    def policies(self) -> list[Policy]:
        """All policies, in Consul's order: by ID."""
        return sorted(self._policies.values(), key=lambda policy: policy.id)

    def set_policy(self, request: PolicyRequest) -> Policy:
        """Create a policy, or (if the request has an ID) replace one.

        Raises
        ------
        Invalid
            A name that is missing, malformed or taken, rules that cannot be parsed, an ID that is
            unknown, or a change to what is fixed about the builtin policy.
        """
        if not request.name:
            raise Invalid("Invalid Policy: no Name is set")
        if not _POLICY_NAME.fullmatch(request.name):
            raise Invalid(f"Invalid Policy: invalid Name. {_ALPHANUMERIC}")
        namesake = self.policy_by_name(request.name)
        if not request.id:
            if namesake:
                raise Invalid(f'Invalid Policy: A Policy with Name "{request.name}" already exists')
            existing = None
        else:
            existing = self._policy_to_update(request, namesake)
        parse_rules(request.rules)
        index = self._raft.append("policies")
        policy = Policy(
            id=existing.id if existing else self._new_uuid(),
            name=request.name,
            description=request.description,
            rules=request.rules,
            datacenters=tuple(request.datacenters),
            create_index=existing.create_index if existing else index,
            modify_index=index,
        )
        self._policies[policy.id] = policy
        return policy

    def _policy_to_update(self, request: PolicyRequest, namesake: Policy | None) -> Policy:
        if not _UUID.fullmatch(request.id):
            raise Invalid("Policy ID invalid UUID")
        existing = self.policy_by_id(request.id)
        if existing is None:
            raise Invalid(f"cannot find policy {request.id}")
        if namesake and namesake.id != existing.id:
            # Not the wording of a duplicate at creation: "name" is written small here.
            raise Invalid(f'Invalid Policy: A policy with name "{request.name}" already exists')
        if existing.id == GLOBAL_MANAGEMENT_ID:
            what = "Datacenters of" if request.datacenters else "Rules for"
            if request.datacenters or request.rules != existing.rules:
                raise Invalid(
                    f"Changing the {what} the builtin global-management policy is not permitted"
                )
        return existing

    def delete_policy(self, policy_id: str) -> bool:
        """Delete a policy; says whether there was one. Tokens keep a link that means nothing.

        Raises
        ------
        Invalid
            The ID is not a UUID, or that of the builtin policy.
        """
        policy = self.policy_by_id(policy_id)
        if policy is None:
            return False
        if policy.id == GLOBAL_MANAGEMENT_ID:
            raise Invalid("Delete operation not permitted on the builtin global-management policy")
        del self._policies[policy.id]
        self._raft.append("policies")
        return True

    def policy_links(self, token: Token) -> list[Policy]:
        """The policies of a token that still exist."""
        return [self._policies[i] for i in token.policy_ids if i in self._policies]


def _hash(*parts: str) -> str:
    digest = hashlib.blake2b("".join(parts).encode(), digest_size=32).digest()
    return base64.b64encode(digest).decode()


def _check_uuid_index(kind: str, given: str, prefix: str = "") -> None:
    if len(given) != _UUID_LENGTH:
        raise Invalid(f"{prefix}failed acl {kind} lookup: index error: UUID must be 36 characters")
    if not _UUID.fullmatch(given):
        raise Invalid(f"{prefix}failed acl {kind} lookup: index error: Invalid UUID")


def _key(link: Mapping[str, str]) -> str:
    """What a link to a policy or role goes by: the ID wins over the name."""
    return f'ID "{link["ID"]}"' if link.get("ID") else f'name "{link.get("Name", "")}"'


def _expiration(request: TokenRequest, now: datetime) -> datetime | None:
    ttl = request.expiration_ttl
    if ttl and ttl < timedelta(0):
        raise Invalid(f"Token Expiration TTL '{format_duration(ttl)}' should be > 0")
    if ttl and request.expiration_time:
        raise Invalid("Token Expiration TTL and Expiration Time cannot both be set")
    expiration = now + ttl if ttl else request.expiration_time
    if expiration is None:
        return None
    life = expiration - now
    if life < timedelta(0):
        raise Invalid("ExpirationTime cannot be before CreateTime")
    for wrong, word, limit in (
        (life > _LONGEST_LIFE, "more", _LONGEST_LIFE),
        (life < _SHORTEST_LIFE, "less", _SHORTEST_LIFE),
    ):
        if wrong:
            raise Invalid(
                f"ExpirationTime cannot be {word} than {format_duration(limit)} in the future "
                f"(was {format_duration(life)})"
            )
    return expiration


def _service_identities(request: TokenRequest) -> tuple[ServiceIdentity, ...]:
    merged: dict[str, set[str]] = {}
    everywhere = set()
    for identity in request.service_identities:
        name = identity.service_name
        if not name:
            raise Invalid("Service identity is missing the service name field on this token")
        if request.local and identity.datacenters:
            raise Invalid(
                f'Service identity "{name}" cannot specify a list of datacenters on a local token'
            )
        if not _IDENTITY_NAME.fullmatch(name):
            raise Invalid(f'Service identity "{name}" has an invalid name. {_ALPHANUMERIC}')
        merged.setdefault(name, set()).update(identity.datacenters)
        if not identity.datacenters:
            everywhere.add(name)
    return tuple(
        ServiceIdentity(name, () if name in everywhere else tuple(sorted(datacenters)))
        for name, datacenters in sorted(merged.items())
    )


def _node_identities(identities: Iterable[NodeIdentity]) -> tuple[NodeIdentity, ...]:
    for identity in identities:
        for value, what in ((identity.node_name, "name"), (identity.datacenter, "datacenter")):
            if not value:
                raise Invalid(f"Node identity is missing the {what} field on this token")
        if not _IDENTITY_NAME.fullmatch(identity.node_name):
            raise Invalid(f"Node identity has an invalid name. {_ALPHANUMERIC}")
    return tuple(sorted(set(identities)))


def _is_for_service(token: Token, service_name: str) -> bool:
    return any(s.service_name == service_name for s in token.service_identities)


def utc_now() -> datetime:
    """The current time, with a time zone."""
    return datetime.now(UTC)
