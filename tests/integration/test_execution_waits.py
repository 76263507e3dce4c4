"""Requests that wait for the end of an execution, while processes and Redis go away under them."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import redis
import requests

from tests.integration.databases import BOTH, database_url
from tests.integration.service import Service, running_service, wait_until
from tests.servers.valkey import ValkeyServer, valkey_server

SLEEPER = "import time\ndef main(seconds): time.sleep(seconds); return seconds"
LONG_S = 60
shares_a_service = pytest.mark.xdist_group("execution-waits")
# What such a test proves is about Redis and connections of clients.
on_one_database = pytest.mark.parametrize("it", ["sqlite"], indirect=True)
# Long enough to let things happen while an execution runs, and short enough to wait for its end.
SOME_S = 4


class Waiting:
    """A service that runs asynchronous executions, and requests that wait."""

    def __init__(self, service: Service, server: ValkeyServer, threads: ThreadPoolExecutor):
        self.service = service
        self.server = server
        self.function_id = service.function(SLEEPER, timeout=LONG_S)
        self._threads = threads

    def start_worker(self, name: str = "worker") -> None:
        self.service.start_module(name, "workers.worker")

    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.server.url)

    def accept(self, seconds: float) -> str:
        """The id of a new asynchronous execution."""
        body = {"function_id": self.function_id, "input": {"seconds": seconds}, "sync": False}
        answer = self.service.request("POST", "/v1/executions", json=body)
        assert answer.status_code in (201, 202), answer.text
        return str(answer.json()["id"])

    def running(self, seconds: float) -> str:
        """The id of an asynchronous execution that a worker runs."""
        execution_id = self.accept(seconds)
        path = f"/v1/pool/executions/{execution_id}"
        wait_until("it runs", lambda: self.service.request("GET", path).json()["worker_id"])
        return execution_id

    def ask(self, execution_id: str) -> Future[requests.Response]:
        """Send a request that waits, on its own connection."""
        url = f"{self.service.url}/v1/executions/{execution_id}?wait={LONG_S}"
        return self._threads.submit(requests.get, url, timeout=2 * LONG_S)

    def ask_and_wait(self, execution_id: str) -> Future[requests.Response]:
        """Send a request, and wait until its process watches the execution."""
        request = self.ask(execution_id)
        wait_until("it waits", lambda: request.done() or self.is_watched(execution_id))
        assert not request.done(), request.result().text
        return request

    def is_watched(self, execution_id: str) -> bool:
        with self.redis() as client:
            return client.zscore("qf:{pool}:watched", execution_id) is not None

    def show(self, request: Future[requests.Response]) -> dict[str, Any]:
        """The execution with which a request was answered."""
        answer = request.result(2 * LONG_S)
        assert answer.status_code == 200, f"{answer.text}\n{self.service.logs()}"
        return dict(answer.json())


@pytest.fixture(scope="module")
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(200) as threads:
        yield threads


@contextlib.contextmanager
def started(threads: ThreadPoolExecutor, database_url: str = "", **settings: Any) -> Iterator[Waiting]:
    settings["max_workers"] = 6
    with valkey_server() as server, running_service(database_url, redis_url=server.url, **settings) as service:
        it = Waiting(service, server, threads)
        it.start_worker()
        service.start_module("tasks", "workers.tasks")
        try:
            yield it
        finally:
            for name in service.processes.keys() - {"web", "pool"}:
                service.stop(name)


@pytest.fixture(scope="module", params=BOTH)
def it(request: pytest.FixtureRequest, threads: ThreadPoolExecutor) -> Iterator[Waiting]:
    """One service for all tests that need no settings of their own."""
    with started(threads, database_url(request)) as it:
        yield it


@shares_a_service
def test_requests_for_asynchronous_and_synchronous_executions_are_answered_at_their_end(it: Waiting) -> None:
    accepted = [it.accept(0.1) for _ in range(3)]
    for execution_id in accepted:
        assert it.show(it.ask(execution_id))["status"] == "success"

    url, body = f"{it.service.url}/v1/executions", {"function_id": it.function_id, "input": {"seconds": SOME_S}}
    call = it._threads.submit(requests.post, url, json=body, timeout=LONG_S)

    def found() -> str | None:
        workers = it.service.request("GET", "/v1/pool/workers").json()
        executions = [row["lease"]["execution_id"] for row in workers if row.get("lease")]
        return next((name for name in executions if name and name not in accepted), None)

    execution_id = wait_until("the call runs", found)
    shown = it.show(it.ask_and_wait(execution_id))
    assert (shown["status"], shown["sync"]) == ("success", True)
    assert call.result(LONG_S).json()["id"] == execution_id


@shares_a_service
@on_one_database
def test_many_requests_wait_beside_calls(it: Waiting) -> None:
    executions = [it.running(SOME_S), *(it.accept(0.01) for _ in range(20))]
    waiting = [it.ask(executions[number % len(executions)]) for number in range(150)]

    assert it.service.call(it.function_id, {"seconds": 0})["status"] == "success"

    assert {it.show(request)["status"] for request in waiting} == {"success"}
    with it.redis() as client:
        wait_until("no execution is watched", lambda: client.zcard("qf:{pool}:watched") == 0)


@shares_a_service
@on_one_database
def test_a_request_whose_client_has_disconnected_does_not_wait_on(it: Waiting) -> None:
    execution_id = it.running(LONG_S)
    host, _, port = it.service.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(f"GET /v1/executions/{execution_id}?wait={LONG_S} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        wait_until("it waits", lambda: it.is_watched(execution_id))
    wait_until("it does not wait", lambda: not it.is_watched(execution_id))


@shares_a_service
@on_one_database
def test_requests_are_answered_after_redis_was_emptied(it: Waiting) -> None:
    """The pool manager ends the worker, which it does not know any more, and with it the execution."""
    request = it.ask_and_wait(it.running(SOME_S))
    with it.redis() as client:
        client.flushall()
    assert it.show(request)["status"] != "running"


@shares_a_service
@on_one_database
def test_requests_are_answered_after_redis_was_started_anew(it: Waiting) -> None:
    request = it.ask_and_wait(it.running(SOME_S))
    it.server.kill()
    it.server.start()
    assert it.show(request)["status"] != "running"


def test_requests_are_answered_when_another_process_has_run_the_execution(threads: ThreadPoolExecutor) -> None:
    with started(threads, holder_ttl_s=3) as it:
        request = it.ask_and_wait(it.running(SOME_S))
        it.service.stop("worker", signal.SIGKILL)
        it.start_worker("worker-2")
        shown = it.show(request)
    assert (shown["status"], shown["attempt"]) == ("success", 2)


def test_requests_are_answered_when_web_stops(threads: ThreadPoolExecutor) -> None:
    with started(threads, shutdown_grace_s=2 * LONG_S) as it:
        waiting = [it.ask_and_wait(it.accept(LONG_S)) for _ in range(20)]

        assert it.service.stop("web") == 0

        assert {it.show(request)["status"] for request in waiting} == {"running"}
        it.service.stop("worker", signal.SIGKILL)  # it would wait for the executions
