"""Several `pool` processes on one Redis: one is active, the others stand by and log which one is active."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.integration.service import Service, running_service, wait_until
from tests.run import processes

pytestmark = [pytest.mark.xdist_group("standby"), pytest.mark.timeout(180)]

HELLO = "def main():\n    return 'hello'\n"


@pytest.fixture
def service() -> Iterator[Service]:
    with running_service(max_workers=4, warm_workers=2, web_concurrency=1) as running:
        running.runtime()
        try:
            yield running
        finally:
            if "second" in running.processes:
                running.stop("second")


def start_another(service: Service, name: str, **settings: str) -> None:
    """Another pool manager on the Redis and the database of `service`."""
    database = {"DATABASE_URL": f"sqlite:///{service.var_dir / 'qinling.db'}"}
    environ, service.environ = service.environ, service.environ | database | settings
    try:
        service.start_pool(name)
    finally:
        service.environ = environ


def events(service: Service, name: str) -> list[dict[str, Any]]:
    lines = (service.var_dir / f"{name}.log").read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def standing_by(service: Service, name: str) -> dict[str, Any]:
    """The log event of a pool manager that stands by."""

    def find() -> list[dict[str, Any]]:
        return [event for event in events(service, name) if "stands by" in event["event"]]

    found: list[dict[str, Any]] = wait_until(f"{name} says that it stands by", find)
    return found[0]


def workers(service: Service) -> set[Any]:
    """Ids of the workers that Redis knows."""
    client = redis.Redis.from_url(service.environ["REDIS_URL"])
    try:
        return set(client.smembers("qf:{pool}:workers"))
    finally:
        client.close()


def call(service: Service, function_id: str) -> bool:
    answer = service.request("POST", "/v1/executions", json={"function_id": function_id})
    return bool(answer.status_code == 201 and answer.json()["status"] == "success")


@pytest.mark.parametrize("folder", ["the same", "another"])
def test_a_second_manager_stands_by_and_takes_over(service: Service, folder: str, tmp_path: Path) -> None:
    function_id = service.function(HELLO)
    first = service.processes["pool"].pid
    settings = {} if folder == "the same" else {"VAR_DIR": str(tmp_path)}
    start_another(service, "second", **settings)
    said = standing_by(service, "second")
    assert said["active_manager"] == {"host": os.uname().nodename, "pid": str(first)}
    assert call(service, function_id)

    service.stop("pool", signal.SIGKILL)

    wait_until(
        "the second one says that it takes over",
        lambda: any("takes over" in event["event"] for event in events(service, "second")),
    )
    wait_until("calls are served again", lambda: call(service, function_id))
    wait_until("it is ready", lambda: service.request("GET", "/readyz").status_code == 200)
    assert len([event for event in events(service, "second") if "stands by" in event["event"]]) == 1


def test_a_standby_that_stops_leaves_the_workers_of_the_active_one_alone(service: Service) -> None:
    function_id = service.function(HELLO)
    assert call(service, function_id)
    start_another(service, "second")
    standing_by(service, "second")
    before = workers(service)

    assert service.stop("second") == 0

    assert before <= workers(service)
    assert call(service, function_id)
    assert not [event for event in events(service, "pool") if event["event"].startswith("worker")]


def test_a_manager_that_stopped_in_order_is_followed_at_once(service: Service) -> None:
    start_another(service, "second")
    standing_by(service, "second")
    service.stop("pool")
    wait_until(
        "the second one says that it takes over",
        lambda: any("takes over" in event["event"] for event in events(service, "second")),
        4,  # the claim of one that died would last 5 s
    )


def test_a_manager_that_was_stopped_for_long_ends_its_workers_and_stands_by(service: Service, tmp_path: Path) -> None:
    """SIGSTOP stands for a machine that slept. When it wakes up, the other manager is active."""
    function_id = service.function(HELLO)
    start_another(service, "second", VAR_DIR=str(tmp_path))
    standing_by(service, "second")
    first = service.processes["pool"]
    first.send_signal(signal.SIGSTOP)
    try:
        wait_until(
            "the second one takes over",
            lambda: any("takes over" in event["event"] for event in events(service, "second")),
        )
    finally:
        first.send_signal(signal.SIGCONT)
    standing_by(service, "pool")
    install_id = (service.var_dir / "install-id").read_text().split()[0]
    # A zygote and bubblewrap's two processes around it may be left.
    wait_until("the first one has no workers any more", lambda: len(processes.sandboxed(install_id)) <= 3)
    wait_until("calls are served", lambda: call(service, function_id))
    before = workers(service)

    service.stop("pool")

    assert before <= workers(service), "they are the other one's"
    assert call(service, function_id)


def test_web_on_another_machine_than_the_pool_says_so_and_leaves_the_workers_alone(service: Service) -> None:
    """The name of a pool manager elsewhere, in Redis, stands for the other machine; the rest is real."""
    function_id = service.function(HELLO)
    assert call(service, function_id)
    wait_until("the stock is full", lambda: service.capacity(service.runtime())["available"] == 2)
    client = redis.Redis.from_url(service.environ["REDIS_URL"])
    service.stop("web")
    pool = service.processes["pool"]
    pool.send_signal(signal.SIGSTOP)  # it neither takes the claim back nor replaces a worker
    try:
        client.set("qf:{pool}:manager", "far-host:17:0123abcd:another-place")
        service.start_web()
        wait_until("web answers", lambda: service.request("GET", "/healthz").status_code == 200)

        ready = service.request("GET", "/readyz")
        called = service.request("POST", "/v1/executions", json={"function_id": function_id})
        scaled = service.request("POST", f"/v1/functions/{function_id}/scale_up", json={"count": 1})

        for answer in (ready, called, scaled):
            assert answer.status_code == 503
            assert "The active pool manager runs on host far-host" in answer.text
        assert "has not run" in called.json()["faultstring"]
        assert client.zcard("qf:{pool}:draining") == 0
    finally:
        client.delete("qf:{pool}:manager")
        client.close()
        pool.send_signal(signal.SIGCONT)
    wait_until("it is ready", lambda: service.request("GET", "/readyz").status_code == 200)
    assert call(service, function_id)
    assert not [event for event in events(service, "pool") if event["event"].startswith("worker")]
