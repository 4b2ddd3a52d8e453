"""One request, one answer, or a plain word about why there is none."""

from __future__ import annotations

import socket
import threading

import pytest

from containers import http_exchange
from containers.http_exchange import NoAnswer, Response, exchange
from tests.unit.loopback import Answer, LoopbackServer


def test_an_answer_is_returned_whatever_its_status() -> None:
    with LoopbackServer(lambda _: Answer(503, b"no")) as server:
        response = exchange("127.0.0.1", server.port, "PUT", "/a?b", body=b"c", timeout=5)

    assert response == Response(503, b"no")
    (received,) = server.requests
    assert (received.method, received.path, received.body) == ("PUT", "/a?b", b"c")


@pytest.mark.parametrize(
    ("answer", "timeout", "message"),
    [
        (Answer(stall=True, length=3), 0.05, "no answer within 0.05 s"),
        (Answer(body=b"a", length=9, headers={"Connection": "close"}), 0.5, "the answer broke off"),
        (Answer(drop=True), 5, "the connection was closed"),
        (Answer(body=b"abcde"), 5, "the answer is longer than 4 bytes"),
    ],
)
def test_why_there_is_no_answer_is_said(
    answer: Answer, timeout: float, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_exchange, "_MOST_BYTES", 4)
    with (
        LoopbackServer(lambda _: answer) as server,
        pytest.raises(NoAnswer, match=message),
    ):
        exchange("127.0.0.1", server.port, "GET", "/", timeout=timeout)


def test_what_is_not_http_is_not_repeated_to_anybody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"a secret\r\n\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(NoAnswer) as caught:
            exchange("127.0.0.1", listener.getsockname()[1], "GET", "/", timeout=5)
        thread.join()

    assert str(caught.value) == "the answer is not a whole one (BadStatusLine)"
