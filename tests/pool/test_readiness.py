"""The check of the pool in `/readyz`: whether a manager is active, and whether each runtime has workers."""

from __future__ import annotations

import time
from collections.abc import Iterator

import gevent
import pytest

from qinling_falcon.pool.claim import Claim
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.readiness import PoolReadiness
from qinling_falcon.pool.registry import Registry
from tests.pool.side import LIMITS, Side


@pytest.fixture
def side(connection: PipelinedConnection) -> Iterator[Side]:
    side = Side(connection.url)
    side.registry.configure("python3", 2)
    yield side
    side.close()


def test_the_claim_to_be_active_outlasts_a_long_pass_but_not_one_that_hangs(side: Side) -> None:
    claim = Claim(side.registry, LIMITS, ttl_s=0.5, longest_pass_s=2.0)
    assert claim.take()
    since = time.monotonic()
    while side.registry.claim_manager("other", 30) == claim.name:
        gevent.sleep(0.02)
    assert 1.5 < time.monotonic() - since < 15
    assert not claim.take()
    claim.lapse()


def test_a_runtime_without_workers_is_at_fault_after_a_time_and_names_itself(side: Side) -> None:
    now = [1_700_000_000_000]
    registry = Registry(side.connection, LIMITS, clock=lambda: now[0])
    readiness = PoolReadiness(side.connection, LIMITS, clock=lambda: now[0])
    assert set(readiness.faults()) == {"pool"}
    side.registry.claim_manager("one", 600)
    registry.reap()
    now[0] += int(LIMITS.worker_start_timeout_s * 1000)
    registry.reap()
    assert readiness.faults() == {}
    now[0] += 1
    assert "python3 (for 15 s)" in readiness.faults()["runtimes"]
    side.start()
    assert readiness.faults() == {}


def test_a_runtime_that_keeps_no_warm_workers_is_not_at_fault(side: Side) -> None:
    now = [1_700_000_000_000]
    registry = Registry(side.connection, LIMITS, clock=lambda: now[0])
    readiness = PoolReadiness(side.connection, LIMITS, clock=lambda: now[0])
    side.registry.claim_manager("one", 600)
    registry.configure("python3", 0)
    registry.reap()
    now[0] += 1_000_000
    registry.reap()
    assert readiness.faults() == {}


def test_a_runtime_that_finds_no_room_is_not_at_fault(side: Side) -> None:
    now = [1_700_000_000_000]
    registry = Registry(side.connection, LIMITS, clock=lambda: now[0])
    readiness = PoolReadiness(side.connection, LIMITS, clock=lambda: now[0])
    side.registry.claim_manager("one", 600)
    registry.configure("crowded out", 1)
    for _ in range(LIMITS.max_workers):
        side.start()
    registry.reap()
    now[0] += 1_000_000
    registry.reap()
    assert readiness.faults() == {}
    registry.forget("crowded out")
    assert readiness.faults() == {}
