"""When the pool manager decides, and what it knows of an earlier one: real Valkey and SQLite, fake workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from qinling_falcon.models import database
from qinling_falcon.pool import keys
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.runner import ScriptRunner
from qinling_falcon.settings import Settings
from tests.pool.house import FakeOrchestrator, House
from tests.pool.side import wait_until
from tests.support.tables import make_tables

MOST = 4


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    settings = Settings(
        var_dir=tmp_path, max_workers=MOST, function_concurrency=MOST, project_concurrency=MOST, holder_ttl_s=60
    )
    make_tables(settings)
    database.connect(settings)
    yield settings
    database.disconnect()


def start_house(connection: PipelinedConnection, settings: Settings, start_ms: float) -> House:
    """A house whose last manager has measured a cost of a start, which stays the same."""
    orchestrator = FakeOrchestrator()
    orchestrator.cpu_ms = start_ms
    connection.call("HSET", keys.POLICY, "start_ms", str(start_ms))
    return House(connection.url, settings, orchestrator)


def test_a_manager_goes_on_with_the_cost_of_a_start_that_an_earlier_one_has_measured(
    connection: PipelinedConnection, settings: Settings
) -> None:
    house = start_house(connection, settings, 300)
    try:
        house.await_stock()
        house.await_pass()
        assert float(connection.call("HGET", keys.POLICY, "start_ms")) == pytest.approx(300)
    finally:
        house.close()


def test_a_queue_gets_a_worker_when_it_has_waited_for_5_starts_though_nothing_wakes_the_manager(
    connection: PipelinedConnection, settings: Settings
) -> None:
    """All workers are idle, but were used lately. A full pass of the manager would come too late."""
    house = start_house(connection, dataclasses.replace(settings, reap_interval_s=60), 100)
    try:
        wait_until(house.available)
        for number in range(MOST):
            house.end(house.lease(f"f{number}"))
        wait_until(lambda: len(house.snapshot()["idle"]) == MOST)
        connection.call("DEL", keys.WAKEUPS)
        [(key, generation)] = house.pool.generations(["function:new"]).items()

        call = ["other", "any", house.runtime_id, "new:0:digest", "p", "", "e", 30_000, "detail", 1, 0, ""]
        assert ScriptRunner(connection).run("lease", *call, key, generation)[0] == b"queued"

        wait_until(lambda: connection.call("LLEN", keys.grants("other")) == 1, timeout_s=10)
    finally:
        house.close()
