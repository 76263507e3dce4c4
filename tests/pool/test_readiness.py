"""The check of the pool in `/readyz`: whether a manager is active, and whether each runtime has workers."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import gevent
import pytest

from qinling_falcon.pool.claim import Claim
from qinling_falcon.pool.network import network_id
from qinling_falcon.pool.readiness import PoolReadiness
from qinling_falcon.pool.registry import Registry
from tests.pool.side import LIMITS, Side

ROOT = Path(__file__).parents[2]


class Watch:
    """A registry and the check of readiness with the same clock, which stands still until a test moves it."""

    def __init__(self, side: Side) -> None:
        self._now_ms = 1_700_000_000_000
        clocks = {"clock": lambda: self._now_ms, "monotonic": lambda: self._now_ms / 1000}
        self.registry = Registry(side.connection, LIMITS, **clocks)
        self.readiness = PoolReadiness(side.connection, LIMITS, clock=lambda: self._now_ms)

    def reap_after(self, ms: int) -> None:
        """Let time pass, and let the pool manager make a pass."""
        self._now_ms += ms
        self.registry.reap()

    def wait(self, ms: int) -> None:
        """Let time pass without a pass of the pool manager."""
        self._now_ms += ms


@pytest.fixture
def watch(side: Side) -> Watch:
    return Watch(side)


def test_the_claim_to_be_active_outlasts_a_long_pass_but_not_one_that_hangs(side: Side) -> None:
    claim = Claim(side.registry, LIMITS, ttl_s=0.5, longest_pass_s=2.0)
    assert claim.take()
    since = time.monotonic()
    while side.registry.claim_manager("other", 30) == claim.name:
        gevent.sleep(0.02)
    assert 1.5 < time.monotonic() - since < 15
    assert not claim.take()
    claim.lapse()


def test_a_runtime_without_workers_is_at_fault_after_a_time_and_names_itself(side: Side, watch: Watch) -> None:
    assert set(watch.readiness.faults()) == {"pool"}
    side.registry.claim_manager("one", 600)
    watch.reap_after(0)
    watch.reap_after(int(LIMITS.worker_start_timeout_s * 1000))
    assert watch.readiness.faults() == {}
    watch.wait(1)
    assert "python3 (for 15 s)" in watch.readiness.faults()["runtimes"]
    side.start()
    assert watch.readiness.faults() == {}


def test_a_runtime_that_keeps_no_warm_workers_is_not_at_fault(side: Side, watch: Watch) -> None:
    side.registry.claim_manager("one", 600)
    watch.registry.configure("python3", 0)
    watch.reap_after(0)
    watch.reap_after(1_000_000)
    assert watch.readiness.faults() == {}


def test_a_runtime_that_finds_no_room_is_not_at_fault(side: Side, watch: Watch) -> None:
    side.registry.claim_manager("one", 600)
    watch.registry.configure("crowded out", 1)
    for _ in range(LIMITS.max_workers):
        side.start()
    watch.reap_after(0)
    watch.reap_after(1_000_000)
    assert watch.readiness.faults() == {}
    watch.registry.forget("crowded out")
    assert watch.readiness.faults() == {}


def test_a_pool_manager_of_another_machine_is_a_fault_that_names_its_host(side: Side) -> None:
    readiness = PoolReadiness(side.connection, LIMITS)
    side.registry.claim_manager("far-host:17:0123abcd:another-place", 600)

    faults = readiness.faults()

    assert "The active pool manager runs on host far-host" in faults["pool"]
    assert "web must run there, too" in faults["pool"]


@pytest.mark.parametrize("name", [Claim(None, LIMITS).name, "far-host:17:0123abcd"], ids=["new", "old"])
def test_a_pool_manager_of_this_machine_or_of_an_older_release_is_no_fault(side: Side, name: str) -> None:
    side.registry.claim_manager(name, 600)
    assert PoolReadiness(side.connection, LIMITS).faults() == {}


def test_a_pool_manager_whose_workers_are_pods_is_reachable_from_any_machine(side: Side) -> None:
    claim = Claim(side.registry, dataclasses.replace(LIMITS, orchestrator="kubernetes"))
    assert claim.take()

    assert claim.name.endswith(":"), "its name has no network"
    assert PoolReadiness(side.connection, LIMITS).faults() == {}
    claim.lapse()


def test_another_network_on_this_machine_has_another_id() -> None:
    program = "from qinling_falcon.pool.network import network_id; print(network_id())"
    command = ["unshare", "-rn", sys.executable, "-c", program]
    isolated = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    plain = subprocess.run(command[2:], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    assert plain == network_id()
    assert isolated != plain
    assert ":" not in plain
