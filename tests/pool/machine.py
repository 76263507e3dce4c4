"""The steps of processes and a manager that use the pool's scripts, on a real server.

Every step runs one script. After each step, the invariants of the pool are checked (`invariants.py`).
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from typing import Any

from qinling_falcon.orchestrators.base import WorkerInfo
from qinling_falcon.pool import keys
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.limits import Limits
from qinling_falcon.pool.policy import Policy
from qinling_falcon.pool.registry import Registry
from qinling_falcon.pool.runner import ScriptRunner
from qinling_falcon.settings import Settings
from tests.pool import invariants
from tests.pool.holders import Call, Held, Holder, Waiting
from tests.servers.valkey import ValkeyServer

LIMITS = Settings(
    function_concurrency=2, function_queue_factor=2, project_concurrency=3, project_queue_factor=2, max_workers=4,
    max_waiters=9, holder_ttl_s=6, worker_idle_s=20,
)  # fmt: skip
BOUNDS = Limits.of(LIMITS, 4)
RUNTIMES = ["A", "B"]
CALLS = [
    Call("A", "f1:0:d1", "f1", "p1"),
    Call("A", "f1:1:d0", "f1", "p1"),
    Call("A", "f2:0:d2", "f2", "p1", "1"),
    Call("B", "f3:0:d3", "f3", "p1"),
    Call("B", "f4:0:d4", "f4", "p2", "2"),
]
RUN_MS = 4000
START_MS = 20
TOLERANCE_MS = 5
PATIENCE_MS = 5
REPEAT_MS = 1000  # when a call has waited this long, its process sends the whole count


class Machine:
    """The pool, its processes, its manager and the clock."""

    server: ValkeyServer
    bounds = BOUNDS

    def __init__(self) -> None:
        super().__init__()
        self.connection = PipelinedConnection(self.server.url)
        self.connection.call("FLUSHALL")
        self.now = 1_700_000_000_000
        self.stepped = 0  # the sum of all steps of Redis's clock
        self.scripts = ScriptRunner(self.connection, clock=lambda: self.now)
        self.registry = Registry(self.connection, LIMITS, clock=lambda: self.now, monotonic=self.monotonic)
        self.policy = Policy(LIMITS.max_workers, 2, START_MS, self.monotonic)
        self.numbers = itertools.count()
        self.images = dict.fromkeys(RUNTIMES, "i0")
        self.calls = {call.queue(kind): call for call in CALLS for kind in ("any", "warm")}
        self.cached: dict[str, str] = {}
        # Executions that have started, with their holders, until they are committed, returned or recorded as lost.
        self.uncommitted: dict[str, str] = {}
        self.recorded: Counter[str] = Counter()
        self.seen: dict[str, Any] = {}
        self.is_sound = True  # no check has failed
        # Whether the limits may allow more than in the last pass of the manager.
        self.is_relaxed = False
        self.saved: dict[str, bytes] = {}
        self.share = LIMITS.max_workers
        self.set_limits(LIMITS.function_concurrency, LIMITS.project_concurrency, LIMITS.max_workers)
        for runtime in RUNTIMES:
            self.configure(runtime, 1)
        self.holders = [self.new_holder(), self.new_holder("worker:")]
        for runtime in ("A", "A", "B"):
            self.start(runtime)

    def close(self) -> None:
        self.registry.close()
        self.connection.close()

    def monotonic(self) -> float:
        return (self.now - self.stepped) / 1000

    # Processes

    def new_holder(self, kind: str = "") -> Holder:
        """A process. One of kind `worker:` runs asynchronous executions."""
        holder = Holder(f"{kind}h{next(self.numbers)}")
        self.beat(holder)
        return holder

    def resolve(self, call: Call) -> str:
        if call.key not in self.cached:
            [self.cached[call.key]] = self.run("generations", call.key, f"g{next(self.numbers)}")
        return self.cached[call.key]

    def ask(
        self, holder: Holder, call: Call, kind: str, *, waits: bool, arrived: int | None = None, is_lost: bool = False
    ) -> str:
        """A call asks for a worker. With `is_lost`, the reply is lost."""
        waits = waits and kind != "loaded"
        arrived = self.now if arrived is None else arrived
        queue, execution, generation = call.queue(kind), f"e{next(self.numbers)}", self.resolve(call)
        before = self.seen
        waited = max(holder.oldest(queue, self.now), self.now - arrived)
        detail = "" if kind == "warm" else f"detail {execution}"
        self.is_relaxed |= before["concurrency"].get(f"own {call.version}", "") != call.own_limit
        word, *rest = self.run(
            "lease", holder.name, kind, call.runtime, call.target, call.project, call.own_limit, execution, RUN_MS,
            detail, int(waits), waited, self.acknowledged(holder), call.key, generation,
            begins=(holder, execution, detail),
        )  # fmt: skip
        if word == "full" and rest[0] == "asynchronous":
            invariants.the_share_was_used(before, holder.name, call, [int(number) for number in rest[1:]])
            return word
        if word == "lease":
            invariants.the_share_is_kept(self.seen, holder.name)
        if word in ("queued", "full", "busy"):
            invariants.no_worker_was_available(before, call, kind, self.now)
        if word in ("queued", "full") and not invariants.is_asynchronous(holder.name):
            invariants.the_queue_had_room(before, call, self.bounds, is_full=word == "full")
        if word == "stale":
            self.cached.pop(call.key)
        if is_lost:
            holder.unsure.add(queue)
        elif word == "lease":
            worker, address, secret, token, cold, needs_load = rest
            assert (address, secret) == (f"address {worker}", f"secret {worker}")
            assert (cold, needs_load) in (("none", "0"), ("assign", "1"))
            assert needs_load == "1" if kind == "warm" else True
            assert needs_load == "0" if kind == "loaded" else True
            holder.leases[worker] = Held(worker, int(token), queue, execution, needs_load == "1")
        elif word == "queued":
            holder.entries[queue] += 1
            self.enter(holder, queue, Waiting(arrived, generation, is_counted=True))
        return word

    def enter(self, holder: Holder, queue: str, waiting: Waiting) -> None:
        holder.waiting[queue].append(waiting)
        holder.waiting[queue].sort(key=lambda one: one.arrived)

    def hear(self, holder: Holder, how: str = "accept") -> bool:
        """A process takes a message from its list. With 'lose', it loses the message before it uses it."""
        message = self.connection.call("LPOP", keys.grants(holder.name))
        if message is None:
            return False
        queue, word, *lease = json.loads(message)
        if how == "lose" or word == "ended":
            return True
        if word == "cancel":
            for held in list(holder.leases.values()):
                if held.execution == lease[0]:
                    self.answer(holder, held)
            return True
        if word == "again":
            self.all_ask_again(holder, queue)
            return True
        if word == "refused":
            assert invariants.is_asynchronous(holder.name)
            holder.entries[queue] = 0
            for one in holder.waiting[queue]:
                one.is_counted = False
            return True
        worker, _, _, token, _, needs_load = lease
        holder.entries[queue] = max(0, holder.entries[queue] - 1)
        held = holder.leases[worker] = Held(worker, int(token), queue, None, needs_load == "1")
        self.pass_on(holder, held)
        return True

    def all_ask_again(self, holder: Holder, queue: str) -> None:
        waiting, holder.waiting[queue] = holder.waiting[queue], []
        holder.entries[queue] = 0
        for one in waiting:
            self.ask_again(holder, queue, one)

    def ask_again(self, holder: Holder, queue: str, waiting: Waiting) -> None:
        kind = "warm" if "|warm|" in queue else "any"
        self.ask(holder, self.calls[queue], kind, waits=True, arrived=waiting.arrived)

    def pass_on(self, holder: Holder, held: Held, *, is_lost: bool = False) -> None:
        """A worker goes to the oldest waiting call of its process, or back to the pool."""
        while held.worker in holder.leases:
            waiting = holder.waiting[held.queue]
            if not waiting:
                self.give_back(holder, held)
                return
            first, call = waiting.pop(0), self.calls[held.queue]
            self.is_relaxed |= self.seen["concurrency"].get(f"own {call.version}", "") != call.own_limit
            execution = f"e{next(self.numbers)}"
            is_for_call = "|any|" in held.queue
            detail = f"detail {execution}" if is_for_call else ""
            before = self.seen
            change = "" if held.queue in holder.unsure else holder.change(held.queue)
            word, *rest = self.run(
                "renew", held.worker, held.token, holder.name, execution, RUN_MS, detail, self.now - first.arrived,
                held.queue if change else "", change, holder.oldest(held.queue, self.now), call.own_limit,
                self.acknowledged(holder), call.key, first.generation, begins=(holder, execution, detail),
            )  # fmt: skip
            if is_lost:
                holder.leases.pop(held.worker)
                holder.unsure.add(held.queue)
            elif word == "ok":
                invariants.the_share_is_kept(self.seen, holder.name)
                invariants.a_renewal_was_right(before, holder.name, held, first.arrived, self.now, TOLERANCE_MS)
                is_new = held.is_new and held.execution is None
                holder.leases[held.worker] = Held(held.worker, int(rest[0]), held.queue, execution, is_new)
                return
            elif word == "stale":
                self.cached.pop(call.key, None)
            else:
                holder.leases.pop(held.worker)
                self.ask_again(holder, held.queue, first)

    def give_back(self, holder: Holder, held: Held) -> None:
        holder.leases.pop(held.worker)
        if held.execution is None and held.is_new:
            self.return_unused(held)
        else:
            self.release(holder, held, destroy=False)

    def return_unused(self, held: Held) -> None:
        self.run("return_unused", held.worker, held.token, ends=held)

    def release(self, holder: Holder, held: Held, *, destroy: bool) -> None:
        all_before = self.seen
        before = all_before.get(f"worker:{held.worker}", {})
        ended = self.run("release", held.worker, held.token, int(destroy), holder.name, self.acknowledged(holder))
        is_ours = before.get("state") == "leased" and before.get("token") == str(held.token)
        assert bool(ended) == is_ours
        if ended and (destroy or invariants.is_to_drain(before, self.now)):
            assert self.seen[f"worker:{held.worker}"]["state"] == "draining"
        elif ended and "|any|" in held.queue:
            invariants.the_oldest_call_got_the_worker(all_before, self.seen, held)

    def answer(self, holder: Holder, held: Held, *, destroy: bool = False, is_lost: bool = False) -> None:
        """The worker has answered: it runs the next call, beside the commit of this one."""
        if held.execution and "|any|" in held.queue:
            holder.answered.append(held.execution)
        if destroy or "|warm|" in held.queue:
            holder.leases.pop(held.worker)
            self.release(holder, held, destroy=destroy)
        else:
            self.pass_on(holder, held, is_lost=is_lost)

    def commit(self, holder: Holder) -> None:
        holder.committed += holder.answered
        holder.answered = []

    def acknowledged(self, holder: Holder) -> str:
        """The executions that the next script acknowledges."""
        for execution in holder.committed:
            if execution not in self.seen["lost"]:  # else it is recorded again, which changes nothing
                self.uncommitted.pop(execution, None)
        acknowledged, holder.committed = ",".join(holder.committed), []
        return acknowledged

    def escalate(self, holder: Holder, queue: str) -> None:
        if holder.waiting[queue]:
            for one in holder.waiting[queue]:
                one.is_counted = True
            if holder.oldest(queue, self.now) >= REPEAT_MS:
                holder.unsure.add(queue)
            busy_ms = self.now % 3 * 10 or ""
            self.run("escalate", holder.name, queue, holder.change(queue), holder.oldest(queue, self.now), busy_ms)

    def leave(self, holder: Holder, queue: str) -> None:
        if queue in holder.unsure and holder.waiting[queue]:
            self.escalate(holder, queue)
            return
        self.run("leave", holder.name, queue, holder.change(queue), holder.oldest(queue, self.now))

    def beat(self, holder: Holder) -> None:
        leases = [held.name for held in holder.leases.values()]
        now, is_new = self.run("heartbeat", holder.name, holder.as_of, self.acknowledged(holder), *leases)
        holder.as_of = int(now)
        if is_new:
            for queue in list(holder.waiting):
                self.all_ask_again(holder, queue)

    # The manager

    def set_limits(self, function: int, project: int, workers: int, asynchronous: int | None = None) -> None:
        """Write the limits. `asynchronous` is the share of asynchronous executions; None: it stays as it is."""
        self.share = self.share if asynchronous is None else asynchronous
        waiting = self.bounds.waiting, self.bounds.waiting_of_project, self.bounds.waiting_of_function
        self.is_relaxed = True
        self.policy.max_workers = workers
        self.run("set_limits", function, project, workers, workers, START_MS, *waiting, self.share)

    def configure(self, runtime: str, warm: int) -> None:
        self.registry.configure(runtime, warm)
        self.check()

    def begin_start(self, runtime: str) -> str | None:
        name = f"w{next(self.numbers)}"
        has_room = len(self.seen["workers"]) < int(self.seen["policy"].get("max_workers", 0))
        is_registered = self.registry.register(name, runtime, self.images[runtime])
        assert is_registered == (has_room and runtime in self.seen["runtimes"])
        self.check()
        return name if is_registered else None

    def make_ready(self, name: str, runtime: str) -> None:
        before = self.seen
        self.registry.mark_ready(
            WorkerInfo(name, f"address {name}", f"secret {name}"), runtime, self.images[runtime]
        )
        self.check()
        is_new = before.get(f"worker:{name}", {"state": "starting"})["state"] == "starting"
        if is_new and self.seen[f"worker:{name}"]["state"] != "draining":
            invariants.the_first_to_grow_was_served(before, self.seen, runtime)

    def start(self, runtime: str) -> None:
        name = self.begin_start(runtime)
        if name:
            self.make_ready(name, runtime)

    def gone(self, name: str) -> None:
        self.registry.remove(name)
        self.check()
        assert f"worker:{name}" not in self.seen

    def reap(self) -> None:
        before = set(self.seen.get("leases", {}).items())
        self.registry.reap()
        # One lease that ends may lead to a reservation, and another one to its end: no snapshot shows it. As below, the
        # manager's next pass serves the queues that it has blocked.
        self.is_relaxed |= len(before - set(self.registry.snapshot()["leases"].items())) > 1
        self.check()

    def manager_pass(self) -> None:
        """What the manager does, with workers that start and end at once."""
        for name in self.registry.draining():
            self.gone(name)
        view = self.registry.view()
        self.is_relaxed = False
        self.check()
        invariants.the_view_is_right(view, self.seen)
        decision = self.policy.decide(view, 2, set(RUNTIMES) - {runtime.id for runtime in view.runtimes})
        for runtime in decision.starts:
            self.start(runtime)
        for eviction in decision.evictions:
            self.registry.evict(eviction.worker, eviction.unused_ms)
            self.check()
        for recall in decision.recalls:
            self.registry.recall(recall.worker, recall.stands_ms)
            self.check()
        for worker in decision.taken_back:
            self.registry.recall(worker, 0)
            self.check()

    def record_lost(self) -> None:
        lost = self.registry.lost()
        assert all(it.detail == f"detail {execution}" for execution, it in lost.items())
        self.recorded.update(lost.keys())
        self.registry.acknowledge_lost(list(lost))
        for execution in lost:
            self.uncommitted.pop(execution, None)
        self.check()

    # Redis

    def run(
        self, name: str, *args: Any, begins: tuple[Holder, str, str] | None = None, ends: Held | None = None
    ) -> Any:
        """Run a script, and check everything.

        Args:
            begins: the holder, execution and detail of an execution that starts if the script succeeds.
            ends: the lease whose execution ends without a record if the script succeeds.
        """
        reply = self.scripts.run(name, *args)
        if isinstance(reply, list):
            reply = [part.decode() if isinstance(part, bytes) else part for part in reply]
        if begins and begins[2] and reply[0] in ("lease", "ok"):
            self.uncommitted[begins[1]] = begins[0].name
        if ends and reply and ends.execution:
            self.uncommitted.pop(ends.execution, None)
        self.check()
        return reply

    def check(self) -> None:
        self.is_sound = False
        before, self.seen = self.seen, self.registry.snapshot()
        # The manager's next pass serves the queues that a reservation has blocked.
        self.is_relaxed |= bool(before) and not invariants.reservations(before).items() <= (
            invariants.reservations(self.seen).items()
        )
        invariants.every_worker_is_in_the_sets_of_its_state_only(self.seen)
        invariants.counts_are_what_is_there(self.seen)
        invariants.limits_are_not_exceeded_anew(before, self.seen)
        invariants.every_queue_is_in_the_sets_of_its_state_only(self.seen)
        invariants.pending_recalls_are_those_of_the_workers(self.seen)
        invariants.executions_are_in_one_place(self.seen, self.uncommitted)
        invariants.the_journal_names_the_worker_of_each_execution(self.seen)
        invariants.workers_that_may_run_lost_executions_end(self.seen)
        if not self.is_relaxed:
            invariants.no_queue_waits_beside_a_worker_for_it(self.seen)
        assert max(self.recorded.values(), default=0) <= 1
        known = {holder.name for holder in getattr(self, "holders", [])}
        invariants.nothing_is_left_over(self.seen, self.connection, known)
        self.is_sound = True
