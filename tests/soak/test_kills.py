"""Kills a zygote, bubblewrap, a supervisor, and the manager during starts: calls go on, and nothing is left over.

With `SOAK=1`, a call must succeed within 2 s of a kill, and within 15 s of a manager's. In `make test`, whose tests run
side by side on a busy machine, the bounds are only there to end a test that would never end.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.service import Service, running_service, wait_until
from tests.soak.amounts import KILLS, SOAKS
from tests.soak.traces import NOT_COUNTED, Traces

pytestmark = pytest.mark.xdist_group("kills-of-workers")

WARM = 3
BACK_WITHIN_S = 2.0 if SOAKS else 20.0
MANAGER_BACK_WITHIN_S = 15.0 if SOAKS else 60.0
# Its process names itself anew at each import, so that the worker that ran a call can be found from outside.
SOURCE = """
import ctypes, os
name = "qf-" + os.urandom(5).hex()
ctypes.CDLL(None).prctl(15, name.encode(), 0, 0, 0)
def main():
    return name
"""


class Victim:
    """A service whose parts are killed, with a function that is called again after each kill."""

    def __init__(self, service: Service):
        self.service = service
        self.traces = Traces(service)
        self.runtime = service.runtime()
        self.function = service.function(SOURCE, timeout=5)
        self._slowest = 0.0
        self._name = ""

    def settle(self) -> None:
        """Wait until there are enough warm workers, and the pool knows each worker that has a process or a group."""

        def settled() -> bool:
            capacity = self.service.capacity(self.runtime)
            if capacity["available"] < WARM:  # to look at all processes takes much longer
                return False
            workers, groups = len(self.traces.workers()), self.traces.groups()
            have_groups = not groups or len(groups) == workers + len(self.traces.zygote()) // 3
            return capacity["total"] == workers and have_groups

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
        self._name = json.loads(answer.json()["result"])["output"]

    def kill_worker(self, position: int) -> list[int]:
        """Kill the process at this place of a worker that has just run a call, and return all of that worker.

        Idle workers end soon, and a busy machine may take longer to find one: then there is another call.
        """

        def kill() -> list[int]:
            self.check_back(20)
            worker = self.traces.worker_with(self._name)
            with contextlib.suppress(ProcessLookupError, IndexError):
                os.kill(worker[position], signal.SIGKILL)
                return worker
            return []

        worker: list[int] = wait_until("the worker of a call is killed", kill)
        self.check_back(BACK_WITHIN_S)
        return worker

    def kill(self, pid: int) -> None:
        """Kill a process, which must matter to calls: the next one succeeds."""
        os.kill(pid, signal.SIGKILL)
        self.check_back(BACK_WITHIN_S)

    def held_at_rest(self) -> dict[str, int]:
        """What the service holds when it has no function, and only the stock of warm workers."""
        assert self.service.request("DELETE", f"/v1/functions/{self.function}").status_code == 204

        def is_at_rest() -> bool:
            self.settle()
            return len(self.traces.workers()) == WARM

        wait_until("only the stock is left", is_at_rest, timeout_s=60)
        return self.traces.held_for_long()

    def report(self, what: str) -> None:
        if SOAKS:
            print(f"\n{what}: {KILLS} kills, the slowest call after one took {self._slowest:.3f} s")
            print(f"not counted here: {', '.join(NOT_COUNTED) or '-'}")


@contextlib.contextmanager
def watched_service(**settings: Any) -> Iterator[Service]:
    """A service. In the end nothing more may be there than in the beginning: in all that `Traces.held` counts."""
    limits = {"warm_workers": WARM, "max_workers": 12, "holder_ttl_s": 3, "worker_idle_s": 3}
    with running_service(new_interpreters=True, **limits, **settings) as running:
        victim = Victim(running)
        victim.check_back(20)
        before = victim.held_at_rest()
        yield running
        victim = Victim(running)
        victim.held_at_rest()
        assert victim.traces.left(before) == {}, "(before, after)"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with watched_service() as running:
        yield running


@pytest.fixture
def victim(service: Service) -> Victim:
    return Victim(service)


@pytest.mark.parametrize("part", ["outer bubblewrap", "inner bubblewrap", "zygote"])
def test_kills_of_a_zygote(victim: Victim, part: str) -> None:
    position = ["outer bubblewrap", "inner bubblewrap", "zygote"].index(part)
    for _ in range(KILLS):
        victim.settle()
        victim.check_back(20)
        victim.kill(victim.traces.zygote()[position])
    victim.settle()
    assert len(victim.traces.zygote()) == 3
    victim.report(part)


def test_kills_of_a_supervisor(victim: Victim) -> None:
    check_kills_of_the_last_worker(victim, [0])
    victim.report("supervisor")


def test_kills_of_a_bubblewrap_that_has_one_worker() -> None:
    with watched_service(worker_start="exec") as service:
        victim = Victim(service)
        check_kills_of_the_last_worker(victim, [0, 1])
        victim.report("bubblewrap of an executed worker")


def check_kills_of_the_last_worker(victim: Victim, positions: list[int]) -> None:
    """Kill processes of the worker that ran the last call. All of the worker must end, and another one must serve.

    Args:
        victim: the service.
        positions: the places of these processes in the list of the worker's processes; they take turns.
    """
    for number in range(KILLS):
        victim.settle()
        worker = victim.kill_worker(positions[number % len(positions)])
        wait_until("all of the worker is gone", lambda old=worker: not set(old) & set(victim.traces.members()))


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
