"""One request: where it goes, what it holds, and what a hostile URL or receiver can't do."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler
from typing import Any

import gevent
import pytest

from qinling_falcon.settings import Settings
from qinling_falcon.webhooks.sender import NotDelivered, Sender
from tests.webhooks.receiver import Receiver, receiver
from tests.webhooks.sending import LOOPBACK, post


def names(**addresses: Sequence[str]) -> Callable[[str, int, str], Sequence[str]]:
    """A resolver that knows these names of `.example`."""
    return lambda host, port, project_id: addresses[host.removesuffix(".example")]


def test_a_request_has_the_url_the_headers_and_the_body(receiving: Receiver) -> None:
    body = b'{"a": 1}' * 100_000
    url = receiving.url("/a%20b?c=d", host="hooks.example")

    status = Sender(LOOPBACK, names(hooks=["127.0.0.1"])).post(url, {"webhook-id": "x", "X-More": "y"}, body)

    [request] = receiving.received
    assert (status, request.path, request.body) == (204, "/a%20b?c=d", body)
    assert request.headers == {
        "host": f"hooks.example:{receiving.port}",
        "connection": "close",
        "user-agent": "Qinling-Falcon",
        "content-type": "application/json",
        "content-length": str(len(body)),
        "webhook-id": "x",
        "x-more": "y",
    }


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_2xx_is_delivered(receiving: Receiver, status: int) -> None:
    receiving.statuses = [status]

    assert post(receiving.url()) == status


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308, 400, 401, 404, 410, 413, 429, 500, 503])
def test_other_statuses_are_failures_and_only_410_is_final(receiving: Receiver, status: int) -> None:
    receiving.statuses = [status]

    with pytest.raises(NotDelivered, match=f"status {status}") as caught:
        post(receiving.url())

    assert caught.value.is_final == (status == 410)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(receiving: Receiver, status: int) -> None:
    with receiver() as other:

        def redirect(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            handler.send_header("Location", other.url())
            handler.end_headers()

        receiving.answer = redirect
        with pytest.raises(NotDelivered, match="redirect, which is not followed"):
            post(receiving.url())

        assert (len(receiving.received), other.received) == (1, [])


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"]
)
def test_a_name_of_an_address_that_is_not_public_is_refused(address: str) -> None:
    with pytest.raises(NotDelivered, match="is not public, and CALLBACK_NETWORKS does not allow it"):
        post("http://hooks.example/", Settings(), resolve=names(hooks=[address]))


def test_one_refused_address_among_others_is_enough(receiving: Receiver) -> None:
    url = receiving.url(host="hooks.example")

    with pytest.raises(NotDelivered, match=r"10\.0\.0\.1"):
        post(url, resolve=names(hooks=["127.0.0.1", "10.0.0.1"]))

    assert receiving.received == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "[::1]"])
def test_other_spellings_of_loopback_are_refused(receiving: Receiver, host: str) -> None:
    with pytest.raises(NotDelivered):
        post(receiving.url(host=host), Settings())

    assert receiving.received == []


def test_a_name_is_resolved_once_and_its_address_is_what_is_connected_to(receiving: Receiver) -> None:
    answers = [["127.0.0.1"], ["10.0.0.1"]]

    assert post(receiving.url(host="rebound.example"), resolve=lambda host, port, project_id: answers.pop(0)) == 204

    assert answers == [["10.0.0.1"]]
    assert receiving.received[0].headers["host"] == f"rebound.example:{receiving.port}"


def test_the_next_address_is_tried(receiving: Receiver) -> None:
    assert post(receiving.url(host="hooks.example"), resolve=names(hooks=["127.0.0.9", "127.0.0.1"])) == 204


def test_no_proxy_is_used(receiving: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    assert post(receiving.url()) == 204


def unknown(host: str, port: int, project_id: str) -> Sequence[str]:
    raise socket.gaierror(-2, "Name or service not known")


@pytest.mark.parametrize(
    ("resolve", "said"), [(unknown, "Name or service not known"), (lambda host, port, project_id: [], "no address")]
)
def test_an_unknown_name_is_a_failure(resolve: Any, said: str) -> None:
    with pytest.raises(NotDelivered, match=said) as caught:
        post("http://hooks.example/", resolve=resolve)
    assert not caught.value.is_final


def test_a_closed_port_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(NotDelivered, match="can't be reached"):
        post(f"http://127.0.0.1:{port}/")


def test_a_url_that_can_not_be_called_is_final() -> None:
    with pytest.raises(NotDelivered, match="must have no user") as caught:
        post("http://user@hooks.example/")
    assert caught.value.is_final


def test_many_requests_at_once_share_a_sender(receiving: Receiver) -> None:
    sender = Sender(LOOPBACK)
    sent = [gevent.spawn(sender.post, receiving.url(f"/{number}"), {}, b"{}") for number in range(50)]
    gevent.joinall(sent, raise_error=True)

    assert {greenlet.value for greenlet in sent} == {204}
    assert {request.path for request in receiving.received} == {f"/{number}" for number in range(50)}
