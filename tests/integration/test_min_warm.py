"""`min_warm`: workers are kept for a function; its calls find them, and nothing but an update or crash takes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.client import package
from tests.integration.service import Service, running_service, wait_until

pytestmark = pytest.mark.xdist_group("min-warm")  # two services for all of them

CODE = "import os\ndef main():\n    return '{0}'\n"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """Workers that are not kept end after a second without a call."""
    with running_service(max_workers=8, warm_workers=1, worker_idle_s=1, reap_interval_s=0.3) as running:
        yield running


@pytest.fixture(scope="module")
def small() -> Iterator[Service]:
    """At most four workers, which are kept when they are idle."""
    with running_service(max_workers=4, warm_workers=1) as running:
        yield running


def kept(service: Service, function_id: str, version: int = 0) -> list[dict[str, Any]]:
    rows = service.request("GET", "/v1/pool/workers?limit=100").json()
    mine = [row for row in rows if (row["function_id"], row["function_version"]) == (function_id, version)]
    return [row for row in mine if row["kept"] and row["state"] in ("idle", "leased")]


def wait_for_kept(service: Service, function_id: str, count: int, version: int = 0) -> list[dict[str, Any]]:
    wait_until(f"{count} workers are kept", lambda: len(kept(service, function_id, version)) == count)
    return kept(service, function_id, version)


def change(service: Service, function_id: str, **fields: Any) -> None:
    answer = service.request("PUT", f"/v1/functions/{function_id}", json=fields)
    assert answer.status_code == 200, answer.text


def remove(service: Service, function_id: str) -> None:
    assert service.request("DELETE", f"/v1/functions/{function_id}").status_code == 204


def output(execution: dict[str, Any]) -> Any:
    return json.loads(execution["result"])["output"]


def test_workers_are_there_before_the_first_call_and_outlast_idleness(service: Service) -> None:
    function_id = service.function(CODE.format("a"), min_warm=2)
    before = {row["id"] for row in wait_for_kept(service, function_id, 2)}
    wait_until("it was idle for long", lambda: min(row["unused_s"] for row in kept(service, function_id)) > 2)

    execution = service.call(function_id)

    assert (execution["cold"], output(execution)) == ("none", "a")
    assert {row["id"] for row in kept(service, function_id)} == before
    remove(service, function_id)


def test_fewer_are_kept_after_a_change_and_the_others_end(service: Service) -> None:
    function_id = service.function(CODE.format("a"), min_warm=2)
    wait_for_kept(service, function_id, 2)

    change(service, function_id, min_warm=1)

    wait_for_kept(service, function_id, 1)
    path = f"/v1/functions/{function_id}/workers"
    wait_until("the other one has ended", lambda: len(service.request("GET", path).json()) == 1)
    change(service, function_id, min_warm=0)
    wait_until("no worker is left", lambda: service.request("GET", path).json() == [])
    remove(service, function_id)


def test_an_update_has_new_workers_kept(service: Service) -> None:
    function_id = service.function(CODE.format("old"), min_warm=1)
    [old] = wait_for_kept(service, function_id, 1)

    files = {"package": ("f.zip", package(CODE.format("new")), "application/zip")}
    form = {"code": '{"source": "package"}'}
    answer = service.request("PUT", f"/v1/functions/{function_id}", data=form, files=files)
    assert answer.status_code == 200, answer.text

    wait_until("another worker is kept", lambda: old["id"] not in [row["id"] for row in kept(service, function_id)])
    wait_for_kept(service, function_id, 1)
    execution = service.call(function_id)
    assert (execution["cold"], output(execution)) == ("none", "new")
    remove(service, function_id)


def test_a_version_keeps_its_own(service: Service) -> None:
    function_id = service.function(CODE.format("a"), min_warm=1)
    assert service.request("POST", f"/v1/functions/{function_id}/versions").status_code == 201

    wait_for_kept(service, function_id, 1, version=1)

    change(service, function_id, min_warm=0)
    wait_until("the function keeps none", lambda: kept(service, function_id) == [])
    assert len(kept(service, function_id, 1)) == 1
    assert service.request("DELETE", f"/v1/functions/{function_id}/versions/1").status_code == 204
    wait_until("the version is gone", lambda: kept(service, function_id, 1) == [])
    remove(service, function_id)


def test_a_worker_that_ends_is_replaced(service: Service) -> None:
    function_id = service.function(CODE.format("a"), min_warm=1)
    [old] = wait_for_kept(service, function_id, 1)

    assert service.request("POST", f"/v1/functions/{function_id}/detach").status_code == 202

    wait_until("another one is kept", lambda: [row["id"] != old["id"] for row in kept(service, function_id)] == [True])
    remove(service, function_id)


def test_a_function_whose_package_is_lost_holds_up_no_other(service: Service) -> None:
    folder = service.var_dir / "packages"
    before = set(folder.iterdir())
    broken = service.function(CODE.format("lost"))
    for path in set(folder.iterdir()) - before:
        path.unlink()
    change(service, broken, min_warm=1)
    good = service.function(CODE.format("a"), min_warm=1)

    wait_for_kept(service, good, 1)

    assert kept(service, broken) == []
    wait_until("the log says why", lambda: "can't be kept" in (service.var_dir / "pool.log").read_text())
    remove(service, broken)
    remove(service, good)


def test_after_a_restart_of_the_manager_workers_are_kept_again(service: Service) -> None:
    function_id = service.function(CODE.format("a"), min_warm=1)
    [old] = wait_for_kept(service, function_id, 1)
    service.stop("pool")
    service.start_pool()

    wait_until("another one is kept", lambda: old["id"] not in [row["id"] for row in kept(service, function_id)])
    wait_for_kept(service, function_id, 1)
    remove(service, function_id)


def test_other_functions_take_no_kept_worker(small: Service) -> None:
    keeping = small.function(CODE.format("a"), min_warm=1)
    [worker] = wait_for_kept(small, keeping, 1)
    others = [small.function(CODE.format("b")) for _ in range(5)]
    for function_id in others:
        small.call(function_id)

    assert [row["id"] for row in kept(small, keeping)] == [worker["id"]]
    events = small.request("GET", "/v1/pool/events").json()
    assert [event for event in events if event["event"] == "evicted" and event["function_id"] in others]
    remove(small, keeping)


def test_at_most_half_of_all_workers_are_kept(small: Service) -> None:
    functions = [small.function(CODE.format("a"), min_warm=2) for _ in range(2)]

    def total() -> int:
        return sum(len(kept(small, function_id)) for function_id in functions)

    wait_until("two are kept", lambda: total() == 2)
    assert small.call(small.function(CODE.format("b")))["status"] == "success"
    assert total() == 2
