"""A busy worker is recalled for a function that has none, and then something happens to the worker's function.

There is one worker and one web process. Calls renew the lease of the worker, or one call holds it until a test ends it.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import pytest
import requests

from tests.integration.held_calls import QUICK
from tests.integration.pool_failures import (
    NO_TIME,
    SLEEPER,
    PoolRecords,
    Sleep,
    calls_beside,
    check_settled,
    events_of,
    output_of,
    pool_records,
    status_of,
    workers_of,
)
from tests.integration.service import Service, package, running_service, wait_until
from tests.integration.test_changes_under_load import User, until_done

pytestmark = pytest.mark.xdist_group("pool-recalls")


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    limits = {"max_workers": 1, "warm_workers": 1, "function_concurrency": 4, "project_concurrency": 8}
    times = {"holder_ttl_s": 3, "reap_interval_s": 0.3, "invoke_queue_timeout_s": 8}
    with running_service(web_concurrency=1, **limits, **times) as running:
        running.runtime()
        yield running


@pytest.fixture
def records(service: Service) -> Iterator[PoolRecords]:
    with pool_records(service) as found:
        yield found


@dataclass(frozen=True, slots=True)
class Recalled:
    """A recalled worker.

    Attributes:
        function_id: whose worker it is.
        worker_id: the worker.
        held: the call that holds it.
        other: the function for which it was recalled.
        waiting: the call of that function.
    """

    function_id: str
    worker_id: str
    held: Sleep
    other: str
    waiting: Future[requests.Response]


def is_recalled(service: Service, function_id: str) -> bool:
    return any(row["recalled"] for row in workers_of(service, function_id))


@contextlib.contextmanager
def recalled_worker(service: Service) -> Iterator[Recalled]:
    """A worker with a pending recall."""
    function_id, other = service.function(SLEEPER, timeout=300), service.function(QUICK)
    with calls_beside(service) as calls:
        held = calls.begin_sleep(function_id)
        try:
            waiting = calls.begin(other)
            wait_until("the worker is recalled", lambda: is_recalled(service, function_id))
            [worker] = workers_of(service, function_id)
            yield Recalled(function_id, worker["id"], held, other, waiting)
        finally:
            held.end()


def test_calls_whose_renewal_is_refused_for_a_recall_are_served_later(service: Service, records: PoolRecords) -> None:
    busy, other = service.function("import time\ndef main(): time.sleep(0.02)"), service.function(QUICK)
    statuses: list[str] = []

    def call_busy(user: User) -> None:
        statuses.append(user.call(function_id=busy).json()["status"])

    def call_other(user: User) -> None:
        wait_until("the worker is in use", lambda: len(statuses) > 20)
        assert user.call(function_id=other).json()["status"] == "success"
        before = len(statuses)
        wait_until("calls go on", lambda: len(statuses) > before + 20)

    until_done(service, call_other, *[call_busy] * 4)

    assert "recalled" in events_of(service, busy)
    check_settled(service, records, busy, {"success": len(statuses)})


def test_a_call_keeps_its_worker_until_the_recall_has_expired_and_so_does_the_next(
    service: Service, records: PoolRecords
) -> None:
    with recalled_worker(service) as recalled:
        assert status_of(recalled.waiting) == "503"
        wait_until("the recall has expired", lambda: not is_recalled(service, recalled.function_id))
        assert not recalled.held.answer.done()

        recalled.held.end()

        assert status_of(recalled.held.answer) == "success"
        assert service.call(recalled.function_id, NO_TIME)["cold"] == "none"
        assert [row["id"] for row in workers_of(service, recalled.function_id)] == [recalled.worker_id]
    check_settled(service, records, recalled.function_id, {"success": 2})
    check_settled(service, records, recalled.other, {})


def test_a_recalled_worker_ends_with_its_manager_and_the_next_one_serves_both_functions(
    service: Service, records: PoolRecords
) -> None:
    """`test_adoption.py` shows what becomes of recalls of workers that outlive their manager."""
    with recalled_worker(service) as recalled:
        service.stop("pool", signal.SIGKILL)
        service.start_pool()

        assert status_of(recalled.held.answer) == "error", "local workers end with their manager"
        waited = status_of(recalled.waiting)
        assert waited in ("success", "503"), "the next manager begins after 5 s"
    wait_until("the service is ready", lambda: service.request("GET", "/readyz").status_code == 200)
    executions = [service.call(recalled.function_id, NO_TIME) for _ in range(2)]
    assert [execution["status"] for execution in executions] == ["success"] * 2
    assert executions[1]["cold"] == "none"
    check_settled(service, records, recalled.function_id, {"error": 1, "success": 2})
    check_settled(service, records, recalled.other, {"success": 1} if waited == "success" else {})


def test_an_update_during_a_recall_lets_the_call_end_and_later_ones_run_the_new_code(
    service: Service, records: PoolRecords
) -> None:
    with recalled_worker(service) as recalled:
        files = {"package": ("f.zip", package(main="def main(seconds): return 'new'"), "application/zip")}
        assert service.request("PUT", f"/v1/functions/{recalled.function_id}", files=files).status_code == 200

        recalled.held.end()

        assert output_of(recalled.held.answer.result().json()) == "slept"
        assert status_of(recalled.waiting) == "success"
    assert output_of(service.call(recalled.function_id, NO_TIME)) == "new"
    check_settled(service, records, recalled.function_id, {"success": 2})


def test_a_deletion_during_a_recall_lets_the_call_end(service: Service, records: PoolRecords) -> None:
    with recalled_worker(service) as recalled:
        assert service.request("DELETE", f"/v1/functions/{recalled.function_id}").status_code == 204

        recalled.held.end()

        assert output_of(recalled.held.answer.result().json()) == "slept"
        assert status_of(recalled.waiting) == "success"
    assert service.request("POST", "/v1/executions", json={"function_id": recalled.function_id}).status_code == 404
    check_settled(service, records, recalled.function_id, {"success": 1})
