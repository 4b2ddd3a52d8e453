"""Whether an agent would take its configuration files.

The keys are those that a client agent in a task may need, and that every Consul from 1.10 to 1.21
knows (``agent/config/config.go`` of Consul; for newer ones its page "Agents Configuration File
Reference"). So ``tls`` is not among them, which 1.10 and 1.11 refuse, nor ``ports.grpc_tls``, which
came with 1.14. A server may have both, and what else only servers need. A real agent also refuses
what it does not know.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

_TEXTS = ("list of strings",)
_KEYS: Mapping[str, Any] = {
    "acl": {
        "default_policy": str,
        "down_policy": str,
        "enable_token_persistence": bool,
        "enabled": bool,
        "policy_ttl": str,
        "role_ttl": str,
        "token_ttl": str,
        "tokens": {"agent": str, "default": str},
    },
    "addresses": {"dns": str, "grpc": str, "http": str, "https": str},
    "advertise_addr": str,
    "advertise_reconnect_timeout": str,
    "auto_encrypt": {"dns_san": _TEXTS, "ip_san": _TEXTS, "tls": bool},
    "bind_addr": str,
    "ca_file": str,
    "check_update_interval": str,
    "client_addr": str,
    "data_dir": str,
    "datacenter": str,
    "disable_anonymous_signature": bool,
    "disable_host_node_id": bool,
    "disable_keyring_file": bool,
    "disable_update_check": bool,
    "enable_central_service_config": bool,
    "enable_local_script_checks": bool,
    "enable_script_checks": bool,
    "encrypt": str,
    "encrypt_verify_incoming": bool,
    "encrypt_verify_outgoing": bool,
    "leave_on_terminate": bool,
    "log_json": bool,
    "log_level": str,
    "node_id": str,
    "node_meta": dict,
    "node_name": str,
    "ports": {"dns": int, "grpc": int, "http": int, "https": int, "serf_lan": int},
    "primary_datacenter": str,
    "reconnect_timeout": str,
    "rejoin_after_leave": bool,
    "retry_interval": str,
    "retry_join": _TEXTS,
    "retry_max": int,
    "server": bool,
    "skip_leave_on_interrupt": bool,
    "tagged_addresses": dict,
    "telemetry": dict,
    "translate_wan_addrs": bool,
    "verify_incoming": bool,
    "verify_outgoing": bool,
    "verify_server_hostname": bool,
}
_TLS: Mapping[str, Any] = {
    "ca_file": str,
    "cert_file": str,
    "key_file": str,
    "tls_min_version": str,
    "verify_incoming": bool,
    "verify_outgoing": bool,
}
_SERVER_KEYS: Mapping[str, Any] = {
    **_KEYS,
    "acl": {
        **_KEYS["acl"],
        "tokens": {"agent": str, "default": str, "initial_management": str, "replication": str},
    },
    "auto_encrypt": {"allow_tls": bool},
    "autopilot": {
        "cleanup_dead_servers": bool,
        "last_contact_threshold": str,
        "max_trailing_logs": int,
        "min_quorum": int,
        "server_stabilization_time": str,
    },
    "bootstrap_expect": int,
    "cert_file": str,
    "connect": {"enabled": bool},
    "key_file": str,
    "performance": {"leave_drain_time": str, "raft_multiplier": int, "rpc_hold_timeout": str},
    "ports": {**_KEYS["ports"], "grpc_tls": int, "serf_wan": int, "server": int},
    "tls": {
        "defaults": _TLS,
        "grpc": _TLS,
        "https": _TLS,
        "internal_rpc": {**_TLS, "verify_server_hostname": bool},
    },
    "ui_config": {"content_path": str, "enabled": bool},
}
_GOSSIP_KEY_BYTES = {16, 24, 32}
_DURATION = re.compile(r"(\d+(\.\d+)?(ns|us|ms|s|m|h))+")
_DURATIONS = ("advertise_reconnect_timeout", "check_update_interval", "retry_interval")
_DEFAULT_POLICIES = {"allow", "deny"}
_DOWN_POLICIES = {"allow", "deny", "extend-cache", "async-cache"}


class ConfigError(ValueError):
    """An agent would not start with this file. No value of it is in the message."""


def read_config(*texts: str) -> dict[str, Any]:
    """Read the contents of files, each of which adds to those before it.

    Raises
    ------
    ConfigError
        One is not JSON, has a key that Consul does not know, or a value that it does not take.
    """
    config: dict[str, Any] = {}
    for text in texts:
        config = _merged(config, _parsed(text))
    is_server = config.get("server") is True
    if problems := [*_problems(config, _SERVER_KEYS if is_server else _KEYS, "")]:
        raise ConfigError("; ".join(problems))
    problems = [*_wrong_values(config), *(_wrong_for_server(config) if is_server else ())]
    if problems:
        raise ConfigError("; ".join(problems))
    return config


def tls_of(config: Mapping[str, Any], use: str) -> dict[str, Any]:
    """Return what a server's configuration says of TLS for one use, such as ``https``."""
    tls: Mapping[str, Any] = config.get("tls", {})
    return {**tls.get("defaults", {}), **tls.get(use, {})}


def _parsed(text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except ValueError:
        raise ConfigError("failed to parse: it is not JSON") from None
    if not isinstance(config, dict):
        raise ConfigError("failed to parse: it is not an object")
    return config


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Add one configuration to another: lists grow, and the later of two values counts."""
    merged = dict(first)
    for key, value in second.items():
        before = merged.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            merged[key] = _merged(before, value)
        elif isinstance(before, list) and isinstance(value, list):
            merged[key] = [*before, *value]
        else:
            merged[key] = value
    return merged


def _problems(config: Mapping[str, Any], keys: Mapping[str, Any], where: str) -> Iterator[str]:
    for key, value in config.items():
        kind = keys.get(key)
        if kind is None:
            yield f"invalid config key {where}{key}"
        elif isinstance(kind, Mapping):
            if isinstance(value, dict):
                yield from _problems(value, kind, f"{where}{key}.")
            else:
                yield f"{where}{key} is not an object"
        elif kind is _TEXTS:
            if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
                yield f"{where}{key} is not a list of strings"
        elif type(value) is not kind:
            yield f"{where}{key} is not of type {kind.__name__}"


def _wrong_values(config: Mapping[str, Any]) -> Iterator[str]:
    if not config.get("data_dir"):
        yield "data_dir cannot be empty"
    if not re.fullmatch(r"[a-z0-9_-]+", config.get("datacenter", "dc1")):
        yield "datacenter must be lower-case letters, digits, - and _"
    for key in ("advertise_addr", "bind_addr"):
        try:
            ipaddress.ip_address(config.get(key, "127.0.0.1"))
        except ValueError:
            yield f"{key} is not an IP address"
    for key in _DURATIONS:
        if key in config and not _DURATION.fullmatch(config[key]):
            yield f"{key}: invalid duration"
    if not config.get("retry_join") and not config.get("server"):
        yield "retry_join is empty: a client agent joins nothing"
    if config.get("verify_outgoing") and not config.get("ca_file"):
        yield "verify_outgoing needs a CA: ca_file is empty"
    yield from _wrong_policies(config.get("acl", {}))
    yield from _wrong_key(config)


def _wrong_for_server(config: Mapping[str, Any]) -> Iterator[str]:
    if config.get("bootstrap_expect", 0) < 1:
        yield "bootstrap_expect is not set: the server would wait for others"
    https, rpc = tls_of(config, "https"), tls_of(config, "internal_rpc")
    if config.get("ports", {}).get("https", -1) > 0 and not _has(https, "cert_file", "key_file"):
        yield "ports.https needs a certificate and its key: tls.defaults.cert_file and key_file"
    if rpc.get("verify_outgoing") and not _has(rpc, "ca_file"):
        yield "verify_outgoing needs a CA: tls.defaults.ca_file is empty"
    if rpc.get("verify_incoming") and not _has(rpc, "ca_file", "cert_file", "key_file"):
        yield "verify_incoming needs a CA, and a certificate with its key"


def _has(config: Mapping[str, Any], *keys: str) -> bool:
    return all(config.get(key) for key in keys)


def _wrong_key(config: Mapping[str, Any]) -> Iterator[str]:
    try:
        key = base64.b64decode(config.get("encrypt", ""), validate=True)
    except binascii.Error:
        key = b"?"
    if config.get("encrypt") is not None and len(key) not in _GOSSIP_KEY_BYTES:
        yield "encrypt has invalid key: 16, 24 or 32 bytes in base64 are one"


def _wrong_policies(acl: Mapping[str, Any]) -> Iterator[str]:
    if acl.get("default_policy", "allow") not in _DEFAULT_POLICIES:
        yield "acl.default_policy is none of allow and deny"
    if acl.get("down_policy", "extend-cache") not in _DOWN_POLICIES:
        yield "acl.down_policy is none of allow, deny, extend-cache and async-cache"
