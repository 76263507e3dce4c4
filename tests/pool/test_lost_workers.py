"""Lost executions are recorded when the worker that may still run them is gone, because they may then start again."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gevent.event import Event

from qinling_falcon.pool import keys, manager
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.settings import Settings
from tests.pool.house import MOST, FakeOrchestrator, House, running_house
from tests.pool.side import wait_until


class SlowOrchestrator(FakeOrchestrator):
    """Its workers end when a test allows it. A worker that is being ended is not listed, as by `process`.

    Attributes:
        ending: the workers that are being ended.
        may_end: whether they may end now.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ending: set[str] = set()
        self.may_end = Event()
        self.may_end.set()

    def destroy(self, worker_id: str) -> None:
        self.ending.add(worker_id)
        self.may_end.wait(30)
        super().destroy(worker_id)
        self.ending.discard(worker_id)

    def list(self) -> Any:
        return [worker for worker in super().list() if worker.worker_id not in self.ending]


@pytest.fixture
def slow() -> SlowOrchestrator:
    return SlowOrchestrator()


@pytest.fixture
def house(connection: PipelinedConnection, tmp_path: Path, slow: SlowOrchestrator) -> Iterator[House]:
    settings = Settings(var_dir=tmp_path, max_workers=MOST, reap_interval_s=0.1, holder_ttl_s=30)
    with running_house(connection, settings, slow) as made:
        yield made
        slow.may_end.set()


def lose(house: House) -> str:
    """A process can't tell the state of a worker that runs an execution. Returns the execution."""
    lease = house.lease()
    with pytest.raises(ZeroDivisionError), lease:
        lease.used()
        raise ZeroDivisionError
    return lease.execution_id


def test_a_lost_execution_is_recorded_after_its_worker_has_ended(house: House, slow: SlowOrchestrator) -> None:
    slow.may_end.clear()
    execution_id = lose(house)
    wait_until(lambda: bool(slow.ending))
    house.await_pass()

    assert house.lost == {}
    assert house.pool.find(execution_id) == "detail"
    slow.may_end.set()

    wait_until(lambda: house.lost == {execution_id: "detail"})
    wait_until(lambda: house.registry.lost() == {})


def test_a_lost_execution_is_recorded_as_soon_as_its_worker_has_ended(
    connection: PipelinedConnection, tmp_path: Path, slow: SlowOrchestrator
) -> None:
    """Not at the next pass only, which may be long after."""
    settings = Settings(var_dir=tmp_path, max_workers=MOST, reap_interval_s=600, holder_ttl_s=3600)
    with running_house(connection, settings, slow) as house:
        slow.may_end.clear()
        execution_id = lose(house)
        wait_until(lambda: bool(slow.ending))
        for _ in range(2):  # when the second pass begins, the first one has ended
            house.connection.call("HDEL", keys.POLICY, "start_ms")
            house.pool.wake()
            wait_until(lambda: house.connection.call("HGET", keys.POLICY, "start_ms") is not None)
        assert house.lost == {}
        slow.may_end.set()

        wait_until(lambda: house.lost == {execution_id: "detail"}, 10)


def test_an_execution_of_a_worker_that_does_not_end_is_logged_and_delays_no_other_one(
    house: House, slow: SlowOrchestrator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(manager, "_LOG_EVERY_S", 0.2)
    slow.may_end.clear()
    stuck = lose(house)
    wait_until(lambda: bool(slow.ending))
    [worker_id] = slow.ending
    with caplog.at_level(logging.ERROR):
        wait_until(lambda: "lost executions wait for a worker that does not end" in caplog.text)
    assert {getattr(record, "worker_id", None) for record in caplog.records} == {worker_id}

    answered = house.lease("g")
    with pytest.raises(ZeroDivisionError), answered:
        answered.used()
        answered.released()
        raise ZeroDivisionError

    wait_until(lambda: house.lost == {answered.execution_id: "detail"})
    assert set(house.registry.lost()) == {stuck}


def test_a_lost_execution_outlives_the_manager_that_ends_its_worker(house: House, slow: SlowOrchestrator) -> None:
    slow.may_end.clear()
    execution_id = lose(house)
    wait_until(lambda: bool(slow.ending))
    house.kill_manager()
    assert house.lost == {}
    slow.detach()  # local workers end with their manager
    slow.may_end.set()

    house.manage()

    wait_until(lambda: house.lost == {execution_id: "detail"})


def test_executions_that_wait_are_recorded_when_the_manager_stops(house: House, slow: SlowOrchestrator) -> None:
    slow.may_end.clear()
    execution_id = lose(house)
    wait_until(lambda: bool(slow.ending))

    house.stop_manager()

    assert house.lost == {execution_id: "detail"}
