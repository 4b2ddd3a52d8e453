"""How the failures of AWS look to whoever uses boto3."""

from __future__ import annotations

from typing import Final

from botocore.exceptions import ClientError, ReadTimeoutError

from tests.faults.kinds import Fault

SDK_PATIENCE: Final = 20.0
"""Seconds until the handlers' client has given up twice (handlers/clients/aws.py)."""


def refusal(operation: str, code: str, message: str, *, status: int = 400) -> ClientError:
    """Return the error that a client raises for an answer of AWS's."""
    return ClientError(
        {
            "Error": {"Code": code, "Message": message},
            "ResponseMetadata": {
                "HTTPStatusCode": status,
                "RequestId": "",
                "HostId": "",
                "HTTPHeaders": {},
                "RetryAttempts": 0,
            },
        },
        operation,
    )


def failure(fault: Fault, operation: str, *, server_error: str) -> Exception:
    """Return the error that a client raises for a fault."""
    match fault.name:
        case "throttled":
            return refusal(operation, "ThrottlingException", "Rate exceeded")
        case "denied":
            message = "User is not authorized to perform this action"
            return refusal(operation, "AccessDeniedException", message)
        case "error" | "done+error" | "outage":
            return refusal(operation, server_error, "An error occurred on our side.", status=500)
        case _:
            return ReadTimeoutError(endpoint_url="https://aws.invalid", error="timed out")
