"""The real pool and its model side by side, and the steps that are made on both."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine

from qinling_falcon.orchestrators.base import StartedWorker
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.queue_bounds import QueueBounds
from qinling_falcon.pool.registry import Registry
from qinling_falcon.pool.runner import ScriptRunner
from qinling_falcon.settings import Settings
from tests.pool.model import Model
from tests.servers.valkey import ValkeyServer

LIMITS = Settings(
    function_concurrency=2, function_queue_factor=1, project_concurrency=3, project_queue_factor=2, max_workers=4,
    max_waiters=9, holder_ttl_s=6, worker_idle_s=20,
)  # fmt: skip
BOUNDS = QueueBounds.of(LIMITS)
RUNTIMES = ["A", "B"]


@dataclass
class Holder:
    """A process that leases, as far as the scripts see it."""

    name: str
    leases: set[tuple[str, int]] = field(default_factory=set)
    waiting: set[str] = field(default_factory=set)
    as_of: int = 0


class BothPools(RuleBasedStateMachine):
    """The scripts on a real server, the model, and the processes that use them."""

    server: ValkeyServer

    def __init__(self) -> None:
        super().__init__()
        self.connection = PipelinedConnection(self.server.url)
        self.connection.call("FLUSHALL")
        self.model = Model(
            function_limit=LIMITS.function_concurrency,
            project_limit=LIMITS.project_concurrency,
            max_workers=LIMITS.max_workers,
            max_waiters=BOUNDS.of_all,
            project_waiters=BOUNDS.of_project,
            function_waiters=BOUNDS.of_function,
            holder_ttl=6000,
            worker_idle=20_000,
        )
        self.scripts = ScriptRunner(self.connection, LIMITS, clock=lambda: self.model.now)
        self.registry = Registry(self.connection, LIMITS, clock=lambda: self.model.now)
        self.numbers = itertools.count()
        self.holders = [self.new_holder(), self.new_holder()]
        self.tokens: list[tuple[str, int]] = []
        self.cached: dict[str, str] = {}
        self.growing: set[str] = set()  # waiters that take only a worker that holds no function
        self.images = dict.fromkeys(RUNTIMES, "i0")
        self.unended: list[tuple[str, str]] = []
        self.handed_out: Counter[str] = Counter()
        for runtime in RUNTIMES:
            self.configure(runtime, 1)
        for runtime in ("A", "A", "B"):
            self.ready_unknown(runtime)

    def teardown(self) -> None:
        self.registry.close()
        self.connection.close()

    def new_holder(self) -> Holder:
        holder = Holder(f"h{next(self.numbers)}")
        self.beat(holder)
        return holder

    def drain(self, function: str, version: str) -> None:
        self.run("drain", f"{function}:{version}")
        self.model.drain(f"{function}:{version}")

    def workers(self, beginning: str) -> set[str]:
        found = self.run("workers", beginning)
        assert found == [worker.name for worker in self.model.holding(beginning)]
        return set(found)

    def change(self, function: str, ends: bool) -> None:
        """A change of a function; one that does not end now ends amid another one, or never: its process died."""
        what, owner = f"function:{function}", f"o{next(self.numbers)}"
        self.run("change", what, owner, "")
        self.model.begin_change(what, owner)
        if ends:
            self.end_change(what, owner)
        else:
            self.unended.append((what, owner))

    def end_change(self, what: str, owner: str) -> None:
        generation = f"g{next(self.numbers)}"
        self.run("change", what, owner, generation)
        self.model.end_change(what, owner, generation)

    def begin_start(self, runtime: str, image: str | None = None) -> None:
        name, image = f"w{next(self.numbers)}", image or self.images[runtime]
        assert self.registry.starting(name, runtime, image) == self.model.starting(name, runtime, image)

    def begin_old_start(self, runtime: str) -> None:
        self.begin_start(runtime, "older")

    def new_image(self, runtime: str) -> None:
        self.images[runtime] = f"i{next(self.numbers)}"

    def ready_unknown(self, runtime: str) -> None:
        """Redis was emptied while the worker started."""
        self.make_ready(f"w{next(self.numbers)}", runtime, self.images[runtime])

    def configure(self, runtime: str, warm: int) -> None:
        self.registry.configure(runtime, warm)
        self.model.configure(runtime, warm)

    def forget(self, runtime: str) -> None:
        self.registry.forget(runtime)
        self.model.forget(runtime)

    def time_out(self, who: int) -> None:
        waiting = [(holder, name) for holder in self.holders for name in sorted(holder.waiting)]
        if not waiting:
            return
        holder, waiter = one_of(waiting, who)
        left = bool(self.run("leave", waiter))
        assert left == self.model.leave(waiter)
        if left:
            holder.waiting.discard(waiter)

    def release_late(self, which: int, destroy: bool) -> None:
        """A token that was released, declined or reaped already does nothing; so does one that never was."""
        held = {lease for holder in self.holders for lease in holder.leases}
        if not self.tokens:
            return
        worker, token = one_of(self.tokens, which)
        for old in (token, token - 1):
            if (worker, old) not in held:
                self.release_with((worker, old), destroy)

    def lose_lease(self, who: int) -> None:
        """A server that came back without its last writes forgot a lease that its process has."""
        holder = one_of(self.holders, who)
        if self.model.workers:
            worker = self.model.workers[one_of(sorted(self.model.workers), who)]
            forgotten = (worker.name, worker.token + 1 + who % 3)
            holder.leases.add(forgotten)
            self.beat(holder)
            holder.leases.discard(forgotten)

    def heartbeat(self, who: int) -> None:
        self.beat(one_of(self.holders, who))

    def crash(self, who: int) -> None:
        self.holders[who % len(self.holders)] = self.new_holder()

    def gone(self, which: int) -> None:
        if not self.model.workers:
            return
        name = one_of(sorted(self.model.workers), which)
        self.registry.gone(name)
        self.model.gone(name)

    def empty_redis(self) -> None:
        self.connection.call("FLUSHALL")
        model = self.model
        for part in (
            model.runtimes, model.workers, model.waiters, model.grants, model.generations, model.changing,
            model.holders, model.reported, model.lost, model.bare,
        ):  # fmt: skip
            part.clear()
        model.reaper = None

    def run(self, name: str, *args: Any) -> Any:
        reply = self.scripts.run(name, *args)
        if not isinstance(reply, list):
            return reply
        return [part.decode() if isinstance(part, bytes) else part for part in reply]

    def beat(self, holder: Holder) -> None:
        held = set(holder.leases)
        now, unknown = self.run("heartbeat", holder.name, holder.as_of, *(f"{name}:{token}" for name, token in held))
        assert bool(unknown) == (holder.name not in self.model.holders)
        self.model.heartbeat(holder.name, holder.as_of, held)
        holder.as_of = int(now)
        if unknown:  # all that wait leave and ask again
            for waiter in sorted(holder.waiting):
                assert bool(self.run("leave", waiter)) == self.model.leave(waiter)
            holder.waiting.clear()

    def release_with(self, held: tuple[str, int], destroy: bool) -> None:
        worker, token = held
        assert bool(self.run("release", worker, token, int(destroy))) == self.model.release(worker, token, destroy)

    def make_ready(self, name: str, runtime: str, image: str) -> None:
        self.registry.ready(StartedWorker(name, f"address {name}", f"secret {name}"), runtime, image)
        self.model.make_ready(name, runtime, image)

    def resolve(self, what: str) -> None:
        fresh = f"g{next(self.numbers)}"
        [seen] = self.run("generations", what, fresh)
        if self.model.generation(what) is None:
            self.model.changing.pop(what, None)
            self.model.generations[what] = fresh
        assert seen == self.model.generation(what)
        self.cached[what] = seen


def one_of(options: Any, which: int) -> Any:
    return options[which % len(options)]
