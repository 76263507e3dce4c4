"""A function runs to its end while the database is away: its caller must not be told that it can simply try again."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from requests import Response

from tests.integration.service import Service, running_service, wait_until
from tests.servers.postgres import PostgresServer, running_postgres

pytestmark = [pytest.mark.xdist_group("no database"), pytest.mark.timeout(180)]

SLOW = "import time\ndef main(seconds):\n    time.sleep(seconds)\n    return 'done'\n"


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def service(database: PostgresServer) -> Iterator[Service]:
    url = database.create_database()
    with running_service(url, max_workers=4, warm_workers=1, web_concurrency=1, database_timeout_s=1) as running:
        yield running


def test_caller_learns_that_the_function_has_run(service: Service, database: PostgresServer) -> None:
    function_id = service.function(SLOW, timeout=60)
    call = {"function_id": function_id, "input": '{"seconds": 6}'}
    with ThreadPoolExecutor(1) as threads:
        calling = threads.submit(service.http.post, f"{service.url}/v1/executions", json=call, timeout=60)

        def is_listed() -> bool:
            rows = service.request("GET", "/v1/executions").json()
            return any(row["status"] == "running" for row in rows)

        wait_until("the call is listed as running", is_listed)
        (execution_id,) = (row["id"] for row in service.request("GET", "/v1/executions").json())
        database.kill()
        try:
            answer = calling.result()
        finally:
            database.start()

    assert answer.status_code == 503
    message = answer.json()["faultstring"]
    assert message.startswith("The function has run")
    assert execution_id in message
    assert "only if running the function twice does no harm" in message
    assert "nothing was changed" not in message
    assert "Retry-After" not in answer.headers

    def recorded() -> bool:
        row = service.request("GET", f"/v1/executions/{execution_id}")
        return row.status_code == 200 and row.json()["status"] == "error"

    wait_until("the execution has ended", recorded, 60)


def test_call_with_a_key_does_not_run_again(service: Service, database: PostgresServer) -> None:
    function_id = service.function(SLOW, timeout=60)
    headers = {"Idempotency-Key": "k"}
    call = {"function_id": function_id, "input": '{"seconds": 6}'}
    with ThreadPoolExecutor(1) as threads:
        calling = threads.submit(
            service.http.post, f"{service.url}/v1/executions", json=call, headers=headers, timeout=60
        )
        rows = f"/v1/executions?function_id={function_id}"
        wait_until("the call runs", lambda: service.request("GET", rows).json())
        database.kill()
        try:
            answer = calling.result()
        finally:
            database.start()
    assert answer.status_code == 503
    assert answer.json()["faultstring"].startswith("The function has run")

    def again() -> Response | None:
        answer = service.request("POST", "/v1/executions", json=call, headers=headers)
        assert answer.status_code in (201, 409, 503), answer.text
        return answer if answer.status_code == 201 else None

    repeated = wait_until("the execution has ended", again, 60)
    assert repeated.headers["Idempotent-Replayed"] == "true"
    assert repeated.json()["status"] == "error"
    assert [row["id"] for row in service.request("GET", rows).json()] == [repeated.json()["id"]]


def test_caller_may_retry_a_call_that_did_not_reach_the_function(service: Service, database: PostgresServer) -> None:
    function_id = service.function(SLOW)
    assert service.call(function_id, '{"seconds": 0}')["status"] == "success"
    database.kill()
    try:
        call = {"function_id": function_id, "input": '{"seconds": 0, "more": "%s"}' % ("x" * 20_000)}
        answer = service.request("POST", "/v1/executions", json=call)
    finally:
        database.start()

    assert answer.status_code == 503
    assert "has run" not in answer.json()["faultstring"]
    assert answer.headers["Retry-After"] == "1"
