"""`/v1/pool/events` and `/v1/pool/executions`: what has happened to workers, and how an execution got its worker."""

from __future__ import annotations

import uuid

import gevent

from qinling_falcon.models import clock
from qinling_falcon.models.records import ExecutionRecord, record
from qinling_falcon.orchestrators.base import WorkerInfo
from qinling_falcon.pool import keys
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.leases import Lease
from qinling_falcon.pool.registry import Registry
from tests.api.client import Client, assert_error
from tests.api.house import RUNTIME, House, all_pages, end, seen
from tests.pool.side import wait_until


def test_events_with_their_reasons(client: Client, house: House) -> None:
    first, second = house.start(), house.start()
    lease = house.lease()
    other = ({first, second} - {lease.worker.worker_id}).pop()
    assert house.registry.evict(other, 0, "longest idle")
    assert house.registry.recall(lease.worker.worker_id, 1000, "of the target with the most workers")
    house.registry.remove(lease.worker.worker_id, "it ended by itself")
    assert house.registry.register("never", RUNTIME, "python3")
    house.registry.remove("never", "no such image")

    rows = seen(client, "/events")

    assert [(row["event"], row["worker_id"]) for row in rows] == [
        ("start_failed", "never"),
        ("gone", lease.worker.worker_id),
        ("lost", lease.worker.worker_id),
        ("recalled", lease.worker.worker_id),
        ("evicted", other),
        ("started", second),
        ("started", first),
    ]
    reasons = {row["event"]: row["reason"] for row in rows}
    assert reasons["start_failed"] == "no such image"
    assert reasons["evicted"] == "longest idle"
    assert reasons["recalled"] == "of the target with the most workers"
    assert reasons["started"].startswith("ready after")
    lost = rows[2]
    assert (lost["execution_id"], lost["process"]) == (lease.execution_id, house.pool.holder)
    assert {row["runtime_id"] for row in rows} == {RUNTIME}


def test_workers_that_end_have_an_event(client: Client, house: House) -> None:
    for _ in range(2):
        house.start()
    detached, given_up = house.lease(), house.lease()
    end(detached)
    house.pool.drain(detached.queue.split("|")[1].split(":")[0])
    with given_up:
        given_up.used()
        given_up.released(destroy=True)
        given_up.committed()
    wait_until(lambda: seen(client)["workers"]["draining"] == 2)

    rows = [row for row in seen(client, "/events") if row["event"] == "ended"]

    assert {row["worker_id"]: row["reason"] for row in rows} == {
        detached.worker.worker_id: "the function was changed, deleted or detached",
        given_up.worker.worker_id: "its process does not use it again",
    }


def test_a_warm_call_has_no_event(client: Client, house: House, connection: PipelinedConnection) -> None:
    house.start()
    function_id = str(uuid.uuid4())
    end(house.lease(function_id))
    before = connection.call("XLEN", keys.EVENTS)
    for _ in range(5):
        end(house.lease(function_id))

    assert connection.call("XLEN", keys.EVENTS) == before


def test_events_have_pages_and_an_end(client: Client, house: House, connection: PipelinedConnection) -> None:
    house.registry.set_limits(5000, 20.0)
    for _ in range(30):
        house.start()
    rows = all_pages(client, "/events", 7)
    assert len({row["id"] for row in rows}) == len(rows) == 30
    assert [row["id"] for row in rows] == sorted((row["id"] for row in rows), reverse=True, key=_order)

    for _ in range(2300):
        house.start()

    assert connection.call("XLEN", keys.EVENTS) <= 2200


def _order(event_id: str) -> tuple[int, ...]:
    return tuple(map(int, event_id.split("-")))


def test_an_execution_that_runs(client: Client, house: House) -> None:
    worker_id = house.start()
    function_id = client.function()["id"]
    lease = house.lease(function_id)

    shown = seen(client, f"/executions/{lease.execution_id}")

    assert (shown["status"], shown["cold"], shown["function_id"]) == ("running", "assign", function_id)
    assert (shown["process"], shown["worker_id"]) == (house.pool.holder, worker_id)
    assert "warm worker loaded it" in shown["explanation"]


def test_an_execution_that_waited_for_a_start(client: Client, house: House) -> None:
    leases: list[Lease] = []
    call = gevent.spawn(lambda: leases.append(house.lease()))
    wait_until(lambda: seen(client, "/queues") != [])
    house.start()
    call.join()

    shown = seen(client, f"/executions/{leases[0].execution_id}")

    assert shown["cold"] == "start"
    assert "waited for the start of one" in shown["explanation"]
    assert shown["queued_ms"] > 0


def test_an_execution_that_has_ended(client: Client, house: House) -> None:
    ended = ExecutionRecord(
        id=str(uuid.uuid4()), project_id="default", function_id=client.function()["id"], status="success",
        cold="none", queued_ms=1.5, created_at=clock.now(), updated_at=clock.now(),
    )  # fmt: skip
    record(ended)

    shown = seen(client, f"/executions/{ended.id}")

    assert (shown["status"], shown["cold"], shown["queued_ms"]) == ("success", "none", 1.5)
    assert (shown["process"], shown["worker_id"], shown["events"]) == (None, None, [])
    assert shown["explanation"] == "An idle worker of the function took the call at once."


def test_an_asynchronous_execution_that_has_ended_was_also_in_the_queue_of_executions(
    client: Client, house: House
) -> None:
    ended = ExecutionRecord(
        id=str(uuid.uuid4()), project_id="default", function_id=client.function()["id"], status="success",
        cold="none", queued_ms=90_000.0, run_ms=5.0, created_at=clock.now(), updated_at=clock.now(), sync=False,
    )  # fmt: skip
    record(ended)

    shown = seen(client, f"/executions/{ended.id}")

    assert shown["queued_ms"] == 90_000
    assert shown["explanation"] == (
        "A worker of the function took the execution. It waited for 90000 ms, in the queue of executions and for the"
        " worker."
    )


def test_the_events_of_an_executions_time(client: Client, house: House, registry: Registry) -> None:
    function = client.function()
    registry.configure(function["runtime_id"], 1)
    assert registry.register("mine", function["runtime_id"], "python3")
    registry.mark_ready(WorkerInfo("mine", "127.0.0.1:1", "s"), function["runtime_id"], "python3")
    other = house.start()
    made = client.simulate_post("/v1/executions", json={"function_id": function["id"]}).json

    shown = seen(client, f"/executions/{made['id']}")

    assert [(event["event"], event["worker_id"]) for event in shown["events"]] == [("started", "mine")]
    assert other not in str(shown)


def test_an_unknown_execution(client: Client) -> None:
    assert_error(client.simulate_get(f"/v1/pool/executions/{uuid.uuid4()}"), 404, "not found")
