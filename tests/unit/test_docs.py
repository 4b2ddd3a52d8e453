"""What the documents promise."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from handlers.core import errors
from settings import ReconciliationSettings, RotationSettings

_ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_operators_guide_says_of_every_error_what_to_do() -> None:
    guide = (_ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    names = [*errors.error_names(errors.Permanent), *errors.error_names(errors.Retryable)]
    assert [name for name in names if f"`{name}`" not in guide] == []


DOCUMENTS = [_ROOT / "README.md", *sorted((_ROOT / "docs").rglob("*.md"))]


def _anchors(document: Path) -> set[str]:
    """Return what can follow a # in a link to a document, as GitHub makes it of headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=[path.name for path in DOCUMENTS])
def test_every_link_between_documents_leads_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8"))
    for target in targets:
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (document.parent / path).resolve() if path else document
        assert found.exists(), target
        if anchor:
            assert anchor in _anchors(found), target


def test_the_readme_names_every_setting() -> None:
    readme = (_ROOT / "README.md").read_text(encoding="utf-8")
    settings = [
        *("ecs.cluster", "secrets.prefix", "consul.http_address", "consul.datacenter"),
        *("secrets.kms_key_arn", "consul.retry_join", "consul.gossip_key_secret_arn"),
        *("images.consul", "images.envoy", "images.mesh_init"),
        *("consul.bootstrap_token_secret_arn", "consul.client_token_secret_arn"),
        *("consul.ca_secret_arn", "consul.anonymous_policy", "network"),
        *("services.<name>.rules", "log_retention_days", "tags"),
        *(f"reconciliation.{key}" for key in ReconciliationSettings.model_fields),
        *(f"rotation.{key}" for key in RotationSettings.model_fields),
    ]
    assert [name for name in settings if f"`{name}`" not in readme] == []
    assert "@@" not in readme
