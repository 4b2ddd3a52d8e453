"""Where all that handlers send ends, instead of on a network; and answers, changed on the way.

botocore and requests are the real ones. botocore asks here before it would send; requests gets its
connections from here. So an answer is bytes, and what is wrong with one goes all the way through
the code that reads it.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from email.message import Message
from typing import Any, BinaryIO, Final, Protocol, TypeAlias
from urllib.parse import parse_qs, urlsplit

import boto3
import requests
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.config import Config
from botocore.exceptions import ClientError
from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse

from handlers.clients import aws
from local.cloud.patching import replaced
from local.consul.exchange import Call

REGION: Final = "us-east-1"


@dataclass(frozen=True)
class Answer:
    """An answer on the wire."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_off_by: Exception | None = None
    """What the connection fails with after the body."""

    def with_json(self, value: Any) -> Answer:
        """Return it with another body."""
        return replace(self, body=json.dumps(value).encode())


Change: TypeAlias = Callable[[Answer], Answer | Exception]
"""What becomes of an answer; an exception is what the transport raises instead of it."""


@dataclass(frozen=True)
class Tampering:
    """What happens to one answer, or to all of a kind from that one on."""

    call: int
    """To which one, counted from 0."""
    change: Change
    done: bool = True
    """Whether what was asked for is done."""
    goes_on: bool = False
    """Whether every later call of the same name is answered like that, too."""


class Services(Protocol):
    """What answers."""

    def aws(self, service: str, operation: str, arguments: Mapping[str, Any]) -> Answer:
        """Answer a call to AWS; may raise a ClientError."""

    def consul(self, call: Call) -> Answer:
        """Answer a request to Consul."""

    def put(self, url: str, body: bytes) -> Answer:
        """Answer a request to any other host."""


class Wire:
    """One way from handlers to services. Only one is laid at a time.

    Attributes:
        calls: what was sent, such as `ecs:DescribeTasks` or `consul:GET /v1/acl/tokens`.

    """

    def __init__(
        self, services: Services, *, consul_host: str, tampering: Tampering | None = None
    ) -> None:
        self.calls: list[str] = []
        self._services = services
        self._consul_host = consul_host
        self._tampering = tampering
        self._spoilt = ""

    @contextmanager
    def laid(self) -> Iterator[None]:
        """Let handlers send over this wire."""
        with ExitStack() as patches:
            patches.enter_context(replaced(aws, "client", _client))
            patches.enter_context(replaced(_Laid, "wire", self))
            connection = _Connection(self)
            patches.enter_context(
                replaced(HTTPAdapter, "get_connection_with_tls_context", connection.opened)
            )
            yield

    def from_aws(self, service: str, operation: str, arguments: Mapping[str, Any]) -> Answer:
        """Return the answer to a call; raises what the transport raises."""

        def serve() -> Answer:
            try:
                return self._services.aws(service, operation, arguments)
            except ClientError as error:
                return _aws_error(error)

        return self._carry(f"{service}:{operation}", serve)

    def from_http(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Return the answer to a request; raises what the transport raises."""
        parts = urlsplit(url)
        if parts.netloc != self._consul_host:
            return self._carry(f"{method} elsewhere", lambda: self._services.put(url, body))
        message: Message[str, str] = Message()
        for name, value in headers.items():
            message[name] = value
        kind = "/".join(parts.path.split("/")[:4])  # without IDs
        return self._carry(
            f"consul:{method} {kind}",
            lambda: self._services.consul(Call(method, parts.path, parts.query, message, body)),
        )

    def _carry(self, name: str, serve: Callable[[], Answer]) -> Answer:
        number = len(self.calls)
        self.calls.append(name)
        tampering = self._tampering
        if tampering is None or not (number == tampering.call or self._spoilt == name):
            return serve()
        if tampering.goes_on:
            self._spoilt = name
        changed = tampering.change(serve() if tampering.done else Answer(200, b"{}"))
        if isinstance(changed, Exception):
            raise changed
        return changed


class _Laid:
    wire: Wire | None = None


# --- AWS -----------------------------------------------------------------------------------------


@functools.cache
def _client(service: str, *, attempts: int = 2) -> Any:
    """Stands for `handlers.clients.aws.client`: a client that does not wait to try again."""
    del attempts
    client = boto3.client(  # type: ignore[call-overload]
        service,
        region_name=REGION,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
        config=Config(retries={"mode": "standard", "total_max_attempts": 1}),
    )

    def answer(request: Any, **_: Any) -> AWSResponse:
        operation, arguments = _of_s3(request) if service == "s3" else _asked_for(request)
        wire = _Laid.wire
        assert wire is not None
        found = wire.from_aws(service, operation, arguments)
        headers = HTTPHeaders.from_dict(found.headers)
        return AWSResponse(request.url, found.status, headers, _Raw(found))

    client.meta.events.register(f"before-send.{service}", answer)
    return client


class _Raw:
    """What botocore reads a body from."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._rest = io.BytesIO(answer.body)

    def read(self, size: int = -1) -> bytes:
        """Read some of a body that is not read as a whole."""
        some = self._rest.read(size)
        if not some and size and self._answer.cut_off_by is not None:
            raise self._answer.cut_off_by
        return some

    def stream(self, **_: Any) -> Iterator[bytes]:
        """Yield the body."""
        yield self._answer.body
        if self._answer.cut_off_by is not None:
            raise self._answer.cut_off_by


def _asked_for(request: Any) -> tuple[str, Mapping[str, Any]]:
    body = request.body.decode() if isinstance(request.body, bytes) else request.body
    target = request.headers.get("X-Amz-Target")
    if target is None:  # the query protocol
        form = parse_qs(body)
        return form["Action"][0], {key: values[0] for key, values in form.items()}
    name = target.decode() if isinstance(target, bytes) else target
    return name.rpartition(".")[2], json.loads(body)


def _of_s3(request: Any) -> tuple[str, Mapping[str, Any]]:
    """Return what S3 is asked for; a body is not a part of it."""
    parts = urlsplit(request.url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    if "list-type" in query:
        return "ListObjectsV2", query
    return {"GET": "GetObject", "PUT": "PutObject"}[request.method], {"Key": parts.path[1:]}


def aws_answer(value: Mapping[str, Any]) -> Answer:
    """Return an answer in the JSON protocol."""
    body = json.dumps(value, default=_timestamp).encode()
    return Answer(200, body, {"Content-Type": "application/x-amz-json-1.1"})


def _timestamp(moment: object) -> float:
    assert isinstance(moment, datetime)
    return moment.timestamp()


def _aws_error(error: ClientError) -> Answer:
    told = error.response["Error"]
    body = json.dumps({"__type": told["Code"], "message": told["Message"]})
    status: int = error.response["ResponseMetadata"]["HTTPStatusCode"]
    return Answer(status, body.encode())


# --- HTTP ----------------------------------------------------------------------------------------


class _Connection:
    """Stands for the connections of urllib3."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def opened(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> _OpenConnection:
        """Return the connection for a request."""
        return _OpenConnection(self._wire, request)


class _OpenConnection:
    def __init__(self, wire: Wire, request: requests.PreparedRequest) -> None:
        self._wire = wire
        self._request = request

    def urlopen(
        self,
        *,
        method: str,
        body: bytes | str | BinaryIO | None,
        headers: Mapping[str, str],
        **_: Any,
    ) -> HTTPResponse:
        """Send the request."""
        if isinstance(body, str):
            content = body.encode()
        else:
            content = body or b"" if isinstance(body, bytes | None) else body.read()
        answer = self._wire.from_http(method, self._request.url or "", headers, content)
        return HTTPResponse(
            body=_Stream(answer),
            headers=answer.headers,
            status=answer.status,
            preload_content=False,
            decode_content=False,
        )


class _Stream(io.RawIOBase):
    """A body as it arrives, and how the connection ends."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self._rest = io.BytesIO(answer.body)
        self._cut_off_by = answer.cut_off_by

    def readable(self) -> bool:
        """Whether it can be read: it can."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Read some of it."""
        some = self._rest.read(size)
        if not some and size and self._cut_off_by is not None:
            raise self._cut_off_by
        return some
