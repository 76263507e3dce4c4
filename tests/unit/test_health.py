"""`/readyz` runs all checks in parallel within a deadline, and concurrent requests share one run."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

import gevent
import pytest

from qinling_falcon.errors import Unavailable
from qinling_falcon.observability.health import Health


class Neighbour:
    """A check that answers when the test lets it."""

    def __init__(self) -> None:
        self.asked = 0
        self.hangs = False
        self.error: Exception | None = None
        self.faults: Mapping[str, str] | None = None

    def __call__(self) -> Mapping[str, str] | None:
        self.asked += 1
        if self.hangs:
            gevent.sleep(60)
        if self.error is not None:
            raise self.error
        return self.faults


@pytest.fixture
def redis() -> Neighbour:
    return Neighbour()


@pytest.fixture
def database() -> Neighbour:
    return Neighbour()


@pytest.fixture
def health(redis: Neighbour, database: Neighbour) -> Health:
    return Health({"redis": redis, "database": database}, deadline_s=0.3)


def test_all_is_well(health: Health) -> None:
    assert health.faults() == {}


def test_each_fault_has_its_reason_and_passes(health: Health, redis: Neighbour, database: Neighbour) -> None:
    redis.faults = {"pool": "No pool manager is active."}
    database.error = Unavailable("The database can't be reached.")
    assert health.faults() == {"pool": "No pool manager is active.", "database": "The database can't be reached."}
    redis.faults = database.error = None
    assert health.faults() == {}


def test_the_words_of_libraries_are_for_the_log(
    health: Health, redis: Neighbour, caplog: pytest.LogCaptureFixture
) -> None:
    redis.error = RuntimeError("user qinling at db.internal:5432")
    assert "internal" not in health.faults()["redis"]
    assert any("db.internal" in record.reason for record in caplog.records if hasattr(record, "reason"))


def test_hung_neighbours_are_waited_for_together_and_no_longer_than_the_deadline(
    health: Health, redis: Neighbour, database: Neighbour
) -> None:
    redis.hangs = database.hangs = True
    since = time.monotonic()
    assert set(health.faults()) == {"redis", "database"}
    assert 0.3 <= time.monotonic() - since < 5
    redis.hangs = database.hangs = False
    assert health.faults() == {}


def test_requests_during_a_run_share_its_answer(health: Health, redis: Neighbour) -> None:
    redis.hangs = True
    asking = [gevent.spawn(health.faults) for _ in range(50)]
    gevent.sleep(0.1)
    asking[0].kill()
    gevent.joinall(asking, timeout=5)
    assert all(set(one.value) == {"redis"} for one in asking[1:])
    assert redis.asked == 1


def test_a_lasting_fault_is_logged_once(
    health: Health, redis: Neighbour, caplog: pytest.LogCaptureFixture
) -> None:
    redis.error = Unavailable("Redis can't be reached")
    with caplog.at_level(logging.INFO, "qinling_falcon.observability.health"):
        for _ in range(5):
            health.faults()
        redis.error = None
        for _ in range(5):
            health.faults()
    assert [record.getMessage() for record in caplog.records] == ["not ready", "ready again"]
