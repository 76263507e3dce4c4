"""The warm pool, for the pool manager: registers and removes workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gevent
import orjson

from qinling_falcon.orchestrators.base import StartedWorker
from qinling_falcon.pool import keys
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.limits import Limits
from qinling_falcon.pool.policy import View
from qinling_falcon.pool.runner import Clock, ScriptRunner
from qinling_falcon.pool.snapshot import read_snapshot
from qinling_falcon.pool.wire import PoolUnavailable
from qinling_falcon.settings import Settings

_PAGE = 200
_HOST_TTL_S = 300
# The queues that are looked at, those that are returned, and the idle workers and targets that are returned.
_VIEW = (64, 8, 8)


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker as the pool knows it.

    Attributes:
        worker_id: the worker.
        state: `starting`, `warm`, `idle`, `leased` or `draining`.
        runtime_id: whose worker it is.
        image: what it was made from.
        target: what it holds; empty: nothing.
        drains: whether it is leased and ends after its call.
        granted_ms: when it was leased the last time; 0: never.
        has_served: whether it has ever been ready.
    """

    worker_id: str
    state: str
    runtime_id: str
    image: str
    target: str
    drains: bool
    granted_ms: int
    has_served: bool

    @property
    def may_get_calls(self) -> bool:
        """Whether it serves, or may do so."""
        return self.state != "draining" and not self.drains


class Registry:
    """Registers workers and runtimes, and finds lost leases. All methods raise `PoolUnavailable` when Redis is away.

    Args:
        connection: the process's connection to Redis.
        settings: limits and times.
        clock: for tests.
    """

    def __init__(self, connection: PipelinedConnection, settings: Settings, *, clock: Clock | None = None):
        self._connection = connection
        self._scripts = ScriptRunner(connection, clock)
        self._listening = connection.another()
        self._settings = settings
        self._holder_ttl_ms = int(settings.holder_ttl_s * 1000)
        self._worker_idle_ms = int(settings.worker_idle_s * 1000)

    def configure(self, runtime_id: str, warm: int) -> None:
        """A runtime has a pool, which keeps `warm` workers ready. May be said again at any time."""
        self._scripts.run("configure", runtime_id, warm)

    def forget(self, runtime_id: str) -> None:
        """A runtime has no pool any more; its workers drain."""
        self._scripts.run("forget", runtime_id)

    def set_limits(self, max_workers: int, start_ms: float) -> None:
        """Write the limits that all processes keep, and the measured cost of a start."""
        limits = Limits.of(self._settings, max_workers)
        self._scripts.run(
            "set_limits",
            limits.of_function,
            limits.of_project,
            limits.of_runtime,
            limits.max_workers,
            str(start_ms),
            limits.waiting,
            limits.waiting_of_project,
            limits.waiting_of_function,
        )

    def view(self) -> View:
        """What the policy decides by."""
        return View.of(orjson.loads(self._scripts.run("view", *_VIEW)))

    def starting(self, worker_id: str, runtime_id: str, image: str = "") -> bool:
        """A worker is about to be started from `image`. False: don't, there is no room or no such pool."""
        return bool(self._scripts.run("starting", worker_id, runtime_id, image))

    def ready(self, worker: StartedWorker, runtime_id: str, image: str = "") -> None:
        """A worker answers. It drains at once when there is no place for it any more.

        Nothing happens if Redis was emptied, until `set_limits`: the worker stays unknown.
        """
        self._scripts.run("ready", worker.worker_id, runtime_id, image, worker.address, worker.secret)

    def evict(self, worker_id: str, unused_ms: float = 0, reason: str = "") -> bool:
        """Drain a free worker to make room, unless it was used within `unused_ms`. False: it was, or is not free."""
        return bool(self._scripts.run("evict", worker_id, str(unused_ms), reason))

    def recall(self, worker_id: str, stands_ms: float, reason: str = "") -> bool:
        """Ask the holder of a busy worker to give it up at its next renewal or release. False: it is not busy."""
        return bool(self._scripts.run("recall", worker_id, int(stands_ms), reason))

    def drain(self, worker_ids: Sequence[str], reason: str = "the runtime has another image") -> None:
        """These workers get no further call, and end. `reason` is for the operator."""
        if worker_ids:
            self._scripts.run("drain_workers", reason, *worker_ids)

    def defer(self, runtime_id: str, worker_ids: Sequence[str]) -> None:
        """Calls take other warm workers of the runtime before these."""
        if worker_ids:
            self._scripts.run("defer", runtime_id, *worker_ids)

    def gone(self, worker_id: str, reason: str = "") -> None:
        """A worker exists no longer. A lease that is lost by it is among the `lost` ones.

        Args:
            worker_id: the worker.
            reason: why it ended by itself or did not start; empty: it was asked to end.
        """
        self._scripts.run("gone", worker_id, reason)

    def reap(self, stocks: Mapping[str, int] | None = None) -> None:
        """End what nobody will end: lost leases, offers that were not accepted, workers idle for too long.

        Args:
            stocks: how many warm workers each runtime keeps at the moment; those that are not in it keep what they were
                configured with.
        """
        pairs = (word for pair in (stocks or {}).items() for word in pair)
        self._scripts.run("reap", self._holder_ttl_ms, self._worker_idle_ms, *pairs)

    def lost(self) -> dict[str, str]:
        """The details of lost leases by execution id, each until it is `settled`."""
        reply = iter(self._connection.call("HGETALL", keys.LOST))
        return {execution.decode(): detail.decode() for execution, detail in zip(reply, reply, strict=True)}

    def settled(self, execution_ids: Sequence[str]) -> None:
        """The executions of these lost leases are recorded."""
        if execution_ids:
            self._connection.call("HDEL", keys.LOST, *execution_ids)

    def workers(self) -> dict[str, WorkerRecord]:
        """All workers that Redis knows, read in pages; one that lives and is not among them belongs to nobody."""
        return {record.worker_id: record for record in self._pages()}

    def draining(self) -> list[str]:
        """A page of the workers that are to be destroyed, and then said to be `gone`."""
        return [worker.decode() for worker in self._connection.call("ZRANGE", keys.DRAINING, 0, _PAGE - 1)]

    def runtimes(self) -> set[str]:
        """The runtimes that have a pool."""
        return {runtime.decode() for runtime in self._connection.call("HKEYS", keys.RUNTIMES)}

    def wake(self) -> None:
        """Make the manager look at everything, also when it waits for work only later."""
        self._connection.call("RPUSH", keys.WAKEUPS, keys.CHANGED)

    def wake_to_grow(self) -> None:
        """Make the manager look at what wants to grow, also when it waits for work only later."""
        self._connection.call("RPUSH", keys.WAKEUPS, "1")

    def wait_for_work(self, timeout_s: float) -> bool:
        """Wait until somebody wakes the manager, at most `timeout_s` (also when Redis is away).

        Returns:
            Whether it should look at everything.
        """
        try:
            note = self._listening.call("BLPOP", keys.WAKEUPS, timeout_s, timeout_s=timeout_s + 3)
            notes = [] if note is None else [note[1], *(self._connection.call("LPOP", keys.WAKEUPS, 1000) or ())]
        except PoolUnavailable:
            gevent.sleep(timeout_s)
            return True
        return keys.CHANGED.encode() in notes

    def claim_manager(self, name: str, ttl_s: float) -> str:
        """Take or renew the claim of the active manager for `ttl_s`, unless another manager holds it.

        Returns:
            The name of the active manager.
        """
        active: str = self._scripts.run("claim", name, int(ttl_s * 1000)).decode()
        return active

    def resign_manager(self, name: str) -> None:
        """Give up the claim, if this manager holds it."""
        self._scripts.run("resign", name)

    def snapshot(self) -> dict[str, Any]:
        """Everything at one moment, by the names of docs/redis-keys.md (see `read_snapshot`)."""
        return read_snapshot(self._scripts.run("snapshot"))

    def describe_host(self, isolation: str, missing: Iterable[tuple[str, str]]) -> None:
        """Write how local workers are confined, for `GET /v1/pool`. It is to be said again within five minutes.

        Args:
            isolation: the form of isolation.
            missing: (feature, what it means) of what this host can't give.
        """
        features = [{"feature": feature, "note": note} for feature, note in missing]
        described = orjson.dumps({"isolation": isolation, "missing": features})
        self._connection.call("SET", keys.HOST, described, "EX", _HOST_TTL_S)

    def close(self) -> None:
        """Close the connection that waits for work."""
        self._listening.close()

    def _pages(self) -> Iterator[WorkerRecord]:
        cursor = "0"
        while True:
            cursor, *words = (word.decode() for word in self._scripts.run("list", cursor, _PAGE))
            for at in range(0, len(words), 8):
                worker_id, state, runtime_id, image, target, drains, granted, ready = words[at : at + 8]
                if state:
                    yield WorkerRecord(
                        worker_id, state, runtime_id, image, target, drains == "1", int(granted or 0), ready != ""
                    )
            if cursor == "0":
                return
