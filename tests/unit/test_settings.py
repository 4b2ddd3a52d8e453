"""The settings file: what is taken, what is refused, and in which words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from handlers.core import names
from settings import (
    RESERVED_SERVICE_NAMES,
    RETENTION_DAYS,
    ConsulSettings,
    EcsSettings,
    ImageSettings,
    NetworkSettings,
    ReconciliationSettings,
    RotationSettings,
    SecretsSettings,
    ServiceSettings,
    Settings,
    SettingsError,
    load_settings,
)

ROOT = Path(__file__).parents[2]
SECRET_ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:consul/token-AbC123"
KEY_ARN = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
TOKEN = "6b1ef8a4-1c5f-4a43-b3a5-2f1f8b3a5a11"
RULES = 'key_prefix "web/" {\n  policy = "write"\n}\n'

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a settings file, of text or data, and files next to it."""

    def write_files(document: str | bytes | dict[str, Any], **others: str | bytes) -> Path:
        for name, content in {"mesh.yaml": document, **others}.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, dict):
                content = yaml.safe_dump(content, sort_keys=False)  # noqa: PLW2901 - three forms, one file
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return tmp_path / "mesh.yaml"

    return write_files


def document(**changes: object) -> dict[str, Any]:
    """Return the smallest document, with values at dotted paths (`consul__datacenter`) replaced."""
    data: dict[str, Any] = {
        "ecs": {"cluster": "my-cluster"},
        "secrets": {"prefix": "consul"},
        "consul": {"http_address": "http://consul.internal:8500"},
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        section = data
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    return data


def message(path: Path) -> str:
    """Return what is said about a file, without the folder that it is in."""
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    return str(caught.value).replace(f"{path.parent}/", "")


# --------------------------------------------------------------------------------------------------
# What is taken
# --------------------------------------------------------------------------------------------------


def test_the_shipped_file_loads_with_every_default_written_out(write: Write) -> None:
    assert load_settings(ROOT / "mesh.yaml") == load_settings(write(document()))


def test_the_shipped_file_names_every_key() -> None:
    text = (ROOT / "mesh.yaml").read_text()

    sections = (
        *(Settings, EcsSettings, SecretsSettings, ConsulSettings, NetworkSettings),
        *(ImageSettings, ReconciliationSettings, RotationSettings),
    )
    for key in [key for section in sections for key in section.model_fields]:
        assert re.search(rf"^(# )? *{key}:", text, re.MULTILINE), key


def test_the_examples_in_the_shipped_file_load_when_they_are_uncommented(write: Write) -> None:
    text = (ROOT / "mesh.yaml").read_text()
    text = re.sub(r"^(network: null|services: \{\}|tags: \{\})\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^# ((network:|services:|tags:| ).*)$", r"\1", text, flags=re.MULTILINE)

    loaded = load_settings(write(text, policies__web_hcl=RULES, **{"policies/web.hcl": RULES}))

    assert loaded.network is not None
    assert loaded.network.subnet_ids == ("subnet-0123456789abcdef0", "subnet-0123456789abcdef1")
    assert loaded.services["web"].rules == RULES
    assert loaded.tags == {"team": "platform"}


def test_the_rules_in_the_policies_readme_load(write: Write) -> None:
    blocks = re.findall(
        r"```(?:hcl|json)\n(.*?)```", (ROOT / "policies/README.md").read_text(), re.DOTALL
    )

    assert len(blocks) == 2
    for block in blocks:
        path = write(document(services={"web": {"rules": "web.hcl"}}), **{"web.hcl": block})
        assert load_settings(path).services["web"].rules == block


def test_all_settings_are_read(write: Write) -> None:
    path = write(
        """\
ecs:
  cluster: arn:aws-us-gov:ecs:us-gov-west-1:123456789012:cluster/prod_1
secrets:
  prefix: prod-consul
  kms_key_arn: arn:aws-cn:kms:cn-north-1:123456789012:key/mrk-1234abcd12ab34cd56ef1234567890ab
consul:
  http_address: https://consul.example.com
  datacenter: eu-1
  retry_join: [10.0.0.1, "provider=aws tag_key=consul"]
  bootstrap_token_secret_arn: arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:b-AbC123
  ca_secret_arn: arn:aws-us-gov:secretsmanager:us-gov-west-1:123456789012:secret:ca-Zz9999
  gossip_key_secret_arn: arn:aws-us-gov:secretsmanager:us-gov-west-1:123456789012:secret:g-Qq1111
  anonymous_policy: no
network:
  vpc_id: vpc-0123456789abcdef0
  subnet_ids: [subnet-01234567, subnet-0123456789abcdef0]
  security_group_ids: [sg-01234567]
services:
  web:
    rules: policies/web.hcl
images:
  envoy: envoyproxy/envoy:v1.26.2
reconciliation:
  every_minutes: null
  grace_minutes: 1440
rotation:
  services_every_days: 365
  client_token_every_days: 1
  concurrency: 20
  pause_minutes: 1440
  stable_within_minutes: 5
  keep_ecs_services: [legacy-web, Legacy_API]
log_retention_days: 365
tags: {team: platform, Größe: groß}
""",
        **{"policies/web.hcl": RULES},
    )

    loaded = load_settings(path)

    assert loaded.model_dump() == {
        "ecs": {"cluster": "arn:aws-us-gov:ecs:us-gov-west-1:123456789012:cluster/prod_1"},
        "secrets": {
            "prefix": "prod-consul",
            "kms_key_arn": (
                "arn:aws-cn:kms:cn-north-1:123456789012:key/mrk-1234abcd12ab34cd56ef1234567890ab"
            ),
        },
        "consul": {
            "http_address": "https://consul.example.com",
            "datacenter": "eu-1",
            "retry_join": ("10.0.0.1", "provider=aws tag_key=consul"),
            "bootstrap_token_secret_arn": (
                "arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:b-AbC123"
            ),
            "client_token_secret_arn": None,
            "ca_secret_arn": (
                "arn:aws-us-gov:secretsmanager:us-gov-west-1:123456789012:secret:ca-Zz9999"
            ),
            "gossip_key_secret_arn": (
                "arn:aws-us-gov:secretsmanager:us-gov-west-1:123456789012:secret:g-Qq1111"
            ),
            "anonymous_policy": False,
        },
        "network": {
            "vpc_id": "vpc-0123456789abcdef0",
            "subnet_ids": ("subnet-01234567", "subnet-0123456789abcdef0"),
            "security_group_ids": ("sg-01234567",),
        },
        "services": {"web": {"rules": RULES, "rules_file": path.parent / "policies/web.hcl"}},
        "images": {"consul": None, "envoy": "envoyproxy/envoy:v1.26.2", "mesh_init": None},
        "reconciliation": {"every_minutes": None, "grace_minutes": 1440},
        "rotation": {
            "services_every_days": 365,
            "client_token_every_days": 1,
            "controller_token_every_days": None,
            "concurrency": 20,
            "pause_minutes": 1440,
            "stable_within_minutes": 5,
            "keep_ecs_services": ("legacy-web", "Legacy_API"),
        },
        "log_retention_days": 365,
        "tags": {"team": "platform", "Größe": "groß"},
    }


def test_settings_cannot_be_changed(write: Write) -> None:
    loaded = load_settings(write(document()))

    with pytest.raises(ValidationError, match="frozen"):
        loaded.consul.datacenter = "dc2"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        ("my-cluster", (False, "my-cluster", None, None)),
        (
            "arn:aws-cn:ecs:cn-north-1:123456789012:cluster/prod",
            (True, "prod", "cn-north-1", "123456789012"),
        ),
    ],
)
def test_a_cluster_is_a_name_or_an_arn(
    cluster: str, expected: tuple[bool, str, str | None, str | None]
) -> None:
    ecs = EcsSettings(cluster=cluster)

    assert (ecs.is_arn, ecs.cluster_name, ecs.arn_region, ecs.arn_account) == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://consul.internal:8500", (False, "consul.internal", 8500)),
        ("http://consul.internal", (False, "consul.internal", 80)),
        ("https://Consul.example.com", (True, "consul.example.com", 443)),
        ("https://10.0.0.1:8501", (True, "10.0.0.1", 8501)),
        ("http://[fd00::1]:8500", (False, "fd00::1", 8500)),
        ("http://localhost:1", (False, "localhost", 1)),
    ],
)
def test_an_address_has_the_port_of_its_scheme_unless_it_names_one(
    address: str, expected: tuple[bool, str, int]
) -> None:
    consul = ConsulSettings(http_address=address)

    assert (consul.uses_tls, consul.host, consul.port) == expected


@pytest.mark.parametrize(
    ("section", "defaults"),
    [
        ("images", ImageSettings()),
        ("reconciliation", ReconciliationSettings()),
        ("rotation", RotationSettings()),
    ],
)
def test_a_section_whose_keys_are_all_commented_out_has_the_defaults(
    write: Write, section: str, defaults: object
) -> None:
    assert getattr(load_settings(write(document(**{section: None}))), section) == defaults


@pytest.mark.parametrize(
    ("key", "least", "most"),
    [
        ("reconciliation__every_minutes", 1, 1440),
        ("reconciliation__grace_minutes", 5, 1440),
        ("rotation__services_every_days", 1, 365),
        ("rotation__client_token_every_days", 1, 365),
        ("rotation__controller_token_every_days", 1, 365),
        ("rotation__concurrency", 1, 20),
        ("rotation__pause_minutes", 0, 1440),
        ("rotation__stable_within_minutes", 5, 1440),
    ],
)
def test_a_number_is_whole_and_between_its_ends(
    write: Write, key: str, least: int, most: int
) -> None:
    section, name = key.split("__")
    for value in (least, most):
        assert getattr(getattr(load_settings(write(document(**{key: value}))), section), name) == (
            value
        )
    wrong: list[object] = [least - 1, most + 1, True, float(most), str(most), [most]]
    for found in wrong:
        text = message(write(document(**{key: found})))
        assert text.startswith(f"mesh.yaml: 1 problem\n\n  {section}.{name} (line 8)\n    found: ")
        assert f"{least} to {most}" in text


@pytest.mark.parametrize("name", ["legacy-web", "Legacy_API", "a" * 255])
def test_an_ecs_service_is_named_as_ecs_allows(write: Write, name: str) -> None:
    path = write(document(rotation__keep_ecs_services=[name]))

    assert load_settings(path).rotation.keep_ecs_services == (name,)


@pytest.mark.parametrize("key", [KEY_ARN, KEY_ARN.rpartition("/")[0] + "/mrk-" + "0a" * 16])
def test_a_key_may_be_one_of_several_regions(key: str) -> None:
    assert SecretsSettings(prefix="consul", kms_key_arn=key).kms_key_arn == key


@pytest.mark.parametrize(
    "image",
    [
        *("consul", "hashicorp/consul", "hashicorp/consul:1.15.4", "localhost:5000/mesh__init"),
        "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/mesh/envoy:V1.26.2",
        "Registry.example.com/a/b-c.d@sha256:" + "0a" * 32,
        "envoyproxy/envoy:v1.26.2@sha256:" + "0a" * 32,
    ],
)
def test_an_image_is_whatever_a_registry_has(image: str) -> None:
    assert ImageSettings(consul=image).consul == image


@pytest.mark.parametrize("section", ["services", "tags", "network"])
def test_a_section_whose_entries_are_all_commented_out_is_empty(write: Write, section: str) -> None:
    assert not getattr(load_settings(write(document(**{section: None}))), section)


@pytest.mark.parametrize(
    "rules",
    [
        RULES,
        RULES.strip(),
        RULES.replace("\n", "\r\n"),
        "﻿" + RULES,
        'acl = "read"',
        '# comment\n// comment\n/* comment */ operator = "read" # comment',
        'service "a" {\n  policy = "write"\n  intentions = "read"\n}\nnode "" { policy = "read" }',
        '{"key_prefix": {"web/": {"policy": "write"}}}',
        '\n  {"acl": "read"}\n',
    ],
)
def test_rules_may_be_anything_that_consul_parses(write: Write, rules: str) -> None:
    path = write(document(services={"web": {"rules": "web.hcl"}}), **{"web.hcl": rules})

    assert load_settings(path).services["web"].rules == rules.removeprefix("﻿")


def test_retention_is_what_cloudwatch_logs_allows() -> None:
    """Hold the list against the resource's schema, which cfn-lint carries."""
    schemas = json.loads(
        (files("cfnlint") / "data/schemas/providers/us-east-1.json").read_text(encoding="utf-8")
    )
    digest = schemas["AWS::Logs::LogGroup"]
    schema = json.loads(
        (files("cfnlint") / f"data/schemas/resources/{digest}.json").read_text(encoding="utf-8")
    )

    assert list(RETENTION_DAYS) == sorted(schema["properties"]["RetentionInDays"]["enum"])


# --------------------------------------------------------------------------------------------------
# What is refused: the file
# --------------------------------------------------------------------------------------------------

REQUIRED = """\
ecs:
  cluster: my-cluster
secrets:
  prefix: consul
consul:
  http_address: http://consul.internal:8500
"""


def test_a_missing_file_is_answered_with_how_to_make_one(tmp_path: Path) -> None:
    assert message(tmp_path / "other.yaml") == (
        "other.yaml: there is no such file.\n"
        "\n"
        "  Copy the project's mesh.yaml, which explains every key, or start with the keys\n"
        "  that have no default:\n"
        "\n"
        "    ecs:\n"
        "      cluster: my-cluster\n"
        "    secrets:\n"
        "      prefix: consul\n"
        "    consul:\n"
        "      http_address: http://consul.internal:8500"
    )


def test_what_is_suggested_for_a_missing_file_loads(write: Write) -> None:
    assert load_settings(write(REQUIRED)).ecs.cluster == "my-cluster"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", f"mesh.yaml: the file is empty. At least these keys are needed:\n\n{REQUIRED}"),
        (
            "# only a comment\n",
            f"mesh.yaml: the file is empty. At least these keys are needed:\n\n{REQUIRED}",
        ),
        (
            "- ecs\n",
            (
                "mesh.yaml: the file must be a mapping with the keys ecs, secrets, consul, "
                "network, services, images, reconciliation, rotation, log_retention_days, tags; "
                "found a list of 1."
            ),
        ),
        (
            "just text",
            (
                "mesh.yaml: the file must be a mapping with the keys ecs, secrets, consul, "
                "network, services, images, reconciliation, rotation, log_retention_days, tags; "
                "found the text 'just text'."
            ),
        ),
        (
            "ecs:\n\tcluster: x\n",
            (
                "mesh.yaml, line 2, column 1: not YAML: while scanning for the next token, found "
                "character '\\t' that cannot start any token. Indent with spaces, not with tabs."
            ),
        ),
        (
            "ecs: {cluster: x\nsecrets: y\n",
            (
                "mesh.yaml, line 2, column 8: not YAML: while parsing a flow mapping, expected ',' "
                "or '}', but got ':'."
            ),
        ),
        (
            "ecs: 1\n---\necs: 2\n",
            (
                "mesh.yaml, line 2, column 1: not YAML: expected a single document in the stream, "
                "but found another document."
            ),
        ),
        (b"ecs: \xff\xfe\xfd", "mesh.yaml: not YAML: it holds characters that are no text."),
        (b"ecs: a\0b", "mesh.yaml: not YAML: it holds characters that are no text."),
        ('ecs: "\\UFFFFFFFF"', "mesh.yaml: not YAML: it holds a character that does not exist."),
        ("ecs: " + "[" * 5000, "mesh.yaml: is nested too deeply."),
        ("ecs: &a [*a]", "mesh.yaml: ecs[0] contains itself."),
    ],
)
def test_a_file_that_is_not_a_yaml_mapping_is_refused_with_the_place(
    write: Write, content: str | bytes, expected: str
) -> None:
    assert message(write(content)) == expected


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    assert message(tmp_path) == f"{tmp_path.name}: cannot be read: Is a directory."


def test_a_line_that_is_not_yaml_is_not_quoted_because_it_may_hold_a_secret(write: Write) -> None:
    text = message(write(f"ecs: {{cluster: x\ntoken: '{TOKEN}\n"))

    assert "not YAML" in text
    assert TOKEN not in text


# --------------------------------------------------------------------------------------------------
# What is refused: keys and values
# --------------------------------------------------------------------------------------------------


def test_every_problem_is_named_at_once_in_the_order_of_the_file(write: Write) -> None:
    path = write(
        f"""\
ecs:
  cluster: arn:aws:ecs:eu-west-1:1234:cluster/prod
consul:
  http_adress: http://consul.internal:8500
  datacenter: 1
  bootstrap_token_secret_arn: {TOKEN}
network:
  vpc_id: vpc-1
  subnet_ids: []
services:
  Web:
    rules: policies/web.hcl
  api:
    rules: policies/missing.hcl
log_retention_days: 31
log_retention_days: 30
cluster: prod
tags:
  aws:team: platform
  on: platform
""",
        **{"policies/web.hcl": 'service "web" {\n  policy = read"\n}\n'},
    )

    assert message(path) == (
        "mesh.yaml: 16 problems\n"
        "\n"
        "  secrets\n"
        "    found:   nothing: the key is missing\n"
        "    allowed: how secrets are named; a mapping with the keys prefix, kms_key_arn\n"
        "\n"
        "  ecs.cluster (line 2)\n"
        "    found:   the text 'arn:aws:ecs:eu-west-1:1234:cluster/prod'\n"
        "    allowed: the name (1 to 255 letters, digits, '-' and '_') or the ARN of an ECS "
        "cluster (arn:<partition>:ecs:<region>:<account>:cluster/<name>)\n"
        "\n"
        "  consul.http_address (line 3)\n"
        "    found:   nothing: the key is missing\n"
        "    allowed: http:// or https://, a host and, unless it is 80 or 443, a port: "
        "http://consul.internal:8500\n"
        "\n"
        "  consul.http_adress (line 4)\n"
        "    found:   an unknown key\n"
        "    allowed: the keys http_address, datacenter, retry_join, bootstrap_token_secret_arn, "
        "client_token_secret_arn, "
        "ca_secret_arn, gossip_key_secret_arn, anonymous_policy\n"
        "    note:    did you mean 'http_address'?\n"
        "\n"
        "  consul.datacenter (line 5)\n"
        "    found:   the number 1\n"
        "    allowed: the name of Consul's datacenter: lower-case letters, digits, '-' and '_'\n"
        "    note:    put quotes around it if it is meant as text\n"
        "\n"
        "  consul.bootstrap_token_secret_arn (line 6)\n"
        "    found:   a value that looks like a secret (not shown)\n"
        "    allowed: null, or the complete ARN of the secret in Secrets Manager that holds a "
        "management token: arn:<partition>:secretsmanager:<region>:<account>:secret:<name>-<6 "
        "characters>\n"
        "    note:    put it into Secrets Manager and give the ARN of that secret\n"
        "\n"
        "  network.vpc_id (line 8)\n"
        "    found:   the text 'vpc-1'\n"
        "    allowed: the ID of a VPC: 'vpc-' and 8 or 17 hexadecimal digits\n"
        "\n"
        "  network.subnet_ids (line 9)\n"
        "    found:   an empty list\n"
        "    allowed: a list of 1 to 16 IDs of subnets: 'subnet-' and 8 or 17 hexadecimal digits\n"
        "\n"
        "  services.Web (line 11)\n"
        "    found:   the text 'Web'\n"
        "    allowed: a name of lower-case letters, digits, '-' and '_', at most 256 characters, "
        "the first and the last one a letter or a digit\n"
        "\n"
        "  services.Web.rules (line 12)\n"
        "    found:   the text 'policies/web.hcl'\n"
        "    allowed: the path, from this file, of a file with ACL rules in HCL or JSON, such as "
        "policies/web.hcl\n"
        "    note:    not HCL from line 2, column 16 on (write every rule on a line of its own, "
        "without commas)\n"
        "\n"
        "  services.api.rules (line 14)\n"
        "    found:   the text 'policies/missing.hcl'\n"
        "    allowed: the path, from this file, of a file with ACL rules in HCL or JSON, such as "
        "policies/web.hcl\n"
        "    note:    the file cannot be read: No such file or directory\n"
        "\n"
        "  log_retention_days (line 15)\n"
        "    found:   the number 31\n"
        "    allowed: one of 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, "
        "1827, 2192, 2557, 2922, 3288, 3653\n"
        "\n"
        "  log_retention_days (line 16)\n"
        "    found:   the key a second time; the first one is in line 15\n"
        "    allowed: every key once\n"
        "\n"
        "  cluster (line 17)\n"
        "    found:   an unknown key\n"
        "    allowed: the keys ecs, secrets, consul, network, services, images, reconciliation, "
        "rotation, log_retention_days, tags\n"
        "    note:    did you mean ecs.cluster?\n"
        "\n"
        "  tags.'aws:team' (line 19)\n"
        "    found:   the text 'aws:team'\n"
        "    allowed: at most 40 tags: keys of 1 to 128 characters and texts of at most 256: "
        "letters, digits, spaces and _ . : / = + - @\n"
        "    note:    AWS keeps the start 'aws:' for itself\n"
        "\n"
        "  tags (line 20)\n"
        "    found:   as a key, the boolean on\n"
        "    allowed: keys are text\n"
        "    note:    put quotes around it if it is meant as text"
    )


def _rules(**services: object) -> dict[str, Any]:
    return document(services={name: {"rules": rules} for name, rules in services.items()})


NETWORK = {"vpc_id": "vpc-01234567", "subnet_ids": ["subnet-01234567"]}

REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    # what the test is called, the document, the path of the one problem, words in its message
    ("a cluster that is a boolean", document(ecs__cluster=True), "ecs.cluster", "the boolean true"),
    ("a cluster that is empty", document(ecs__cluster=""), "ecs.cluster", "an empty text"),
    ("a cluster with a space", document(ecs__cluster="a b"), "ecs.cluster", "the text 'a b'"),
    ("a cluster that is a list", document(ecs__cluster=["a"]), "ecs.cluster", "a list of 1"),
    ("a section that is text", document(ecs="prod"), "ecs", "a mapping with the keys cluster"),
    ("a section that is null", document(ecs=None), "ecs", "nothing (null)"),
    (
        "the ARN of a service",
        document(ecs__cluster="arn:aws:ecs:eu-west-1:123456789012:service/a/b"),
        "ecs.cluster",
        "cluster/<name>",
    ),
    (
        "an ARN of no partition",
        document(ecs__cluster="arn:gcp:ecs:eu-west-1:123456789012:cluster/a"),
        "ecs.cluster",
        "arn:gcp",
    ),
    (
        "a prefix with a slash",
        document(secrets__prefix="prod/consul"),
        "secrets.prefix",
        "policies",
    ),
    ("an empty prefix", document(secrets__prefix=""), "secrets.prefix", "an empty text"),
    (
        "a prefix that leaves no room for policies",
        document(secrets__prefix="a" * 104),
        "secrets.prefix",
        (
            "it has 104 characters; with more than 103 the name of the policy "
            "<prefix>-consul-controller-policy is too long for Consul"
        ),
    ),
    (
        "a datacenter in upper case",
        document(consul__datacenter="DC1"),
        "consul.datacenter",
        "Consul knows it as 'dc1'",
    ),
    (
        "a datacenter that is null",
        document(consul__datacenter=None),
        "consul.datacenter",
        "leave the key out to get the default, dc1",
    ),
    (
        "a switch that is text",
        document(consul__anonymous_policy="yes"),
        "consul.anonymous_policy",
        "true or false",
    ),
    (
        "a switch that is null",
        document(consul__anonymous_policy=None),
        "consul.anonymous_policy",
        "leave the key out to get the default, true",
    ),
    (
        "a secret's ARN without the 6 characters",
        document(consul__bootstrap_token_secret_arn=SECRET_ARN.removesuffix("-AbC123")),
        "consul.bootstrap_token_secret_arn",
        "the hyphen and 6 characters that Secrets Manager appends are missing",
    ),
    (
        "a secret's ARN with a JSON key",
        document(consul__bootstrap_token_secret_arn=f"{SECRET_ARN}:token::"),
        "consul.bootstrap_token_secret_arn",
        "leave out the JSON key and version",
    ),
    (
        "a secret's name",
        document(consul__bootstrap_token_secret_arn="consul/token"),
        "consul.bootstrap_token_secret_arn",
        "the complete ARN of the secret",
    ),
    (
        "a CA for plain HTTP",
        document(consul__ca_secret_arn=SECRET_ARN),
        "consul.ca_secret_arn",
        "a CA is used with https:// only",
    ),
    (
        "an address to join that is no list",
        document(consul__retry_join="consul.internal"),
        "consul.retry_join",
        "the text 'consul.internal'",
    ),
    (
        "an address to join with a scheme",
        document(consul__retry_join=["consul.internal", "http://consul.internal"]),
        "consul.retry_join[1]",
        "leave out the scheme",
    ),
    (
        "an empty address to join",
        document(consul__retry_join=[""]),
        "consul.retry_join[0]",
        "the host is neither an IP address nor a DNS name",
    ),
    (
        "an address to join twice",
        document(consul__retry_join=["consul.internal", "consul.internal"]),
        "consul.retry_join",
        "listed more than once: consul.internal",
    ),
    (
        "no list of addresses to join",
        document(consul__retry_join=None),
        "consul.retry_join",
        "leave the key out to get the default, []",
    ),
    (
        "the name of a gossip key's secret",
        document(consul__gossip_key_secret_arn="gossip"),
        "consul.gossip_key_secret_arn",
        "the complete ARN of the secret",
    ),
    (
        "the alias of a KMS key",
        document(secrets__kms_key_arn="arn:aws:kms:eu-west-1:123456789012:alias/mesh"),
        "secrets.kms_key_arn",
        "give the ARN of the key that the alias stands for",
    ),
    (
        "the ID of a KMS key",
        document(secrets__kms_key_arn="mrk-1234abcd12ab34cd56ef1234567890a"),
        "secrets.kms_key_arn",
        "it is not the ARN of a key",
    ),
    (
        "a KMS key's ARN that is cut off, shown for it is no secret",
        document(secrets__kms_key_arn=f"{KEY_ARN}/"),
        "secrets.kms_key_arn",
        f"the text '{KEY_ARN}/'",
    ),
    (
        "an image with a scheme",
        document(images={"envoy": "https://registry.example.com/envoy"}),
        "images.envoy",
        "leave out the scheme",
    ),
    (
        "an image in upper case",
        document(images={"mesh_init": "Mesh-Init"}),
        "images.mesh_init",
        "all but registry and tag in lower case",
    ),
    (
        "a grace period that is null",
        document(reconciliation__grace_minutes=None),
        "reconciliation.grace_minutes",
        "leave the key out to get the default, 15",
    ),
    (
        "an interval that is a switch",
        document(reconciliation__every_minutes=False),
        "reconciliation.every_minutes",
        "the boolean false",
    ),
    (
        "an interval with a point",
        document(rotation__services_every_days=30.0),
        "rotation.services_every_days",
        "null (only by hand), or a whole number of days, 1 to 365",
    ),
    (
        "a reconciliation that is a number",
        document(reconciliation=5),
        "reconciliation",
        "a mapping with the keys every_minutes, grace_minutes",
    ),
    (
        "a key of one section in another",
        document(rotation__every_minutes=5),
        "rotation.every_minutes",
        "an unknown key",
    ),
    (
        "the ARN of an ECS service",
        document(rotation__keep_ecs_services=["arn:aws:ecs:eu-west-1:123456789012:service/a/b"]),
        "rotation.keep_ecs_services[0]",
        "names of ECS services: 1 to 255 letters, digits, '-' and '_' each",
    ),
    (
        "the empty name of an ECS service",
        document(rotation__keep_ecs_services=["web", ""]),
        "rotation.keep_ecs_services[1]",
        "an empty text",
    ),
    (
        "the name of an ECS service that is too long",
        document(rotation__keep_ecs_services=["a" * 256]),
        "rotation.keep_ecs_services[0]",
        "1 to 255",
    ),
    (
        "an ECS service twice",
        document(rotation__keep_ecs_services=["web", "api", "web"]),
        "rotation.keep_ecs_services",
        "listed more than once: web",
    ),
    (
        "too many ECS services",
        document(rotation__keep_ecs_services=[f"web-{n}" for n in range(101)]),
        "rotation.keep_ecs_services",
        "a list of at most 100 names",
    ),
    (
        "an ECS service that is no list",
        document(rotation__keep_ecs_services="web"),
        "rotation.keep_ecs_services",
        "the text 'web'",
    ),
    (
        "no list of ECS services",
        document(rotation__keep_ecs_services=None),
        "rotation.keep_ecs_services",
        "leave the key out to get the default, []",
    ),
    ("an unknown image", document(images={"envoi": "x"}), "images.envoi", "did you mean 'envoy'?"),
    (
        "an ID that is no subnet's",
        document(network={**NETWORK, "subnet_ids": ["subnet-01234567", "subnet-xyz"]}),
        "network.subnet_ids[1]",
        "the text 'subnet-xyz'",
    ),
    (
        "subnets that are text",
        document(network={**NETWORK, "subnet_ids": "subnet-01234567"}),
        "network.subnet_ids",
        "a list of 1 to 16 IDs",
    ),
    (
        "a subnet listed twice",
        document(network={**NETWORK, "subnet_ids": ["subnet-01234567", "subnet-01234567"]}),
        "network.subnet_ids",
        "listed more than once: subnet-01234567",
    ),
    (
        "no security group in the list",
        document(network={**NETWORK, "security_group_ids": []}),
        "network.security_group_ids",
        "an empty list",
    ),
    (
        "six security groups",
        document(network={**NETWORK, "security_group_ids": [f"sg-0123456{n}" for n in range(6)]}),
        "network.security_group_ids",
        "a list of 6",
    ),
    ("a network that is a switch", document(network=False), "network", "the boolean false"),
    ("services in a list", document(services=["web"]), "services", "a list of 1"),
    (
        "a service without rules",
        document(services={"web": {}}),
        "services.web.rules",
        "nothing: the key is missing",
    ),
    ("a service that is text", document(services={"web": "x"}), "services.web", "the key rules"),
    ("rules that are a number", _rules(web=1), "services.web.rules", "the number 1"),
    (
        "rules that are a folder",
        _rules(web="."),
        "services.web.rules",
        "the file cannot be read: Is a directory",
    ),
    ("an empty file", _rules(web="empty"), "services.web.rules", "the file is empty"),
    ("rules of comments", _rules(web="comment"), "services.web.rules", "the file holds no rules"),
    ("rules that are an empty object", _rules(web="{}"), "services.web.rules", "holds no rules"),
    ("rules that are bytes", _rules(web="bytes"), "services.web.rules", "is not text in UTF-8"),
    ("rules that end too early", _rules(web="open"), "services.web.rules", "is a '}' missing?"),
    (
        "rules that are broken JSON",
        _rules(web="json"),
        "services.web.rules",
        "not JSON from line 2, column 14 on",
    ),
    ("one file that is too large", _rules(web="large"), "services.web.rules", "than 60 KiB"),
    (
        "files that are too large together",
        _rules(a="half", b="half"),
        "services",
        "the rules of all services have 120,000 bytes together, and 60 KiB are allowed",
    ),
    (
        "a policy whose name is too long",
        _rules(**{"a" * 114: "good"}),
        f"services.'{'a' * 80}…'",
        "<prefix>-<service>-service, would have 129 characters, and Consul allows 128",
    ),
    (
        "the loader's own key",
        document(services={"web": {"rules": "good", "rules_file": "x"}}),
        "services.web.rules_file",
        "did you mean 'rules'?",
    ),
    ("a retention that is text", document(log_retention_days="30"), "log_retention_days", "'30'"),
    (
        "a retention that is a switch",
        document(log_retention_days=True),
        "log_retention_days",
        "true",
    ),
    ("a retention with a point", document(log_retention_days=30.0), "log_retention_days", "30.0"),
    ("a tag that is a number", document(tags={"team": 7}), "tags.team", "put quotes around it"),
    ("a tag that is too long", document(tags={"team": "x" * 257}), "tags.team", "at most 256"),
    ("a tag without a key", document(tags={"": "x"}), "tags.''", "keys of 1 to 128"),
    ("a tag with a line end", document(tags={"a": "x\ny"}), "tags.a", r"'x\ny'"),
    (
        "tags that differ in case only",
        document(tags={"team": "a", "Team": "b"}),
        "tags",
        "'team' and 'Team' differ in upper and lower case only",
    ),
    ("too many tags", document(tags={f"t{n}": "" for n in range(41)}), "tags", "there are 41"),
    ("an unknown key", document(colour="red"), "colour", "an unknown key"),
]


@pytest.mark.parametrize(
    ("data", "path", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_a_wrong_value_is_the_one_problem_that_is_named(
    write: Write, data: dict[str, Any], path: str, words: str
) -> None:
    text = message(
        write(
            data,
            **{
                "good": RULES,
                "empty": " \n",
                "comment": "# nothing\n",
                "{}": "{}",
                "bytes": b"\xff\xfe\xfd",
                "open": 'service "a" {\n  policy = "read"\n',
                "json": '{\n  "service": x\n}',
                "large": 'acl = "read" # ' + "x" * 102_400,
                "half": 'acl = "read"' + "\n" * 59_988,
            },
        )
    )

    first, _, rest = text.partition("\n\n")
    assert first == "mesh.yaml: 1 problem"
    assert re.fullmatch(rf"  {re.escape(path)}( \(line \d+\))?", rest.splitlines()[0])
    assert words in rest


@pytest.mark.parametrize(
    "address",
    [
        "consul.internal:8500",
        "consul.internal",
        "HTTP://consul.internal",
        "ftp://consul.internal",
        "http://",
        "http://:8500",
        "http://consul.internal:",
        "http://consul.internal:0",
        "http://consul.internal:65536",
        "http://consul.internal:08500",
        "http://consul.internal:http",
        "http://consul.internal/",
        "http://consul.internal:8500/v1",
        "http://consul.internal?dc=dc1",
        "http://consul.internal#a",
        "http://consul internal",
        "http://consul.internal\n",
        "http://user:password@consul.internal",
        "http://10.0.0",
        "http://10.0.0.256",
        "http://-consul",
        "http://con..sul",
        "http://[fd00::1",
        "http://[::1]x:80",
        "http://" + "a" * 64,
        "http://" + "a." * 127 + "a",
        "http://cönsul.internal",
    ],
)
def test_an_address_is_a_scheme_a_host_and_a_port_and_nothing_else(
    write: Write, address: str
) -> None:
    text = message(write(document(consul__http_address=address)))

    assert text.startswith("mesh.yaml: 1 problem\n\n  consul.http_address (line 6)\n")
    assert "password@" not in text


@pytest.mark.parametrize(
    "name",
    ["Web", "-web", "web-", "_web", "web.api", "web api", "", "a" * 257, *RESERVED_SERVICE_NAMES],
)
def test_a_service_is_named_as_consul_names_services_and_as_no_secret_of_ours(
    write: Write, name: str
) -> None:
    path = write(document(services={name: {"rules": "web.hcl"}}), **{"web.hcl": RULES})

    assert "found:" in message(path)


def test_the_secrets_that_we_make_are_reserved() -> None:
    assert {names.service_secret_name("x", service) for service in RESERVED_SERVICE_NAMES} == {
        names.client_secret_name("x"),
        names.controller_secret_name("x"),
    }


@pytest.mark.parametrize(
    "secret",
    [
        TOKEN,
        TOKEN.upper(),
        json.dumps({"accessor_id": TOKEN, "token": TOKEN}),
        "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIQ\n-----END CERTIFICATE-----\n",
        "pUqJrVyVRj5jsiYEkM/tFQYfWyJIv4s3XkvDwy7Cu5s=",
        f"arn:aws:secretsmanager:eu-west-1:123456789012:secret:a-AbC123:{TOKEN}",
    ],
)
@pytest.mark.parametrize(
    "path",
    [
        "consul__bootstrap_token_secret_arn",
        "consul__ca_secret_arn",
        "consul__http_address",
        "consul__token",
        "consul",
        "network",
        "services",
        "reconciliation",
        "rotation__keep_ecs_services",
        "log_retention_days",
    ],
)
def test_a_secret_in_the_wrong_place_is_not_repeated(write: Write, path: str, secret: str) -> None:
    text = message(write(document(**{path: secret})))

    for part in re.findall(r"[A-Za-z0-9+/-]{12,}", secret):
        if not part.startswith(("secretsmanager", "123456789012", "accessor")):
            assert part.lower() not in text.lower()


def test_a_secret_in_the_place_of_a_key_is_not_repeated(write: Write) -> None:
    text = message(write(document(**{TOKEN: "x"}, tags={f"{TOKEN}!": "x"})))

    assert TOKEN not in text
    assert "<a key that looks like a secret>" in text


def test_dates_tags_and_broken_numbers_are_refused_like_other_values(write: Write) -> None:
    text = message(
        write(
            REQUIRED
            + "tags: {a: 2024-01-01, b: 2024-99-99, c: !Ref x, d: !!binary '/', e: !!int x}\n"
        )
    )

    found = re.findall(r"found: +(.*)", text)
    assert found == [
        "the date 2024-01-01",
        "the date 2024-99-99",
        "'x' with the tag '!Ref'",
        "'/' with the tag 'tag:yaml.org,2002:binary'",
        "the number x",
    ]


def test_aliases_of_aliases_do_not_fill_the_memory(write: Write) -> None:
    levels = ["a0: &a0 [x, x]"]
    levels += [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)]

    text = message(write(REQUIRED + "\n".join(levels)))

    assert text.startswith("mesh.yaml: 60 problems")


def test_settings_made_in_code_are_held_to_the_same_rules(write: Write) -> None:
    data = load_settings(write(_rules(web="x"), x=RULES)).model_dump()
    data["services"] = {"a" * 114: data["services"]["web"]}

    with pytest.raises(ValidationError, match="would have 129 characters"):
        Settings.model_validate(data)


def test_a_problem_between_sections_is_named_together_with_the_others(write: Write) -> None:
    data = _rules(**{"a" * 114: "x"}) | {"log_retention_days": 31}

    text = message(write(data, x=RULES))

    assert text.startswith("mesh.yaml: 2 problems")
    assert "would have 129 characters" in text


# --------------------------------------------------------------------------------------------------
# Any document
# --------------------------------------------------------------------------------------------------

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.dates()
    | st.binary(max_size=5)
    | st.sampled_from(["web.hcl", "good", "", "http://a", "vpc-01234567", TOKEN, SECRET_ARN])
)
_KEYS = (
    st.sampled_from(
        [
            *Settings.model_fields,
            *EcsSettings.model_fields,
            *SecretsSettings.model_fields,
            *ConsulSettings.model_fields,
            *NetworkSettings.model_fields,
            *ReconciliationSettings.model_fields,
            *RotationSettings.model_fields,
            *ServiceSettings.model_fields,
            "[key]",
            "<<",
            "web",
        ]
    )
    | st.text(max_size=8)
    | st.integers()
    | st.none()
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)
_SHAPED = st.fixed_dictionaries(
    {},
    optional={
        "ecs": st.fixed_dictionaries({"cluster": _SCALARS}) | _VALUES,
        "secrets": st.fixed_dictionaries({"prefix": _SCALARS}) | _VALUES,
        "consul": st.fixed_dictionaries(
            {"http_address": _SCALARS},
            optional={"ca_secret_arn": _SCALARS, "datacenter": _SCALARS},
        )
        | _VALUES,
        "network": _VALUES,
        "services": st.dictionaries(
            _KEYS, st.fixed_dictionaries({"rules": _SCALARS}) | _VALUES, max_size=3
        ),
        "reconciliation": st.dictionaries(_KEYS, _SCALARS, max_size=3) | _VALUES,
        "rotation": st.fixed_dictionaries(
            {},
            optional={"concurrency": _SCALARS, "keep_ecs_services": _VALUES},
        )
        | _VALUES,
        "log_retention_days": _SCALARS,
        "tags": st.dictionaries(_KEYS, _SCALARS, max_size=3),
    },
)
_ANY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def loads_or_says_why(path: Path) -> None:
    """Load a file; only SettingsError may come out, and its text can be printed."""
    try:
        load_settings(path)
    except SettingsError as error:
        text = str(error)
    else:
        return
    assert text.startswith(str(path))
    # Nothing in it that a terminal acts on, or cannot show.
    assert all(line.isprintable() for line in text.split("\n"))
    assert "pydantic" not in text


@_ANY
@given(data=_SHAPED | _VALUES)
def test_any_yaml_document_gives_settings_or_an_error_for_people(
    tmp_path_factory: pytest.TempPathFactory, data: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.dump(data, Dumper=yaml.SafeDumper, allow_unicode=False))

    loads_or_says_why(path)


@_ANY
@given(
    content=st.binary(max_size=60)
    | st.text(alphabet="ab:{}[]&*!<>|-? \n\t'\"#%@0.,\\xuU", max_size=40).map(str.encode)
)
def test_any_bytes_give_settings_or_an_error_for_people(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    path.write_bytes(content)

    loads_or_says_why(path)


@_ANY
@given(
    rules=st.text(alphabet='ab {}="\n#/*<-E$%(),[]\\0', max_size=40)
    | st.text(max_size=20).map(lambda text: "{" + text)
)
def test_any_rules_give_settings_or_an_error_for_people(
    tmp_path_factory: pytest.TempPathFactory, rules: str
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "rules.hcl").write_bytes(rules.encode(errors="replace"))
    (folder / "rules.yaml").write_text(yaml.safe_dump(_rules(web="rules.hcl")))

    loads_or_says_why(folder / "rules.yaml")
