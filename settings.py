"""The settings of a deployment: what they are, how they are read, what is said when they are wrong.

`load_settings` reads `mesh.yaml`, or another file of the same shape, and returns a frozen, typed
`Settings`; everything that is wrong with the file ends in one `SettingsError`, whose text is meant
for the person who wrote the file. The models only judge values; reading files and wording errors
is done by the functions below them.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, TypeAlias, get_args
from urllib.parse import SplitResult, urlsplit

import hcl2
import yaml
from lark.exceptions import LarkError, UnexpectedInput, UnexpectedToken
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError, PydanticUndefined

from handlers.core import names

# --------------------------------------------------------------------------------------------------
# Rules, each with its source
# --------------------------------------------------------------------------------------------------

# ECS, CreateCluster: up to 255 letters, digits, hyphens and underscores.
_CLUSTER_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,255}")
# IAM user guide, "ARN format". Partitions differ (aws, aws-cn, aws-us-gov, aws-iso-b, aws-eusc, …)
# and new ones appear, so only their form is checked.
_ARN_START: Final = r"arn:aws(?:-[a-z0-9]+)*"
_REGION_AND_ACCOUNT: Final = r"(?P<region>[a-z]{2,}(?:-[a-z0-9]+)+):(?P<account>[0-9]{12})"
_CLUSTER_ARN: Final = re.compile(
    rf"{_ARN_START}:ecs:{_REGION_AND_ACCOUNT}:cluster/(?P<name>{_CLUSTER_NAME.pattern})"
)
# Secrets Manager, CreateSecret: these characters in a name; it appends a hyphen and 6 characters.
_SECRET_ARN: Final = re.compile(
    rf"{_ARN_START}:secretsmanager:{_REGION_AND_ACCOUNT}:secret:[A-Za-z0-9/_+=.@-]+-[A-Za-z0-9]{{6}}"
)
_SECRET_ARN_START: Final = re.compile(
    rf"{_ARN_START}:secretsmanager:{_REGION_AND_ACCOUNT}:secret:[^:]+"
)
# KMS developer guide, "Key identifiers": a UUID, or `mrk-` and 32 digits for a multi-Region key. An
# alias is not enough: permissions are given on keys.
_KMS_KEY_ARN: Final = re.compile(
    rf"{_ARN_START}:kms:{_REGION_AND_ACCOUNT}:key/"
    r"(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32})"
)
# Consul, `acl.IsValidPolicyName` (agent/consul/acl_endpoint.go in 1.10).
_POLICY_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_MAX_POLICY_NAME: Final = 128
# Every deployment makes these policies, so the prefix has to leave room for the longest of them.
_MAX_PREFIX: Final = _MAX_POLICY_NAME - max(
    len(names.client_policy_name("")), len(names.controller_policy_name(""))
)
_PREFIX: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{_MAX_PREFIX - 1}}}")
# Consul, agent/config/builder.go: it lower-cases its datacenter's name and takes only [a-z0-9-_].
_DATACENTER: Final = re.compile(r"[a-z0-9_-]+")
# RFC 1123 with the underscore that private DNS names such as Cloud Map's may have.
_HOST_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_MAX_HOST: Final = 253
_MAX_PORT: Final = 65_535
# Consul documentation, "Cloud Auto-join": `provider=` and other pairs, in any order.
_CLOUD_AUTO_JOIN: Final = re.compile(r"(?:[!-~]+ +)*provider=[!-~]+(?: +[!-~]+)*")
# go-discover's parameters that are credentials: secret_access_key, api_token, password, …
_CREDENTIAL: Final = r"\b\w*(?:secret|password|token|api_key)\w*=\S"
# The reference of an image: registry, path, tag, digest (github.com/distribution/reference).
_IMAGE_PART: Final = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_IMAGE: Final = re.compile(
    rf"(?:[A-Za-z0-9.-]+(?::[0-9]+)?/)?{_IMAGE_PART}(?:/{_IMAGE_PART})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)
_MAX_IMAGE: Final = 255
# EC2's IDs: 8 hexadecimal digits for what was made before 2018, else 17.
_HEX_ID: Final = r"(?:[0-9a-f]{8}|[0-9a-f]{17})"
_VPC_ID: Final = re.compile(rf"vpc-{_HEX_ID}")
_SUBNET_ID: Final = re.compile(rf"subnet-{_HEX_ID}")
_SECURITY_GROUP_ID: Final = re.compile(rf"sg-{_HEX_ID}")
# Lambda, VpcConfig: so many a function.
_MAX_SUBNETS: Final = 16
_MAX_SECURITY_GROUPS: Final = 5
# AWS Tagging user guide, "Tag naming limits and requirements". AWS allows 50 tags on a resource;
# the app adds some of its own.
_TAG_TEXT: Final = re.compile(r"[\w .:/=+@-]*")
_MAX_TAGS: Final = 40
_MAX_TAG_KEY: Final = 128
_MAX_TAG_VALUE: Final = 256
# EventBridge user guide, "Rate expressions": rate(value unit), a positive number of minutes, hours
# or days. The upper ends are ours: whoever wants to wait longer starts the workflow by hand.
_MINUTES_A_DAY: Final = 1440
_DAYS_A_YEAR: Final = 365
# ECS, ContainerDefinition: a container's stopTimeout is up to 2 minutes on Fargate, and those of a
# task stop one after the other. A shorter wait only sees what is about to end.
_SHORTEST_WAIT_MINUTES: Final = 5
# Step Functions developer guide, "Map state in Inline mode": up to 40 iterations at once. Each
# replaces all tasks of a service, so half of that has to do.
_MAX_CONCURRENCY: Final = 20
# ECS, CreateService: up to 255 letters, digits, hyphens and underscores.
_ECS_SERVICE_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,255}")
# They travel in the definition of a state machine: the variables of a function have 4 KB in all.
_MAX_KEPT_ECS_SERVICES: Final = 100
# The rules travel in the definitions of state machines, four times in a template, which may have
# 1 MB in all (CloudFormation quotas).
_MAX_RULES_BYTES: Final = 60 * 1024

RETENTION_DAYS: Final = (
    1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180,
    365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653,
)  # fmt: skip
"""What CloudWatch Logs allows: the values of `aws_cdk.aws_logs.RetentionDays`, without INFINITE."""

RESERVED_SERVICE_NAMES: Final = tuple(
    own.removeprefix(names.service_secret_name("", ""))
    for own in (names.client_secret_name(""), names.controller_secret_name(""))
)
"""Services that cannot be: the secret `<prefix>-<service>` would be one of the controller's."""

_SECRET_LOOK: Final = re.compile(
    rf"""-----BEGIN                                  # PEM: a private key, a certificate
      | (?<![0-9a-z])(?<!:key/)(?<!:key/mrk-)       # UUID: a token, if not the ID of a KMS key
        [0-9a-f]{{8}}-?(?:[0-9a-f]{{4}}-?){{3}}[0-9a-f]{{12}}(?![0-9a-z])
      | ://[^/\s]*@                                 # a password in a URL
      | {_CREDENTIAL}                               # a password among parameters
      | (?<![A-Za-z0-9+/])[A-Za-z0-9+/]{{43}}=        # 32 bytes in base64: a gossip key
    """,
    re.IGNORECASE | re.VERBOSE,
)

# More than that nobody reads at once.
_MAX_PROBLEMS: Final = 100
_TOO_DEEP: Final = "is nested too deeply"

HTTP_ADDRESS_RULE: Final = (
    "http:// or https://, a host and, unless it is 80 or 443, a port: http://consul.internal:8500"
)
DATACENTER_RULE: Final = "the name of Consul's datacenter: lower-case letters, digits, '-' and '_'"
JOIN_ADDRESS_RULE: Final = (
    "the address of a Consul server, with a port unless it is 8301 (consul.internal, "
    "10.0.0.1:8301), or a text for Consul's cloud auto-join (provider=aws tag_key=… tag_value=…)"
)


def _refuse(why: str = "") -> NoReturn:
    """Refuse a value inside a validator.

    The field's description already says what is allowed; `why` adds what it cannot know.
    """
    raise PydanticCustomError("refused", "{why}", {"why": why})


def _matching(pattern: re.Pattern[str]) -> AfterValidator:
    """Return a validator for text that has to match the pattern from end to end."""

    def check(value: str) -> str:
        if pattern.fullmatch(value) is None:
            _refuse()
        return value

    return AfterValidator(check)


def _check_cluster(value: str) -> str:
    if (_CLUSTER_ARN if ":" in value or "/" in value else _CLUSTER_NAME).fullmatch(value) is None:
        _refuse()
    return value


def _check_prefix(value: str) -> str:
    if len(value) > _MAX_PREFIX:
        _refuse(
            f"it has {len(value)} characters; with more than {_MAX_PREFIX} the name of the policy "
            f"<prefix>{names.controller_policy_name('')} is too long for Consul"
        )
    if _PREFIX.fullmatch(value) is None:
        _refuse()
    return value


def _check_secret_arn(value: str) -> str:
    if _SECRET_ARN.fullmatch(value) is None:
        if (start := _SECRET_ARN_START.match(value)) is not None:
            if start.end() < len(value):
                _refuse("leave out the JSON key and version that follow the secret's own ARN")
            _refuse("the hyphen and 6 characters that Secrets Manager appends are missing")
        _refuse()
    return value


def _check_datacenter(value: str) -> str:
    if _DATACENTER.fullmatch(value) is None:
        lowered = value.lower()
        _refuse(f"Consul knows it as {lowered!r}" if _DATACENTER.fullmatch(lowered) else "")
    return value


def _is_host(host: str) -> bool:
    """Whether it is an IP address or a DNS name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        labels = host.removesuffix(".").split(".")
        # Four numbers that are no IP address are a typing error, not a name.
        return (
            len(host) <= _MAX_HOST
            and not labels[-1].isdigit()
            and all(_HOST_LABEL.fullmatch(label) for label in labels)
        )
    return True


def _check_http_address(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        _refuse()
    # urlsplit drops tabs and line ends and takes any digits, so look at the text itself first.
    if not value.isascii() or any(character <= " " or character == "\x7f" for character in value):
        _refuse("it has characters that do not belong into an address")
    try:
        parts = urlsplit(value)
        host, port = parts.hostname, parts.port
    except ValueError:
        _refuse(f"the host or the port (1 to {_MAX_PORT}) cannot be read")
    if "@" in parts.netloc:
        _refuse("leave out the user and the password")
    if parts.path or "?" in value or "#" in value:
        _refuse("leave out everything after the host and the port, a final '/' too")
    if port == 0:
        _refuse(f"the port must be 1 to {_MAX_PORT}")
    if not host or not _is_host(host):
        _refuse("the host is neither an IP address nor a DNS name")
    # urlsplit also drops what it cannot place: '[::1]x:80' has the host '::1' for it.
    netloc = (f"[{host}]" if ":" in host else host) + ("" if port is None else f":{port}")
    if netloc != parts.netloc.lower():
        _refuse("host and port cannot be read")
    return value


def _check_join_address(value: str) -> str:
    if re.search(_CREDENTIAL, value, re.IGNORECASE):
        _refuse("leave the credentials out: the role of the tasks is asked for them")
    if _CLOUD_AUTO_JOIN.fullmatch(value):
        return value
    if "://" in value:
        _refuse("leave out the scheme: agents join with a protocol of their own")
    try:
        ipaddress.ip_address(value)
    except ValueError:
        _check_http_address(f"http://{value}")
    return value


def _check_kms_key_arn(value: str) -> str:
    if _KMS_KEY_ARN.fullmatch(value) is None:
        _refuse(
            "give the ARN of the key that the alias stands for"
            if "alias/" in value
            else "it is not the ARN of a key"
        )
    return value


def _check_image(value: str) -> str:
    if len(value) > _MAX_IMAGE or _IMAGE.fullmatch(value) is None:
        _refuse("leave out the scheme" if "://" in value else "")
    return value


def _check_service_name(value: str) -> str:
    if not names.is_valid_service_name(value):
        _refuse()
    if value in RESERVED_SERVICE_NAMES:
        _refuse("its secret would be one of the controller's own")
    return value


def _check_retention(value: int) -> int:
    # No Literal: True is 1 and 30.0 is 30 for it.
    if value not in RETENTION_DAYS:
        _refuse()
    return value


def _check_tag_key(value: str) -> str:
    if value.lower().startswith("aws:"):
        _refuse("AWS keeps the start 'aws:' for itself")
    if not 1 <= len(value) <= _MAX_TAG_KEY or _TAG_TEXT.fullmatch(value) is None:
        _refuse()
    return value


def _check_tag_value(value: str) -> str:
    if len(value) > _MAX_TAG_VALUE or _TAG_TEXT.fullmatch(value) is None:
        _refuse()
    return value


def _check_tags(tags: dict[str, str]) -> dict[str, str]:
    if len(tags) > _MAX_TAGS:
        _refuse(f"there are {len(tags)}")
    seen: dict[str, str] = {}
    for key in tags:
        # IAM refuses a role with such a pair; other services would take it.
        if (other := seen.setdefault(key.lower(), key)) != key:
            _refuse(f"{other!r} and {key!r} differ in upper and lower case only")
    return tags


def _check_distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    if twice := sorted({value for value in values if values.count(value) > 1}):
        _refuse(f"listed more than once: {', '.join(twice)}")
    return values


def _check_rules(text: str) -> str:
    """Check that the text is a policy that Consul can parse: HCL, or JSON as it does."""
    if not text.strip():
        _refuse("the file is empty")
    if len(text.encode(errors="replace")) > _MAX_RULES_BYTES:
        _refuse(f"the file is larger than {_MAX_RULES_BYTES // 1024} KiB")
    try:
        # Consul takes rules that start with a brace for JSON.
        has_rules = _has_json_rules(text) if text.lstrip()[0] == "{" else _has_hcl_rules(text)
    except RecursionError:
        _refuse(f"the file {_TOO_DEEP}")
    if not has_rules:
        _refuse("the file holds no rules")
    return text


def _has_json_rules(text: str) -> bool:
    try:
        rules = json.loads(text)
    except json.JSONDecodeError as error:
        _refuse(f"not JSON from line {error.lineno}, column {error.colno} on")
    except ValueError:
        _refuse("it holds a number that is too long")
    return bool(rules)


def _has_hcl_rules(text: str) -> bool:
    try:
        # The parser wants a heredoc and a comment to end with a line end; Consul does not.
        tree = hcl2.parses_to_tree(text if text.endswith("\n") else f"{text}\n")
    except UnexpectedInput as error:
        if isinstance(error, UnexpectedToken) and error.token.type == "$END":
            _refuse("the file ends too early: is a '}' missing?")
        _refuse(
            f"not HCL from line {error.line}, column {error.column} on "
            "(write every rule on a line of its own, without commas)"
        )
    except LarkError:
        _refuse("not HCL")
    return any(True for _ in tree.find_pred(lambda node: node.data in {"attribute", "block"}))


def _tuple_from_list(value: object) -> object:
    """Make a YAML list immutable; leave anything else to be refused as it is."""
    return tuple(value) if isinstance(value, list) else value


def _nothing_is_empty(value: object) -> object:
    """Take a section whose entries are all commented out for an empty one."""
    return {} if value is None else value


# --------------------------------------------------------------------------------------------------
# Models
# --------------------------------------------------------------------------------------------------

SecretArn: TypeAlias = Annotated[str, AfterValidator(_check_secret_arn)]
HttpAddress: TypeAlias = Annotated[str, AfterValidator(_check_http_address)]
Datacenter: TypeAlias = Annotated[str, AfterValidator(_check_datacenter)]
JoinAddress: TypeAlias = Annotated[str, AfterValidator(_check_join_address)]
Image: TypeAlias = Annotated[str, AfterValidator(_check_image)]


def _image_rule(whose: str) -> str:
    return (
        f"null, or the image of {whose}: [<registry>/]<repository>[:<tag>][@sha256:<digest>], "
        "all but registry and tag in lower case"
    )


class _Section(BaseModel):
    """What all sections share. The descriptions of their fields say what is allowed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class EcsSettings(_Section):
    """The ECS cluster whose tasks get tokens."""

    cluster: Annotated[str, AfterValidator(_check_cluster)] = Field(
        description="the name (1 to 255 letters, digits, '-' and '_') or the ARN of an ECS cluster "
        "(arn:<partition>:ecs:<region>:<account>:cluster/<name>)"
    )

    @property
    def is_arn(self) -> bool:
        """Whether the cluster is given as an ARN."""
        return self._match is not None

    @property
    def cluster_name(self) -> str:
        """The cluster's name, also where its ARN is given."""
        return self._match["name"] if self._match else self.cluster

    @property
    def arn_region(self) -> str | None:
        """The region in the cluster's ARN; None where only the name is given."""
        return self._match["region"] if self._match else None

    @property
    def arn_account(self) -> str | None:
        """The account in the cluster's ARN; None where only the name is given."""
        return self._match["account"] if self._match else None

    @property
    def _match(self) -> re.Match[str] | None:
        return _CLUSTER_ARN.fullmatch(self.cluster)


class SecretsSettings(_Section):
    """The names of the secrets that tasks pull."""

    prefix: Annotated[str, AfterValidator(_check_prefix)] = Field(
        description=f"1 to {_MAX_PREFIX} letters, digits, '-' and '_', the first one a letter or a "
        "digit; it starts the names of secrets and, what forbids other characters, of policies in "
        "Consul"
    )
    kms_key_arn: Annotated[str, AfterValidator(_check_kms_key_arn)] | None = Field(
        default=None,
        description="null (the account's key aws/secretsmanager), or the ARN of a key in KMS: "
        "arn:<partition>:kms:<region>:<account>:key/<key ID>",
    )


class ConsulSettings(_Section):
    """Where the Consul servers are, and how to get in."""

    http_address: HttpAddress = Field(description=HTTP_ADDRESS_RULE)
    datacenter: Datacenter = Field(default="dc1", description=DATACENTER_RULE)
    retry_join: Annotated[
        tuple[JoinAddress, ...],
        BeforeValidator(_tuple_from_list),
        AfterValidator(_check_distinct),
    ] = Field(default=(), description=f"a list, each entry {JOIN_ADDRESS_RULE}")
    bootstrap_token_secret_arn: SecretArn | None = Field(
        default=None,
        description="null, or the complete ARN of the secret in Secrets Manager that holds a "
        "management token: arn:<partition>:secretsmanager:<region>:<account>:secret:<name>-<6 "
        "characters>",
    )
    client_token_secret_arn: SecretArn | None = Field(
        default=None,
        description="null, or the complete ARN of the secret in Secrets Manager that is to hold "
        "the consul-client containers' token: arn:<partition>:secretsmanager:<region>:<account>:"
        "secret:<name>-<6 characters>",
    )
    ca_secret_arn: SecretArn | None = Field(
        default=None,
        description="null, or the complete ARN of the secret in Secrets Manager that holds the PEM "
        "of the private CA: arn:<partition>:secretsmanager:<region>:<account>:secret:<name>-<6 "
        "characters>",
    )
    gossip_key_secret_arn: SecretArn | None = Field(
        default=None,
        description="null, or the complete ARN of the secret in Secrets Manager that holds the "
        "gossip key: arn:<partition>:secretsmanager:<region>:<account>:secret:<name>-<6 "
        "characters>",
    )
    anonymous_policy: bool = Field(default=True, description="true or false")

    @field_validator("ca_secret_arn")
    @classmethod
    def _check_ca_has_a_use(cls, value: str | None, info: ValidationInfo) -> str | None:
        # http_address is absent here if it was refused itself.
        if value is not None and info.data.get("http_address", "https:").startswith("http:"):
            _refuse("a CA is used with https:// only, and consul.http_address is http://")
        return value

    @property
    def uses_tls(self) -> bool:
        """Whether Consul is talked to over TLS."""
        return self._address.scheme == "https"

    @property
    def host(self) -> str:
        """The host in the address: a DNS name, or an IP address without brackets."""
        return self._address.hostname or ""

    @property
    def port(self) -> int:
        """The port in the address, else the one that its scheme implies: 80 or 443."""
        return self._address.port or (443 if self.uses_tls else 80)

    @property
    def _address(self) -> SplitResult:
        return urlsplit(self.http_address)


class NetworkSettings(_Section):
    """The part of a VPC from which the handlers reach Consul."""

    vpc_id: Annotated[str, _matching(_VPC_ID)] = Field(
        description="the ID of a VPC: 'vpc-' and 8 or 17 hexadecimal digits"
    )
    subnet_ids: Annotated[
        tuple[Annotated[str, _matching(_SUBNET_ID)], ...],
        BeforeValidator(_tuple_from_list),
        AfterValidator(_check_distinct),
    ] = Field(
        min_length=1,
        max_length=_MAX_SUBNETS,
        description=f"a list of 1 to {_MAX_SUBNETS} IDs of subnets: 'subnet-' and 8 or 17 "
        "hexadecimal digits",
    )
    security_group_ids: Annotated[
        Annotated[
            tuple[Annotated[str, _matching(_SECURITY_GROUP_ID)], ...],
            Field(min_length=1, max_length=_MAX_SECURITY_GROUPS),
            AfterValidator(_check_distinct),
        ]
        | None,
        BeforeValidator(_tuple_from_list),
    ] = Field(
        default=None,
        description=f"null (one is made), or a list of 1 to {_MAX_SECURITY_GROUPS} IDs of security "
        "groups: 'sg-' and 8 or 17 hexadecimal digits",
    )


class ReconciliationSettings(_Section):
    """How often, and how patiently, Consul and the secrets are compared with what runs."""

    every_minutes: int | None = Field(
        default=5,
        ge=1,
        le=_MINUTES_A_DAY,
        description=f"null (only by hand), or a whole number of minutes, 1 to {_MINUTES_A_DAY}",
    )
    grace_minutes: int = Field(
        default=15,
        ge=_SHORTEST_WAIT_MINUTES,
        le=_MINUTES_A_DAY,
        description=f"a whole number of minutes, {_SHORTEST_WAIT_MINUTES} to {_MINUTES_A_DAY}",
    )


def _days_or_by_hand() -> Any:
    """Return the field of an interval that has no default."""
    return Field(
        default=None,
        ge=1,
        le=_DAYS_A_YEAR,
        description=f"null (only by hand), or a whole number of days, 1 to {_DAYS_A_YEAR}",
    )


class RotationSettings(_Section):
    """How often tokens get new IDs, and how the services' tasks come to have them."""

    services_every_days: int | None = _days_or_by_hand()
    client_token_every_days: int | None = _days_or_by_hand()
    controller_token_every_days: int | None = _days_or_by_hand()
    concurrency: int = Field(
        default=1,
        ge=1,
        le=_MAX_CONCURRENCY,
        description=f"how many services at a time, 1 to {_MAX_CONCURRENCY}",
    )
    pause_minutes: int = Field(
        default=0,
        ge=0,
        le=_MINUTES_A_DAY,
        description=f"a whole number of minutes, 0 to {_MINUTES_A_DAY}",
    )
    stable_within_minutes: int = Field(
        default=60,
        ge=_SHORTEST_WAIT_MINUTES,
        le=_MINUTES_A_DAY,
        description=f"a whole number of minutes, {_SHORTEST_WAIT_MINUTES} to {_MINUTES_A_DAY}",
    )
    keep_ecs_services: Annotated[
        tuple[Annotated[str, _matching(_ECS_SERVICE_NAME)], ...],
        BeforeValidator(_tuple_from_list),
        AfterValidator(_check_distinct),
    ] = Field(
        default=(),
        max_length=_MAX_KEPT_ECS_SERVICES,
        description=f"a list of at most {_MAX_KEPT_ECS_SERVICES} names of ECS services: 1 to 255 "
        "letters, digits, '-' and '_' each",
    )


class ServiceSettings(_Section):
    """What one service gets beyond the usual."""

    rules: Annotated[str, AfterValidator(_check_rules)] = Field(
        description="the path, from this file, of a file with ACL rules in HCL or JSON, such as "
        "policies/web.hcl"
    )
    """The rules themselves, in HCL or JSON; in the settings file, the path of their file."""
    rules_file: Path
    """The file that the rules were read from."""


class ImageSettings(_Section):
    """The images of the containers that join a task to the mesh."""

    consul: Image | None = Field(default=None, description=_image_rule("Consul"))
    envoy: Image | None = Field(default=None, description=_image_rule("Envoy"))
    mesh_init: Image | None = Field(
        default=None, description=_image_rule("mesh-init and health-sync")
    )


class Settings(_Section):
    """All settings of one deployment."""

    ecs: EcsSettings = Field(description="which ECS cluster")
    secrets: SecretsSettings = Field(description="how secrets are named")
    consul: ConsulSettings = Field(description="where Consul is")
    network: NetworkSettings | None = Field(default=None, description="null, or the VPC to run in")
    services: Annotated[
        dict[Annotated[str, AfterValidator(_check_service_name)], ServiceSettings],
        BeforeValidator(_nothing_is_empty),
    ] = Field(
        default_factory=dict,
        description="services by name (" + names.SERVICE_NAME_RULE + ")",
    )
    images: Annotated[ImageSettings, BeforeValidator(_nothing_is_empty)] = Field(
        default_factory=ImageSettings, description="the images of the mesh's own containers"
    )
    reconciliation: Annotated[ReconciliationSettings, BeforeValidator(_nothing_is_empty)] = Field(
        default_factory=ReconciliationSettings,
        description="when tokens are compared with what runs",
    )
    rotation: Annotated[RotationSettings, BeforeValidator(_nothing_is_empty)] = Field(
        default_factory=RotationSettings, description="when tokens get new IDs"
    )
    log_retention_days: Annotated[int, AfterValidator(_check_retention)] = Field(
        default=30,
        description="one of " + ", ".join(str(days) for days in RETENTION_DAYS),
    )
    tags: Annotated[
        dict[
            Annotated[str, AfterValidator(_check_tag_key)],
            Annotated[str, AfterValidator(_check_tag_value)],
        ],
        BeforeValidator(_nothing_is_empty),
        AfterValidator(_check_tags),
    ] = Field(
        default_factory=dict,
        description=f"at most {_MAX_TAGS} tags: keys of 1 to {_MAX_TAG_KEY} characters and texts "
        f"of at most {_MAX_TAG_VALUE}: letters, digits, spaces and _ . : / = + - @",
    )

    @model_validator(mode="after")
    def _check_across_sections(self) -> Settings:
        texts = {name: service.rules for name, service in self.services.items()}
        if problems := list(_service_problems(self.secrets.prefix, texts)):
            where, why = problems[0]
            _refuse(f"{_show_path(where)}: {why}")
        return self


def _service_problems(prefix: str | None, rules: Mapping[str, str]) -> Iterable[tuple[_Loc, str]]:
    """Yield what only shows when sections are seen together: where, and why it is refused.

    Args:
        prefix: the prefix of secrets and policies, or None if it is not known.
        rules: the rules of each service, by its name.

    """
    for service in rules if prefix is not None else ():
        policy = names.service_policy_name(prefix or "", service)
        if _POLICY_NAME.fullmatch(policy) is None:
            scheme = names.service_policy_name("<prefix>", "<service>")
            why = (
                f"the name of its policy, {scheme}, would have {len(policy)} characters, "
                f"and Consul allows {_MAX_POLICY_NAME}"
            )
            yield ("services", service), why
    if (total := sum(len(text.encode()) for text in rules.values())) > _MAX_RULES_BYTES:
        why = (
            f"the rules of all services have {total:,} bytes together, "
            f"and {_MAX_RULES_BYTES // 1024} KiB are allowed"
        )
        yield ("services",), why


def problem_of(value: object, kind: Any) -> str | None:
    """Return what is wrong with a value for one of the types above, or None if it fits.

    For values that come from Python rather than from a file. The text says what the value is,
    unless it looks like a secret, and why it does not fit.
    """
    try:
        TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        why = str(error.errors(include_url=False)[0].get("ctx", {}).get("why", ""))
        if not isinstance(value, str):
            return f"of the type {type(value).__name__}"
        found = _describe(yaml.ScalarNode(_TEXT, value))
        return f"{found}: {why}" if why and not _SECRET_LOOK.search(why) else found
    return None


# --------------------------------------------------------------------------------------------------
# Reading
# --------------------------------------------------------------------------------------------------

_Loc: TypeAlias = tuple[str | int, ...]

# The tags that YAML gives to plain values.
_TEXT: Final = "tag:yaml.org,2002:str"
_NULL: Final = "tag:yaml.org,2002:null"
_BOOL: Final = "tag:yaml.org,2002:bool"
_INT: Final = "tag:yaml.org,2002:int"
_FLOAT: Final = "tag:yaml.org,2002:float"
_DATE: Final = "tag:yaml.org,2002:timestamp"

_EXAMPLE: Final = """\
ecs:
  cluster: my-cluster
secrets:
  prefix: consul
consul:
  http_address: http://consul.internal:8500
"""


class SettingsError(Exception):
    """The settings cannot be used. Its text, of several lines, says why and what is allowed."""


@dataclass(frozen=True)
class _Problem:
    """One thing that is wrong with the file."""

    loc: _Loc
    found: str
    allowed: str = ""
    note: str = ""
    line: int | None = None

    def render(self) -> str:
        """Return the paragraph for this problem."""
        where = _show_path(self.loc) if self.loc else "the file as a whole"
        lines = [f"{where} (line {self.line})" if self.line else where]
        for label, text in (("found", self.found), ("allowed", self.allowed), ("note", self.note)):
            if text:
                lines.append(f"  {label + ':':<8} {text}")
        return "\n".join(f"  {line}" for line in lines)


def load_settings(path: Path) -> Settings:
    """Read, check and return the settings in a YAML file.

    Raises:
        SettingsError: naming every problem at once: the path in the file, the line, what was
            found and what is allowed. Values that look like secrets are left out.

    """
    document = _Document(path, _compose(path))
    data, problems = document.to_python()
    services = _read_rules(data.get("services"), path.parent, document, problems)
    if "services" in data:
        data["services"] = services
    settings: Settings | None = None
    try:
        settings = Settings.model_validate(data)
    except ValidationError as error:
        # The check across sections has run if nothing else is wrong; it names one problem only.
        errors = [detail for detail in error.errors(include_url=False) if detail["loc"]]
        # A list counts as too short when all of its entries are wrong, which is said already.
        entries = {detail["loc"][:-1] for detail in errors}
        problems += [
            _from_validation(detail, document)
            for detail in errors
            if detail["type"] != "too_short" or detail["loc"] not in entries
        ]
    problems += _across_sections(data, document, problems)
    if problems or settings is None:
        raise SettingsError(_render(path, problems))
    return settings


def _compose(path: Path) -> yaml.Node:
    """Return the root of the YAML document in the file."""
    try:
        root = yaml.compose(path.read_bytes(), Loader=yaml.SafeLoader)
    except FileNotFoundError:
        example = "\n".join(f"    {line}".rstrip() for line in _EXAMPLE.splitlines())
        raise SettingsError(
            f"{path}: there is no such file.\n\n"
            "  Copy the project's mesh.yaml, which explains every key, or start with the keys\n"
            f"  that have no default:\n\n{example}"
        ) from None
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror or error}.") from None
    except yaml.MarkedYAMLError as error:
        raise SettingsError(f"{path}{_explain_syntax(error)}") from None
    except yaml.YAMLError:
        raise SettingsError(f"{path}: not YAML: it holds characters that are no text.") from None
    except RecursionError:
        raise SettingsError(f"{path}: {_TOO_DEEP}.") from None
    except (ValueError, OverflowError):
        # PyYAML lets impossible escapes ("\U7fffffff") and the like through to Python.
        raise SettingsError(
            f"{path}: not YAML: it holds a character that does not exist."
        ) from None
    if root is None:
        raise SettingsError(
            f"{path}: the file is empty. At least these keys are needed:\n\n{_EXAMPLE}"
        )
    if not isinstance(root, yaml.MappingNode):
        known = ", ".join(Settings.model_fields)
        raise SettingsError(
            f"{path}: the file must be a mapping with the keys {known}; found {_describe(root)}."
        )
    return root


def _explain_syntax(error: yaml.MarkedYAMLError) -> str:
    """Return place and reason of a syntax error, without the line itself: it may hold a secret."""
    mark = error.problem_mark or error.context_mark
    where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    hint = " Indent with spaces, not with tabs." if "'\\t'" in (error.problem or "") else ""
    reason = ", ".join(part for part in (error.context, error.problem) if part)
    if _SECRET_LOOK.search(reason):
        reason = "a line that looks like a secret"
    return f"{where}: not YAML: {reason}.{hint}"


class _Unusable:
    """Stands for a YAML value that no setting can have, such as a date. Every check refuses it."""


class _Document:
    """A YAML document whose values can be traced back to their lines."""

    def __init__(self, path: Path, root: yaml.Node) -> None:
        self.path = path
        self.root = root
        self._built: dict[int, Any] = {}
        self._open: set[int] = set()
        self._problems: list[_Problem] = []

    def to_python(self) -> tuple[dict[str, Any], list[_Problem]]:
        """Return the data, and what is wrong with its keys.

        PyYAML's own constructor takes duplicate keys without a word, and dies of dates and numbers
        that do not exist; hence this one.
        """
        try:
            data = self._build(self.root, ())
        except RecursionError:
            raise SettingsError(f"{self.path}: {_TOO_DEEP}.") from None
        return data, self._problems

    def _build(self, node: yaml.Node, loc: _Loc) -> Any:
        # An anchored node is built once, however often it is used: aliases of aliases grow fast.
        if id(node) in self._built:
            return self._built[id(node)]
        if id(node) in self._open:
            raise SettingsError(f"{self.path}: {_show_path(loc)} contains itself.")
        self._open.add(id(node))
        self._built[id(node)] = value = self._build_new(node, loc)
        self._open.remove(id(node))
        return value

    def _build_new(self, node: yaml.Node, loc: _Loc) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self._build_mapping(node, loc)
        if isinstance(node, yaml.SequenceNode):
            return [self._build(item, (*loc, index)) for index, item in enumerate(node.value)]
        if node.tag == _TEXT:
            return node.value
        if node.tag not in {_NULL, _BOOL, _INT, _FLOAT}:
            return _Unusable()
        try:
            return yaml.SafeLoader("").construct_object(node)
        except (ValueError, OverflowError, KeyError, yaml.YAMLError):
            return _Unusable()

    def _build_mapping(self, node: yaml.MappingNode, loc: _Loc) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = _line(key_node)
            if key_node.tag != _TEXT or not isinstance(key_node.value, str):
                self._problems.append(
                    _Problem(
                        loc,
                        f"as a key, {_describe(key_node)}",
                        "keys are text",
                        _quotes_note(key_node),
                        line,
                    )
                )
                continue
            key = key_node.value
            if key in mapping:
                found = f"the key a second time; the first one is in line {lines[key]}"
                self._problems.append(_Problem((*loc, key), found, "every key once", line=line))
                continue
            lines[key] = line
            mapping[key] = self._build(value_node, (*loc, key))
        return mapping

    def locate(self, loc: _Loc) -> tuple[yaml.Node | None, yaml.Node | None]:
        """Return the nodes of the key and of the value at a path; None for what is not there."""
        key: yaml.Node | None = None
        value: yaml.Node | None = self.root
        for part in loc:
            if isinstance(value, yaml.MappingNode):
                entries = [entry for entry in value.value if entry[0].value == part]
                key, value = entries[0] if entries else (None, None)
            elif isinstance(value, yaml.SequenceNode) and isinstance(part, int):
                key, value = None, value.value[part] if part < len(value.value) else None
            else:
                return None, None
        return key, value

    def line(self, loc: _Loc) -> int | None:
        """Return the line of a path, or of the nearest thing around it that is there."""
        for end in range(len(loc), 0, -1):
            key, value = self.locate(loc[:end])
            if (node := key or value) is not None:
                return _line(node)
        return None


def _read_rules(
    services: object, folder: Path, document: _Document, problems: list[_Problem]
) -> object:
    """Return the services with the text of their rules in the place of the path."""
    if not isinstance(services, dict):
        return services
    result: dict[str, object] = {}
    for name, service in services.items():
        result[name] = service
        if not isinstance(service, dict):
            continue
        # What the loader adds below is no key for the user.
        own = {key: value for key, value in service.items() if key != "rules_file"}
        if "rules_file" in service:
            problems.append(_unknown_key(("services", name, "rules_file"), document))
        if isinstance(own.get("rules"), str):
            file = folder / own["rules"]
            try:
                own["rules"] = file.read_bytes().decode("utf-8-sig")
            except (OSError, ValueError) as error:
                loc = ("services", name, "rules")
                why = (
                    f"the file cannot be read: {error.strerror}"
                    if isinstance(error, OSError) and error.strerror
                    else "the file is not text in UTF-8, or its name is none"
                )
                problems.append(_refused(loc, document, why))
                # Already reported: give the models something that they accept.
                own["rules"] = 'key_prefix "" {}\n'
            own["rules_file"] = file
        else:
            # Refused below for want of rules; this one must not be missed as well.
            own["rules_file"] = folder
        result[name] = own
    return result


def _across_sections(
    data: Mapping[str, Any], document: _Document, problems: Iterable[_Problem]
) -> list[_Problem]:
    """Return the problems between sections, also where other values are wrong."""
    bad = {problem.loc for problem in problems}
    secrets, services = data.get("secrets"), data.get("services")
    prefix = secrets.get("prefix") if isinstance(secrets, dict) else None
    if not isinstance(prefix, str) or ("secrets", "prefix") in bad:
        prefix = None
    texts = {
        name: service["rules"]
        for name, service in (services.items() if isinstance(services, dict) else ())
        if isinstance(service, dict)
        and isinstance(service.get("rules"), str)
        and not bad & {("services", name), ("services", name, "rules")}
    }
    return [_refused(loc, document, why) for loc, why in _service_problems(prefix, texts)]


# --------------------------------------------------------------------------------------------------
# Wording
# --------------------------------------------------------------------------------------------------


def _render(path: Path, problems: Iterable[_Problem]) -> str:
    """Return the whole message, in the order of the file."""
    ordered = sorted(problems, key=lambda problem: problem.line or 0)
    count = "1 problem" if len(ordered) == 1 else f"{len(ordered)} problems"
    shown = [problem.render() for problem in ordered[:_MAX_PROBLEMS]]
    if len(ordered) > _MAX_PROBLEMS:
        shown.append(f"  and {len(ordered) - _MAX_PROBLEMS} more")
    return f"{path}: {count}\n\n" + "\n\n".join(shown)


def _from_validation(detail: ErrorDetails, document: _Document) -> _Problem:
    """Say for a person what pydantic found."""
    loc = _plain_loc(detail["loc"], document)
    kind = detail["type"]
    if kind == "extra_forbidden":
        return _unknown_key(loc, document)
    if kind == "missing":
        return _Problem(loc, "nothing: the key is missing", _allowed(loc), line=document.line(loc))
    why = str(detail.get("ctx", {}).get("why", "")) if kind == "refused" else ""
    problem = _refused(loc, document, why, is_key=loc != detail["loc"])
    if kind == "string_type" and not problem.note:
        _, value = document.locate(loc)
        return replace(problem, note=_quotes_note(value))
    return problem


def _plain_loc(loc: _Loc, document: _Document) -> _Loc:
    """Return the path as it is in the file: pydantic adds '[key]' where a key itself is wrong."""
    if loc[-1:] == ("[key]",) and document.locate(loc) == (None, None):
        return loc[:-1]
    return loc


def _refused(loc: _Loc, document: _Document, why: str, *, is_key: bool = False) -> _Problem:
    """Say that the value, or the key, at a path is not allowed."""
    key, value = document.locate(loc)
    node = key if is_key else value
    found = "nothing" if node is None else _describe(node)
    note = "" if _SECRET_LOOK.search(why) else why
    if not note and node is not None:
        if _looks_secret(node):
            note = "put it into Secrets Manager and give the ARN of that secret"
        elif node.tag == _NULL and (default := _default(loc)):
            note = f"leave the key out to get the default, {default}"
    return _Problem(loc, found, _allowed(loc, is_key=is_key), note, document.line(loc))


def _unknown_key(loc: _Loc, document: _Document) -> _Problem:
    """Say that a key is not known, and which one may have been meant."""
    *parents, last = loc
    section = _section_at(tuple(parents))
    known = _known_keys(section)
    key = str(last)
    note = ""
    if close := difflib.get_close_matches(key, known, n=1):
        note = f"did you mean {close[0]!r}?"
    elif elsewhere := [
        f"{name}.{key}"
        for name, field in Settings.model_fields.items()
        if (model := _model_in(field.annotation)) and key in _known_keys(model)
    ]:
        note = f"did you mean {elsewhere[0]}?"
    allowed = ("the key " if len(known) == 1 else "the keys ") + ", ".join(known)
    return _Problem(loc, "an unknown key", allowed, note, document.line(loc))


def _known_keys(section: type[BaseModel]) -> list[str]:
    """Return the keys that a user may write in a section."""
    return [name for name in section.model_fields if name != "rules_file"]


def _section_at(loc: _Loc) -> type[BaseModel]:
    """Return the model of the section at a path; the root's if there is none."""
    if not loc:
        return Settings
    if loc[0] == "services":
        return ServiceSettings
    field = Settings.model_fields.get(str(loc[0]))
    return (_model_in(field.annotation) if field else None) or Settings


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a field's type names: itself, or one side of `… | None`."""
    for option in (annotation, *get_args(annotation)):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None


def _allowed(loc: _Loc, *, is_key: bool = False) -> str:
    """Return what is allowed at a path, or as its last key: what its field's description says."""
    if not loc:
        return ""
    field = Settings.model_fields.get(str(loc[0]))
    if field is None:
        return ""
    if len(loc) == 1 or loc[0] == "tags":
        model = _model_in(field.annotation)
        keys = f"a mapping with the keys {', '.join(_known_keys(model))}" if model else ""
        return "; ".join(part for part in (field.description, keys) if part)
    if loc[0] == "services" and len(loc) == 2:  # noqa: PLR2004 - services.<name>
        return f"a name of {names.SERVICE_NAME_RULE}" if is_key else "a mapping with the key rules"
    model = _section_at(loc)
    key = loc[2] if loc[0] == "services" else loc[1]
    inner = model.model_fields.get(str(key))
    return (inner.description or "") if inner else ""


def _default(loc: _Loc) -> str:
    """Return the default of the setting at a path as YAML, or nothing if there is none to name."""
    if len(loc) == 1:
        field = Settings.model_fields.get(str(loc[0]))
    else:
        field = _section_at(loc[:-1]).model_fields.get(str(loc[-1]))
    if field is None or field.default is None or field.default is PydanticUndefined:
        return ""
    return json.dumps(field.default).strip('"')


def _show_path(loc: _Loc) -> str:
    """Return a path for people: `consul.http_address`, `network.subnet_ids[2]`, `tags.'a b'`."""
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        if _SECRET_LOOK.search(part):
            shown = "<a key that looks like a secret>"
        elif re.fullmatch(r"[\w-]{1,60}", part, re.ASCII):
            shown = part
        else:
            shown = _shorten(part)
        text += f".{shown}" if text else shown
    return text


def _describe(node: yaml.Node) -> str:
    """Return value and type of a node for people, in one short line, secrets left out."""
    if isinstance(node, yaml.MappingNode):
        return "a mapping" if node.value else "an empty mapping"
    if isinstance(node, yaml.SequenceNode):
        return f"a list of {len(node.value)}" if node.value else "an empty list"
    if _looks_secret(node):
        return "a value that looks like a secret (not shown)"
    quoted = _shorten(node.value)
    bare = quoted[1:-1]
    return {
        _TEXT: f"the text {quoted}" if node.value else "an empty text",
        _NULL: "nothing (null)",
        _BOOL: f"the boolean {bare}",
        _INT: f"the number {bare}",
        _FLOAT: f"the number {bare}",
        _DATE: f"the date {bare}",
    }.get(node.tag, f"{quoted} with the tag {_shorten(node.tag)}")


def _quotes_note(node: yaml.Node | None) -> str:
    """Return the advice to put quotes around what YAML takes for something else than text."""
    if isinstance(node, yaml.ScalarNode) and node.tag in {_BOOL, _INT, _FLOAT, _DATE}:
        return "put quotes around it if it is meant as text"
    return ""


def _looks_secret(node: yaml.Node) -> bool:
    # A value that begins with "!" is a tag.
    return isinstance(node, yaml.ScalarNode) and any(
        _SECRET_LOOK.search(text) for text in (node.value, node.tag)
    )


def _shorten(text: str, limit: int = 80) -> str:
    """Return the text in quotes, on one line, without characters that a terminal would act on."""
    return repr(text if len(text) <= limit else f"{text[:limit]}…")


def _line(node: yaml.Node) -> int:
    """Return the line, counted from 1, in which a node starts."""
    return int(node.start_mark.line) + 1
