"""Rare events of the pool: changes of functions, evictions, losses of Redis, and leases that Redis has lost."""

from __future__ import annotations

import json

from qinling_falcon.pool import keys
from tests.pool import invariants
from tests.pool.holders import Call, Held, Holder
from tests.pool.machine import CALLS, LIMITS, RUN_MS, Machine

SINGLE_USE = Call("image", "f1:2:d5", "f1", "p1", "1")


class Faults(Machine):
    """Rare steps."""

    def step_clock(self, ms: int) -> None:
        """Redis's clock steps. Processes have clocks that don't."""
        self.now += ms
        self.stepped += ms
        for holder in self.holders:
            for queue in holder.waiting.values():
                for one in queue:
                    one.arrived += ms

    def ask_single_use(self, holder: Holder, *, is_lost: bool) -> None:
        """A process leases a worker that it makes for one execution. With `is_lost`, the reply is lost."""
        call, worker, execution = SINGLE_USE, f"s{next(self.numbers)}", f"e{next(self.numbers)}"
        self.is_relaxed |= self.seen["concurrency"].get(f"own {call.version}", "") != call.own_limit
        word, *rest = self.run(
            "lease_single_use", holder.name, worker, call.runtime, call.target, call.project, call.own_limit, execution,
            RUN_MS, f"detail {execution}", "i0", self.acknowledged(holder), call.key, self.resolve(call),
            begins=(holder, execution, f"detail {execution}"),
        )  # fmt: skip
        if word == "stale":
            self.cached.pop(call.key)
        if word == "lease":
            invariants.the_share_is_kept(self.seen, holder.name)
            assert self.seen[f"worker:{worker}"]["drain"] == "1"
            if not is_lost:
                holder.leases[worker] = Held(worker, int(rest[0]), call.queue("any"), execution, is_new=False)

    def drain(self, call: Call, version: str) -> None:
        beginning = f"{call.function}:{version}"
        holding = [
            worker
            for worker in self.seen.get(f"assigned:{call.function}", ())
            if self.seen[f"worker:{worker}"]["target"].startswith(beginning)
        ]
        assert self.run("drain", call.function, beginning) == len(holding)
        for worker in holding:
            record = self.seen[f"worker:{worker}"]
            assert record["state"] == "draining" or "drain" in record

    def change(self, call: Call, ends: bool) -> None:
        """A change of a function. If it does not end, its process has died."""
        owner = f"o{next(self.numbers)}"
        self.run("change", call.key, owner, "")
        if ends:
            self.run("change", call.key, owner, f"g{next(self.numbers)}")

    def keep(self, call: Call, count: int) -> None:
        """Keep workers of a target."""
        kept = self.run("keep", call.target, count)
        marked = [
            record
            for record in self.records()
            if record.get("target") == call.target and "kept" in record and "drain" not in record
            and record["state"] in ("idle", "leased")
        ]  # fmt: skip
        assert len(marked) == kept <= count

    def evict(self, worker: str, unused_ms: int) -> None:
        is_kept = "kept" in self.seen[f"worker:{worker}"]
        assert not (self.run("evict", worker, unused_ms) and is_kept)

    def drop(self, execution: str) -> None:
        """A committed execution is deleted before it is removed from its journal."""
        self.uncommitted.pop(execution, None)
        self.run("drop", execution)

    def cancel(self, which: int) -> None:
        """A caller cancels an execution that runs, or one that is in no journal."""
        execution = [*sorted(self.uncommitted), "none"][which % (len(self.uncommitted) + 1)]
        known = self.seen["holders"].keys() | self.seen["former"].keys()
        drains = {name for name in known if invariants.is_asynchronous(name)}
        running = {name for name in known if execution in self.seen.get(f"journal:{name}", {})}
        expected = running - drains or drains
        before = {name: self._grants(name) for name in known}

        assert self.run("cancel", execution) == len(expected)

        for name in known:
            added = [json.dumps(["", "cancel", execution], separators=(",", ":")).encode()] if name in expected else []
            assert self._grants(name) == before[name] + added
        is_known = bool(running) or execution in self.seen["lost"]
        assert self.run("uncommitted", execution, "nothing") == [execution] * (len(running) or is_known)
        assert self.run("find", execution) == (f"detail {execution}".encode() if is_known else None)

    def _grants(self, name: str) -> list[bytes]:
        grants: list[bytes] = self.connection.call("LRANGE", keys.grants(name), 0, -1)
        return grants

    def watch(self, holder: Holder, which: int) -> None:
        """Requests of a process wait for the end of an execution."""
        if self.uncommitted:
            executions = sorted(self.uncommitted)
            self.run("watch", holder.name, 30_000, executions[which % len(executions)])

    def unwatch(self, holder: Holder, which: int) -> None:
        """The last request that waits for the end of an execution leaves."""
        if watched := self.connection.call("ZRANGE", "qf:{pool}:watched", 0, -1):
            execution = watched[which % len(watched)].decode()
            self.run("unwatch", holder.name, execution)
            assert holder.name.encode() not in self._watchers(execution)

    def acknowledge(self, holder: Holder, watcher: Holder) -> None:
        """A process that runs no other script reports what it has committed. Those that wait for it are notified."""
        if holder.committed:
            self.run("watch", watcher.name, 30_000, holder.committed[-1])
        watched = set(self.connection.call("ZRANGE", "qf:{pool}:watched", 0, -1))
        expected = {
            (name, execution)
            for execution in holder.committed
            if execution.encode() in watched
            for name in self._watchers(execution)
        }
        committed = list(holder.committed)
        self.run("acknowledge", holder.name, self.acknowledged(holder))
        for name, execution in expected:
            message = json.loads(self.connection.call("LINDEX", keys.grants(name.decode()), -1))
            assert message[:2] == ["", "ended"] and execution in message[2:]
        assert not any(self._watchers(execution) for _, execution in expected)
        assert not set(committed) & self.seen.get(f"journal:{holder.name}", {}).keys()

    def _watchers(self, execution: str) -> set[bytes]:
        return set(self.connection.call("SMEMBERS", f"qf:{{pool}}:watchers:{execution}"))

    def empty_redis(self) -> None:
        self.connection.call("FLUSHALL")
        self.uncommitted.clear()
        self.cached.clear()
        self.seen = {}
        self.set_limits(LIMITS.function_concurrency, LIMITS.project_concurrency, LIMITS.max_workers)

    def save_redis(self) -> None:
        """Save the state with which Redis comes back after a restart without its last writes."""
        names = self.connection.call("KEYS", "qf:{pool}:*")
        self.saved = {name: self.connection.call("DUMP", name) for name in names}

    def restart_redis(self) -> None:
        if not self.saved:
            return
        self.connection.call("FLUSHALL")
        for name, dump in self.saved.items():
            self.connection.call("RESTORE", name, 0, dump)
        # Recorded executions may be lost ones again. Their records exist, and do not change.
        self.recorded.clear()
        self.is_relaxed = True
        self.seen = self.registry.snapshot()
        self.uncommitted = {
            execution: key.removeprefix("journal:")
            for key, value in self.seen.items()
            if key.startswith("journal:")
            for execution in value
        } | dict.fromkeys(self.seen["lost"], "")
        self.cached.clear()
        self.run("note_server", f"run {next(self.numbers)}")

    def lose_lease(self, holder: Holder, worker: str) -> None:
        """A server that came back without its last writes has lost a lease that its process has."""
        state = self.seen[f"worker:{worker}"]["state"]
        token = int(self.seen[f"worker:{worker}"].get("token", 0)) + 1
        was = holder.leases.get(worker)
        holder.leases[worker] = Held(worker, token, CALLS[0].queue("any"), None, is_new=False)
        self.beat(holder)
        now = self.seen.get(f"worker:{worker}", {})
        assert state == "starting" or now["state"] == "draining" or "drain" in now
        if was:
            holder.leases[worker] = was
        else:
            holder.leases.pop(worker, None)
