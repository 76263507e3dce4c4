"""Asynchronous executions with all processes: what becomes of them when processes stop, and when they are cancelled."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.databases import BOTH, database_url
from tests.integration.service import Service, package, running_service, wait_until

pytestmark = pytest.mark.xdist_group("integration-asynchronous")

# Short, so that tests of their ends do not take long.
TIMES = {"invoke_queue_timeout_s": 2, "holder_ttl_s": 3}
# If the tests run at this priority themselves, there is no lower one.
_NICEST = 19
SLEEPS = """
import time

def main(seconds=60.0, context=None):
    print("attempt begins")
    time.sleep(seconds)
    return "slept"
"""


# What such a test proves does not depend on the database, or others prove it on both.
on_one_database = pytest.mark.parametrize("service", ["sqlite"], indirect=True)


@pytest.fixture(scope="module", params=BOTH)
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    limits = {"max_workers": 12, "warm_workers": 3, "worker_idle_s": 600}
    with running_service(database_url(request), with_workers=True, **limits, **TIMES) as running:
        yield running


@pytest.fixture(scope="module")
def sleeps(service: Service) -> str:
    return service.function(SLEEPS, timeout=120)


def started(service: Service, function_id: str, input: Any = None) -> str:
    execution_id = service.accept(function_id, input)
    service.wait_for_attempt(execution_id)
    return execution_id


def returns(text: str) -> str:
    return f"def main():\n    return {text!r}\n"


def change(service: Service, function_id: str, source: str) -> None:
    files = {"package": ("f.zip", package(main=source), "application/zip")}
    assert service.request("PUT", f"/v1/functions/{function_id}", files=files).status_code == 200


def publish(service: Service, function_id: str) -> None:
    """Make the next version of a function."""
    assert service.request("POST", f"/v1/functions/{function_id}/versions", json={}).status_code == 201


def output_of(execution: dict[str, Any]) -> Any:
    assert execution["status"] == "success", execution
    return json.loads(execution["result"])["output"]


def wait_until_idle(service: Service) -> None:
    """Wait until no worker is leased to a call of an earlier test, which may have been answered just now."""
    wait_until("no execution runs", lambda: not service.running_executions())


def test_an_execution_that_is_interrupted_by_a_stop_runs_again_with_the_next_attempt(
    service: Service, sleeps: str
) -> None:
    long, short = started(service, sleeps), started(service, sleeps, {"seconds": 0.5})

    assert service.stop("worker") == 0

    assert service.execution(short)["status"] == "success", "it has ended in time"
    waiting = service.execution(long)
    assert (waiting["status"], waiting["attempt"]) == ("running", 1)
    assert service.running_executions() == [], "its function was ended"
    service.start_module("worker", "workers.worker")
    service.wait_for_attempt(long)
    assert service.execution(long)["attempt"] == 2
    assert service.request("PUT", f"/v1/executions/{long}", json={"status": "cancelled"}).status_code == 202


def test_an_execution_whose_worker_process_is_killed_runs_again(service: Service, sleeps: str) -> None:
    execution_id = started(service, sleeps, {"seconds": 2})

    service.stop("worker", signal.SIGKILL)
    service.start_module("worker", "workers.worker")

    ended = service.ended(execution_id)
    assert (ended["status"], ended["attempt"]) == ("success", 2)


def test_a_synchronous_call_that_is_cancelled_is_answered_as_cancelled(service: Service, sleeps: str) -> None:
    wait_until_idle(service)
    answers: list[dict[str, Any]] = []
    caller = threading.Thread(target=lambda: answers.append(service.call(sleeps)))
    caller.start()
    running = wait_until("it runs", service.running_executions)[0]

    answer = service.request("PUT", f"/v1/executions/{running}", json={"status": "cancelled"})
    caller.join(30)

    assert not caller.is_alive()
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
    assert [(row["id"], row["status"]) for row in answers] == [(running, "cancelled")]
    assert json.loads(answers[0]["result"])["output"] == "Function execution was cancelled"
    assert service.call(sleeps, {"seconds": 0})["status"] == "success"


def test_a_synchronous_call_that_is_deleted_while_it_runs_does_not_come_back(service: Service, sleeps: str) -> None:
    wait_until_idle(service)
    deleted: set[str] = set()
    statuses: list[int] = []

    def call() -> None:
        statuses.append(service.request("POST", "/v1/executions", json={"function_id": sleeps}).status_code)

    for _ in range(3):
        caller = threading.Thread(target=call)
        caller.start()
        # The worker may still be leased to the deleted one for a moment.
        [running] = wait_until("it runs", lambda: set(service.running_executions()) - deleted)
        deleted.add(running)

        assert service.request("DELETE", f"/v1/executions/{running}").status_code == 204
        caller.join(30)

        assert not caller.is_alive()
        # If the worker has not got the call yet, its process looks for the execution, which may be deleted by then.
        assert statuses.pop() in (201, 404)
        assert service.request("GET", f"/v1/executions/{running}").status_code == 404


def test_an_execution_that_is_cancelled_and_retried_at_once_runs_again(service: Service) -> None:
    function_id = service.function(SLEEPS, timeout=120)
    for _ in range(5):
        execution_id = started(service, function_id, {"seconds": 1})
        assert service.request("PUT", f"/v1/executions/{execution_id}", json={"status": "cancelled"}).status_code == 202
        assert service.request("POST", f"/v1/executions/{execution_id}/retry").status_code == 202
        ended = service.ended(execution_id)
        assert (ended["status"], ended["attempt"]) == ("success", 2)
    assert "Traceback" not in (service.var_dir / "worker.log").read_text()


def test_an_execution_is_cancelled_while_it_waits_for_a_worker(service: Service) -> None:
    function_id = service.function(SLEEPS, timeout=120, concurrency=1)
    first = started(service, function_id)
    second = service.accept(function_id)
    wait_until("it is claimed", lambda: service.execution(second)["attempt"] == 1)

    assert service.request("PUT", f"/v1/executions/{second}", json={"status": "cancelled"}).status_code == 202
    assert service.request("PUT", f"/v1/executions/{first}", json={"status": "cancelled"}).status_code == 202

    assert service.ended(service.accept(function_id, {"seconds": 0}))["status"] == "success"
    assert service.log_of(service.execution(second)) == ""
    assert service.request("GET", f"/v1/functions/{function_id}").json()["count"] == 3


@on_one_database
def test_many_executions_of_a_slow_function_do_not_delay_those_of_another_one(service: Service) -> None:
    slow, quick = service.function(SLEEPS, timeout=120, concurrency=1), service.function(SLEEPS)
    first = started(service, slow)
    waiting = [service.accept(slow) for _ in range(300)]

    for _ in range(20):
        assert service.ended(service.accept(quick, {"seconds": 0}))["attempt"] == 1

    assert service.execution(first)["status"] == "running"
    for execution_id in (*waiting, first):
        assert service.request("DELETE", f"/v1/executions/{execution_id}").status_code == 204


def test_executions_of_a_deleted_function_are_cancelled(service: Service) -> None:
    function_id = service.function(SLEEPS, timeout=120, concurrency=1)
    first = started(service, function_id)
    waiting = [service.accept(function_id) for _ in range(3)]

    assert service.request("DELETE", f"/v1/functions/{function_id}").status_code == 204
    assert service.request("PUT", f"/v1/executions/{first}", json={"status": "cancelled"}).status_code == 202

    for execution_id in waiting:
        ended = service.ended(execution_id)
        assert (ended["status"], ended["result"]) == ("cancelled", None)
        assert "not found" in ended["status_reason"]


def test_executions_of_a_deleted_function_are_cancelled_also_while_no_worker_process_runs(service: Service) -> None:
    function_id = service.function(SLEEPS, timeout=120)
    service.stop("worker")
    try:
        waiting = [service.accept(function_id) for _ in range(20)]
        assert service.request("DELETE", f"/v1/functions/{function_id}").status_code == 204

        shown = service.request("GET", f"/v1/executions/{waiting[-1]}?wait=20").json()

        assert (shown["status"], shown["attempt"]) == ("cancelled", 0)
        assert {service.ended(execution_id)["status"] for execution_id in waiting} == {"cancelled"}
    finally:
        service.start_module("worker", "workers.worker")


def test_an_execution_without_a_free_worker_waits_and_no_attempt_is_counted(service: Service) -> None:
    function_id = service.function(SLEEPS, timeout=120, concurrency=1)
    busy = started(service, function_id, {"seconds": 4})  # longer than INVOKE_QUEUE_TIMEOUT_S
    waiting = service.accept(function_id, {"seconds": 0})

    assert service.ended(busy)["status"] == "success"
    ended = service.ended(waiting)

    assert (ended["status"], ended["attempt"]) == ("success", 1)


@on_one_database
def test_a_long_function_of_one_caller_does_not_delay_others(service: Service, sleeps: str) -> None:
    long = [service.accept(sleeps, {"seconds": 60}) for _ in range(6)]
    quick = service.function("def main(**kwargs):\n    return 1\n")

    assert service.ended(service.accept(quick))["status"] == "success"

    assert all(service.execution(execution_id)["status"] == "running" for execution_id in long)
    for execution_id in long:
        service.request("DELETE", f"/v1/executions/{execution_id}")


@on_one_database
def test_executions_run_after_redis_was_emptied(service: Service, sleeps: str) -> None:
    """The drain has room for all of them, so the pool's state is emptied while none is claimed."""
    service.stop("worker")
    ids = [service.accept(sleeps, {"seconds": 0}) for _ in range(20)]
    service.flush_redis()
    service.start_module("worker", "workers.worker")

    assert {service.ended(execution_id)["status"] for execution_id in ids} == {"success"}


@on_one_database
def test_another_tasks_process_takes_over_from_a_killed_one(service: Service, sleeps: str) -> None:
    service.start_module("tasks-2", "workers.tasks")
    try:
        service.stop("tasks", signal.SIGKILL)
        service.stop("worker", signal.SIGKILL)
        execution_id = service.accept(sleeps, {"seconds": 0})
        service.start_module("worker", "workers.worker")
        assert service.ended(execution_id)["status"] == "success"
    finally:
        service.start_module("tasks", "workers.tasks")
        service.stop("tasks-2")


def test_two_worker_processes_share_the_executions(service: Service) -> None:
    function_id = service.function("import time\ndef main():\n    time.sleep(0.05)\n")
    service.start_module("worker-2", "workers.worker")
    try:
        ids = [service.accept(function_id) for _ in range(200)]
        ended = [service.ended(execution_id) for execution_id in ids]
        assert {(row["status"], row["attempt"]) for row in ended} == {("success", 1)}
    finally:
        assert service.stop("worker-2") == 0


@on_one_database
def test_a_queued_execution_runs_the_code_that_is_current_then_and_one_of_a_version_its_own(service: Service) -> None:
    function_id = service.function(returns("old"))
    publish(service, function_id)
    service.stop("worker")
    try:
        current, first = service.accept(function_id), service.accept(function_id, function_version=1)
        change(service, function_id, returns("new"))
    finally:
        service.start_module("worker", "workers.worker")

    assert output_of(service.ended(current)) == "new"
    assert output_of(service.ended(first)) == "old"


@on_one_database
def test_the_version_of_a_weighted_alias_is_fixed_when_an_execution_is_accepted(service: Service) -> None:
    function_id = service.function(returns("1"))
    publish(service, function_id)
    change(service, function_id, returns("2"))
    publish(service, function_id)
    alias = {"name": "weighted", "function_id": function_id, "function_version": 1, "routing": {"2": 0.5}}
    assert service.request("POST", "/v1/aliases", json=alias).status_code == 201
    service.stop("worker")
    try:
        body = {"function_alias": "weighted", "sync": False}
        accepted = [service.request("POST", "/v1/executions", json=body).json() for _ in range(30)]
        body = {"function_version": 0, "routing": {}}
        assert service.request("PUT", "/v1/aliases/weighted", json=body).status_code == 202
    finally:
        service.start_module("worker", "workers.worker")

    assert {one["function_version"] for one in accepted} == {1, 2}  # all alike once in 500 million runs
    for one in accepted:
        ended = service.ended(one["id"])
        assert ended["function_version"] == one["function_version"]
        assert output_of(ended) == str(one["function_version"])


@on_one_database
def test_worker_processes_leave_the_processor_to_web(service: Service) -> None:
    [web] = {os.getpriority(os.PRIO_PROCESS, pid) for pid in service.web_processes()}
    worker = service.processes["worker"].pid

    if web < _NICEST:
        wait_until("the priority is lower", lambda: os.getpriority(os.PRIO_PROCESS, worker) > web)
