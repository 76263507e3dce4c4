"""Random steps of callers, manager, crashes and clock, on a real server. The invariants hold after each step.

`make soak` tries twenty times as many sequences of steps. `POOL_EXAMPLES` and `POOL_STEPS` say how many sequences
and steps. `POOL_SHRINK=0` shows the first failure as it was found.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.pool.faults import Faults
from tests.pool.holders import Call, Held, Holder, Waiting
from tests.pool.machine import CALLS, LIMITS, PATIENCE_MS, RUNTIMES
from tests.servers.valkey import ValkeyServer

pick = st.integers(0, 1_000_000)
calls = st.sampled_from(CALLS)
FAULTS = [
    "begin_start", "change", "configure", "drain", "drain_workers", "empty_redis", "evict", "forget",
    "gone", "lose_lease", "ready_unknown", "recall", "release_late", "restart_redis", "save_redis", "set_limits",
    "step_clock", "unwatch", "watch",
]  # fmt: skip
# After at most ROUNDS rounds of work, no call waits. A round is a pass of the manager and half a second. After
# LEAST_ROUNDS, dead processes are known to be dead.
ROUNDS, LEAST_ROUNDS = 60, 15
# While new calls always compete with them, calls wait for at most this many rounds. Leases of dead processes end within
# the first 20 of them.
ROUNDS_UNDER_LOAD = 30


class PoolMachine(Faults, RuleBasedStateMachine):
    @initialize(share=st.integers(1, LIMITS.max_workers))
    def share_workers(self, share: int) -> None:
        """Asynchronous executions may use so many workers."""
        self.set_limits(LIMITS.function_concurrency, LIMITS.project_concurrency, LIMITS.max_workers, share)

    # Callers

    @rule(who=pick, call=calls, kind=st.sampled_from(["any"] * 4 + ["warm", "loaded"]), waits=st.booleans())
    def lease(self, who: int, call: Call, kind: str, waits: bool) -> None:
        self.ask(one_of(self.holders, who), call, kind, waits=waits)

    @rule(who=pick, call=calls)
    def lose_the_answer_to_a_lease(self, who: int, call: Call) -> None:
        self.ask(one_of(self.holders, who), call, "any", waits=True, is_lost=True)

    @rule(who=pick, is_lost=st.booleans())
    def lease_single_use(self, who: int, is_lost: bool) -> None:
        self.ask_single_use(one_of(self.holders, who), is_lost=is_lost)

    @rule(asking=st.lists(st.tuples(pick, calls), min_size=2, max_size=6))
    def lease_many(self, asking: list[tuple[int, Call]]) -> None:
        for who, call in asking:
            self.ask(one_of(self.holders, who), call, "any", waits=True)
            self.now += who % 4

    @rule(who=pick, call=calls)
    def wait_in_the_process(self, who: int, call: Call) -> None:
        holder = one_of(self.holders, who)
        if any(held.queue == call.queue("any") for held in holder.leases.values()):
            self.enter(holder, call.queue("any"), Waiting(self.now, self.resolve(call), is_counted=False))

    @rule(who=pick, how=st.sampled_from(["accept", "accept", "accept", "lose"]))
    def hear_one(self, who: int, how: str) -> None:
        self.hear(one_of(self.holders, who), how)

    @rule()
    def hear_all(self) -> None:
        for holder in self.holders:
            while self.hear(holder):
                pass

    @precondition(lambda self: any(holder.leases for holder in self.holders))
    @rule(which=pick, how=st.sampled_from(["well", "well", "well", "destroy", "lost"]))
    def answer_one(self, which: int, how: str) -> None:
        holder, held = self.a_lease(which)
        self.answer(holder, held, destroy=how == "destroy", is_lost=how == "lost")

    @precondition(lambda self: any(holder.leases for holder in self.holders))
    @rule()
    def answer_all(self) -> None:
        for holder in self.holders:
            for held in list(holder.leases.values()):
                self.answer(holder, held)

    @rule(who=pick)
    def commit_all(self, who: int) -> None:
        self.commit(one_of(self.holders, who))

    @precondition(lambda self: any(holder.leases for holder in self.holders))
    @rule(which=pick)
    def give_back_unused(self, which: int) -> None:
        """There was no package for the worker, which was neither loaded nor called."""
        holder, held = self.a_lease(which)
        holder.leases.pop(held.worker)
        self.return_unused(held)

    @precondition(lambda self: any(holder.leases for holder in self.holders))
    @rule(which=pick, is_answered=st.booleans())
    def abandon(self, which: int, is_answered: bool) -> None:
        """A process could not record an execution, before or after the worker went on."""
        holder, held = self.a_lease(which)
        if is_answered:
            self.answer(holder, held)
            for execution in holder.answered:
                self.run("abandon", holder.name, execution, held.worker, 0)
            holder.answered = []
        else:
            holder.leases.pop(held.worker)
            self.run("abandon", holder.name, held.execution or "", held.worker, held.token)

    @rule(which=pick)
    def escalate_one(self, which: int) -> None:
        holder = one_of(self.holders, which)
        for queue in sorted(holder.waiting):
            if holder.oldest(queue, self.now) >= PATIENCE_MS:
                self.escalate(holder, queue)

    @rule(which=pick, of_waiting=pick)
    def give_up(self, which: int, of_waiting: int) -> None:
        holder = one_of(self.holders, which)
        queues = sorted(queue for queue, waiting in holder.waiting.items() if waiting)
        if queues:
            queue = one_of(queues, which)
            holder.waiting[queue].pop(of_waiting % len(holder.waiting[queue]))
            self.leave(holder, queue)

    @rule(who=pick)
    def heartbeat(self, who: int) -> None:
        self.beat(one_of(self.holders, who))

    @rule(call=calls, count=st.integers(0, 3))
    def shrink(self, call: Call, count: int) -> None:
        beginning = f"{call.target.rpartition(':')[0]}:"
        before = self.run("workers", call.function, beginning)
        ended = self.run("shrink", call.function, beginning, count)
        left = self.run("workers", call.function, beginning)
        assert ended == min(count, max(0, len(before) - 1))
        assert len(left) == len(before) - ended and set(left) <= set(before)

    @rule(call=calls, count=st.integers(0, 2))
    def keep_some(self, call: Call, count: int) -> None:
        self.keep(call, count)

    @rule(which=pick)
    def cancel_one(self, which: int) -> None:
        self.cancel(which)

    @precondition(lambda self: any(holder.committed for holder in self.holders))
    @rule(which=pick)
    def drop_one(self, which: int) -> None:
        committed = [execution for holder in self.holders for execution in holder.committed]
        self.drop(one_of(committed, which))

    @precondition(lambda self: any(holder.answered or holder.committed for holder in self.holders))
    @rule(watcher=pick)
    def acknowledge_all(self, watcher: int) -> None:
        for holder in self.holders:
            self.commit(holder)
            self.acknowledge(holder, one_of(self.holders, watcher))

    # The manager

    @rule()
    def a_pass(self) -> None:
        self.manager_pass()

    @rule()
    def reap_now(self) -> None:
        self.reap()

    @rule()
    def record_all_lost(self) -> None:
        self.record_lost()

    @precondition(lambda self: self.starting())
    @rule(which=pick)
    def ready(self, which: int) -> None:
        name = one_of(self.starting(), which)
        self.make_ready(name, self.seen[f"worker:{name}"]["runtime"])

    # The world

    @rule(which=pick)
    def crash(self, which: int) -> None:
        """A process dies, and another one begins."""
        at = which % len(self.holders)
        self.holders[at] = self.new_holder("worker:" if at else "")

    @rule(kind=st.sampled_from(FAULTS), which=pick, aside=pick)
    def fault(self, kind: str, which: int, aside: int) -> None:
        """A rare event."""
        call, runtime, holder = one_of(CALLS, which), one_of(RUNTIMES, which), one_of(self.holders, which)
        worker = one_of(sorted(self.seen["workers"]), aside) if self.seen["workers"] else None
        match kind:
            case "watch":
                self.watch(holder, aside)
            case "unwatch":
                self.unwatch(holder, aside)
            case "begin_start":
                self.begin_start(runtime)
            case "change":
                self.change(call, ends=aside % 4 > 0)
            case "configure":
                self.configure(runtime, aside % 3)
            case "drain":
                self.drain(call, one_of(["", "0:", "1:"], aside))
            case "drain_workers" if worker:
                self.run("drain_workers", "a reason", worker)
            case "empty_redis":
                self.empty_redis()
            case "evict" if worker:
                self.evict(worker, one_of([0, 500], which))
            case "forget":
                self.registry.forget(runtime)
                self.check()
            case "gone" if worker:
                self.gone(worker)
            case "lose_lease" if worker:
                self.lose_lease(holder, worker)
            case "ready_unknown":
                self.make_ready(f"w{next(self.numbers)}", runtime)
            case "recall" if worker:
                self.run("recall", worker, one_of([10_000, 10_000, 0], which))
            case "release_late" if worker:
                token = int(self.seen[f"worker:{worker}"].get("token", 1))
                old = Held(worker, token - 1, call.queue("any"), None, is_new=False)
                self.release(holder, old, destroy=aside % 2 > 0)
            case "restart_redis":
                self.restart_redis()
            case "save_redis":
                self.save_redis()
            case "step_clock":
                self.step_clock(one_of([-1, -4000, -3_600_000, 4000, 3_600_000], aside))
            case "set_limits":
                self.set_limits(1 + which % 3, 1 + aside % 4, 2 + which % 4, 1 + aside % 3)

    @rule(ms=st.sampled_from([1, 4, 6, 30, 500, 1000, 2500, 5000, 30_000, 70_000]))
    def pass_time(self, ms: int) -> None:
        self.now += ms

    @rule()
    def pass_time_alive(self) -> None:
        """Some seconds in which all processes report and the manager reaps."""
        for _ in range(4):
            self.now += 900
            for holder in self.holders:
                self.beat(holder)
            self.reap()

    def teardown(self) -> None:
        try:
            if self.is_sound:
                self.work_off()
        finally:
            self.close()

    @rule()
    def work_off(self) -> None:
        """When the processes and the manager do their work, every call gets a worker and ends, in any state."""
        self.prepare_work()
        for turn in range(ROUNDS):
            self.work_round(turn)
            if turn > LEAST_ROUNDS and self.is_quiet():
                break
        assert self.is_quiet(), f"calls wait for ever: {self.seen}, uncommitted: {self.uncommitted}"

    @precondition(lambda self: any(key.startswith("blocked:project:p1") and value for key, value in self.seen.items()))
    @rule(who=pick, call=st.sampled_from(CALLS[:4]))
    def work_under_load(self, who: int, call: Call) -> None:
        """While new calls of two other targets of the project always wait, older calls get workers soon.

        Only two leases are allowed, and no worker is kept warm.
        """
        self.prepare_work()
        for runtime in RUNTIMES:
            self.configure(runtime, 0)
        self.set_limits(LIMITS.function_concurrency, 2, LIMITS.max_workers)
        self.work_round(0)
        self.ask(one_of(self.holders, who), call, "any", waits=True)
        began = self.now
        self.now += 1
        others = [one for one in CALLS[:4] if one is not call]
        competing = [one_of(others, who), one_of(others, who + 1)]
        for turn in range(ROUNDS_UNDER_LOAD):
            self.work_round(turn, competing)
            if not self.waits_since(call.queue("any"), began):
                return
        assert not self.waits_since(call.queue("any"), began), f"{call} waits while others are served: {self.seen}"

    def waits_since(self, queue: str, arrived: int) -> bool:
        """Whether a call waits in the queue that arrived at this time or before."""
        return any(one.arrived <= arrived for holder in self.holders for one in holder.waiting[queue])

    def compete(self, holder: Holder, competing: Sequence[Call]) -> None:
        """Two calls of each of these targets wait."""
        for call in competing:
            if len(holder.waiting[call.queue("any")]) < 2:
                self.ask(holder, call, "any", waits=True)

    def prepare_work(self) -> None:
        """The limits, the stocks and the starting workers are as they should be."""
        for runtime in RUNTIMES:
            self.configure(runtime, 1)
        for call in CALLS:
            self.keep(call, 0)  # the manager keeps half of all workers at most
        self.set_limits(LIMITS.function_concurrency, LIMITS.project_concurrency, LIMITS.max_workers)
        for name in self.starting():
            self.make_ready(name, self.seen[f"worker:{name}"]["runtime"])

    def work_round(self, turn: int, competing: Sequence[Call] = ()) -> None:
        """All workers answer, and the manager makes a pass. Every second, processes report and the manager reaps.

        Calls of the targets `competing` always wait in the first process.
        """
        for holder in self.holders:
            self.compete(self.holders[0], competing)
            self.work(holder)
        self.compete(self.holders[0], competing)
        self.manager_pass()
        self.now += 500
        if turn % 2 == 0:
            for holder in self.holders:
                self.beat(holder)
            self.reap()
            self.record_lost()

    def work(self, holder: Holder) -> None:
        while self.hear(holder):
            pass
        for held in list(holder.leases.values()):
            self.answer(holder, held)
        self.commit(holder)
        for queue in sorted(holder.unsure):
            self.leave(holder, queue)
        for queue in sorted(holder.waiting):
            if holder.oldest(queue, self.now) >= PATIENCE_MS:
                self.escalate(holder, queue)

    def is_quiet(self) -> bool:
        is_idle = not any(holder.leases or any(holder.waiting.values()) for holder in self.holders)
        is_known = any(key.startswith(("queue:", "journal:")) and value for key, value in self.seen.items())
        is_starting = any(record["state"] in ("starting", "leased") for record in self.records())
        is_recalled = any(int(record.get("recalled", 0)) > self.now for record in self.records())
        is_over = not is_starting and not is_recalled and not self.seen["lost"] and not self.uncommitted
        return is_idle and not is_known and is_over

    def a_lease(self, which: int) -> tuple[Holder, Held]:
        held: tuple[Holder, Held] = one_of(
            [(holder, holder.leases[worker]) for holder in self.holders for worker in sorted(holder.leases)], which
        )
        return held

    def starting(self) -> list[str]:
        return [name for name in sorted(self.seen["workers"]) if self.seen[f"worker:{name}"]["state"] == "starting"]

    def records(self) -> list[dict[str, str]]:
        return [value for key, value in self.seen.items() if key.startswith("worker:")]


def one_of(options: list, which: int):
    return options[which % len(options)]


@pytest.mark.timeout(0)
def test_the_invariants_hold_after_each_step(server: ValkeyServer) -> None:
    PoolMachine.server = server
    run_state_machine_as_test(
        PoolMachine,
        settings=settings(
            max_examples=int(os.environ.get("POOL_EXAMPLES", "25")),
            stateful_step_count=int(os.environ.get("POOL_STEPS", "40")),
            deadline=None,
            phases=tuple(Phase) if os.environ.get("POOL_SHRINK", "1") == "1" else (Phase.generate,),
            print_blob=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
