"""A worker goes from a call of one web process to the next call, which comes to another web process.

There is one worker. The next call may come before Redis has heard of the release, or after it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.integration.held_calls import waiting
from tests.integration.pool_failures import Proxied, check_settled, output_of, proxied_service
from tests.integration.service import Service, wait_until
from tests.run import processes

pytestmark = pytest.mark.xdist_group("release-order")  # one service for both

ME = "import os\nME = os.urandom(8).hex()\ndef main(): return ME"
CALLS = 5


@pytest.fixture(scope="module")
def proxied() -> Iterator[Proxied]:
    with proxied_service(web_concurrency=2) as running:
        yield running


class Client:
    """A connection to one of the web processes."""

    def __init__(self, service: Service, connection: http.client.HTTPConnection):
        self._connection = connection
        self._request("GET", "/healthz")
        port = connection.sock.getsockname()[1]
        self.web = processes.serving(int(service.url.rpartition(":")[2]), port)

    def call(self, function_id: str) -> dict[str, Any]:
        body = json.dumps({"function_id": function_id})
        return dict(json.loads(self._request("POST", "/v1/executions", body)))

    def _request(self, method: str, path: str, body: str | None = None) -> bytes:
        self._connection.request(method, path, body, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        text = response.read()
        assert response.status in (200, 201), text
        return text


@contextlib.contextmanager
def one_client_of_each_process(service: Service) -> Iterator[list[Client]]:
    with contextlib.ExitStack() as stack:

        def connect() -> Client:
            connection = http.client.HTTPConnection(service.url.removeprefix("http://"), timeout=60)
            return Client(service, stack.enter_context(contextlib.closing(connection)))

        first = connect()
        second = wait_until("the other process serves", lambda: (one := connect()).web != first.web and one)
        yield [first, second]


def test_a_call_after_the_release_gets_the_worker(proxied: Proxied) -> None:
    function_id = proxied.service.function(ME)
    executions = []
    with one_client_of_each_process(proxied.service) as clients:
        for _ in range(CALLS):
            for client in clients:
                wait_until("Redis has heard of the release", lambda: not proxied.records.of_calls())
                executions.append(client.call(function_id))

    assert len({output_of(execution) for execution in executions}) == 1
    assert {execution["cold"] for execution in executions[1:]} == {"none"}
    check_settled(proxied.service, proxied.records, function_id, {"success": 2 * CALLS})


def test_a_call_before_the_release_waits_for_it_and_gets_the_worker(proxied: Proxied) -> None:
    service, function_id = proxied.service, proxied.service.function(ME)
    executions = []
    with one_client_of_each_process(service) as (first, second), ThreadPoolExecutor(1) as threads:
        for _ in range(CALLS):
            wait_until("Redis has heard of the release", lambda: not proxied.records.of_calls())
            proxied.proxy.delay("release")
            executions.append(first.call(function_id))
            next_call = threads.submit(second.call, function_id)
            wait_until("it waits, and the release is on its way", lambda: (
                waiting(service, function_id) == 1 and proxied.proxy.is_delaying()
            ))  # fmt: skip
            proxied.proxy.go_on()
            executions.append(next_call.result(60))

    assert len({output_of(execution) for execution in executions}) == 1
    assert {execution["cold"] for execution in executions[1:]} == {"none"}
    check_settled(service, proxied.records, function_id, {"success": 2 * CALLS})
