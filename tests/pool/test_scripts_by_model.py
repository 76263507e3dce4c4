"""Random steps of callers, manager, crashes and clock, on a real server and on a plain model.

`POOL_EXAMPLES` and `POOL_STEPS` make it search longer.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test

from qinling_falcon.pool import keys
from tests.pool.machine import BOUNDS, LIMITS, RUNTIMES, BothPools, one_of
from tests.pool.model import Wanted
from tests.pool.promises import (
    counts_are_what_is_there_and_within_limits,
    every_worker_is_in_the_sets_of_its_state_only,
    everything_is_as_in_the_model,
    no_waiter_waits_beside_a_free_worker,
    nothing_is_left_over,
    waiters_are_queued_or_notified,
)
from tests.servers.valkey import ValkeyServer

CALLS = [  # runtime, target, function, project
    ("A", "f1:0:d1", "f1", "p1"),
    ("A", "f1:0:d1", "f1", "p2"),
    ("A", "f1:1:d0", "f1", "p1"),
    ("A", "f2:0:d2", "f2", "p1"),
    ("B", "f3:0:d3", "f3", "p1"),
    ("B", "f4:0:d4", "f4", "p2"),
]
pick = st.integers(0, 1_000_000)
UPSETS = [
    "time_out", "release_late", "lose_answer", "lose_lease", "heartbeat", "crash", "drain", "change", "gone",
    "ready_unknown", "begin_start", "begin_old_start", "configure", "forget", "empty_redis",
]  # fmt: skip


class PoolMachine(BothPools):
    # Callers

    @rule(
        who=pick,
        call=st.sampled_from(CALLS),
        wait_ms=st.sampled_from([0, 3000, 3000, 8000]),
        which=st.sampled_from(["any", "any", "fresh", "loaded"]),
    )
    def lease(self, who: int, call: tuple[str, str, str, str], wait_ms: int, which: str = "any") -> None:
        only_fresh = which == "fresh"
        wait_ms = 0 if which == "loaded" else wait_ms
        holder = one_of(self.holders, who)
        runtime, target, function, project = call
        what = f"function:{function}"
        if what not in self.cached:
            self.resolve(what)
        generations = ((what, self.cached[what]),)
        execution = f"e{next(self.numbers)}"
        name = f"{holder.name}/{next(self.numbers)}"
        wanted = Wanted(runtime, target, function, project, holder.name, execution, 4000, generations, only_fresh)
        reply = self.run(
            "lease", name, holder.name, runtime, target, function, project, execution, 4000, wanted.detail,
            wait_ms, BOUNDS.of_all, BOUNDS.of_project, BOUNDS.of_function, which, what, generations[0][1],
        )  # fmt: skip
        expected = self.model.lease(name, wanted, wait_ms, which == "loaded")
        if reply[0] == "lease":
            _, worker, address, secret, token, cold, fresh = reply
            assert (address, secret) == (f"address {worker}", f"secret {worker}")
            reply = ["lease", worker, token, cold, fresh]
            self.a_fresh_worker_holds_no_function(only_fresh, worker, fresh)
            assert which != "loaded" or fresh == "0"
            holder.leases.add((worker, int(token)))
            self.tokens.append((worker, int(token)))
        elif reply[0] == "wait":
            holder.waiting.add(name)
            self.growing.update([name] if only_fresh else [])
        elif reply[0] == "full":
            reply[2] = str(reply[2])
        else:
            self.cached.pop(what)
        assert tuple(reply) == expected

    @rule(calls=st.lists(st.tuples(pick, st.sampled_from(CALLS), pick), min_size=2, max_size=6))
    def lease_many(self, calls: list[tuple[int, tuple[str, str, str, str], int]]) -> None:
        for who, call, kind in calls:
            self.lease(who, call, 8000, "any" if kind % 4 else "fresh")
            self.promises_hold()

    @rule(who=pick, call=st.sampled_from(CALLS), count=st.integers(2, 4))
    def scale_up(self, who: int, call: tuple[str, str, str, str], count: int) -> None:
        for _ in range(count):
            self.lease(who, call, 8000, "fresh")
            self.promises_hold()

    @precondition(lambda self: any(self.model.grants.values()))
    @rule()
    def accept_all(self) -> None:
        for who in range(len(self.holders)):
            while self.model.grants.get(self.holders[who].name):
                self.hear(who, "accept")

    @precondition(lambda self: any(self.model.grants.values()))
    @rule(who=pick, how=st.sampled_from(["accept", "accept", "accept twice", "decline", "lose"]))
    def hear(self, who: int, how: str) -> None:
        """A process takes a message from its list; 'lose': it dies or loses it before it answers."""
        holder = one_of(self.holders, who)
        message = self.connection.call("LPOP", keys.grants(holder.name))
        expected = self.model.grants.get(holder.name, [])
        if message is None:
            assert not expected
            return
        waiter, word, *lease = json.loads(message)
        if waiter not in holder.waiting:
            how = "decline"
        holder.waiting.discard(waiter)
        if word != "lease":
            assert expected.pop(0) == (waiter, word)
            return
        worker, _, _, token, cold, fresh = lease
        assert expected.pop(0) == (waiter, word, worker, token, cold, fresh)
        self.a_fresh_worker_holds_no_function(waiter in self.growing, worker, fresh)
        self.tokens.append((worker, int(token)))
        if how.startswith("accept"):
            [accepted] = self.run("accept", worker, token)
            assert bool(accepted) == self.model.accept(worker, int(token))
            if accepted:
                holder.leases.add((worker, int(token)))
            if how == "accept twice":
                assert self.run("accept", worker, token) == [int(self.model.accept(worker, int(token)))]
        elif how == "decline":
            assert bool(self.run("decline", worker, token)) == self.model.decline(worker, int(token))

    @precondition(lambda self: any(holder.leases for holder in self.holders))
    @rule(who=pick, destroy=st.sampled_from([False, False, False, True]))
    def release(self, who: int, destroy: bool) -> None:
        holder, held = one_of([(holder, held) for holder in self.holders for held in sorted(holder.leases)], who)
        holder.leases.discard(held)
        self.release_with(held, destroy)

    @precondition(lambda self: any(holder.leases for holder in self.holders))
    @rule(who=pick)
    def give_back(self, who: int) -> None:
        """There was no package for the worker, which has been accepted, but neither loaded nor called."""
        holder, held = one_of([(holder, held) for holder in self.holders for held in sorted(holder.leases)], who)
        holder.leases.discard(held)
        assert bool(self.run("decline", *held)) == self.model.decline(*held)

    @precondition(lambda self: any(holder.leases for holder in self.holders))
    @rule(again=st.booleans())
    def release_many(self, again: bool) -> None:
        """Calls end; their callers may have the next one of the same target at once."""
        for who, holder in enumerate(self.holders):
            for held in sorted(holder.leases):
                worker = self.model.workers.get(held[0])
                call = next((call for call in CALLS if worker and call[1] == worker.target), None)
                holder.leases.discard(held)
                self.release_with(held, destroy=False)
                if again and call:
                    self.lease(who, call, 3000)
                self.promises_hold()

    def lose_answer(self, who: int) -> None:
        """The answer to a lease was lost on the wire: its process does not know that it has it."""
        holder = one_of(self.holders, who)
        if holder.leases:
            holder.leases.discard(min(holder.leases))
            if who % 2:
                self.pass_time_alive()

    @rule(call=st.sampled_from(CALLS), count=st.integers(0, 4))
    def shrink(self, call: tuple[str, str, str, str], count: int) -> None:
        beginning = f"{call[1].rpartition(':')[0]}:"
        before = self.workers(beginning)
        ended = self.run("shrink", beginning, count)
        assert ended == self.model.shrink(beginning, count)
        left = self.workers(beginning)
        assert (left < before or not ended) and len(left) == len(before) - ended
        assert bool(left) == bool(before) and (ended == count or len(left) <= 1)

    @precondition(lambda self: self.unended)
    @rule(which=pick)
    def end_change_later(self, which: int) -> None:
        self.end_change(*self.unended.pop(which % len(self.unended)))

    @precondition(lambda self: self.model.waiters)
    @rule(which=pick, ends=st.booleans())
    def change_what_is_waited_for(self, which: int, ends: bool) -> None:
        self.change(one_of(self.model.waiters, which).wanted.function, ends)
        self.manager_pass()

    # The manager

    @rule()
    def start_planned(self) -> None:
        plan = self.registry.plan()
        assert plan == self.model.plan()
        for runtime, count in plan.items():
            for _ in range(count):
                self.begin_start(runtime)

    @rule(which=pick, warm=st.integers(0, 3), coming=st.booleans(), rounds=st.integers(0, 3))
    def change_image(self, which: int, warm: int, coming: bool, rounds: int) -> None:
        runtime = one_of(RUNTIMES, which)
        self.configure(runtime, warm)
        if coming:
            self.begin_start(runtime)
        self.new_image(runtime)
        self.step_of_a_roll()
        for _ in range(rounds):
            self.promises_hold()
            self.start_all_planned()
            self.step_of_a_roll()

    @rule()
    def roll(self) -> None:
        self.step_of_a_roll()

    def step_of_a_roll(self) -> dict[str, int]:
        with self.the_stock_is_never_more_than_one_short_by_it():
            left = self.registry.roll(self.images)
            assert left == self.model.roll(self.images)
        for runtime, image in self.images.items():
            assert left[runtime] == len(self.model.old(runtime, image))
        return left

    @rule(which=pick, busy=st.booleans())
    def roll_to_the_end(self, which: int, busy: bool) -> None:
        """Whatever there is: when the manager can start workers, an old image is gone after some passes."""
        runtime = one_of(RUNTIMES, which)
        for name in RUNTIMES:
            self.configure(name, self.model.runtimes.get(name, 1))
        self.new_image(runtime)
        for _ in range(4 * LIMITS.max_workers):
            self.manager_pass()
            if not self.step_of_a_roll()[runtime]:
                break
            self.promises_hold()
            if not busy:
                self.release_many(again=False)
        assert not self.model.old(runtime, self.images[runtime])

    @rule()
    def manager_pass(self) -> None:
        self.end_doomed()
        self.start_all_planned()

    def start_all_planned(self) -> None:
        self.start_planned()
        while any(worker.state == "starting" for worker in self.model.workers.values()):
            self.ready(0)
            self.promises_hold()

    @precondition(lambda self: any(not worker.ready for worker in self.model.workers.values()))
    @rule(which=pick)
    def ready(self, which: int) -> None:
        """Also one that is to end already: its image was replaced while it started."""
        starting = sorted(
            (worker for worker in self.model.workers.values() if not worker.ready),
            key=lambda worker: worker.state == "draining",
        )
        worker = one_of(starting, which)
        self.make_ready(worker.name, worker.runtime, worker.image)

    @rule()
    def end_doomed(self) -> None:
        doomed = self.registry.doomed()
        assert sorted(doomed) == sorted(one.name for one in self.model.workers.values() if one.state == "draining")
        for name in doomed:
            self.registry.gone(name)
            self.model.gone(name)

    @rule()
    def reap(self) -> None:
        self.registry.reap()
        self.model.reap()

    @rule()
    def record_lost(self) -> None:
        lost = self.registry.lost()
        assert lost == {execution: f"detail {execution}" for execution in self.model.lost}
        self.handed_out.update(lost.keys())
        self.registry.settled(list(lost))
        self.model.lost.clear()

    # The world

    @rule(kind=st.sampled_from(UPSETS), which=pick, aside=pick)
    def upset(self, kind: str, which: int, aside: int) -> None:
        """What happens now and then."""
        function, runtime = f"f{which % 4 + 1}", one_of(RUNTIMES, which)
        match kind:
            case "drain":
                self.drain(function, one_of(["", "0:", "1:"], aside))
            case "change":
                self.change(function, ends=aside % 4 > 0)
            case "configure":
                self.configure(runtime, aside % 4)
            case "forget" | "ready_unknown" | "begin_start" | "begin_old_start":
                getattr(self, kind)(runtime)
            case "empty_redis":
                self.empty_redis()
            case "release_late":
                self.release_late(which, destroy=aside % 2 > 0)
            case _:
                getattr(self, kind)(which)

    @rule(ms=st.sampled_from([1, 500, 1000, 2500, 2500, 5000, 30_000, 70_000, -1, -4000]))
    def pass_time(self, ms: int) -> None:
        self.model.now += ms

    @rule()
    def pass_time_alive(self) -> None:
        """Some seconds in which everybody reports and the manager reaps."""
        for _ in range(4):
            self.model.now += 900
            for holder in self.holders:
                self.beat(holder)
            self.reap()

    # What always holds

    @invariant()
    def promises_hold(self) -> None:
        seen = self.registry.snapshot()
        everything_is_as_in_the_model(seen, self.model)
        every_worker_is_in_the_sets_of_its_state_only(seen)
        counts_are_what_is_there_and_within_limits(seen, self.model)
        no_waiter_waits_beside_a_free_worker(self.model)
        waiters_are_queued_or_notified(seen, self.model, self.holders, self.connection)
        assert not self.handed_out or max(self.handed_out.values()) == 1
        nothing_is_left_over(seen, self.connection)

    def a_fresh_worker_holds_no_function(self, wanted: bool, worker: str, fresh: str) -> None:
        assert fresh == "1" or not wanted

    @contextlib.contextmanager
    def the_stock_is_never_more_than_one_short_by_it(self) -> Iterator[None]:
        before = {runtime: self.model.count(runtime, "warm") for runtime in RUNTIMES}
        yield
        seen = self.registry.snapshot()
        for runtime, warm in self.model.runtimes.items():
            left = len(seen[f"warm:{runtime}"])
            assert left >= min(before[runtime], warm) - 1


@pytest.mark.timeout(0)
def test_scripts_do_what_the_model_does(server: ValkeyServer) -> None:
    PoolMachine.server = server
    run_state_machine_as_test(
        PoolMachine,
        settings=settings(
            max_examples=int(os.environ.get("POOL_EXAMPLES", "100")),
            stateful_step_count=int(os.environ.get("POOL_STEPS", "50")),
            deadline=None,
            print_blob=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
