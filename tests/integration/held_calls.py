"""Sends many calls that wait, for tests of other requests meanwhile."""

from __future__ import annotations

import contextlib
import http.client
import json
import selectors
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import redis

from tests.integration.service import Service

SLOW = "import time\ndef main(*given): time.sleep(60)"
QUICK = "def main(): return 1"
SOON_S = 20.0  # a request that waits for those that wait takes 60


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a refused call."""

    status: int
    retry_after: str | None
    message: str


class Calls:
    """Calls of one function, each on its own connection. Answers are read as they arrive."""

    def __init__(self, service: Service, function_id: str, token: str, held: contextlib.ExitStack):
        self._address = urlsplit(service.url).hostname, urlsplit(service.url).port
        self._function_id = function_id
        self._token = token
        self._held = held
        self._selector = held.enter_context(selectors.DefaultSelector())
        self.answers: list[Answer] = []

    def send(self, count: int, input: str | None = None) -> None:
        body = json.dumps({"function_id": self._function_id, "input": input}, ensure_ascii=False).encode()
        head = "POST /v1/executions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        head += f"X-Auth-Token: {self._token}\r\n" if self._token else ""
        request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        for _ in range(count):
            connection = self._held.enter_context(socket.create_connection(self._address, timeout=30))
            connection.sendall(request)
            self._selector.register(connection, selectors.EVENT_READ)

    def read(self) -> list[Answer]:
        """The answers so far; their connections are closed."""
        for key, _ in self._selector.select(0.05):
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            self._selector.unregister(connection)
            with connection, http.client.HTTPResponse(connection) as response:
                response.begin()
                message = json.loads(response.read()).get("faultstring", "")
                self.answers.append(Answer(response.status, response.headers["Retry-After"], message))
        return self.answers

    def refused(self, count: int) -> bool:
        """Whether this many calls were refused at once."""
        return len(self.read()) >= count


@contextlib.contextmanager
def calls_of(service: Service, function_id: str, token: str = "") -> Iterator[Calls]:
    """A `Calls`, whose connections are closed at the end."""
    with contextlib.ExitStack() as held:
        yield Calls(service, function_id, token, held)


def waiting(service: Service, function_id: str) -> int:
    """The number of waiting calls of a function."""
    return _count(service, "waiting", function_id)


def running(service: Service, function_id: str) -> int:
    """The number of running calls of a function."""
    return _count(service, "concurrency", function_id)


def _count(service: Service, key: str, function_id: str) -> int:
    with redis.Redis.from_url(service.environ["REDIS_URL"]) as connection:
        return int(connection.hget(f"qf:{{pool}}:{key}", f"function {function_id}") or 0)
