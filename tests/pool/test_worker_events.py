"""What the manager does when something happens to a worker: real Valkey and SQLite, fake workers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from qinling_falcon.orchestrators.base import Happening, OrchestratorAway, ServerState, WorkerEvent
from qinling_falcon.pool import keys
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.settings import Settings
from tests.pool.house import MOST, House, running_house
from tests.pool.side import wait_until


@pytest.fixture
def house(connection: PipelinedConnection, tmp_path: Path) -> Iterator[House]:
    settings = Settings(var_dir=tmp_path, max_workers=MOST, reap_interval_s=0.1, holder_ttl_s=30)
    with running_house(connection, settings) as house:
        yield house


@pytest.mark.parametrize("happening", [Happening.ENDED, Happening.FAILED])
def test_the_call_of_a_worker_that_ended_or_failed_is_recorded_as_lost(house: House, happening: Happening) -> None:
    lease = house.lease()
    worker_id = lease.worker.worker_id
    if happening is Happening.ENDED:
        del house.orchestrator.images[worker_id]

    house.orchestrator.happened.append(WorkerEvent(worker_id, happening, "out of memory"))

    wait_until(lambda: set(house.lost) == {lease.execution_id})
    wait_until(lambda: worker_id not in house.registry.workers() and worker_id not in house.orchestrator.images)


def test_the_cost_of_a_start_is_its_cpu_time_where_that_is_more_than_its_share_of_the_slots(house: House) -> None:
    def cost_ms() -> float:
        return float(house.connection.call("HGET", keys.POLICY, "start_ms") or 0)

    wait_until(lambda: 0 < cost_ms() < 100)  # a start takes some milliseconds
    house.orchestrator.cpu_ms = 2000.0
    house.end(house.lease("f"), destroy=True)
    wait_until(lambda: cost_ms() > 400)  # a fifth of the new one


def test_the_manager_says_once_that_it_waits_for_the_server_of_its_orchestrator(
    connection: PipelinedConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def is_away() -> NoReturn:
        tries.append(None)
        raise OrchestratorAway("the pods were not listed yet")

    caplog.set_level(logging.INFO)
    tries: list[None] = []
    # Growth passes run between the full ones.
    settings = Settings(var_dir=tmp_path, max_workers=MOST, reap_interval_s=1, holder_ttl_s=30)
    with running_house(connection, settings) as house:
        with monkeypatch.context() as patched:
            patched.setattr(house.orchestrator, "list", is_away)
            patched.setattr(house.orchestrator, "server", lambda: ServerState(1.0, "connection refused", 0, 60))
            wait_until(lambda: len(tries) > 3)
        wait_until(lambda: "back at work" in caplog.text)

    texts = [record.getMessage() for record in caplog.records]
    assert texts.count("the pool manager waits: the pods were not listed yet") == 1
    assert texts.count("the pool manager is back at work") == 1


def test_a_worker_that_has_changed_gets_no_further_call(house: House) -> None:
    lease = house.lease("f")
    worker_id = lease.worker.worker_id

    house.orchestrator.happened.append(WorkerEvent(worker_id, Happening.CHANGED, "its container was restarted"))

    wait_until(lambda: house.registry.workers()[worker_id].drains)
    house.end(lease)
    wait_until(lambda: worker_id not in house.orchestrator.images)
    again = house.lease("f")
    assert again.worker.worker_id != worker_id
    house.end(again)
    assert house.lost == {}
