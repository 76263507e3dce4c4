"""At a limit, queues that have workers keep an older queue without one out for a bounded time only.

Every step runs one script on a real server, with a clock that the test moves (see `machine.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.pool import invariants
from tests.pool.holders import Call, Held, Holder
from tests.pool.machine import BOUNDS, Machine
from tests.servers.valkey import ValkeyServer

STEP_MS = 10
LONG_WAIT_MS = 100  # for the cost of a start that `Machine` writes
REPEAT_MS = 1000


def call_of(function: str) -> Call:
    return Call("A", f"{function}:0:d", function, "p1")


OLDEST, YOUNGER, ANOTHER = call_of("oldest"), [call_of("b"), call_of("c")], call_of("d")


class Competition(Machine):
    """Functions of one project, at its limit of two leases. Each has a process.

    Attributes:
        leases: how many leases and renewals each function has got.
    """

    bounds = replace(BOUNDS, waiting=100, waiting_of_project=100, waiting_of_function=50)

    def __init__(self) -> None:
        super().__init__()
        self.processes: dict[str, Holder] = {}
        for call in (OLDEST, *YOUNGER, ANOTHER):
            self.calls[call.queue("any")] = call
            self.processes[call.function] = self.new_holder()
            self.holders.append(self.processes[call.function])
        self.escalated_at: dict[str, int] = {}
        self.leases: Counter[str] = Counter()
        for name in sorted(self.seen["workers"]):
            self.registry.evict(name)
            self.gone(name)

    def limit(self, *, leases: int, workers: int, warm: int) -> None:
        self.configure("A", warm)
        self.configure("B", 0)
        self.set_limits(10, leases, workers)

    def have_worker(self, call: Call) -> None:
        """The function has a worker, which runs a call."""
        self.start("A")
        self.call(call)
        assert len(self.processes[call.function].leases) == 1

    def call(self, call: Call) -> None:
        self.ask(self.processes[call.function], call, "any", waits=True)

    def waits(self, call: Call) -> int:
        return len(self.processes[call.function].waiting[call.queue("any")])

    def compete(self, younger: list[Call], *, busy_ms: int) -> None:
        """For a step, the younger functions always have waiting calls, and their calls take `busy_ms`."""
        self.now += STEP_MS
        for call in younger:
            holder = self.processes[call.function]
            for held in list(holder.leases.values()):
                if self.age(held) >= busy_ms:
                    self.answer(holder, held)
                    self.leases[call.function] += held.worker in holder.leases
            while self.waits(call) < 2:
                before = len(holder.leases)
                self.call(call)
                self.leases[call.function] += len(holder.leases) > before
        for function, holder in self.processes.items():
            before = len(holder.leases)
            while self.hear(holder):
                pass
            self.leases[function] += len(holder.leases) - before
            self.commit(holder)
            self.escalate_in_time(holder, f"A|{function}:0:d|any|p1")
        self.manager_pass()

    def age(self, held: Held) -> int:
        return self.now - int(self.seen[f"worker:{held.worker}"]["granted"])

    def escalate_in_time(self, holder: Holder, queue: str) -> None:
        """A process escalates its queue after a long wait, and again each second."""
        if holder.oldest(queue, self.now) < LONG_WAIT_MS:
            self.escalated_at.pop(queue, None)
        elif self.now - self.escalated_at.get(queue, 0) >= REPEAT_MS:
            self.escalated_at[queue] = self.now
            self.escalate(holder, queue)


@pytest.fixture
def competition(server: ValkeyServer) -> Iterator[Competition]:
    Competition.server = server
    competition = Competition()
    yield competition
    competition.close()


def bypasses(competition: Competition, *, busy_ms: int, younger: list[Call] = YOUNGER) -> int:
    """How many leases and renewals other calls get until the oldest call gets a lease."""
    arrived = competition.now
    competition.call(OLDEST)
    assert competition.waits(OLDEST) == 1
    competition.leases.clear()
    while competition.waits(OLDEST):
        competition.compete(younger, busy_ms=busy_ms)
        assert competition.now - arrived < 3000, f"the oldest call waits: {competition.leases}"
    return sum(competition.leases[call.function] for call in younger)


def test_a_queue_whose_only_worker_runs_a_long_call_gets_another_worker(competition: Competition) -> None:
    competition.limit(leases=2, workers=20, warm=1)
    for call in (YOUNGER[0], OLDEST):
        competition.have_worker(call)
    competition.now += STEP_MS
    competition.answer(competition.processes["b"], *competition.processes["b"].leases.values())
    competition.have_worker(YOUNGER[1])

    assert bypasses(competition, busy_ms=2 * STEP_MS) < 2 * LONG_WAIT_MS / STEP_MS


@pytest.mark.parametrize("workers", [2, 20], ids=["max_workers", "room"])
def test_a_queue_without_a_worker_gets_one(competition: Competition, workers: int) -> None:
    """No worker is warm. With two workers, all of them are hot, so that one must be evicted."""
    competition.limit(leases=2, workers=workers, warm=0)
    for call in YOUNGER:
        competition.have_worker(call)

    assert bypasses(competition, busy_ms=2 * STEP_MS) < 3 * LONG_WAIT_MS / STEP_MS


def test_a_queue_gets_a_worker_although_the_project_has_one_lease(competition: Competition) -> None:
    competition.limit(leases=1, workers=1, warm=0)
    competition.have_worker(YOUNGER[0])

    assert bypasses(competition, busy_ms=2 * STEP_MS, younger=YOUNGER[:1]) < 3 * LONG_WAIT_MS / STEP_MS


def test_a_lease_is_not_reserved_for_ever(competition: Competition) -> None:
    """No worker can be started for the oldest queue. The others use all leases for about half of the time."""
    competition.limit(leases=1, workers=1, warm=0)
    competition.have_worker(YOUNGER[0])
    competition.compete(YOUNGER[:1], busy_ms=STEP_MS)
    assert competition.run("keep", YOUNGER[0].target, 1) == 1
    competition.call(OLDEST)

    used = reserved = 0
    for _ in range(400):  # reserved for 1 s, not for 1 s, and so on
        competition.compete(YOUNGER[:1], busy_ms=2 * STEP_MS)
        used += len(competition.seen["leases"])
        reserved += bool(invariants.reservations(competition.seen))

    assert reserved > 150 and used > 150


def test_queues_whose_workers_come_back_soon_reserve_nothing(competition: Competition) -> None:
    """Calls wait for longer than a long wait, in order, and more workers would not help them."""
    functions = [*YOUNGER, ANOTHER]
    competition.limit(leases=3, workers=20, warm=0)
    for call in functions:
        competition.have_worker(call)
    competition.limit(leases=2, workers=20, warm=0)
    for _ in range(60):
        for call in functions:
            while competition.waits(call) < 12:
                competition.call(call)
        competition.compete(functions, busy_ms=2 * STEP_MS)
        assert not invariants.reservations(competition.seen)
    for call in functions:
        assert competition.processes[call.function].oldest(call.queue("any"), competition.now) >= LONG_WAIT_MS
    assert competition.seen["held"] == {call.target: 1 for call in functions}


def test_a_reservation_ends_when_the_calls_stop_waiting(competition: Competition) -> None:
    competition.limit(leases=1, workers=1, warm=0)
    competition.have_worker(YOUNGER[0])
    competition.compete(YOUNGER[:1], busy_ms=STEP_MS)
    assert competition.run("keep", YOUNGER[0].target, 1) == 1
    competition.call(OLDEST)
    for _ in range(20):
        competition.compete(YOUNGER[:1], busy_ms=2 * STEP_MS)
    assert invariants.reservations(competition.seen)
    oldest = competition.processes["oldest"]
    oldest.waiting[OLDEST.queue("any")].clear()

    competition.leave(oldest, OLDEST.queue("any"))

    assert not invariants.reservations(competition.seen)
    competition.manager_pass()
    while competition.hear(competition.processes["b"]):
        pass
    assert competition.processes["b"].leases
