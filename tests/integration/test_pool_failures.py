"""A process is killed, or the reply to a renewal is lost, at the worst moment of a call; and code changes during a run.

There is one worker and one web process, which reaches Redis through a proxy.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing

import pytest
import requests

from tests.integration.held_calls import QUICK, waiting
from tests.integration.pool_failures import (
    NO_TIME,
    SLEEPER,
    Calls,
    Proxied,
    Sleep,
    calls_beside,
    check_settled,
    events_of,
    has_no_answer,
    kill_web,
    output_of,
    proxied_service,
    status_of,
    stopped,
    workers_of,
)
from tests.integration.service import package, wait_until

pytestmark = pytest.mark.xdist_group("pool-failures")

CALLERS = 6


@pytest.fixture(scope="module")
def proxied() -> Iterator[Proxied]:
    with proxied_service(web_concurrency=1) as running:
        yield running


def begin_run(proxied: Proxied, calls: Calls, function_id: str) -> tuple[Sleep, list[Future[requests.Response]]]:
    """A call that runs, and two that wait for its worker."""
    first = calls.begin_sleep(function_id)
    waiters = [calls.begin(function_id, NO_TIME) for _ in range(2)]
    wait_until("two wait", lambda: waiting(proxied.service, function_id) == 2)
    return first, waiters


def end_first_and_hold_renewal(proxied: Proxied, first: Sleep) -> None:
    """The first call ends. Redis renews its lease for the next one, of which the web process does not hear."""
    before = proxied.records.executions()
    proxied.proxy.hold_reply_to("renew")
    first.end()
    wait_until("the next execution is in the journal", lambda: proxied.records.executions() - before)
    assert status_of(first.answer) == "success"


def test_a_worker_that_is_offered_to_a_killed_process_serves_another_one(proxied: Proxied) -> None:
    service = proxied.service
    function_id = service.function(QUICK)
    service.call(function_id)
    with calls_beside(service) as calls:
        with stopped(service.processes["pool"]):
            assert service.request("POST", f"/v1/functions/{function_id}/detach").status_code == 202
            call = calls.begin(function_id)
            wait_until("its process wants a worker", proxied.records.escalated)
            kill_web(service)
            assert has_no_answer(call)
        wait_until("the offer has expired", lambda: "offer_expired" in events_of(service, function_id))

    assert service.call(function_id)["status"] == "success"
    check_settled(service, proxied.records, function_id, {"success": 2})


def test_an_execution_whose_process_is_killed_before_its_worker_gets_it_is_recorded_once(proxied: Proxied) -> None:
    function_id = proxied.service.function(SLEEPER, timeout=300)
    with calls_beside(proxied.service) as calls:
        first, waiters = begin_run(proxied, calls, function_id)
        end_first_and_hold_renewal(proxied, first)

        kill_web(proxied.service)

        assert all(has_no_answer(call) for call in waiters)
    check_settled(proxied.service, proxied.records, function_id, {"success": 1, "error": 1})


def test_a_call_whose_renewal_has_no_reply_is_refused_without_a_record_and_the_next_served(proxied: Proxied) -> None:
    function_id = proxied.service.function(SLEEPER, timeout=300)
    with calls_beside(proxied.service) as calls:
        first, waiters = begin_run(proxied, calls, function_id)
        end_first_and_hold_renewal(proxied, first)

        proxied.proxy.cut_held()

        assert sorted(status_of(call) for call in waiters) == ["503", "success"]
    check_settled(proxied.service, proxied.records, function_id, {"success": 2})


def test_a_call_whose_lease_has_no_reply_is_refused_without_a_record_and_the_next_served(proxied: Proxied) -> None:
    function_id = proxied.service.function(QUICK)
    proxied.service.call(function_id)
    wait_until("the call is committed", lambda: not proxied.records.of_calls())
    proxied.proxy.hold_reply_to("lease")
    with calls_beside(proxied.service) as calls:
        call = calls.begin(function_id)
        wait_until("Redis has leased a worker", proxied.records.executions)

        proxied.proxy.cut_held()

        assert status_of(call) == "503"
    proxied.service.call(function_id)
    check_settled(proxied.service, proxied.records, function_id, {"success": 2})


def test_an_execution_whose_process_is_killed_before_its_commit_is_recorded_once(proxied: Proxied) -> None:
    service, records = proxied.service, proxied.records
    function_id = service.function(QUICK)
    service.call(function_id)
    wait_until("the call is committed", lambda: not records.of_calls())
    with calls_beside(service) as calls, closing(sqlite3.connect(service.var_dir / "qinling.db")) as database:
        database.execute("BEGIN IMMEDIATE")  # holds the write lock, so that no process can commit
        call = calls.begin(function_id)
        wait_until("it has begun", records.executions)
        wait_until("its worker is free", lambda: [row["state"] for row in workers_of(service, function_id)] == ["idle"])
        assert records.executions() and not call.done()

        kill_web(service)

        assert has_no_answer(call)
    check_settled(service, records, function_id, {"success": 1, "error": 1})


def tells_number(number: int) -> str:
    return f"import time\ndef main():\n    now = time.time()\n    time.sleep(0.02)\n    return [{number}, now]\n"


class Run:
    """Some callers, who call a function with a single worker again and again, so that its lease is renewed.

    Attributes:
        refused: HTTP statuses of calls that were not run.
    """

    def __init__(self, proxied: Proxied, function_id: str):
        self._town = proxied
        self._function_id = function_id
        self._done = threading.Event()
        self._outputs: list[tuple[int, float]] = []
        self.refused: list[int] = []

    def count(self, number: int) -> int:
        """How many calls have run the code with this number."""
        return sum(ran == number for ran, _ in self._outputs)

    def begun_after(self, moment: float, number: int) -> int:
        """How many calls of the code with this number have begun after a moment."""
        return sum(ran == number and began > moment for ran, began in self._outputs)

    def change_during_it(self, change: Callable[[], None]) -> float:
        """Make a change while the lease is being renewed. Returns when it was answered."""
        threads = [threading.Thread(target=self._call_on) for _ in range(CALLERS)]
        for thread in threads:
            thread.start()
        try:
            before = self._town.proxy.runs["renew"]
            wait_until("the lease is renewed", lambda: self._town.proxy.runs["renew"] > before + 2 * CALLERS)
            change()
            answered = time.time()
            wait_until("later calls have ended", lambda: self.refused or self.count(2) > 2 * CALLERS)
        finally:
            self._done.set()
            for thread in threads:
                thread.join()
        return answered

    def _call_on(self) -> None:
        with requests.Session() as http:
            while not self._done.is_set():
                url, body = f"{self._town.service.url}/v1/executions", {"function_id": self._function_id}
                answer = http.post(url, json=body, timeout=60)
                if answer.status_code == 201:
                    assert answer.json()["status"] == "success", answer.text
                    number, began = output_of(answer.json())
                    self._outputs.append((number, began))
                else:
                    self.refused.append(answer.status_code)


def test_calls_that_wait_during_an_update_run_the_new_code(proxied: Proxied) -> None:
    service = proxied.service
    function_id = service.function(tells_number(1))
    run = Run(proxied, function_id)

    def update() -> None:
        files = {"package": ("f.zip", package(main=tells_number(2)), "application/zip")}
        assert service.request("PUT", f"/v1/functions/{function_id}", files=files).status_code == 200

    updated = run.change_during_it(update)

    assert run.refused == []
    assert run.begun_after(updated, 1) <= 1, "the worker may have had one"
    check_settled(service, proxied.records, function_id, {"success": run.count(1) + run.count(2)})


def test_calls_that_wait_during_a_deletion_do_not_run(proxied: Proxied) -> None:
    service = proxied.service
    function_id = service.function(tells_number(1))
    run = Run(proxied, function_id)

    def delete() -> None:
        assert service.request("DELETE", f"/v1/functions/{function_id}").status_code == 204

    deleted = run.change_during_it(delete)

    assert set(run.refused) == {404}
    assert run.begun_after(deleted, 1) <= 1, "the worker may have had one"
    check_settled(service, proxied.records, function_id, {"success": run.count(1)})
