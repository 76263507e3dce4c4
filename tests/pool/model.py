"""The warm pool in plain Python: what the Lua scripts must do, without their indexes."""

from __future__ import annotations

from collections.abc import Mapping

from tests.pool.state import (
    ACCEPT_MS,
    CHANGING_MS,
    UNKNOWN_AFTER_MS,
    UNUSED_MS,
    Held,
    State,
    Waiter,
    Wanted,
    Worker,
)


class Model(State):
    """The pool's state, with the steps that callers, the manager and time make."""

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
        if full := self.full(wanted):
            return full
        self.waiters.append(Waiter(waiter, wanted, self.now, self.now + wait_ms))
        self._make_room()
        return ("wait",)

    def accept(self, worker: str, token: int) -> bool:
        held = self.held(worker, token)
        if held is None or held.accepted:
            return False
        held.accepted, held.granted, held.deadline = True, self.now, self.now + held.wanted.run_ms
        return True

    def decline(self, worker: str, token: int) -> bool:
        if self.held(worker, token) is None:
            return False
        self._return_unused(self.workers[worker])
        self._settle()
        return True

    def leave(self, name: str) -> bool:
        found = [waiter for waiter in self.waiters if waiter.name == name]
        self.waiters = [waiter for waiter in self.waiters if waiter.name != name]
        return bool(found)

    def release(self, name: str, token: int, destroy: bool) -> bool:
        if self.held(name, token) is None:
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

    def shrink(self, beginning: str, count: int) -> int:
        spared = self.holding(beginning)[:-1]
        for worker in spared[:count]:
            self._doom(worker)
        return len(spared[:count])

    def begin_change(self, what: str, owner: str) -> None:
        self.changing[what] = (self.now + CHANGING_MS, owner, "-")

    def end_change(self, what: str, owner: str, generation: str) -> None:
        till, other, _ = self.changing.get(what, (0, owner, ""))
        if other != owner:
            self.changing[what] = (till, other, generation)
        else:
            self.changing.pop(what, None)
            self.generations[what] = generation

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
            ends = self.replaced(runtime, image, crowded)
            for worker in self.old(runtime, image):
                if worker.state == "warm":
                    worker.score = self.now
                elif worker.state == "starting":
                    self._put(worker, "draining")
            for worker in ends:
                self._doom(worker)
        return {runtime: len(self.old(runtime, image)) for runtime, image in images.items()}

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
            old = [one for one in self.in_state("warm", runtime) if one.score <= self.now - self.worker_idle]
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
        missing = unserved - (self.max_workers - len(self.workers)) - len(self.in_state("draining"))
        growing = [call.target for call in self.runnable() if call.fresh]
        while missing > 0 and (worker := self.spare(wanted, growing if missing <= len(growing) else [])):
            self._doom(worker)
            missing -= 1

    def _make_room_for_stock(self) -> None:
        coming = {name: self.count(name, "warm") + self.count(name, "starting") for name in self.runtimes}
        short = sum(max(0, warm - coming[name]) for name, warm in self.runtimes.items())
        room = self.max_workers - len(self.workers) + len(self.in_state("draining"))
        idle, leased = self.in_state("idle"), [worker for worker in self.workers.values() if worker.lease]
        if (
            idle
            and idle[0].score <= self.now - UNUSED_MS
            and short > room
            and not self.waiters
            and (len(idle) + len(leased)) * 2 > self.max_workers
        ):
            self._doom(idle[0])

