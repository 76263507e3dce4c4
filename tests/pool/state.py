"""The state of the warm pool in plain Python, and what the pool derives from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

ACCEPT_MS = 1000
CHANGING_MS = 60_000
UNKNOWN_AFTER_MS = 2000
UNUSED_MS = 2000


@dataclass
class Wanted:
    """A call: what it asks for, and how long it may run; with `fresh` a worker that is to be loaded ahead of calls."""

    runtime: str
    target: str
    function: str
    project: str
    holder: str
    execution: str
    run_ms: int
    generations: tuple[tuple[str, str], ...]
    fresh: bool = False

    @property
    def line(self) -> tuple[str | bool, ...]:
        return self.runtime, self.target, self.function, self.project, self.fresh

    @property
    def detail(self) -> str:
        return "" if self.fresh else f"detail {self.execution}"


@dataclass
class Waiter:
    name: str
    wanted: Wanted
    since: int
    till: int


@dataclass
class Held:
    """A lease, on its worker."""

    wanted: Wanted
    granted: int
    deadline: int
    accepted: bool
    fresh: bool


@dataclass
class Worker:
    name: str
    runtime: str
    image: str
    state: str
    score: int  # since when it is in this state
    ready: int = 0
    token: int = 0
    target: str | None = None
    lease: Held | None = None
    doomed: bool = False


@dataclass
class State:
    """Limits, runtimes, workers and waiters at one time. `Model` has the steps from one time to the next."""

    function_limit: int
    project_limit: int
    max_workers: int
    max_waiters: int
    project_waiters: int
    function_waiters: int
    holder_ttl: int
    worker_idle: int
    now: int = 1_700_000_000_000
    runtimes: dict[str, int] = field(default_factory=dict)
    workers: dict[str, Worker] = field(default_factory=dict)
    waiters: list[Waiter] = field(default_factory=list)
    grants: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    generations: dict[str, str] = field(default_factory=dict)
    changing: dict[str, tuple[int, str, str]] = field(default_factory=dict)
    holders: dict[str, int] = field(default_factory=dict)
    reported: dict[str, tuple[int, set[tuple[str, int]]]] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    bare: dict[str, int] = field(default_factory=dict)
    reaper: tuple[int, int] | None = None

    def count(self, runtime: str, state: str) -> int:
        return len(self.in_state(state, runtime))

    def in_state(self, state: str, runtime: str | None = None) -> list[Worker]:
        found = (one for one in self.workers.values() if one.state == state and runtime in (None, one.runtime))
        return sorted(found, key=lambda worker: (worker.score, worker.name))

    def held(self, name: str, token: int) -> Held | None:
        worker = self.workers.get(name)
        return worker.lease if worker and worker.token == token else None

    def holding(self, beginning: str) -> list[Worker]:
        leased = [worker for worker in self.workers.values() if worker.lease and not worker.doomed]
        leased.sort(key=lambda worker: (lease_of(worker).deadline, worker.name))
        in_order = [*self.in_state("idle"), *leased]
        return [worker for worker in in_order if worker.target and worker.target.startswith(beginning)]

    def running(self) -> Iterator[Wanted]:
        return (worker.lease.wanted for worker in self.workers.values() if worker.lease)

    def permitted(self, wanted: Wanted) -> bool:
        of_function = sum(other.function == wanted.function for other in self.running())
        of_project = sum(other.project == wanted.project for other in self.running())
        return of_function < self.function_limit and of_project < self.project_limit

    def fitting(self, wanted: Wanted) -> Worker | None:
        idle = [worker for worker in self.workers.values() if worker.state == "idle" and worker.target == wanted.target]
        if idle and not wanted.fresh:
            return max(idle, key=lambda worker: (worker.score, worker.name))
        return next(iter(self.in_state("warm", wanted.runtime)), None)

    def demand(self) -> dict[str, int]:
        return Counter(wanted.runtime for wanted in self.runnable())

    def runnable(self) -> list[Wanted]:
        """The requests of the waiters that could run if they had a worker."""
        lines: dict[tuple[str | bool, ...], list[Waiter]] = {}
        for waiter in self.waiters:
            lines.setdefault(waiter.wanted.line, []).append(waiter)
        counted: list[Wanted] = []
        for waiters in lines.values():
            for waiter in waiters:
                call = waiter.wanted
                others = [*self.running(), *counted]
                if (
                    call.runtime in self.runtimes
                    and sum(other.function == call.function for other in others) < self.function_limit
                    and sum(other.project == call.project for other in others) < self.project_limit
                ):
                    counted.append(call)
        return counted

    def full(self, wanted: Wanted) -> tuple[str, ...]:
        """The limit of the queue that is reached. A group uses at most as many places as it leaves free."""
        everybody = len(self.waiters)
        of_project = sum(waiter.wanted.project == wanted.project for waiter in self.waiters)
        of_function = sum(waiter.wanted.function == wanted.function for waiter in self.waiters)
        if of_function >= self.function_waiters:
            return "full", "function", str(of_function)
        if of_function + of_project >= self.project_waiters:
            return "full", "project", str(of_project)
        if of_project + everybody >= self.max_waiters:
            return "full", "all", str(everybody)
        return ()

    def spare(self, wanted: dict[str, int], kept: list[str]) -> Worker | None:
        """The worker that is needed least; None: all are needed. Workers of targets in `kept` are never it."""
        if idle := [worker for worker in self.in_state("idle") if worker.target not in kept]:
            return idle[0]
        stocks = {name: self.in_state("warm", name) for name in sorted(self.runtimes) if name not in wanted}
        most = max(stocks.values(), key=len, default=[])
        return most[0] if most else None

    def generation(self, what: str) -> str | None:
        if what in self.changing:
            till, owner, salt = self.changing[what]
            return f"changing {owner} {salt}" if till > self.now else None
        return self.generations.get(what)

    def is_current(self, wanted: Wanted) -> bool:
        return all(self.generation(what) == value for what, value in wanted.generations)

    def old(self, runtime: str, image: str) -> list[Worker]:
        """Workers that were made from another image and may get a call yet, the least needed first."""
        found = (worker for worker in self.workers.values() if worker.runtime == runtime and worker.image != image)
        free_or_leased = [worker for worker in found if worker.state != "draining" and not worker.doomed]
        return sorted(
            free_or_leased, key=lambda one: (lease_of(one).deadline if one.lease else one.score, one.name)
        )

    def replaced(self, runtime: str, image: str, crowded: bool) -> list[Worker]:
        """The workers of older images that end next. There are none while others start or end."""
        warm = self.count(runtime, "warm")
        full = warm >= self.runtimes.get(runtime, 0)
        coming = [worker for worker in self.in_state("starting", runtime) if worker.image == image]
        going = [worker for worker in self.in_state("draining", runtime) if worker.ready]
        if going or not (full or (crowded and not coming)):
            return []
        old = self.old(runtime, image)
        for state in ("warm", "idle", "leased") if full else ("idle", "leased", "warm"):
            if found := [worker for worker in old if worker.state == state]:
                return found[: max(1, warm)] if state == "leased" else found[:1]
        return []


def lease_of(worker: Worker) -> Held:
    assert worker.lease
    return worker.lease
