"""Reads the answers of workers: HTTP/1.1 with a Content-Length, from a socket."""

from __future__ import annotations

import socket
from typing import NamedTuple

import orjson

_BUFFER = 65536
_LARGEST_HEAD = 16 * 1024


class Answer(NamedTuple):
    """An answer of a worker.

    Attributes:
        status: the HTTP status.
        body: the body.
        head: the lines before it, in lower case.
    """

    status: int
    body: bytes
    head: bytes

    @property
    def error(self) -> str:
        """The reason of a refusal."""
        try:
            return str(orjson.loads(self.body)["error"])
        except (ValueError, KeyError, TypeError):
            return f"status {self.status}"


def read_answer(connection: socket.socket, largest: int) -> Answer:
    """Read an answer.

    Args:
        connection: where it comes from.
        largest: the most bytes that its body may have.

    Raises:
        OSError: the connection broke.
        ValueError: this is not such an answer, or it is too large.
    """
    data = connection.recv(_BUFFER)
    end = data.find(b"\r\n\r\n")
    while end < 0:
        if len(data) > _LARGEST_HEAD:
            raise ValueError("the head of the worker's answer is too large")
        more = connection.recv(_BUFFER)
        if not more:
            raise ConnectionError("the worker closed the connection")
        data += more
        end = data.find(b"\r\n\r\n")
    status = int(data[9:12])
    head = data[:end].lower()
    at = head.find(b"content-length:")
    if at < 0:
        raise ValueError("the worker's answer has no Content-Length")
    stop = head.find(b"\r\n", at)
    length = int(head[at + 15 : stop if stop > 0 else None])
    if not 0 <= length <= largest:
        raise ValueError(f"the worker's answer has {length} bytes, and at most {largest} are possible")
    parts = [data[end + 4 :]]
    missing = length - len(parts[0])
    while missing > 0:
        more = connection.recv(min(missing, _BUFFER))
        if not more:
            raise ConnectionError("the worker closed the connection")
        parts.append(more)
        missing -= len(more)
    return Answer(status, b"".join(parts), head)
