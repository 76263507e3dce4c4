"""`Idempotency-Key` over two web servers: repeated requests race, and processes are killed."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.integration.databases import database_url
from tests.integration.held_calls import waiting as waiting_calls
from tests.integration.service import Service, free_port, running_service, wait_until

pytestmark = [pytest.mark.xdist_group("idempotency"), pytest.mark.timeout(180)]

# It returns how often it has run in its worker.
COUNTS = """
import time

runs = 0

def main(seconds=0):
    global runs
    runs += 1
    time.sleep(seconds)
    return runs
"""


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    """A service with a second web server, whose processes have the names `web` and `second`."""
    times = {"holder_ttl_s": 3, "reap_interval_s": 0.3, "invoke_queue_timeout_s": 60}
    with running_service(database_url(request), web_concurrency=1, max_workers=4, **times) as running:
        running.environ["PORT"] = str(free_port())
        running.start_web("second")
        wait_until("the second web server is ready", lambda: get(running, "second", "/readyz").status_code == 200)
        try:
            yield running
        finally:
            running.stop("second")


def url_of(service: Service, web: str) -> str:
    return service.url if web == "web" else f"http://127.0.0.1:{service.environ['PORT']}"


def get(service: Service, web: str, path: str) -> requests.Response:
    return requests.get(url_of(service, web) + path, timeout=60)


def post(service: Service, web: str, key: str, function_id: str, **fields: Any) -> requests.Response:
    body = {"function_id": function_id, **fields}
    return requests.post(
        f"{url_of(service, web)}/v1/executions", json=body, headers={"Idempotency-Key": key}, timeout=90
    )


def raced(service: Service, send: Callable[[str], requests.Response]) -> list[requests.Response]:
    """Send a request to both web servers, many times at once."""
    with ThreadPoolExecutor(16) as threads:
        return list(threads.map(send, ["web", "second"] * 8))


def processes_of(service: Service, web: str) -> list[int]:
    master = service.processes[web].pid
    return [int(pid) for pid in Path(f"/proc/{master}/task/{master}/children").read_text().split()]


def kill(service: Service, web: str) -> None:
    """Kill the process of a web server; Gunicorn starts another one."""
    (pid,) = processes_of(service, web)
    os.kill(pid, signal.SIGKILL)
    wait_until(f"{web} has another process", lambda: processes_of(service, web) not in ([], [pid]))


def made(service: Service, function_id: str) -> list[dict[str, Any]]:
    return list(get(service, "web", f"/v1/executions?function_id={function_id}").json())


def answered(service: Service, web: str, key: str, function_id: str, **fields: Any) -> requests.Response:
    """The answer to a request that is repeated as long as the first one has not ended."""

    def ask() -> requests.Response | None:
        answer = post(service, web, key, function_id, **fields)
        assert answer.status_code in (201, 409), answer.text
        return answer if answer.status_code == 201 else None

    answer = wait_until("the first request has ended", ask, 60)
    assert isinstance(answer, requests.Response)
    return answer


def test_racing_synchronous_requests_run_once(service: Service) -> None:
    function_id = service.function(COUNTS, concurrency=1)
    for run in range(1, 6):
        key = uuid.uuid4().hex

        answers = raced(service, lambda web, key=key: post(service, web, key, function_id))

        assert {answer.status_code for answer in answers} <= {201, 409}, [answer.text for answer in answers]
        first = answered(service, "web", key, function_id).json()
        ended = [answer for answer in answers if answer.status_code == 201]
        assert [answer.json() for answer in ended] == [first] * len(ended)
        assert sum("Idempotent-Replayed" not in answer.headers for answer in ended) == 1
        assert len(made(service, function_id)) == run
    assert json.loads(service.call(function_id)["result"])["output"] == 6


def test_racing_asynchronous_requests_are_accepted_once(service: Service) -> None:
    function_id = service.function(COUNTS)
    for run in range(1, 6):
        key = uuid.uuid4().hex

        answers = raced(service, lambda web, key=key: post(service, web, key, function_id, sync=False))

        assert {answer.status_code for answer in answers} == {201}, [answer.text for answer in answers]
        assert [answer.json() for answer in answers] == [answers[0].json()] * len(answers)
        assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
        assert len(made(service, function_id)) == run


def test_racing_requests_with_different_fields_run_once(service: Service) -> None:
    function_id = service.function(COUNTS, concurrency=1)
    key = uuid.uuid4().hex

    answers = raced(service, lambda web: post(service, web, key, function_id, description=web))

    assert {answer.status_code for answer in answers} <= {201, 409, 422}
    assert len(made(service, function_id)) == 1
    assert 422 in {answer.status_code for answer in answers}


def test_after_its_process_was_killed_a_call_that_ran_is_answered_as_lost(service: Service) -> None:
    function_id = service.function(COUNTS, concurrency=1, timeout=100)
    call = {"input": {"seconds": 90}}
    with ThreadPoolExecutor(1) as threads:
        calling = threads.submit(post, service, "second", "killed", function_id, **call)
        wait_until("the call runs", lambda: [row["status"] for row in made(service, function_id)] == ["running"])
        kill(service, "second")
        with pytest.raises(requests.ConnectionError):
            calling.result()

    answer = answered(service, "web", "killed", function_id, **call)

    assert answer.headers["Idempotent-Replayed"] == "true"
    assert answer.json()["status"] == "error"
    assert "may have run" in answer.json()["status_reason"]
    assert [row["id"] for row in made(service, function_id)] == [answer.json()["id"]]


def test_after_its_process_was_killed_a_call_that_waited_runs(service: Service) -> None:
    function_id = service.function(COUNTS, concurrency=1, timeout=100)
    with ThreadPoolExecutor(2) as threads:
        holding = threads.submit(post, service, "web", "holds", function_id, input={"seconds": 90})
        wait_until("a call runs", lambda: [row["status"] for row in made(service, function_id)] == ["running"])
        waiting = threads.submit(post, service, "second", "waits", function_id)
        wait_until("the second call waits", lambda: waiting_calls(service, function_id) == 1)
        assert post(service, "web", "waits", function_id).status_code == 409
        kill(service, "second")
        with pytest.raises(requests.ConnectionError):
            waiting.result()
        (held,) = made(service, function_id)
        service.request("PUT", f"/v1/executions/{held['id']}", json={"status": "cancelled"})
        assert holding.result().json()["status"] == "cancelled"

    answer = answered(service, "web", "waits", function_id)

    assert "Idempotent-Replayed" not in answer.headers
    assert answer.json()["status"] == "success"
    assert [row["id"] for row in made(service, function_id)] == [held["id"], answer.json()["id"]]
