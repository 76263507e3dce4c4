"""One request: where it goes, what it holds, and what a hostile URL or receiver can't do."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import gevent
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from gevent import ssl as gevent_ssl

from qinling_falcon.settings import Settings
from qinling_falcon.webhooks import sender as sender_module
from qinling_falcon.webhooks.sender import NotDelivered, Sender, resolve_name
from tests.webhooks.receiver import Receiver, receiver

LOOPBACK = Settings(callback_networks="127.0.0.0/8", callback_timeout_s=5.0)


@pytest.fixture
def receiving() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


def names(**addresses: Sequence[str]) -> Callable[[str, int], Sequence[str]]:
    """A resolver that knows these names of `.example`."""
    return lambda host, port: addresses[host.removesuffix(".example")]


def post(url: str, settings: Settings = LOOPBACK, **more: Any) -> int:
    return Sender(settings, **more).post(url, {"webhook-id": "x"}, b"{}")


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

    assert post(receiving.url(host="rebound.example"), resolve=lambda host, port: answers.pop(0)) == 204

    assert answers == [["10.0.0.1"]]
    assert receiving.received[0].headers["host"] == f"rebound.example:{receiving.port}"


def test_the_next_address_is_tried(receiving: Receiver) -> None:
    assert post(receiving.url(host="hooks.example"), resolve=names(hooks=["127.0.0.9", "127.0.0.1"])) == 204


def test_no_proxy_is_used(receiving: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    assert post(receiving.url()) == 204


def test_names_are_resolved_without_duplicates() -> None:
    assert resolve_name("127.0.0.1", 80) == ["127.0.0.1"]
    assert set(resolve_name("localhost", 80)) <= {"127.0.0.1", "::1"}
    with pytest.raises(OSError, match=r".+"):
        resolve_name("nothing.invalid", 80)


def unknown(host: str, port: int) -> Sequence[str]:
    raise socket.gaierror(-2, "Name or service not known")


@pytest.mark.parametrize(
    ("resolve", "said"), [(unknown, "Name or service not known"), (lambda host, port: [], "no address")]
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


def forever(send: Callable[[], None]) -> None:
    """Send until the client ends the connection."""
    while True:
        send()


@pytest.mark.parametrize("slow", ["resolver", "silence", "version", "status", "interim"])
def test_a_slow_delivery_ends_at_its_deadline(receiving: Receiver, slow: str) -> None:
    settings = Settings(callback_networks="127.0.0.0/8", callback_timeout_s=0.3)
    ended = threading.Event()
    starts = {"silence": b"", "version": b"HTTP/1.1", "status": b"HTTP/1.1 200", "interim": b"HTTP/1.1 103 Early\r\n"}

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(starts.get(slow, b""))
        ended.wait(30)

    def resolve(host: str, port: int) -> Sequence[str]:
        if slow == "resolver":
            gevent.sleep(30)
        return ["127.0.0.1"]

    receiving.answer = answer
    try:
        with pytest.raises(NotDelivered, match=r"within 0\.3 s"):
            post(receiving.url(host="hooks.example"), settings, resolve=resolve)
    finally:
        ended.set()


def test_bytes_now_and_then_do_not_extend_the_deadline(receiving: Receiver) -> None:
    settings = Settings(callback_networks="127.0.0.0/8", callback_timeout_s=0.3)
    ended = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 103 Early\r\n")
        while not ended.wait(0.02):
            handler.wfile.write(b"x")

    receiving.answer = answer
    try:
        with pytest.raises(NotDelivered, match=r"within 0\.3 s"):
            post(receiving.url(), settings)
    finally:
        ended.set()


def sent_until_closed(receiving: Receiver, head: bytes) -> list[int]:
    """Let the receiver answer `head` and then endless bytes; the list gets how many it could send."""
    sent: list[int] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(head)
        count = 0
        try:
            while True:
                handler.wfile.write(b"x" * 65536)
                count += 65536
        finally:
            sent.append(count)

    receiving.answer = answer
    return sent


def test_an_endless_body_is_not_read(receiving: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    read = count_reads(monkeypatch)
    sent_until_closed(receiving, b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n")

    assert post(receiving.url()) == 200

    assert sum(read) <= 16 * 1024


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 2", b"HTTP/1.1 103 Early Hints\r\n"])
def test_an_endless_head_is_not_read(receiving: Receiver, monkeypatch: pytest.MonkeyPatch, head: bytes) -> None:
    read = count_reads(monkeypatch)
    sent_until_closed(receiving, head)

    with pytest.raises(NotDelivered, match="not HTTP"):
        post(receiving.url())

    assert sum(read) <= 16 * 1024


def test_endless_interim_answers_are_not_read(receiving: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    read = count_reads(monkeypatch)
    receiving.answer = lambda handler: forever(lambda: handler.wfile.write(b"HTTP/1.1 103 Early\r\n\r\n" * 1000))

    with pytest.raises(NotDelivered, match="not HTTP"):
        post(receiving.url())

    assert sum(read) <= 16 * 1024


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of all that the sender's sockets read."""
    read: list[int] = []
    receive = sender_module.socket.socket.recv

    def counted(self: Any, *arguments: Any) -> bytes:
        data = receive(self, *arguments)
        read.append(len(data))
        return bytes(data)

    monkeypatch.setattr(sender_module.socket.socket, "recv", counted)
    return read


def test_an_answer_after_interim_ones_counts(receiving: Receiver) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
        handler.wfile.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")

    receiving.answer = answer

    assert post(receiving.url()) == 202


@pytest.mark.parametrize("words", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/2 200\r\n\r\n", b"HTTP/1.1 999 x\r\n\r\n"])
def test_what_is_not_http_is_a_failure(receiving: Receiver, words: bytes) -> None:
    receiving.answer = lambda handler: handler.wfile.write(words) and None

    with pytest.raises(NotDelivered, match="not HTTP"):
        post(receiving.url())


def test_a_receiver_that_keeps_the_connection_open_after_its_answer_has_it(receiving: Receiver) -> None:
    ended = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        ended.wait(30)

    receiving.answer = answer
    try:
        for timeout_s in (0.3, 5.0):  # the first ends while the rest is read
            settings = Settings(callback_networks="127.0.0.0/8", callback_timeout_s=timeout_s)
            assert post(receiving.url(), settings) == 200
    finally:
        ended.set()


def make_certificate(folder: Path, *names: str) -> Path:
    """A certificate of its own authority for DNS names and IP addresses, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "receiver")])
    now = datetime.datetime.now(datetime.UTC)
    others: list[x509.GeneralName] = []
    for name in names:
        try:
            others.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            others.append(x509.DNSName(name))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(others), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "receiver.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.mark.parametrize(
    ("host", "certified", "said"),
    [
        ("hooks.example", "hooks.example", None),
        ("hooks.example.", "hooks.example", None),
        ("127.0.0.1", "127.0.0.1", None),
        ("hooks.example", "other.example", "can't be reached.*hooks.example"),
        ("hooks.example", "127.0.0.1", "can't be reached"),
    ],
)
def test_tls_checks_the_certificate_by_the_name(
    tmp_path: Path, host: str, certified: str, said: str | None
) -> None:
    certificate = make_certificate(tmp_path, certified)
    asked: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.sni_callback = lambda connection, name, context: asked.append(name)

    def trusting() -> Any:
        return gevent_ssl.create_default_context(cafile=str(certificate))

    with receiver(context) as secure:
        url = f"https://{host}:{secure.port}/"
        resolve = lambda name, port: ["127.0.0.1"]  # noqa: E731
        if said is None:
            assert post(url, resolve=resolve, make_context=trusting) == 204
        else:
            with pytest.raises(NotDelivered, match=said):
                post(url, resolve=resolve, make_context=trusting)
        assert len(secure.received) == (said is None)
    assert asked == [None if host == "127.0.0.1" else "hooks.example"]


def test_tls_without_a_known_authority_is_refused(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(make_certificate(tmp_path, "127.0.0.1"))
    with receiver(context) as secure:
        with pytest.raises(NotDelivered, match="certificate"):
            post(f"https://127.0.0.1:{secure.port}/")
        assert secure.received == []


def test_many_requests_at_once_share_a_sender(receiving: Receiver) -> None:
    sender = Sender(LOOPBACK)
    sent = [gevent.spawn(sender.post, receiving.url(f"/{number}"), {}, b"{}") for number in range(50)]
    gevent.joinall(sent, raise_error=True)

    assert {greenlet.value for greenlet in sent} == {204}
    assert {request.path for request in receiving.received} == {f"/{number}" for number in range(50)}
