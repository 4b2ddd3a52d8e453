"""ACL rules: what a policy's text says, and whether a set of rules allows something.

Pure: no HTTP, no state. The semantics are those of Consul's ``acl`` package: an exact rule beats
a prefix, the longest prefix wins, and where two policies of one token name the same thing, deny
beats write beats list beats read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, TypeAlias

from local.consul.errors import Invalid
from local.consul.hcl import HclError, Value, parse

Access: TypeAlias = Literal["read", "write"]
Default: TypeAlias = Literal["allow", "deny"]

# Resources that are named (service "web" {...}), each with a twin for prefixes
# (service_prefix "web-" {...}); the value is the Go struct that Consul prints of a wrong rule.
_NAMED: Mapping[str, tuple[str, str]] = {
    "agent": ("AgentRule", "Node"),
    "event": ("EventRule", "Event"),
    "key": ("KeyRule", "Prefix"),
    "node": ("NodeRule", "Name"),
    "query": ("PreparedQueryRule", "Prefix"),
    "service": ("ServiceRule", "Name"),
    "session": ("SessionRule", "Node"),
}
# Resources that exist once: acl = "read".
_SCALAR = ("acl", "keyring", "operator")

# What wins where several policies speak of the same thing.
_PRECEDENCE = ("read", "list", "write", "deny")


@dataclass(frozen=True)
class RuleSet:
    """The rules of one or more policies, merged."""

    exact: Mapping[tuple[str, str], str] = field(default_factory=dict)
    prefix: Mapping[tuple[str, str], str] = field(default_factory=dict)

    @staticmethod
    def merged(rule_sets: Iterable[RuleSet]) -> RuleSet:
        """Merge the rules of all policies of a token."""
        exact: dict[tuple[str, str], str] = {}
        prefix: dict[tuple[str, str], str] = {}
        for rules in rule_sets:
            for into, more in ((exact, rules.exact), (prefix, rules.prefix)):
                for key, level in more.items():
                    into[key] = max(into.get(key, "read"), level, key=_PRECEDENCE.index)
        return RuleSet(exact, prefix)

    def level(self, resource: str, name: str) -> str | None:
        """The level that applies to a thing: ``read``, ``list``, ``write``, ``deny`` or none."""
        exact = self.exact.get((resource, name))
        if exact is not None:
            return exact
        matching = [
            (len(prefix), level)
            for (kind, prefix), level in self.prefix.items()
            if kind == resource and name.startswith(prefix)
        ]
        return max(matching)[1] if matching else None


@dataclass(frozen=True)
class Authorizer:
    """What one token may do: its rules, and the server's default where they say nothing."""

    rules: RuleSet
    default: Default

    def allows(self, access: Access, resource: str, name: str = "") -> bool:
        """Tell whether the token has access to a resource, e.g. ``"write", "service", "web"``."""
        return self._is_enough(access, self.rules.level(resource, name), resource)

    def allows_intention(self, access: Access, service: str) -> bool:
        """Tell whether the token has access to the intentions of a service, or of all: ``*``."""
        if service != "*":
            return self.allows(access, "intention", service)
        levels: list[str | None] = [
            level
            for rules in (self.rules.exact, self.rules.prefix)
            for (resource, _), level in rules.items()
            if resource == "intention"
        ]
        enough = [self._is_enough(access, level, "intention") for level in levels or [None]]
        # To see what concerns all services, one rule that allows it will do.
        return any(enough) if access == "read" else all(enough)

    def _is_enough(self, access: Access, level: str | None, resource: str) -> bool:
        if level is None:
            # A default of "allow" opens everything except the ACL system itself.
            return self.default == "allow" and resource != "acl"
        return level == "write" or (access == "read" and level in {"read", "list"})


ALLOW_ALL = Authorizer(RuleSet(), "allow")
"""Everything except the ACL system; what everybody has where ACLs are disabled."""


def parse_rules(source: str) -> RuleSet:
    """Read the rules of a policy.

    Resources that Consul does not know are ignored, as Consul does.

    Raises
    ------
    Invalid
        With Consul's text, if the source cannot be parsed or names an unknown level.
    """
    # Errors are raised outside of the cached function: a cached exception would grow a traceback.
    result = _parse_rules(source)
    if isinstance(result, str):
        raise Invalid(result)
    return result


@lru_cache(maxsize=512)
def _parse_rules(source: str) -> RuleSet | str:
    try:
        document = parse(source)
    except HclError as error:
        return f"Failed to parse ACL rules: {error}"
    exact: dict[tuple[str, str], str] = {}
    prefix: dict[tuple[str, str], str] = {}
    for resource in _SCALAR:
        level = document.get(resource)
        if level is None:
            continue
        if level not in {"read", "write", "deny"}:
            return f'Invalid {resource} policy: "{level}"'
        exact[resource, ""] = str(level)
    for resource in _NAMED:
        for key, into in ((resource, exact), (f"{resource}_prefix", prefix)):
            for name, rule in _rules_of(document.get(key)):
                problem = _problem(resource, name, rule)
                if problem:
                    return problem
                into[resource, name] = str(rule["policy"])
                if resource == "service" and rule.get("intentions"):
                    into["intention", name] = str(rule["intentions"])
    return RuleSet(_with_intentions(exact), _with_intentions(prefix))


def _with_intentions(rules: Mapping[tuple[str, str], str]) -> dict[tuple[str, str], str]:
    """Add what a rule for a service allows of its intentions if it does not say: reading them."""
    derived = {
        ("intention", name): "deny" if level == "deny" else "read"
        for (resource, name), level in rules.items()
        if resource == "service"
    }
    return derived | dict(rules)


def _rules_of(block: Value) -> Iterable[tuple[str, dict[str, Value]]]:
    """The named rules of a block; in JSON a block may also be a list of blocks."""
    blocks = block if isinstance(block, list) else [block]
    for each in blocks:
        if isinstance(each, dict):
            for name, rule in each.items():
                if isinstance(rule, list):
                    rule = rule[0] if rule else {}  # noqa: PLW2901
                yield name, rule if isinstance(rule, dict) else {}


def _problem(resource: str, name: str, rule: Mapping[str, Value]) -> str | None:
    level = rule.get("policy", "")
    levels = {"read", "write", "deny"} | ({"list"} if resource == "key" else set())
    intentions = rule.get("intentions", "")
    if level in levels and intentions in {"", "read", "write", "deny"}:
        return None
    struct, name_field = _NAMED[resource]
    extra = f' Intentions:"{intentions}",' if resource == "service" else ""
    what = "service intentions" if resource == "service" and level in levels else resource
    return (
        f'Invalid {what} policy: &acl.{struct}{{{name_field}:"{name}", Policy:"{level}",{extra} '
        "EnterpriseRule:acl.EnterpriseRule{}}"
    )


def service_identity_rules(service_name: str) -> RuleSet:
    """The rules that a service identity stands for.

    The service and its sidecar proxy may be written; every service and node may be read, which a
    proxy needs to find its upstreams.
    """
    return RuleSet(
        exact=_with_intentions(
            {
                ("service", service_name): "write",
                ("service", f"{service_name}-sidecar-proxy"): "write",
            }
        ),
        prefix=_with_intentions({("service", ""): "read", ("node", ""): "read"}),
    )


def node_identity_rules(node_name: str) -> RuleSet:
    """The rules that a node identity stands for: write the node, read every service."""
    return RuleSet(
        exact={("node", node_name): "write"}, prefix=_with_intentions({("service", ""): "read"})
    )
