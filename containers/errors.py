"""Everything that the programs in a task raise on purpose.

One tree with two branches, as in the Lambda handlers: for what passes the program waits, for what
is permanent it ends at once and says what to change. Messages are read in the log of a container
and never hold a secret.
"""

from __future__ import annotations


class TaskError(Exception):
    """Base of all errors that the programs raise on purpose."""


class Passing(TaskError):  # noqa: N818 - a branch of the tree
    """Waiting may help: the program tries again until its time is up."""


class Permanent(TaskError):  # noqa: N818 - a branch of the tree
    """Waiting does not help: somebody has to change something."""


# --- Passing -------------------------------------------------------------------------------------


class AgentNotReady(Passing):
    """The task's Consul agent does not answer or has not joined, or its servers have no leader."""


class BinaryNotThereYet(Passing):
    """The consul-client container has not put the `consul` binary into the shared volume yet."""


class Refused(Passing):
    """A 403: the token is unknown or lacks a right, or the agent still says so from its cache."""


class CheckUnknown(Passing):
    """The agent has no check of this ID (any more)."""


class MetadataUnavailable(Passing):
    """The task metadata endpoint does not answer, or its answer has no task in it yet."""


class BootstrapNotReady(Passing):
    """`consul connect envoy` could not reach the agent, or found it in the middle of something."""


# --- Permanent -----------------------------------------------------------------------------------


class EnvironmentInvalid(Permanent):
    """An environment variable of the container is missing or wrong."""


class BootstrapDirUnusable(Permanent):
    """The directory for Envoy's bootstrap configuration cannot be written."""


class TokenRefused(Permanent):
    """Consul has refused the token for longer than any cache remembers."""


class RequestRefused(Permanent):
    """Consul understood a request and refuses its content."""


class BootstrapFailed(Permanent):
    """`consul connect envoy` failed in a way that waiting does not change, or printed nonsense."""


class WaitedTooLong(Permanent):
    """What was waited for did not come in time."""
