"""`/v1/pool`: what the operator sees of workers, queues, events and executions."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from qinling_falcon.api import create_app
from qinling_falcon.invocation.calls import detail
from qinling_falcon.models import clock
from qinling_falcon.models.records import ExecutionRecord, record
from qinling_falcon.models.scope import Context
from qinling_falcon.orchestrators.base import WorkerInfo
from qinling_falcon.pool import keys
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.leases import Lease, LeaseRequest
from qinling_falcon.pool.pool import Pool
from qinling_falcon.pool.registry import Registry
from qinling_falcon.resources.services import Services
from tests.api.client import REFERENCE_CLIENT, Client, assert_error
from tests.pool.side import wait_until

RUNTIME = "11111111-0000-4000-8000-000000000000"
PATHS = ("", "/workers", "/queues", "/events", f"/executions/{RUNTIME}")


class House:
    """A pool of one runtime, with workers that are addresses only."""

    def __init__(self, pool: Pool, registry: Registry):
        self.pool = pool
        self.registry = registry
        self._greenlets: list[gevent.Greenlet] = []
        registry.configure(RUNTIME, 1)
        pool._beat()  # the fixture has emptied Redis after the first one

    def start(self) -> str:
        worker_id = str(uuid.uuid4())
        assert self.registry.register(worker_id, RUNTIME, "python3")
        self.registry.mark_ready(WorkerInfo(worker_id, "127.0.0.1:1", "a-secret"), RUNTIME, "python3")
        return worker_id

    def request(self, function_id: str | None = None, **changes: Any) -> LeaseRequest:
        begun = ExecutionRecord(
            id=str(uuid.uuid4()), project_id="default", function_id=function_id or str(uuid.uuid4()),
            status="running", created_at=clock.now(),
        )  # fmt: skip
        members: dict[str, Any] = {"target": f"{begun.function_id}:0:digest:warm", "detail": detail(begun)} | changes
        return LeaseRequest(
            runtime_id=RUNTIME, function_id=begun.function_id, project_id="default", execution_id=begun.id,
            generations=(), run_s=60, **members,
        )  # fmt: skip

    def lease(self, function_id: str | None = None, **changes: Any) -> Lease:
        return self.pool.lease(self.request(function_id, **changes), 2)

    def wait(self, function_id: str, **changes: Any) -> None:
        """Let a call wait until the test has ended."""
        self._greenlets.append(gevent.spawn(self.pool.lease, self.request(function_id, **changes), 60))

    def close(self) -> None:
        gevent.killall(self._greenlets)


@pytest.fixture
def house(pool: Pool, registry: Registry) -> Iterator[House]:
    house = House(pool, registry)
    yield house
    house.close()


def end(lease: Lease) -> None:
    with lease:
        lease.used()
        lease.released()
        lease.committed()


def seen(client: Client, path: str = "", query: str = "") -> Any:
    answer = client.simulate_get(f"/v1/pool{path}", query_string=query)
    assert answer.status_code == 200, answer.text
    return answer.json


def all_pages(client: Client, path: str, limit: int) -> list[dict[str, Any]]:
    """The rows of all pages, as a client finds them by the links."""
    rows: list[dict[str, Any]] = []
    url = f"/v1/pool{path}?limit={limit}"
    for _ in range(200):
        path, _, query = url.partition("?")
        answer = client.simulate_get(path, query_string=query)
        assert len(answer.json) <= limit
        rows += answer.json
        if "link" not in answer.headers:
            return rows
        url = "/v1" + answer.headers["link"].partition(">")[0].partition("/v1")[2]
    raise AssertionError("the pages have no end")


@pytest.mark.parametrize("path", PATHS)
def test_it_is_the_admins(client: Client, act_as: Callable[[Context], None], path: str) -> None:
    act_as(Context("default"))

    assert_error(client.simulate_get(f"/v1/pool{path}"), 403, "pool")


@pytest.mark.parametrize("path", PATHS)
def test_without_redis_it_is_unavailable(services: Services, lonely_pool: Pool, path: str) -> None:
    client = Client(create_app(dataclasses.replace(services, pool=lonely_pool)), services.settings)

    assert_error(client.simulate_get(f"/v1/pool{path}"), 503)


def test_the_pool_in_numbers(client: Client, house: House) -> None:
    for _ in range(3):
        house.start()
    assert house.registry.register("coming", RUNTIME)
    end(house.lease())
    house.lease()
    function_id = str(uuid.uuid4())
    house.lease(function_id, concurrency=1)
    house.wait(function_id, concurrency=1)
    wait_until(lambda: seen(client)["demand"]["waiting_calls"] == 1)

    state = seen(client)

    assert state["workers"] == {"total": 4, "leased": 2, "draining": 0}
    assert state["capacity"]["max_workers"] == 48
    assert state["capacity"]["function_concurrency"] == 32, "two thirds of them"
    assert state["demand"] == {
        "waiting_calls": 1, "targets_with_workers": 3, "processes": 1, "unrecorded_losses": 0,
    }  # fmt: skip
    [runtime] = state["runtimes"]
    assert runtime["workers"] == {"starting": 1, "warm": 0, "idle": 1, "leased": 2}
    assert runtime["queues"] == {"escalated": 0, "blocked": 1}
    assert (runtime["id"], runtime["stock"], runtime["first_calls"]) == (RUNTIME, 1, 3)
    assert (state["host"], state["manager"], state["runtimes_left_out"]) == (None, None, 0)


def test_how_calls_got_their_workers_is_counted_with_the_heartbeat(client: Client, house: House) -> None:
    house.start()
    function_id = str(uuid.uuid4())
    for _ in range(3):
        end(house.lease(function_id))
    house.pool._beat()

    wait_until(lambda: sum(seen(client)["calls"].values()) == 3)

    counts = seen(client)["calls"]
    # On a busy machine, a call that got a free worker may have waited.
    assert counts == {"hit": 2 - counts["wait"], "wait": counts["wait"], "assign": 1, "start": 0, "refused": 0}
    assert seen(client)["runtimes"][0]["calls"] == counts


def test_what_each_worker_does(client: Client, house: House) -> None:
    for _ in range(3):
        house.start()
    idle, leased = house.lease(), house.lease()
    end(idle)
    wait_until(lambda: seen(client)["runtimes"][0]["workers"]["idle"] == 1)

    rows = {row["id"]: row for row in seen(client, "/workers")}

    assert sorted(row["state"] for row in rows.values()) == ["idle", "leased", "warm"]
    row = rows[leased.worker.worker_id]
    assert (row["state"], row["runtime_id"], row["image"]) == ("leased", RUNTIME, "python3")
    assert row["project_id"] == "default"
    assert (row["function_version"], row["kept"], row["recalled"], row["ends_after_call"]) == (0, False, False, False)
    assert (row["lease"]["process"], row["lease"]["execution_id"]) == (house.pool.holder, leased.execution_id)
    assert row["lease"]["accepted"] and 50 < row["lease"]["left_s"] <= 60 and row["lease"]["age_s"] >= 0
    assert rows[idle.worker.worker_id]["lease"] is None
    assert rows[idle.worker.worker_id]["unused_s"] >= 0
    assert "a-secret" not in str(rows)


def test_a_worker_that_ends_after_its_call(client: Client, house: House) -> None:
    house.start()
    lease = house.lease()
    house.pool.drain(lease.queue.split("|")[1].split(":")[0])

    [row] = seen(client, "/workers")

    assert (row["state"], row["ends_after_call"]) == ("leased", True)


@pytest.mark.parametrize(("count", "limit"), [(30, 7), (300, 40)])
def test_workers_have_pages(client: Client, house: House, count: int, limit: int) -> None:
    house.registry.set_limits(count, 20.0)
    started = {house.start() for _ in range(count)}

    rows = [row["id"] for row in all_pages(client, "/workers", limit)]

    assert (len(rows), set(rows)) == (count, started)


def commands_for(connection: PipelinedConnection, client: Client, path: str) -> int:
    """How many commands Redis runs for an answer, those of scripts too."""
    connection.call("CONFIG", "RESETSTAT")
    seen(client, path, "limit=20")
    stats = connection.call("INFO", "commandstats").decode()
    return sum(int(line.partition("calls=")[2].partition(",")[0]) for line in stats.splitlines() if "calls=" in line)


@pytest.mark.parametrize("path", ["", "/workers", "/events"])
def test_a_page_costs_no_more_with_more_workers(
    client: Client, house: House, connection: PipelinedConnection, path: str
) -> None:
    house.registry.set_limits(3000, 20.0)
    costs = []
    for count in (200, 1800):
        for _ in range(count):
            house.start()
        costs.append(commands_for(connection, client, path))

    assert costs[1] <= costs[0] + 10


def test_a_queue_that_a_limit_holds_back(client: Client, house: House) -> None:
    for _ in range(3):
        house.start()
    function_id = str(uuid.uuid4())
    house.lease(function_id, concurrency=1)
    for _ in range(2):
        house.wait(function_id, concurrency=1)
    wait_until(lambda: [row["waiting"] for row in seen(client, "/queues")] == [2])

    [row] = seen(client, "/queues")

    assert (row["function_id"], row["function_version"], row["project_id"]) == (function_id, 0, "default")
    assert (row["state"], row["blocked_by"]) == ("blocked", {"limit": "version", "is": 1, "used": 1})
    assert (row["workers"], row["processes"], row["ahead_of_calls"]) == (1, 1, False)
    assert row["oldest_wait_ms"] >= 0


def test_a_queue_that_wants_a_worker(client: Client, house: House) -> None:
    house.wait(str(uuid.uuid4()))
    wait_until(lambda: seen(client, "/queues") != [])

    [row] = seen(client, "/queues")

    assert (row["state"], row["blocked_by"], row["workers"]) == ("escalated", None, 0)


@pytest.mark.parametrize(("count", "limit"), [(25, 10), (150, 40)])
def test_queues_have_pages(client: Client, house: House, count: int, limit: int) -> None:
    functions = {str(uuid.uuid4()) for _ in range(count)}
    for function_id in functions:
        house.wait(function_id)
    wait_until(lambda: seen(client)["demand"]["waiting_calls"] == count)

    rows = [row["function_id"] for row in all_pages(client, "/queues", limit)]

    assert (len(rows), set(rows)) == (count, functions)


def test_a_queue_of_two_processes_is_listed_once(client: Client, house: House, connection: PipelinedConnection) -> None:
    function_id = str(uuid.uuid4())
    house.wait(function_id)
    other = Pool(connection, "another-process", client.settings)
    other.start()
    call = gevent.spawn(other.lease, house.request(function_id), 60)
    wait_until(lambda: seen(client)["demand"]["waiting_calls"] == 2)

    [row] = seen(client, "/queues")

    assert (row["waiting"], row["processes"]) == (2, 2)
    call.kill()
    other.close()


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


@pytest.mark.parametrize("path", ["/workers", "/queues", "/events"])
@pytest.mark.parametrize(
    ("query", "field"),
    [("limit=0", "limit"), ("limit=x", "limit"), ("marker=x", "marker"), ("marker=1.2.3", "marker"), ("a=b", "a")],
)
def test_parameters_that_cannot_be_used(client: Client, path: str, query: str, field: str) -> None:
    assert_error(client.simulate_get(f"/v1/pool{path}", query_string=query), 400, field)


def test_a_list_may_have_an_envelope(client: Client, house: House) -> None:
    for _ in range(2):
        house.start()

    answer = client.simulate_get("/v1/pool/events", query_string="limit=1", headers=REFERENCE_CLIENT).json

    assert len(answer["events"]) == 1
    assert "marker=" in answer["next"]


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


def test_what_the_host_cannot_give(client: Client, registry: Registry) -> None:
    registry.describe_host("rlimits", [("landlock", "functions can read files of the host")])

    assert seen(client)["host"] == {
        "isolation": "rlimits",
        "missing": [{"feature": "landlock", "note": "functions can read files of the host"}],
    }
