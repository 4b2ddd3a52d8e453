"""A thin client of Consul's HTTP API: the calls that the steps make, most of them about ACLs.

What each answer means was read from a recorded Consul 1.10.1 (tests/contract/) and, for later
versions, from Consul's source and change log:

* An absent token or policy is 403 `ACL not found` up to about 1.14, and 404 later. A caller whose
  own token is unknown gets the same 403 from all of them. On reads the header
  `X-Consul-Knownleader` tells the two apart: the caller is checked before the state is read.
  (Not so on `token/self`, where there is nothing else that could be absent.)
* Validation errors and duplicates are 500, as are faults that pass by themselves. Only the text
  tells them apart.
* An absent intention is 404 to a read, and no error to a deletion.
"""

from __future__ import annotations

import functools
import json
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final, Protocol, TypeVar
from urllib.parse import quote

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ProtocolError
from urllib3.util.ssl_ import create_urllib3_context

from handlers.clients.json_stream import json_objects
from handlers.core import remote_calls
from handlers.core.consul_tokens import is_intention, is_policy, is_token
from handlers.core.errors import (
    ConsulAclDisabled,
    ConsulAlreadyBootstrapped,
    ConsulObjectExists,
    ConsulObjectGone,
    ConsulPermissionDenied,
    ConsulRequestInvalid,
    ConsulTokenRejected,
    ConsulUnavailable,
    ConsulWrongDatacenter,
    StepError,
)
from handlers.core.token_secret import is_token_id

Json = dict[str, Any]
T = TypeVar("T")

_CONNECT_SECONDS: Final = 3.0
# Without a leader, a server holds reads back for about 7 seconds before it fails them.
_READ_SECONDS: Final = 10.0
# The server may finish a bootstrap after we gave up on it, and on servers that take no
# BootstrapSecret the answer that we did not read was the only copy of the token.
_BOOTSTRAP_READ_SECONDS: Final = 60.0
# Before it sends a snapshot, Consul writes all of its state to a file; before it answers to one, it
# reads it, and its leader does again what a new leader does, for which it has a minute.
_SNAPSHOT_READ_SECONDS: Final = 300.0
# While a request is sent, urllib3 waits as long for the socket as for a connection: a server that
# unpacks a snapshot while it arrives, onto a busy disk, may not read for a while.
_SNAPSHOT_SEND_SECONDS: Final = 60.0
_SNAPSHOT: Final = "/v1/snapshot"
_MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
_MAX_QUOTED_CHARACTERS: Final = 300

_RAFT_CONFIGURATION: Final = "/v1/operator/raft/configuration"
_DEREGISTER: Final = "/v1/catalog/deregister"

_INTENTION: Final = "/v1/connect/intentions/exact"
_READ_INTENTION: Final = "intentions:read of one of the two services"
_WRITE_INTENTION: Final = "intentions:write of the called service"

_EXISTS = re.compile(r"is already in use|already exists")
# The beginnings of what Consul says, with status 500, about the content of a request.
_INVALID_REQUEST = re.compile(
    r"(rpc error making call: )*"  # one for each agent and server on the way
    r"(Invalid |No such ACL |Failed to parse ACL rules|Failed acl token lookup|failed acl |"
    r"Service identity |Node identity |Changing |Cannot |cannot |Delete operation not permitted|"
    r"Deletion of |Accessor ID is missing|Policy ID invalid|ExpirationTime |Token Expiration |"
    r"Connect must be enabled|Sources\[0\]\.)"
)
_RESET_INDEX = re.compile(r"reset index: (\d+)")


class Refreshable(Protocol):
    """Something that was read from a secret, is kept, and can be read again."""

    def value(self) -> str:
        """Return it, reading it only the first time."""

    def read_again(self) -> str:
        """Read it anew."""


@dataclass(frozen=True)
class Answer:
    """What Consul answered."""

    status: int
    headers: Mapping[str, str]
    text: str
    kept: list[Any] = field(default_factory=list)
    """Of a list: what was made of its objects."""

    @property
    def ok(self) -> bool:
        """Whether the request was carried out."""
        return bool(self.status == requests.codes.ok)

    @property
    def says_acl_not_found(self) -> bool:
        """Whether it is the 403 that means "no such object" or "I do not know your token"."""
        return bool(self.status == requests.codes.forbidden) and "ACL not found" in self.text


class ConsulClient:
    """One Consul HTTP API, over one warm connection.

    Args:
        address: such as `https://consul.example.com:8501`.
        token: the token to authenticate with; None for calls that need none.
        ca_file: the path of a file with the PEM of the CA that signed the server's certificate;
            None for the public ones.

    Every method can raise:
        ConsulUnavailable, ConsulAclDisabled, ConsulPermissionDenied, ConsulTokenRejected,
        ConsulRequestInvalid, ConsulObjectExists.

    """

    def __init__(
        self,
        address: str,
        *,
        token: Refreshable | None = None,
        ca_file: Refreshable | None = None,
    ) -> None:
        self._address = address.rstrip("/")
        self._token = token
        self._ca_file = ca_file
        self._session = _Session()
        # No proxies, no .netrc: the token goes to this address and nowhere else.
        self._session.trust_env = False
        self._session.headers["User-Agent"] = "consul-on-ecs"
        if ca_file is not None:
            self._session.mount("https://", _PrivateCaAdapter())

    # --- the server ----------------------------------------------------------------------------

    def leader(self, datacenter: str) -> str:
        """Return the address of a datacenter's leader, or "" while there is none.

        Raises:
            ConsulWrongDatacenter: if the servers do not know the datacenter.

        """
        answer = self._send("GET", "/v1/status/leader", query={"dc": datacenter})
        if answer.status >= requests.codes.server_error and "No path to datacenter" in answer.text:
            message = (
                f'Consul at {self._address} knows no datacenter "{datacenter}". '
                "Correct consul.datacenter in the settings."
            )
            raise ConsulWrongDatacenter(message)
        leader = self._json(answer, "Reading the leader")
        if not isinstance(leader, str):
            raise self._unreadable("Reading the leader")
        return leader

    def check_acl_system(self) -> None:
        """Return if the ACL system is enabled and answers.

        Raises:
            ConsulAclDisabled, ConsulUnavailable.

        """
        # Unauthenticated, so 403 is what a working ACL system answers here; one that still starts
        # says 500, and `/v1/agent/` would say 403 there, too.
        answer = self._send("GET", "/v1/acl/tokens")
        if not answer.ok and answer.status != requests.codes.forbidden:
            raise self._error(answer, "Checking the ACL system")

    def bootstrap(self, secret_id: str) -> str:
        """Bootstrap the ACL system, with a management token of our choice where Consul allows it.

        Returns the secret ID of the management token: ours where Consul takes a BootstrapSecret
        (hashicorp/consul#14437, 2023), else one that the server chose.

        Raises:
            ConsulAlreadyBootstrapped: if that was done before.

        """
        what = "Bootstrapping the ACL system"
        answer = self._send(
            "PUT",
            "/v1/acl/bootstrap",
            body={"BootstrapSecret": secret_id},
            read_seconds=_BOOTSTRAP_READ_SECONDS,
            reconnect=False,
        )
        if answer.status == requests.codes.forbidden and "no longer allowed" in answer.text:
            index = _RESET_INDEX.search(answer.text)
            number = index.group(1) if index else "the reset index from the server's log"
            message = (
                f"The ACL system of Consul at {self._address} is bootstrapped already. "
                f"To reset it, write {number} to the file acl-bootstrap-reset in the data "
                "directory of the leader, then run ClusterBootstrap again."
            )
            raise ConsulAlreadyBootstrapped(message)
        token = self._json(answer, what, secrets=(secret_id,))
        chosen = token.get("SecretID") if isinstance(token, dict) else None
        if not isinstance(chosen, str) or not is_token_id(chosen):
            raise self._unreadable(what)
        return chosen

    def knows_token(self, secret_id: str) -> bool:
        """Whether Consul knows a token."""
        answer = self._send("GET", "/v1/acl/token/self", token=secret_id)
        if answer.says_acl_not_found or answer.status == requests.codes.not_found:
            return False
        found = self._json(answer, "Checking a token", secrets=(secret_id,))
        if not isinstance(found, dict) or found.get("SecretID") != secret_id:
            raise self._unreadable("Checking a token")
        return True

    # --- tokens --------------------------------------------------------------------------------

    def read_token(self, accessor_id: str) -> Json | None:
        """Return a token as Consul renders it, secret ID included, or None."""
        token = self._read("/v1/acl/token/:accessor_id", accessor_id=accessor_id)
        if token is None:
            return None
        # Another object under this ID would be taken for the token, and changed like it.
        if not is_token(token) or token["AccessorID"].lower() != accessor_id.lower():
            raise self._unreadable(f"Reading the token {accessor_id}")
        return token

    def create_token(self, token: Json) -> None:
        """Create a token with the IDs that it brings along.

        Raises:
            ConsulObjectExists: if one of the IDs is in use.

        """
        self._write("PUT", "/v1/acl/token", body=token)

    def update_token(self, accessor_id: str, token: Json) -> None:
        """Replace a token: what the new version leaves out is dropped.

        Raises:
            ConsulObjectGone: if it was deleted meanwhile.

        """
        self._write("PUT", "/v1/acl/token/:accessor_id", body=token, accessor_id=accessor_id)

    def list_tokens(self, keep: Callable[[Json], T | None]) -> list[T]:
        """Return what `keep` makes of each token, secret ID included, without the Nones.

        Consul has no pages here. A list of many thousands is larger than what a step should hold
        at once, so each token is forgotten when it has been looked at.
        """
        answer = self._send_authenticated("GET", "/v1/acl/tokens", ids={}, keep=keep)
        if not answer.ok:
            raise self._error(answer, "GET /v1/acl/tokens")
        return answer.kept

    def use_fresh_token(self) -> None:
        """Authenticate with what the secret holds now, not with what was read from it before."""
        if self._token is not None:
            self._token.read_again()

    def delete_token(self, accessor_id: str) -> None:
        """Delete a token; an absent one is fine."""
        self._write("DELETE", "/v1/acl/token/:accessor_id", accessor_id=accessor_id)

    # --- policies ------------------------------------------------------------------------------

    def read_policy(self, name: str) -> Json | None:
        """Return a policy as Consul renders it, or None."""
        policy = self._read("/v1/acl/policy/name/:name", name=name)
        if policy is None:
            return None
        if not is_policy(policy) or policy["Name"].lower() != name.lower():
            raise self._unreadable(f"Reading the policy {name}")
        return policy

    def create_policy(self, policy: Json) -> None:
        """Create a policy.

        Raises:
            ConsulObjectExists: if there is one of its name.

        """
        self._write("PUT", "/v1/acl/policy", body=policy)

    def update_policy(self, policy_id: str, policy: Json) -> None:
        """Replace a policy.

        Raises:
            ConsulObjectGone: if it was deleted meanwhile.

        """
        self._write("PUT", "/v1/acl/policy/:policy_id", body=policy, policy_id=policy_id)

    # --- intentions ----------------------------------------------------------------------------

    def read_intention(self, source: str, destination: str) -> Json | None:
        """Return what Consul says about calls of one service to another, or None.

        It is the intention of exactly these two names, of which "*" is one, not the one that
        decides.
        """
        what, answer = self._send_about_intention("GET", source, destination)
        if answer.status == requests.codes.not_found:
            return None
        if not answer.ok:
            raise self._error(answer, what, needs=_READ_INTENTION)
        found = self._json(answer, what)
        if not is_intention(found) or (
            (found["SourceName"].lower(), found["DestinationName"].lower())
            != (source.lower(), destination.lower())
        ):
            raise self._unreadable(what)
        return dict(found)

    def write_intention(self, source: str, destination: str, intention: Json) -> None:
        """Create an intention, or replace it: what the new version leaves out is dropped."""
        what, answer = self._send_about_intention("PUT", source, destination, intention)
        if not answer.ok:
            raise self._error(answer, what, needs=_WRITE_INTENTION)

    def delete_intention(self, source: str, destination: str) -> None:
        """Delete an intention; an absent one is fine."""
        what, answer = self._send_about_intention("DELETE", source, destination)
        if not answer.ok:
            raise self._error(answer, what, needs=_WRITE_INTENTION)

    def _send_about_intention(
        self, method: str, source: str, destination: str, body: Json | None = None
    ) -> tuple[str, Answer]:
        what = f'{method} {_INTENTION} of "{source}" to "{destination}"'
        names = {"source": source, "destination": destination}
        return what, self._send_authenticated(method, _INTENTION, ids={}, query=names, body=body)

    # --- snapshots -----------------------------------------------------------------------------

    def save_snapshot(self, into: BinaryIO) -> None:
        """Write a snapshot of all state to a file, while it arrives.

        It may have no end: Consul cannot take back a status that it has sent.
        """
        answer = self._send_authenticated("GET", _SNAPSHOT, ids={}, into=into)
        if not answer.ok:
            raise self._error(answer, f"GET {_SNAPSHOT}")

    def restore_snapshot(self, archive: BinaryIO, *, token: str) -> None:
        """Replace all state by that of a snapshot, which is read from a file while it is sent.

        All tokens are replaced, too: that of the caller may not be valid any more afterwards.
        """
        archive.seek(0)
        answer = self._send(
            "PUT",
            _SNAPSHOT,
            content=archive,
            token=token,
            read_seconds=_SNAPSHOT_READ_SECONDS,
            reconnect=False,
        )
        if not answer.ok:
            raise self._error(answer, f"PUT {_SNAPSHOT}", secrets=(token,))

    # --- servers -------------------------------------------------------------------------------

    def registered_servers(self, *, token: str) -> list[tuple[str, str]]:
        """Return the name and the ID of each node that is a server, says the catalog.

        The ID is "" if the node was registered without one.
        """
        what = "GET /v1/catalog/service/consul"
        path = "/v1/catalog/service/:name"
        answer = self._send("GET", path, ids={"name": "consul"}, token=token)
        if not answer.ok:
            needs = "service:read and node:read"
            raise self._error(answer, what, secrets=(token,), needs=needs)
        found = self._json(answer, what)
        if not isinstance(found, list) or not all(_is_server(entry) for entry in found):
            raise self._unreadable(what)
        return sorted({(entry["Node"], entry["ID"]) for entry in found})

    def raft_server_ids(self, *, token: str) -> set[str]:
        """Return the IDs of the nodes that are servers, says Raft: at least one."""
        what = f"GET {_RAFT_CONFIGURATION}"
        answer = self._send("GET", _RAFT_CONFIGURATION, token=token)
        if not answer.ok:
            raise self._error(answer, what, secrets=(token,), needs="operator:read")
        found = self._json(answer, what)
        servers = found.get("Servers") if isinstance(found, dict) else None
        if not isinstance(servers, list) or not servers or not all(map(_has_id, servers)):
            raise self._unreadable(what)
        return {server["ID"] for server in servers}

    def deregister_node(self, name: str, datacenter: str, *, token: str) -> None:
        """Remove a node from the catalog, with all that is on it; an absent one is fine."""
        answer = self._send(
            "PUT", _DEREGISTER, body={"Datacenter": datacenter, "Node": name}, token=token
        )
        if not answer.ok:
            what = f'PUT {_DEREGISTER} of the node "{name}"'
            raise self._error(answer, what, secrets=(token,), needs="node:write of it")

    # --- requests ------------------------------------------------------------------------------

    def _read(self, path: str, **ids: str) -> Json | None:
        what = f"GET {_fill(path, ids)}"
        answer = self._send_authenticated("GET", path, ids=ids)
        if answer.says_acl_not_found or answer.status == requests.codes.not_found:
            return None
        found = self._json(answer, what)
        if not isinstance(found, dict):
            raise self._unreadable(what)
        return found

    def _write(self, method: str, path: str, *, body: Json | None = None, **ids: str) -> None:
        answer = self._send_authenticated(method, path, ids=ids, body=body)
        if method == "DELETE" and answer.status == requests.codes.not_found:
            return
        if not answer.ok:
            secret_id = (body or {}).get("SecretID")
            secrets = (secret_id,) if isinstance(secret_id, str) else ()
            if method == "PUT" and ids and _says_gone(answer):
                message = (
                    f"Somebody deleted {_fill(path, ids)} in Consul at {self._address} while it "
                    "was updated. The next attempt makes it anew."
                )
                raise ConsulObjectGone(message)
            raise self._error(answer, f"{method} {_fill(path, ids)}", secrets=secrets)

    def _send_authenticated(
        self,
        method: str,
        path: str,
        *,
        ids: Mapping[str, str],
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        keep: Callable[[Json], Any] | None = None,
        into: BinaryIO | None = None,
    ) -> Answer:
        """Send with our token; if Consul does not know it, read it again and send once more."""
        if self._token is None:
            message = f"{method} {path} needs a token, and this client was made without one."
            raise RuntimeError(message)
        send = functools.partial(
            self._send,
            method,
            path,
            ids=ids,
            query=query,
            body=body,
            keep=keep,
            into=into,
        )
        used = self._token.value()
        answer = send(token=used)
        if _own_token_refused(method, path, answer):
            fresh = self._token.read_again()
            if fresh != used:
                answer = send(token=fresh)
            if _own_token_refused(method, path, answer):
                message = (
                    f"Consul at {self._address} does not know the token in {self._token}. If you "
                    "manage that secret, put a valid token there; then start ClusterBootstrap, "
                    "which makes the controller's own token anew."
                )
                raise ConsulTokenRejected(message)
        return answer

    def _send(
        self,
        method: str,
        path: str,
        *,
        ids: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        token: str | None = None,
        read_seconds: float = _READ_SECONDS,
        reconnect: bool = True,
        keep: Callable[[Json], Any] | None = None,
        into: BinaryIO | None = None,
        content: BinaryIO | None = None,
    ) -> Answer:
        url = self._address + _fill(path, ids or {})
        headers = {"X-Consul-Token": token} if token is not None else {}
        if into is not None:
            headers["Accept-Encoding"] = "identity"  # it is compressed already
            read_seconds = _SNAPSHOT_READ_SECONDS
        remote_calls.count(f"consul:{method} {path}")
        try:
            with self._session.request(
                method,
                url,
                params=query,
                json=body,
                data=content,
                headers=headers,
                timeout=(
                    _CONNECT_SECONDS if content is None else _SNAPSHOT_SEND_SECONDS,
                    read_seconds,
                ),
                # A redirect would carry the token to wherever it points.
                allow_redirects=False,
                stream=True,
                verify=self._ca_file.value() if self._ca_file else True,
            ) as response:
                status = response.status_code
                if keep is not None and status == requests.codes.ok:
                    kept = self._kept(response, keep)
                    return Answer(status, response.headers, text="", kept=kept)
                if into is not None and status == requests.codes.ok:
                    _copy(response, into)
                    return Answer(status, response.headers, text="")
                return Answer(status, response.headers, text=self._body(response))
        except requests.exceptions.RequestException as error:
            again = reconnect and self._may_reconnect(error)
            # `from None`: the request, with its token, hangs on the exception.
            failure = self._no_answer(error, f"{method} {url}")
        if not again:
            raise failure from None
        return self._send(
            method,
            path,
            ids=ids,
            query=query,
            body=body,
            token=token,
            read_seconds=read_seconds,
            reconnect=False,
            keep=keep,
            into=into,
        )

    def _may_reconnect(self, error: requests.exceptions.RequestException) -> bool:
        """Whether one more attempt makes sense: on a new connection, or with a new CA."""
        if isinstance(error, requests.exceptions.SSLError) and self._ca_file is not None:
            before = self._ca_file.value()
            return self._ca_file.read_again() != before
        # A server closes idle connections, which a warm process notices at its next request.
        return bool(error.args) and isinstance(error.args[0], ProtocolError)

    def _body(self, response: requests.Response) -> str:
        content = bytearray()
        for chunk in response.iter_content(64 * 1024):
            content += chunk
            if len(content) > _MAX_ANSWER_BYTES:
                message = (
                    f"Consul at {self._address} answered with more than {_MAX_ANSWER_BYTES} bytes."
                )
                raise ConsulUnavailable(message)
        return content.decode("utf-8", errors="replace")

    def _kept(self, response: requests.Response, keep: Callable[[Json], Any]) -> list[Any]:
        """Read a body that is an array of objects, one at a time."""
        objects = json_objects(response.iter_content(64 * 1024))
        kept: list[Any] = []
        try:
            for found in objects:
                if not is_token(found):
                    raise self._unreadable("Reading a list")
                if (item := keep(found)) is not None:
                    kept.append(item)
        except ValueError:
            # `from None`: the error of the parser carries the document, with secret IDs in it.
            raise self._unreadable("Reading a list") from None
        return kept

    # --- answers -------------------------------------------------------------------------------

    def _json(self, answer: Answer, what: str, *, secrets: tuple[str, ...] = ()) -> Any:
        if not answer.ok:
            raise self._error(answer, what, secrets=secrets)
        try:
            return json.loads(answer.text)
        except (ValueError, RecursionError):
            # `from None`: the error of the parser carries the document, which has secret IDs in it.
            raise self._unreadable(what) from None

    def _unreadable(self, what: str) -> ConsulUnavailable:
        message = f"{what}: the answer from {self._address} is not Consul's. Is it the address?"
        return ConsulUnavailable(message)

    def _error(
        self,
        answer: Answer,
        what: str,
        *,
        secrets: tuple[str, ...] = (),
        needs: str = "acl:write",
    ) -> StepError:
        text = answer.text.strip()
        for secret in secrets:
            text = text.replace(secret, "<secret>")
        text = text[:_MAX_QUOTED_CHARACTERS]
        message = f"{what}: Consul at {self._address} answered {answer.status} {text!r}."
        if answer.status == requests.codes.unauthorized:
            return ConsulAclDisabled(f"{message} Enable acl on the servers.")
        if answer.status == requests.codes.forbidden:
            return ConsulPermissionDenied(f"{message} The token needs {needs}.")
        if _EXISTS.search(text):
            return ConsulObjectExists(message)
        if answer.status in {requests.codes.too_many_requests, requests.codes.request_timeout}:
            return ConsulUnavailable(message)
        if answer.status < requests.codes.server_error or _INVALID_REQUEST.match(text):
            return ConsulRequestInvalid(message)
        return ConsulUnavailable(message)

    def _no_answer(self, error: Exception, what: str) -> ConsulUnavailable:
        if isinstance(error, requests.exceptions.Timeout):
            reason = "timed out"
        else:
            reason = _innermost(error)
        hint = f" The CA comes from {self._ca_file}." if self._ca_file else ""
        return ConsulUnavailable(f"{what}: no answer from Consul ({reason}).{hint}")


class _Session(requests.Session):
    """Does not look at where a redirect points.

    `allow_redirects=False` still reads the body, however long, and parses the address.
    """

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return nothing."""


class _PrivateCaAdapter(HTTPAdapter):
    """Verifies certificates as Python did before 3.13.

    Python 3.13 has OpenSSL refuse CA certificates that lack a key usage, which many a private CA's
    do. The chain, the dates and the host's name are verified all the same.
    """

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        context = create_urllib3_context()
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        super().init_poolmanager(*args, ssl_context=context, **kwargs)


def _copy(response: requests.Response, into: BinaryIO) -> None:
    into.seek(0)
    into.truncate()  # of an answer to the same request that broke off
    into.writelines(response.iter_content(64 * 1024))


def _is_server(value: Any) -> bool:
    """Whether a value is an entry of a server as the catalog renders it."""
    return (
        isinstance(value, dict)
        and value.get("ServiceName") == "consul"
        and isinstance(value.get("ID"), str)
        and isinstance(name := value.get("Node"), str)
        and name != ""
        and name.isprintable()  # it is shown
    )


def _has_id(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("ID"), str) and value["ID"] != ""


def _says_gone(answer: Answer) -> bool:
    """Whether the answer to an update means that there is nothing to update any more."""
    return answer.status == requests.codes.not_found or "Cannot find " in answer.text


def _own_token_refused(method: str, path: str, answer: Answer) -> bool:
    if not answer.says_acl_not_found:
        return False
    # A write names no object that could be absent, and only those of the ACL system are called so.
    # A read that got as far as the state knew a leader; one that was refused before did not ask
    # for it.
    is_of_acls = path.startswith("/v1/acl/")
    return (
        method != "GET" or not is_of_acls or answer.headers.get("X-Consul-Knownleader") == "false"
    )


def _fill(path: str, ids: Mapping[str, str]) -> str:
    """Put IDs into a path template: `/v1/acl/token/:accessor_id`."""
    return re.sub(r":(\w+)", lambda match: quote(ids[match.group(1)], safe=""), path)


def _innermost(error: BaseException) -> str:
    """Return what went wrong, without the layers that HTTP libraries put around it."""
    while True:
        reasons = (
            getattr(error, "reason", None),
            *error.args[:1],
            error.__cause__,
            error.__context__,
        )
        inner = next((item for item in reasons if isinstance(item, BaseException)), None)
        if inner is None:
            return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        error = inner
