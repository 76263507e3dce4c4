"""Calls of one function that wait leave connections, places and memory to all others."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import selectors
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import redis

from qinling_falcon.settings import MIB
from tests.integration.service import Service, running_service, wait_until

SLOW = "import time\ndef main(*given): time.sleep(60)"
QUICK = "def main(): return 1"
SOON_S = 20.0  # a request that waits for those that wait takes 60


@dataclass(frozen=True, slots=True)
class Answer:
    """What a refused call gets."""

    status: int
    retry_after: str | None
    message: str


class Calls:
    """Calls of one function, each on a connection of its own, whose answers are read as they come."""

    def __init__(self, service: Service, function_id: str, held: contextlib.ExitStack):
        self._address = urlsplit(service.url).hostname, urlsplit(service.url).port
        self._function_id = function_id
        self._held = held
        self._selector = held.enter_context(selectors.DefaultSelector())
        self.answers: list[Answer] = []

    def send(self, count: int, input: str | None = None) -> None:
        body = json.dumps({"function_id": self._function_id, "input": input}, ensure_ascii=False).encode()
        head = "POST /v1/executions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        for _ in range(count):
            connection = self._held.enter_context(socket.create_connection(self._address, timeout=30))
            connection.sendall(request)
            self._selector.register(connection, selectors.EVENT_READ)

    def read(self) -> list[Answer]:
        """The answers until now; the connections of these are closed."""
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
        """Whether so many have been refused at once."""
        return len(self.read()) >= count


@contextlib.contextmanager
def calls_of(service: Service, function_id: str) -> Iterator[Calls]:
    with contextlib.ExitStack() as held:
        yield Calls(service, function_id, held)


def waiting(service: Service, function_id: str) -> int:
    """How many calls of a function wait in the queue."""
    return _size(service, f"waiting:function:{function_id}")


def running(service: Service, function_id: str) -> int:
    """How many calls of a function have a worker."""
    return _size(service, f"running:function:{function_id}")


def _size(service: Service, key: str) -> int:
    with redis.Redis.from_url(service.environ["REDIS_URL"]) as connection:
        return int(connection.scard(f"qf:{{pool}}:{key}"))


def web_processes(service: Service) -> list[int]:
    """The processes that serve: Gunicorn's children."""
    master = service.processes["web"].pid
    return [int(pid) for pid in Path(f"/proc/{master}/task/{master}/children").read_text().split()]


def memory_mib(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) // 1024


def test_waiting_calls_keep_no_other_request_out() -> None:
    """By function and project as many could wait as there are connections: what holds is the bound of the process."""
    with running_service(
        web_concurrency=1, web_connections=60, max_workers=6, function_concurrency=2, function_queue_factor=100,
        project_queue_factor=100, invoke_queue_timeout_s=60,
    ) as service:  # fmt: skip
        slow, quick = service.function(SLOW, timeout=70), service.function(QUICK)
        service.call(quick)
        with calls_of(service, slow) as calls:
            calls.send(2)
            wait_until("two run", lambda: running(service, slow) == 2)
            calls.send(118)

            wait_until("all but the bound are refused", lambda: calls.refused(120 - 15))

            for answer in calls.answers:
                assert (answer.status, answer.retry_after) == (503, "1")
                assert "WEB_CONNECTIONS" in answer.message
            began = time.monotonic()
            for path in ("/healthz", "/readyz", "/v1/functions"):
                assert service.request("GET", path).status_code == 200
            assert service.call(quick)["status"] == "success"
            assert time.monotonic() - began < SOON_S
            wait_until("the others wait in the queue", lambda: waiting(service, slow) == 15 - 2)


def test_the_queue_of_one_function_keeps_no_other_function_out() -> None:
    with running_service(max_workers=6, function_concurrency=2, invoke_queue_timeout_s=60) as service:
        slow, quick = service.function(SLOW, timeout=70), service.function(QUICK)
        with calls_of(service, slow) as calls:
            calls.send(2)
            wait_until("two run", lambda: running(service, slow) == 2)
            calls.send(98)

            wait_until("all but the bounds are refused", lambda: calls.refused(100 - 2 - 6))

            for answer in calls.answers:
                assert answer.status == 503
                assert slow in answer.message and "FUNCTION_QUEUE_FACTOR" in answer.message
            assert waiting(service, slow) == 6
            began = time.monotonic()
            assert service.call(quick)["status"] == "success"
            assert time.monotonic() - began < SOON_S


def test_calls_that_waited_in_a_killed_process_are_counted_no_more() -> None:
    with running_service(
        web_concurrency=1, max_workers=4, function_concurrency=2, function_queue_factor=30, project_queue_factor=30,
        invoke_queue_timeout_s=120, holder_ttl_s=3,
    ) as service:  # fmt: skip
        slow = service.function(SLOW, timeout=70)
        with calls_of(service, slow) as calls:
            calls.send(50)
            wait_until("they wait", lambda: waiting(service, slow) == 48)

            for pid in web_processes(service):
                os.kill(pid, signal.SIGKILL)

            wait_until("none is counted", lambda: waiting(service, slow) == 0)


def test_a_call_whose_client_has_gone_leaves_the_queue_when_its_time_is_over() -> None:
    with running_service(max_workers=4, function_concurrency=1, invoke_queue_timeout_s=3) as service:
        slow = service.function(SLOW, timeout=70)
        with calls_of(service, slow) as calls:
            calls.send(4)
            wait_until("they wait", lambda: waiting(service, slow) == 3)

        assert waiting(service, slow) == 3
        wait_until("none waits", lambda: waiting(service, slow) == 0)


def test_waiting_inputs_take_bounded_memory() -> None:
    """Of these, each takes 4 MiB: of text with one wide character each is wide."""
    with running_service(web_concurrency=1, max_workers=2, invoke_queue_timeout_s=60) as service:
        slow = service.function(SLOW, timeout=70, memory_size=128 * MIB)
        [web] = web_processes(service)
        before = memory_mib(web)
        with calls_of(service, slow) as calls:
            for _ in range(80):
                calls.send(1, "x" * (MIB - 4) + "\U0001f600")
                calls.read()

            wait_until("all but the bound are refused", lambda: calls.refused(80 - 8))

            assert {answer.status for answer in calls.answers} == {503}
            assert "MAX_HELD_INPUT_SIZE" in calls.answers[-1].message
            assert memory_mib(web) - before < 150, memory_mib(web)
