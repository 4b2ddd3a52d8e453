"""One HTTP request to something in the task, and its answer.

Plain HTTP only: the agent listens on the loopback interface and the metadata endpoint on a
link-local address, neither of which leaves the task.
"""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_MOST_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True)
class Response:
    """An answer, its body read to the end."""

    status: int
    body: bytes


class NoAnswer(Exception):  # noqa: N818 - what happened, to be translated by whoever asked
    """No connection, none in time, or an answer that broke off."""


def exchange(
    host: str,
    port: int,
    method: str,
    path: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float,
) -> Response:
    """Send a request and return the answer, whatever its status.

    Args:
        host: name or address.
        port: TCP port.
        method: GET or PUT.
        path: with its query.
        body: what is sent.
        headers: besides those that HTTP itself needs.
        timeout: seconds that each step may take: to connect, to send, each read.

    Raises:
        NoAnswer: if there is none.

    """
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request(method, path, body=body, headers=dict(headers or {}))
        response = connection.getresponse()
        content = response.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise NoAnswer(f"the answer is longer than {_MOST_BYTES} bytes")
        # A read with a limit ends early without a word; this is what is still to come.
        if response.length:
            raise NoAnswer("the answer broke off")
        return Response(response.status, content)
    except TimeoutError:
        raise NoAnswer(f"no answer within {timeout:g} s") from None
    except OSError as error:
        raise NoAnswer(error.strerror or "the connection was closed") from None
    except http.client.HTTPException as error:
        # Only the name: the text of some of these is what the other side sent.
        raise NoAnswer(f"the answer is not a whole one ({type(error).__name__})") from None
    finally:
        connection.close()
