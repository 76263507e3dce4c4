"""Receivers that are slow, send too much, or do not speak HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler
from typing import Any

import gevent
import pytest

from qinling_falcon.settings import Settings
from qinling_falcon.webhooks import sender as sender_module
from qinling_falcon.webhooks.sender import NotDelivered
from tests.webhooks.receiver import Receiver
from tests.webhooks.sending import post


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

    def resolve(host: str, port: int, project_id: str) -> Sequence[str]:
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
def test_an_answer_that_is_not_http_is_a_failure(receiving: Receiver, words: bytes) -> None:
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
