"""Runtimes whose starts fail or hang take no start slots from others: real Valkey and SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gevent.event import Event

from qinling_falcon.models import runtime
from qinling_falcon.orchestrators.base import StartFailed
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.settings import Settings
from tests.pool.house import ADMIN, STOCK, House, running_house
from tests.pool.side import wait_until


@pytest.fixture
def house(connection: PipelinedConnection, tmp_path: Path) -> Iterator[House]:
    settings = Settings(var_dir=tmp_path, max_workers=20, reap_interval_s=0.1, holder_ttl_s=30)
    with running_house(connection, settings) as house:
        yield house


def add_runtime(house: House, image: str) -> str:
    """A second runtime, which is available."""
    runtime_id = runtime.create(ADMIN, image=image).id
    house.pool.wake()
    wait_until(lambda: runtime.get(ADMIN, runtime_id).status == "available" and house.warm(runtime_id) == STOCK)
    return runtime_id


def test_starts_that_hang_until_their_timeout_hold_no_slots(house: House) -> None:
    """Both slots are taken by starts that hang. They count as hanging after a second."""
    other = add_runtime(house, "other")
    house.orchestrator.held_up["old"] = Event()
    started = house.orchestrator.starts["old"]
    for function in ("f", "g"):
        house.end(house.lease(function))
    wait_until(lambda: house.orchestrator.starts["old"] == started + house.orchestrator.concurrent_starts)

    for number in range(2 * STOCK):
        house.end(house.lease(f"o{number}", runtime_id=other))

    wait_until(lambda: house.warm(other) >= STOCK)
    assert house.orchestrator.starts["old"] == started + house.orchestrator.concurrent_starts, "no further ones"
    house.orchestrator.held_up.pop("old").set()
    wait_until(lambda: house.warm() >= STOCK)


def test_trials_that_hang_hold_no_slots_from_other_trials(house: House) -> None:
    for number in range(house.orchestrator.concurrent_starts):
        house.orchestrator.held_up[f"hanging {number}"] = Event()
        runtime.create(ADMIN, image=f"hanging {number}")
    house.pool.wake()
    wait_until(lambda: all(house.orchestrator.starts[image] for image in house.orchestrator.held_up))

    add_runtime(house, "other")

    for hold in house.orchestrator.held_up.values():
        hold.set()


def test_a_runtime_whose_starts_fail_tries_one_at_a_time_and_leaves_the_slots_to_others(house: House) -> None:
    other = add_runtime(house, "other")
    house.orchestrator.broken["old"] = StartFailed("it does not start")
    started = house.orchestrator.starts["old"]
    for function in ("f", "g"):
        house.end(house.lease(function))
    wait_until(lambda: house.orchestrator.starts["old"] >= started + 3)
    hold = house.orchestrator.held_up["old"] = Event()
    started = house.orchestrator.starts["old"]
    wait_until(lambda: house.orchestrator.starts["old"] > started)

    for number in range(2 * STOCK):
        house.end(house.lease(f"o{number}", runtime_id=other))
    wait_until(lambda: house.warm(other) >= STOCK)

    assert house.orchestrator.starts["old"] == started + 1
    del house.orchestrator.broken["old"], house.orchestrator.held_up["old"]
    hold.set()
    wait_until(lambda: house.warm() >= STOCK)
