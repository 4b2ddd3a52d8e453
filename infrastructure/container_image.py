"""Container images by their names."""

from __future__ import annotations

import re

from aws_cdk import Stack
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_ecs as ecs
from constructs import Construct

# Amazon ECR: a repository of an account and region, and a tag or a digest.
_ECR_IMAGE = re.compile(
    r"(?P<account>[0-9]{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/"
    r"(?P<repository>[^:@]+)(?::(?P<tag>[^@]+))?(?:@(?P<digest>.+))?"
)


def container_image(scope: Construct, construct_id: str, name: str) -> ecs.ContainerImage:
    """Return an image; one in ECR as such, so that tasks are allowed to pull it.

    Args:
        scope: the construct that a reference to a repository in ECR belongs to.
        construct_id: the ID of that reference there.
        name: of the image.

    """
    if (found := _ECR_IMAGE.fullmatch(name)) is None:
        return ecs.ContainerImage.from_registry(name)
    repository = ecr.Repository.from_repository_attributes(
        scope,
        construct_id,
        repository_name=found["repository"],
        repository_arn=(
            f"arn:{Stack.of(scope).partition}:ecr:{found['region']}:{found['account']}:"
            f"repository/{found['repository']}"
        ),
    )
    return ecs.ContainerImage.from_ecr_repository(repository, found["digest"] or found["tag"])
