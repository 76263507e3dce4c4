"""`/v1/pool`: who may read it, and what it shows of the pool as it is: numbers, workers, queues, the host."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable

import gevent
import pytest

from qinling_falcon.api import create_app
from qinling_falcon.models.scope import Context
from qinling_falcon.orchestrators.base import Confinement, ServerState
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.pool import Pool
from qinling_falcon.pool.registry import Registry
from qinling_falcon.resources.services import Services
from tests.api.client import REFERENCE_CLIENT, Client, assert_error
from tests.api.house import RUNTIME, House, all_pages, end, seen
from tests.pool.side import wait_until

PATHS = ("", "/workers", "/queues", "/events", f"/executions/{RUNTIME}")


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


def test_what_the_host_cannot_give(client: Client, registry: Registry) -> None:
    missing = (("landlock", "functions can read files of the host"),)
    registry.describe_host(Confinement("rlimits", missing), None)

    assert seen(client)["host"] == {
        "isolation": "rlimits",
        "missing": [{"feature": "landlock", "note": "functions can read files of the host"}],
        "server": None,
    }


def test_what_the_pool_cannot_know_while_the_server_of_its_orchestrator_is_away(
    client: Client, registry: Registry
) -> None:
    away = ServerState(away_since=1.0, reason="connection refused", requests_per_minute=7, request_budget=60)
    registry.describe_host(Confinement("pod"), away)

    server = seen(client)["host"]["server"]
    assert server["away_since"] == "1970-01-01 00:00:01"
    assert server["reason"] == "connection refused"
    assert "no worker can be started" in server["unknown"]

    registry.describe_host(Confinement("pod"), dataclasses.replace(away, away_since=None, reason=None))

    server = seen(client)["host"]["server"]
    assert (server["away_since"], server["unknown"], server["requests_per_minute"]) == (None, None, 7)
