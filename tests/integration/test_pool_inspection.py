"""`/v1/pool` of a running service: what is seen while calls run and wait, and after a worker has made room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.integration.held_calls import QUICK, SLOW, calls_of
from tests.integration.service import Service, running_service, wait_until

pytestmark = pytest.mark.xdist_group("pool-inspection")  # one service for all of them


def seen(service: Service, path: str = "") -> Any:
    answer = service.request("GET", f"/v1/pool{path}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def workers_of(service: Service, function_id: str, state: str) -> list[dict[str, Any]]:
    rows = seen(service, "/workers?limit=100")
    return [row for row in rows if (row["function_id"], row["state"]) == (function_id, state)]


def test_a_call_is_seen_while_it_runs(service: Service) -> None:
    function_id = service.function(SLOW, timeout=70)
    with calls_of(service, function_id) as calls:
        calls.send(1)
        wait_until("it runs", lambda: workers_of(service, function_id, "leased"))
        [worker] = workers_of(service, function_id, "leased")
        execution_id = worker["lease"]["execution_id"]

        explained = seen(service, f"/executions/{execution_id}")

    assert explained["status"] == "running"
    assert (explained["worker_id"], explained["process"]) == (worker["id"], worker["lease"]["process"])
    assert explained["cold"] in ("assign", "start")
    assert worker["lease"]["left_s"] > 60
    assert seen(service)["workers"]["leased"] >= 1


def test_a_queue_is_seen_while_calls_wait(service: Service) -> None:
    function_id = service.function(SLOW, timeout=70, concurrency=1)
    with calls_of(service, function_id) as calls:
        calls.send(4)
        wait_until("three wait", lambda: [row["waiting"] for row in seen(service, "/queues")] == [3])

        [queue] = seen(service, "/queues")

        assert (queue["function_id"], queue["state"]) == (function_id, "blocked")
        assert queue["blocked_by"] == {"limit": "version", "is": 1, "used": 1}
        wait_until("it ages", lambda: seen(service, "/queues")[0]["oldest_wait_ms"] > queue["oldest_wait_ms"])
        assert seen(service)["demand"]["waiting_calls"] == 3


def test_an_eviction_is_seen_with_its_reason() -> None:
    with running_service(max_workers=2, warm_workers=1) as service:
        functions = [service.function(QUICK) for _ in range(3)]
        executions = [service.call(function_id) for function_id in functions]

        events = seen(service, "/events?limit=100")

        evicted = [event for event in events if event["event"] == "evicted"]
        assert evicted
        assert evicted[-1]["function_id"] == functions[0]
        assert all(event["reason"] for event in events)
        explained = seen(service, f"/executions/{executions[-1]['id']}")
        assert (explained["cold"], explained["queued_ms"]) == (executions[-1]["cold"], executions[-1]["queued_ms"])
        assert "evicted" in {event["event"] for event in explained["events"]}


def test_what_the_host_cannot_give_is_seen(service: Service) -> None:
    host = wait_until("the manager has described it", lambda: seen(service)["host"])

    assert host["isolation"]
    assert all(feature["feature"] and feature["note"] for feature in host["missing"])


def test_calls_are_counted(service: Service) -> None:
    function_id = service.function(QUICK)
    before = seen(service)["calls"]
    for _ in range(5):
        service.call(function_id)

    def counted() -> bool:
        after = seen(service)["calls"]
        return sum(after.values()) - sum(before.values()) >= 5 and after["hit"] > before["hit"]

    wait_until("the heartbeat has added them", counted)


@pytest.mark.parametrize("path", ["", "/workers", "/queues", "/events", "/executions/{id}"])
def test_it_is_not_for_ordinary_users(plain: Service, path: str) -> None:
    answer = plain.request("GET", f"/v1/pool{path}".format(id="00000000-0000-4000-8000-000000000000"))

    assert answer.status_code == 403
    assert "Operation not allowed: pool" in answer.json()["faultstring"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A service whose callers are no admins."""
    policy: Path = tmp_path_factory.mktemp("policy") / "policy.yaml"
    policy.write_text('context_is_admin: "!"\nadmin_or_owner: "@"\n')
    with running_service(max_workers=2, warm_workers=1, policy_file=policy) as service:
        yield service
