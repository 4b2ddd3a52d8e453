"""Everything that a step can raise.

Lambda reports the class name of an exception as its error type, and Step Functions matches on that
name: **a class name here is the error name that a workflow retries or catches.** Renaming a class
changes the workflows.

Messages are read by people in the Step Functions console. They name the object, the place and the
next step, and never contain a secret.
"""

from __future__ import annotations


class StepError(Exception):
    """Base of all errors that a step raises on purpose."""

    def __str__(self) -> str:
        """Return the message; it has an encoding, without which the runtime of Lambda dies."""
        return super().__str__().encode(errors="backslashreplace").decode()


class Retryable(StepError):
    """Waiting may help: the workflow tries the same step again."""


class Permanent(StepError):
    """Waiting does not help: somebody has to change something."""


# --- Retryable -----------------------------------------------------------------------------------


class ConsulUnavailable(Retryable):
    """No connection, a time-out, no leader, a server still starting, 429, or an unnamed 5xx."""


class ConsulObjectGone(Retryable):
    """What we wanted to update was deleted a moment before."""


class TaskNotVisibleYet(Retryable):
    """ECS told of a new task a moment ago, and does not show it yet."""


class TokenNotVisibleYet(Retryable):
    """A token was made a moment ago, and the server that we ask does not know it yet."""


class AwsThrottled(Retryable):
    """An AWS service asked us to slow down."""


class AwsUnavailable(Retryable):
    """An AWS service did not answer, or answered with a fault of its own."""


class ClusterNotBootstrapped(Retryable):
    """The controller has no token yet, because ClusterBootstrap has not finished."""


# --- Permanent: Consul ---------------------------------------------------------------------------


class ConsulAclDisabled(Permanent):
    """The servers run without the ACL system."""


class ConsulAlreadyBootstrapped(Permanent):
    """The ACL system has a management token, and nobody told us which."""


class ConsulPermissionDenied(Permanent):
    """Consul knows our token, and the token may not do this."""


class ConsulTokenRejected(Permanent):
    """Consul does not know the token that we authenticate with."""


class ConsulObjectExists(Permanent):
    """What we wanted to create exists already, under an ID or a name that we did not expect."""


class ConsulRequestInvalid(Permanent):
    """Consul understood the request and refuses its content."""


class ConsulWrongDatacenter(Permanent):
    """The servers know no datacenter of the configured name."""


class ForeignObject(Permanent):
    """An object of the wanted name exists and is not ours."""


# --- Permanent: snapshots ------------------------------------------------------------------------


class InvalidSnapshot(Permanent):
    """What is to be restored is not a whole snapshot of Consul."""


class SnapshotNotFound(Permanent):
    """There is no such snapshot, or none at all."""


class SnapshotOfAnotherConsul(Permanent):
    """A snapshot has been restored whose Consul had another management token than ours."""


class SnapshotTooLarge(Permanent):
    """A snapshot does not fit into the space that the function has for it."""


# --- Permanent: AWS ------------------------------------------------------------------------------


class AwsAccessDenied(Permanent):
    """The role of the step lacks a permission."""


class AwsRequestRefused(Permanent):
    """AWS refuses the request for a reason that a retry does not change."""


class InvalidSecret(Permanent):
    """The value of a secret is not what it has to be. It is left as it is."""


class SecretMarkedForDeletion(Permanent):
    """A secret with the wanted name is in its recovery window."""


class SecretNameCollision(Permanent):
    """Two different things would share one secret."""


# --- Permanent: input ----------------------------------------------------------------------------


class InvalidEvent(Permanent):
    """The input is none of those that the workflow takes."""


class InvalidServiceName(Permanent):
    """A task or a deployment asks for a service name that Consul does not allow."""


class UnsupportedTenancy(Permanent):
    """A task asks for an admin partition or a namespace, which are Consul Enterprise features."""


class InvalidStepInput(Permanent):
    """A state passed something that its step cannot read: the workflow and the step disagree."""


class InvalidConfiguration(Permanent):
    """An environment variable of the function is missing or wrong."""


def error_names(kind: type[StepError]) -> list[str]:
    """Return the names of all errors of a kind, as a workflow's Retry or Catch lists them.

    >>> "ConsulUnavailable" in error_names(Retryable)
    True
    """
    names = []
    for subclass in kind.__subclasses__():
        names += [subclass.__name__, *error_names(subclass)]
    return names
