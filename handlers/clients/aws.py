"""boto3 clients, made once a process, and the translation of their errors."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as NoConnectionError
from botocore.parsers import ResponseParserError

from handlers.core import remote_calls
from handlers.core.errors import (
    AwsAccessDenied,
    AwsRequestRefused,
    AwsThrottled,
    AwsUnavailable,
    StepError,
)

T = TypeVar("T")

# The codes that botocore's standard retry mode takes for throttling, and ECS's own.
_THROTTLING = frozenset(
    {
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "LimitExceededException",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "TooManyRequestsException",
        "TransactionInProgressException",
    }
)
_ACCESS = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"})
# A role that was made a moment ago, in the same deployment, is not known everywhere yet.
_NOT_YET_KNOWN = frozenset({"UnrecognizedClientException", "InvalidClientTokenId"})
_SERVER_FAULT = 500
# For a connection, or a part of a body to be taken, and for an answer: snapshots have gigabytes.
_PATIENCE = {"s3": (20, 60)}
# botocore takes a proxy's page with status 200 for an empty answer, and trips over other JSON.
_UNREADABLE = (
    *(AttributeError, LookupError, RuntimeError, TypeError, ValueError),
    ResponseParserError,  # where XML is expected
)


# It tells at each cold start where it found credentials and endpoints.
logging.getLogger("botocore").setLevel(logging.WARNING)


@functools.cache
def client(service: str, *, attempts: int = 2) -> Any:
    """Return the process's client for a service, which counts what it sends.

    The workflow retries. Here a call gets one more attempt, for a connection that the service
    closed between two invocations of a warm process.
    """
    connect_seconds, read_seconds = _PATIENCE.get(service, (3, 10))
    config = Config(
        connect_timeout=connect_seconds,
        read_timeout=read_seconds,
        retries={"mode": "standard", "total_max_attempts": attempts},
    )
    made = boto3.client(service, config=config)  # type: ignore[call-overload]

    def count(event_name: str, **_: object) -> None:
        # The name of the service in it is another one: "secrets-manager".
        remote_calls.count(f"{service}:{event_name.rpartition('.')[2]}")

    made.meta.events.register(f"before-send.{service}", count)
    return made


@contextmanager
def translated_errors(what: str) -> Iterator[None]:
    """Turn botocore's errors into ours; `what` says what was being done, to what.

    Handle the codes that mean something to the caller inside the `with` block, and read the answer
    there: one that is not what AWS answers is no bug of ours.
    """
    try:
        yield
    except ClientError as error:
        # `from None`: AWS repeats an invalid value in its message, and tracebacks are logged.
        raise _translate(error, what) from None
    except (NoConnectionError, HTTPClientError) as error:
        message = f"{what}: no answer from AWS ({type(error).__name__})."
        raise AwsUnavailable(message) from error
    except BotoCoreError as error:  # such as no credentials, no region
        message = f"{what}: {error}"
        raise AwsRequestRefused(message) from error
    except _UNREADABLE as error:
        # `from None`: what could not be read may be a secret.
        reason = type(error).__name__
        message = f"{what}: the answer is not one of AWS's ({reason}). Is there a proxy in between?"
        raise AwsUnavailable(message) from None


def member(answer: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """Return a member of an answer, inside of `translated_errors`.

    Raises:
        LookupError, TypeError: if it is absent or of another type.

    """
    value = answer[name]
    if not isinstance(value, kind):
        message = f"{name} is not of the type {kind.__name__}"
        raise TypeError(message)
    return value


def error_code(error: ClientError) -> str:
    """Return the error code of a service's answer."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _translate(error: ClientError, what: str) -> StepError:
    code = error_code(error)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    text = error.response.get("Error", {}).get("Message", "")
    if code in _THROTTLING:
        return AwsThrottled(f"{what}: throttled ({code}).")
    if status >= _SERVER_FAULT or code in _NOT_YET_KNOWN:
        return AwsUnavailable(f"{what}: AWS failed ({code}).")
    if code in _ACCESS:
        return AwsAccessDenied(f"{what}: {text}")
    if code == "ValidationException":
        # AWS repeats the offending value here, which may be a secret.
        return AwsRequestRefused(f"{what}: AWS finds the request invalid ({code}).")
    return AwsRequestRefused(f"{what}: {text} ({code})")
