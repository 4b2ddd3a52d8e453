"""What Consul refuses, and with which words.

Each class is one kind of refusal and carries the HTTP status that Consul's HTTP layer gives it.
The texts are those of a recorded Consul 1.10.1 (``tests/contract``), which clients match on.
No text may hold a token's SecretID.
"""

from __future__ import annotations

from typing import ClassVar


class Refusal(Exception):  # noqa: N818 - an answer like any other, not a failure of ours
    """A request that Consul refuses; answered as plain text."""

    status: ClassVar[int] = 500

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Invalid(Refusal):
    """The request was understood and is wrong: Consul 1.10 says 500 to nearly all of these."""


class BadRequest(Refusal):
    """The request could not be decoded, or contradicts itself."""

    status = 400


class AclDisabled(Refusal):
    """The server runs without ACLs."""

    status = 401

    def __init__(self) -> None:
        super().__init__("ACL support disabled")


class PermissionDenied(Refusal):
    """The caller's token is known, and may not do this."""

    status = 403

    def __init__(self, cause: str = "") -> None:
        super().__init__(f"Permission denied: {cause}" if cause else "Permission denied")


class AclNotFound(Refusal):
    """The caller's token is unknown or expired; on Consul 1.10 also: the object is absent."""

    status = 403

    def __init__(self) -> None:
        super().__init__("ACL not found")


class Absent(Refusal):
    """The object does not exist."""

    status = 404


class MalformedQuery(Refusal):
    """The query string cannot be parsed; Consul answers 500 without a text."""

    def __init__(self) -> None:
        super().__init__("")
