"""Kills a zygote, bubblewrap, a supervisor, and the manager during starts: calls go on, and nothing is left over."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.integration.service import Service, running_service, wait_until
from tests.soak.amounts import KILLS, SOAKS
from tests.soak.traces import Traces

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="looks into processes of other users"),
    pytest.mark.xdist_group("kills-of-workers"),
]

WARM = 3
BACK_WITHIN_S = 2.0 if SOAKS else 20.0
MANAGER_BACK_WITHIN_S = 15.0 if SOAKS else 60.0


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running_service(warm_workers=WARM, max_workers=12, holder_ttl_s=3) as running:
        yield running


class Victim:
    """A service whose parts are killed, with a function that is called again after each kill."""

    def __init__(self, service: Service):
        self.service = service
        self.traces = Traces(service)
        self.function = service.function("import os\ndef main(): return os.getpid()", timeout=5)
        self._slowest = 0.0

    def settle(self) -> None:
        """Wait until there are enough warm workers, and the pool knows each worker that has a process or a group."""
        runtime = self.service.runtime()

        def settled() -> bool:
            capacity, workers = self.service.capacity(runtime), self.traces.workers()
            is_known = capacity["total"] == len(workers) == len(self.traces.groups()) - 1
            return is_known and capacity["available"] >= WARM

        wait_until("as many workers as there should be", settled, timeout_s=60)

    def check_back(self, within_s: float) -> None:
        """Check that a call succeeds within this time."""
        began = time.monotonic()
        while True:
            body = {"function_id": self.function}
            answer = self.service.request("POST", "/v1/executions", json=body)
            if answer.status_code == 201 and answer.json()["status"] == "success":
                break
            assert time.monotonic() - began < within_s, answer.text
            time.sleep(0.02)
        taken = time.monotonic() - began
        assert taken < within_s
        self._slowest = max(self._slowest, taken)

    def report(self, what: str) -> None:
        if SOAKS:
            print(f"\n{what}: {KILLS} kills, the slowest call after one took {self._slowest:.3f} s")


@pytest.fixture
def victim(service: Service) -> Victim:
    return Victim(service)


@pytest.mark.parametrize("part", ["outer bubblewrap", "inner bubblewrap", "zygote"])
def test_kills_of_a_zygote(victim: Victim, part: str) -> None:
    position = ["outer bubblewrap", "inner bubblewrap", "zygote"].index(part)
    for _ in range(KILLS):
        victim.settle()
        victim.check_back(20)
        os.kill(victim.traces.zygote()[position], signal.SIGKILL)
        victim.check_back(BACK_WITHIN_S)
    victim.settle()
    assert len(victim.traces.zygote()) == 3
    victim.report(part)


def test_kills_of_a_supervisor(victim: Victim) -> None:
    victim.settle()
    before = victim.traces.held()
    for _ in range(KILLS):
        worker_id = sorted(victim.traces.workers())[0]
        os.kill(victim.traces.of_worker(worker_id)[0], signal.SIGKILL)
        victim.check_back(BACK_WITHIN_S)
        wait_until("all of the worker is gone", lambda worker_id=worker_id: not victim.traces.of_worker(worker_id))
        victim.settle()
    after = victim.traces.held()
    assert after["descriptors of the zygote"] == before["descriptors of the zygote"]
    assert after["mounts of the zygote"] == before["mounts of the zygote"]
    victim.report("supervisor")


def test_kills_of_the_manager_during_starts(victim: Victim) -> None:
    for number in range(KILLS):
        # Functions that are called for the first time: workers are being started for them, and for the stock.
        codes = [f"def main(): return {json.dumps(f'{number} {each}')}" for each in range(3)]
        for code in codes:
            victim.service.call(victim.service.function(code))
        manager = victim.service.processes.pop("pool")
        old = victim.traces.members()
        manager.kill()
        manager.wait()
        wait_until("no process of it is left", lambda old=old: not set(old) & set(victim.traces.members()))
        victim.service.start_pool()
        victim.check_back(MANAGER_BACK_WITHIN_S)
    victim.settle()
    victim.report("manager")
