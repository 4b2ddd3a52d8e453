"""What the tags of an ECS task say: whether it is in the mesh, and as which service."""

from __future__ import annotations

from collections.abc import Mapping

from handlers.core import names

_TENANCY_TAGS = (names.PARTITION_TAG, names.NAMESPACE_TAG)


def reason_not_in_the_mesh(tags: Mapping[str, str]) -> str | None:
    """Return why a task is not in the mesh, as a sentence, or None if it is."""
    mesh = tags.get(names.MESH_TAG)
    if mesh is None:
        return (
            f"The task has no tag {names.MESH_TAG}. If it should have one: tags reach a task only "
            "if its service or RunTask call propagates them (propagateTags)."
        )
    if mesh != "true":
        return f'The tag {names.MESH_TAG} is "{mesh}", not "true".'
    return None


def service_name(tags: Mapping[str, str], family: str) -> tuple[str, str]:
    """Return the name of a task's service, which may be invalid, and where it comes from."""
    tag = names.SERVICE_NAME_TAG
    if tags.get(tag):
        return tags[tag], f"tag {tag}"
    return family, f"task definition family (it has no tag {tag})"


def unsupported_tenancy_tag(tags: Mapping[str, str]) -> str | None:
    """Return the tag that asks for a partition or a namespace of Consul Enterprise, or None."""
    for tag in _TENANCY_TAGS:
        if tags.get(tag, "default") not in {"", "default"}:
            return tag
    return None
