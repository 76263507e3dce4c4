"""The warm pool in plain Python: what the Lua scripts must do, without their indexes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
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
class Model:
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

    # Callers

    def lease(self, waiter: str, wanted: Wanted, wait_ms: int, loaded: bool = False) -> tuple[str, ...]:
        if not self.is_current(wanted):
            return ("stale",)
        worker = self.fitting(wanted) if self.permitted(wanted) else None
        if worker and not (loaded and worker.state == "warm"):
            fresh = worker.state == "warm"
            self._begin(worker, wanted, accepted=True)
            return ("lease", worker.name, str(worker.token), "assign" if fresh else "none", str(int(fresh)))
        if wait_ms <= 0:
            return ("busy",)
        if full := self._full(wanted):
            return full
        self.waiters.append(Waiter(waiter, wanted, self.now, self.now + wait_ms))
        self._make_room()
        return ("wait",)

    def accept(self, worker: str, token: int) -> bool:
        held = self._held(worker, token)
        if held is None or held.accepted:
            return False
        held.accepted, held.granted, held.deadline = True, self.now, self.now + held.wanted.run_ms
        return True

    def decline(self, worker: str, token: int) -> bool:
        if self._held(worker, token) is None:
            return False
        self._return_unused(self.workers[worker])
        self._settle()
        return True

    def leave(self, name: str) -> bool:
        found = [waiter for waiter in self.waiters if waiter.name == name]
        self.waiters = [waiter for waiter in self.waiters if waiter.name != name]
        return bool(found)

    def release(self, name: str, token: int, destroy: bool) -> bool:
        if self._held(name, token) is None:
            return False
        worker = self.workers[name]
        doomed = worker.doomed or destroy
        self._end(worker)
        self._put(worker, "draining" if doomed else "idle")
        self._settle()
        return True

    def heartbeat(self, holder: str, as_of: int, held: set[tuple[str, int]]) -> None:
        self.holders[holder] = self.now
        self.reported[holder] = (as_of, held)
        for name, token in held:
            worker = self.workers.get(name)
            if worker and worker.state != "starting" and worker.token < token:
                self._doom(worker)

    def drain(self, prefix: str) -> None:
        for worker in self.workers.values():
            if worker.target and worker.target.startswith(prefix):
                self._doom(worker)
        self._settle()

    def holding(self, beginning: str) -> list[Worker]:
        leased = (worker for worker in self.workers.values() if worker.lease and not worker.doomed)
        in_order = [*self._in("idle"), *sorted(leased, key=lambda worker: (_lease_of(worker).deadline, worker.name))]
        return [worker for worker in in_order if worker.target and worker.target.startswith(beginning)]

    def shrink(self, beginning: str, count: int) -> int:
        spared = self.holding(beginning)[:-1]
        for worker in spared[:count]:
            self._doom(worker)
        return len(spared[:count])

    def generation(self, what: str) -> str | None:
        if what in self.changing:
            till, owner, salt = self.changing[what]
            return f"changing {owner} {salt}" if till > self.now else None
        return self.generations.get(what)

    def begin_change(self, what: str, owner: str) -> None:
        self.changing[what] = (self.now + CHANGING_MS, owner, "-")

    def end_change(self, what: str, owner: str, generation: str) -> None:
        till, other, _ = self.changing.get(what, (0, owner, ""))
        if other != owner:
            self.changing[what] = (till, other, generation)
        else:
            self.changing.pop(what, None)
            self.generations[what] = generation

    def is_current(self, wanted: Wanted) -> bool:
        return all(self.generation(what) == value for what, value in wanted.generations)

    # The manager

    def configure(self, runtime: str, warm: int) -> None:
        self.runtimes[runtime] = warm
        self._settle()

    def forget(self, runtime: str) -> None:
        self.runtimes.pop(runtime, None)
        self.bare.pop(runtime, None)
        for worker in self.workers.values():
            if worker.runtime == runtime and worker.state != "starting":
                self._doom(worker)
        self._settle()

    def plan(self) -> dict[str, int]:
        wanted = self.demand()
        free = self.max_workers - len(self.workers)
        starts = dict.fromkeys(self.runtimes, 0)
        stock = {}
        for runtime, warm in self.runtimes.items():
            spoken_for = max(0, self.count(runtime, "starting") - wanted.get(runtime, 0))
            stock[runtime] = warm - self.count(runtime, "warm") - spoken_for
        for runtime, count in wanted.items():
            starts[runtime] = max(0, min(count - self.count(runtime, "starting"), free))
            free -= starts[runtime]
        while free > 0 and any(missing > 0 for missing in stock.values()):
            for runtime in sorted(self.runtimes):
                if stock[runtime] > 0 and free > 0:
                    stock[runtime] -= 1
                    starts[runtime] += 1
                    free -= 1
        return starts

    def starting(self, name: str, runtime: str, image: str) -> bool:
        if runtime not in self.runtimes or len(self.workers) >= self.max_workers or name in self.workers:
            return False
        self.workers[name] = Worker(name, runtime, image, "starting", self.now)
        return True

    def make_ready(self, name: str, runtime: str, image: str) -> None:
        worker = self.workers.setdefault(name, Worker(name, runtime, image, "starting", self.now))
        if worker.state == "starting":
            worker.ready = self.now
            if len(self.workers) <= self.max_workers:
                self.bare.pop(runtime, None)
            self._put(worker, "warm" if len(self.workers) <= self.max_workers else "draining")
            self._settle()

    def gone(self, name: str) -> None:
        worker = self.workers.get(name)
        if worker is None:
            return
        if worker.lease and worker.lease.accepted:
            self._lose(worker.lease)
        del self.workers[name]
        self._settle()

    def roll(self, images: Mapping[str, str]) -> dict[str, int]:
        crowded = len(self.workers) >= self.max_workers
        for runtime, image in images.items():
            ends = self._replaced(runtime, image, crowded)
            for worker in self.old(runtime, image):
                if worker.state == "warm":
                    worker.score = self.now
                elif worker.state == "starting":
                    self._put(worker, "draining")
            for worker in ends:
                self._doom(worker)
        return {runtime: len(self.old(runtime, image)) for runtime, image in images.items()}

    def old(self, runtime: str, image: str) -> list[Worker]:
        """Workers that were made from another image and may get a call yet, the least needed first."""
        found = (worker for worker in self.workers.values() if worker.runtime == runtime and worker.image != image)
        free_or_leased = [worker for worker in found if worker.state != "draining" and not worker.doomed]
        return sorted(
            free_or_leased, key=lambda one: (_lease_of(one).deadline if one.lease else one.score, one.name)
        )

    def _replaced(self, runtime: str, image: str, crowded: bool) -> list[Worker]:
        warm = self.count(runtime, "warm")
        full = warm >= self.runtimes.get(runtime, 0)
        coming = [worker for worker in self._in("starting", runtime) if worker.image == image]
        going = [worker for worker in self._in("draining", runtime) if worker.ready]
        if going or not (full or (crowded and not coming)):
            return []
        old = self.old(runtime, image)
        for state in ("warm", "idle", "leased") if full else ("idle", "leased", "warm"):
            if found := [worker for worker in old if worker.state == state]:
                return found[: max(1, warm)] if state == "leased" else found[:1]
        return []

    def reap(self) -> None:
        last, since = self.reaper or (None, 0)
        if last is None or last > self.now or self.now - last > self.holder_ttl / 2:
            since = self.now
        self.reaper = (self.now, since)
        leased = [worker for worker in self.workers.values() if worker.lease]
        dead = {holder for holder, seen in self.holders.items() if max(seen, since) + self.holder_ttl < self.now}
        for worker in leased:
            held = worker.lease
            assert held
            holder = held.wanted.holder
            if holder not in self.holders and max(held.granted, since) + self.holder_ttl < self.now:
                dead.add(holder)
        for worker in leased:
            held = worker.lease
            assert held
            holder = held.wanted.holder
            over = held.deadline <= self.now or holder in dead
            as_of, known = self.reported.get(holder, (0, set()))
            unknown = (
                held.granted < as_of
                and self.now - held.granted > UNKNOWN_AFTER_MS
                and (worker.name, worker.token) not in known
            )
            if not held.accepted and over:
                self._return_unused(worker)
            elif held.accepted and (over or unknown):
                self._lose(held)
                self._end(worker)
                self._put(worker, "draining")
        for waiter in sorted(self.waiters, key=lambda waiter: (waiter.till, waiter.name)):
            if waiter.till <= self.now or waiter.wanted.holder in dead:
                self.waiters.remove(waiter)
                if waiter.till <= self.now:
                    self._tell(waiter, "late")
        for worker in self.workers.values():
            if worker.state == "idle" and worker.score <= self.now - self.worker_idle:
                self._doom(worker)
        for runtime, warm in self.runtimes.items():
            surplus = max(0, self.count(runtime, "warm") - warm)
            old = [one for one in self._in("warm", runtime) if one.score <= self.now - self.worker_idle]
            for worker in old[:surplus]:
                self._doom(worker)
        for holder in dead:
            self.holders.pop(holder, None)
            self.reported.pop(holder, None)
            self.grants.pop(holder, None)
        self._settle()
        self._make_room_for_stock()
        live = {
            runtime: sum(self.count(runtime, state) for state in ("warm", "idle", "leased"))
            for runtime in self.runtimes
        }
        for runtime, warm in self.runtimes.items():
            if warm > 0 and live[runtime] == 0 and sum(live.values()) < self.max_workers:
                self.bare.setdefault(runtime, self.now)
            else:
                self.bare.pop(runtime, None)

    # What is there

    def count(self, runtime: str, state: str) -> int:
        return len(self._in(state, runtime))

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
        return next(iter(self._in("warm", wanted.runtime)), None)

    def demand(self) -> dict[str, int]:
        return Counter(wanted.runtime for wanted in self.runnable())

    def runnable(self) -> list[Wanted]:
        """What waiters want that could run if they had a worker."""
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

    def _in(self, state: str, runtime: str | None = None) -> list[Worker]:
        found = (one for one in self.workers.values() if one.state == state and runtime in (None, one.runtime))
        return sorted(found, key=lambda worker: (worker.score, worker.name))

    def _held(self, name: str, token: int) -> Held | None:
        worker = self.workers.get(name)
        return worker.lease if worker and worker.token == token else None

    def _full(self, wanted: Wanted) -> tuple[str, ...]:
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

    # Steps

    def _lose(self, held: Held) -> None:
        if held.wanted.detail:
            self.lost.append(held.wanted.execution)

    def _put(self, worker: Worker, state: str) -> None:
        if state in ("warm", "idle") and worker.runtime not in self.runtimes:
            state = "draining"
        worker.state, worker.score = state, self.now

    def _doom(self, worker: Worker) -> None:
        if worker.state in ("idle", "warm"):
            self._put(worker, "draining")
        elif worker.lease:
            worker.doomed = True

    def _begin(self, worker: Worker, wanted: Wanted, accepted: bool) -> None:
        deadline = self.now + (wanted.run_ms if accepted else ACCEPT_MS)
        worker.lease = Held(wanted, self.now, deadline, accepted, fresh=worker.state == "warm")
        worker.token = max(worker.token + 1, self.now)
        worker.state, worker.target = "leased", wanted.target

    def _end(self, worker: Worker) -> None:
        worker.lease, worker.doomed = None, False

    def _return_unused(self, worker: Worker) -> None:
        assert worker.lease
        fresh, doomed = worker.lease.fresh, worker.doomed
        self._end(worker)
        if fresh:
            worker.target = None
        self._put(worker, "draining" if doomed else "warm" if fresh else "idle")

    def _tell(self, waiter: Waiter, *words: str) -> None:
        self.grants.setdefault(waiter.wanted.holder, []).append((waiter.name, *words))

    def _settle(self) -> None:
        while self._serve_one():
            pass
        self._make_room()

    def _serve_one(self) -> bool:
        for waiter in self.waiters:
            worker = self.fitting(waiter.wanted) if self.permitted(waiter.wanted) else None
            if worker is None:
                continue
            self.waiters.remove(waiter)
            if waiter.till <= self.now:
                self._tell(waiter, "late")
            elif not self.is_current(waiter.wanted):
                self._tell(waiter, "stale")
            else:
                fresh = worker.state == "warm"
                cold = ("start" if worker.ready >= waiter.since else "assign") if fresh else "none"
                self._begin(worker, waiter.wanted, accepted=False)
                self._tell(waiter, "lease", worker.name, str(worker.token), cold, str(int(fresh)))
            return True
        return False

    def _make_room(self) -> None:
        wanted = self.demand()
        unserved = sum(max(0, count - self.count(runtime, "starting")) for runtime, count in wanted.items())
        missing = unserved - (self.max_workers - len(self.workers)) - len(self._in("draining"))
        growing = [call.target for call in self.runnable() if call.fresh]
        while missing > 0 and (worker := self._spare(wanted, growing if missing <= len(growing) else [])):
            self._doom(worker)
            missing -= 1

    def _make_room_for_stock(self) -> None:
        coming = {name: self.count(name, "warm") + self.count(name, "starting") for name in self.runtimes}
        short = sum(max(0, warm - coming[name]) for name, warm in self.runtimes.items())
        room = self.max_workers - len(self.workers) + len(self._in("draining"))
        idle, leased = self._in("idle"), [worker for worker in self.workers.values() if worker.lease]
        if (
            idle
            and idle[0].score <= self.now - UNUSED_MS
            and short > room
            and not self.waiters
            and (len(idle) + len(leased)) * 2 > self.max_workers
        ):
            self._doom(idle[0])

    def _spare(self, wanted: dict[str, int], kept: list[str]) -> Worker | None:
        if idle := [worker for worker in self._in("idle") if worker.target not in kept]:
            return idle[0]
        stocks = {name: self._in("warm", name) for name in sorted(self.runtimes) if name not in wanted}
        most = max(stocks.values(), key=len, default=[])
        return most[0] if most else None


def _lease_of(worker: Worker) -> Held:
    assert worker.lease
    return worker.lease
