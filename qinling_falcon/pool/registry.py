"""The pool's records in Redis, for the pool manager: registers and removes workers and runtimes."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gevent
import orjson
import redis

from qinling_falcon.orchestrators.base import Confinement, ServerState, WorkerInfo
from qinling_falcon.pool import keys
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.host import describe_host
from qinling_falcon.pool.limits import Limits
from qinling_falcon.pool.lua import OF_ANY_RELEASE, library
from qinling_falcon.pool.runner import Clock, ScriptRunner
from qinling_falcon.pool.snapshot import read_snapshot
from qinling_falcon.pool.view import View
from qinling_falcon.pool.wire import PoolUnavailable
from qinling_falcon.settings import Settings

logger = logging.getLogger(__name__)

_PAGE = 200
_HOST_TTL_S = 300
# The worker and the token before the detail of a lost execution, as `parse_journaled` in `scripts/parts/leases.lua`.
_WITH_WORKER = re.compile(r"([^ {]+) \d+ ")
# Bounds of a view: queues or targets to look at, queues to return, and idle workers and targets to return.
_VIEW = (64, 8, 8)


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker as the pool knows it.

    Attributes:
        worker_id: the worker.
        state: `starting`, `warm`, `idle`, `leased` or `draining`.
        runtime_id: its runtime.
        image: the image that it was made from.
        target: the target that it holds; empty: none.
        drains: whether it is leased and ends after its call.
        granted_ms: when it was last leased, in ms of Redis's clock; 0: never.
        has_served: whether it has ever been ready.
        is_single_use: whether its process makes it, for one execution (see `pool/single_use.py`).
    """

    worker_id: str
    state: str
    runtime_id: str
    image: str
    target: str
    drains: bool
    granted_ms: int
    has_served: bool
    is_single_use: bool = False

    @property
    def may_get_calls(self) -> bool:
        """Whether calls can get this worker, now or when it is ready."""
        return self.state != "draining" and not self.drains


class LostExecution(NamedTuple):
    """An execution whose lease was lost.

    Attributes:
        detail: its detail from the journal.
        worker_id: the worker that may still run it; empty: no worker runs it.
    """

    detail: str
    worker_id: str = ""

    @classmethod
    def of(cls, value: str) -> LostExecution:
        """Read a value of `lost`, as `lose_execution` in `scripts/parts/leases.lua` writes it."""
        found = _WITH_WORKER.match(value)
        return cls(value) if found is None else cls(value[found.end() :], found[1])


class Registry:
    """Registers workers and runtimes, and finds lost leases. All methods raise `PoolUnavailable` when Redis is away.

    Args:
        connection: the process's connection to Redis.
        settings: limits and times.
        clock: for tests.
        monotonic: a clock in seconds that never steps.
    """

    def __init__(
        self,
        connection: PipelinedConnection,
        settings: Settings,
        *,
        clock: Clock | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ):
        self._connection = connection
        self._scripts = ScriptRunner(connection, clock)
        self._listening = connection.another()
        self._settings = settings
        self._holder_ttl_ms = int(settings.holder_ttl_s * 1000)
        self._worker_idle_ms = int(settings.worker_idle_s * 1000)
        self._monotonic = monotonic
        # The last pass of `reap`: Redis's time, and the time of `monotonic` before it.
        self._reaped: tuple[str, float] | None = None

    def configure(self, runtime_id: str, warm: int) -> None:
        """Give a runtime a pool with a stock of `warm` workers, or change its stock."""
        self._scripts.run("configure", runtime_id, warm)

    def forget(self, runtime_id: str) -> None:
        """Remove the pool of a runtime. Its workers drain."""
        self._scripts.run("forget", runtime_id)

    def set_limits(self, max_workers: int, start_ms: float) -> None:
        """Write the limits for all processes, and the measured cost of a start."""
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
            limits.asynchronous,
        )

    def start_ms(self) -> float | None:
        """The cost of a start that the last manager has measured; None: there was none."""
        stored = self._connection.call("HGET", keys.POLICY, "start_ms")
        return None if stored is None else float(stored)

    def view(self) -> View:
        """Read what the policy needs for its decisions."""
        return View.of(orjson.loads(self._scripts.run("view", *_VIEW)))

    def register(self, worker_id: str, runtime_id: str, image: str = "") -> bool:
        """Register a worker before it is started from `image`.

        Returns:
            False: don't start it, because there is no room for it, or the runtime has no pool.
        """
        return bool(self._scripts.run("register", worker_id, runtime_id, image))

    def mark_ready(self, worker: WorkerInfo, runtime_id: str, image: str = "") -> None:
        """Record that a worker answers. It drains at once if there is no room for it any more.

        After Redis was emptied, this does nothing until `set_limits` was called: the worker stays unknown.
        """
        self._scripts.run("mark_ready", worker.worker_id, runtime_id, image, worker.address, worker.secret)

    def evict(self, worker_id: str, unused_ms: float = 0, reason: str = "") -> bool:
        """Drain an idle or warm worker to make room for another one.

        Returns:
            False: the worker is not free, or was used within the last `unused_ms`.
        """
        return bool(self._scripts.run("evict", worker_id, str(unused_ms), reason))

    def recall(self, worker_id: str, stands_ms: float, reason: str = "") -> bool:
        """Ask the holder of a busy worker to give it up at its next renewal or release.

        Args:
            worker_id: the worker.
            stands_ms: how long the recall is valid; 0 takes it back.
            reason: for the operator.

        Returns:
            False: the worker is not busy.
        """
        return bool(self._scripts.run("recall", worker_id, int(stands_ms), reason))

    def drain(self, worker_ids: Sequence[str], reason: str = "the runtime has another image") -> None:
        """Drain these workers. `reason` is for the operator."""
        if worker_ids:
            self._scripts.run("drain_workers", reason, *worker_ids)

    def defer(self, runtime_id: str, worker_ids: Sequence[str]) -> None:
        """Calls take other warm workers of the runtime before these."""
        if worker_ids:
            self._scripts.run("defer", runtime_id, *worker_ids)

    def remove(self, worker_id: str, reason: str = "") -> None:
        """Remove a worker that does not exist any more. If it was leased, `lost` has its execution.

        Args:
            worker_id: the worker.
            reason: why it ended by itself or did not start; empty: the manager ended it.
        """
        self._scripts.run("remove", worker_id, reason)

    def reap(self, stocks: Mapping[str, int] | None = None) -> None:
        """End lost leases, offers that were not accepted, and workers that were idle for too long.

        The script finds a step of Redis's clock, because it gets the time since the last pass by this process's clock.

        Args:
            stocks: the present stock of each runtime; a runtime that is missing here has the stock it was configured
                with.
        """
        pairs = (part for pair in (stocks or {}).items() for part in pair)
        last, at = self._reaped or ("", 0.0)
        began = self._monotonic()
        passed_ms = int((began - at) * 1000)
        now = self._scripts.run("reap", self._holder_ttl_ms, self._worker_idle_ms, last, passed_ms, *pairs)
        self._reaped = now.decode(), began

    def lost(self) -> dict[str, LostExecution]:
        """The lost executions by id. Each one stays here until `acknowledge_lost`."""
        reply = iter(self._connection.call("HGETALL", keys.LOST))
        pairs = zip(reply, reply, strict=True)
        return {execution.decode(): LostExecution.of(value.decode()) for execution, value in pairs}

    def acknowledge_lost(self, execution_ids: Sequence[str]) -> None:
        """Remove lost executions that are recorded now."""
        if execution_ids:
            self._connection.call("HDEL", keys.LOST, *execution_ids)

    def workers(self) -> dict[str, WorkerRecord]:
        """All workers that Redis knows, by id. The pool does not know a live worker that is missing here."""
        return {record.worker_id: record for record in self._pages()}

    def is_known(self, worker_id: str) -> bool:
        """Whether Redis knows a worker at this moment."""
        return bool(self._connection.call("SISMEMBER", keys.WORKERS, worker_id))

    def is_held(self, holder: str, lease: str) -> bool:
        """Whether a live process has reported a lease, named as by `LeasedWorker.name`, in its last heartbeat."""
        return bool(self._connection.call("SISMEMBER", keys.held(holder), lease))

    def draining(self) -> list[str]:
        """Some of the draining workers. The manager destroys them, and then calls `remove`."""
        return [worker.decode() for worker in self._connection.call("ZRANGE", keys.DRAINING, 0, _PAGE - 1)]

    def runtimes(self) -> set[str]:
        """The runtimes that have a pool."""
        return {runtime.decode() for runtime in self._connection.call("HKEYS", keys.RUNTIMES)}

    def wake(self) -> None:
        """Make the manager run a full pass, now or as soon as it waits for work."""
        self._connection.call("RPUSH", keys.WAKEUPS, keys.CHANGED)

    def wake_to_grow(self) -> None:
        """Make the manager run a growth pass, now or as soon as it waits for work."""
        self._connection.call("RPUSH", keys.WAKEUPS, "1")

    def wait_for_work(self, timeout_s: float) -> bool:
        """Wait until another process or greenlet wakes the manager, for at most `timeout_s` (also when Redis is away).

        Returns:
            Whether a full pass is needed.
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

    def delete_other_libraries(self) -> None:
        """Delete the libraries of scripts of other releases. A process that still uses one loads it again."""
        try:
            for fields in self._connection.call("FUNCTION", "LIST", "LIBRARYNAME", "qf_*"):
                name = dict(zip(fields[::2], fields[1::2], strict=True))[b"library_name"].decode()
                if name != library().name and OF_ANY_RELEASE.fullmatch(name):
                    self._connection.call("FUNCTION", "DELETE", name)
        except redis.ResponseError as error:  # another manager was faster, or this user of Redis may not delete them
            logger.warning("libraries of other releases were not deleted", extra={"reason": str(error)})

    def snapshot(self) -> dict[str, Any]:
        """All keys of the pool at one moment, by their names in docs/redis-keys.md (see `read_snapshot`)."""
        return read_snapshot(self._scripts.run("snapshot"))

    def describe_host(self, confinement: Confinement, server: ServerState | None) -> None:
        """Write how workers are confined and made, for `GET /v1/pool`. Repeat this within five minutes.

        Args:
            confinement: how they are confined.
            server: the state of the orchestrator's server, if it has one.
        """
        described = orjson.dumps(describe_host(confinement, server))
        self._connection.call("SET", keys.HOST, described, "EX", _HOST_TTL_S)

    def close(self) -> None:
        """Close the connection that waits for work."""
        self._listening.close()

    def _pages(self) -> Iterator[WorkerRecord]:
        cursor = "0"
        while True:
            cursor, *fields = (field.decode() for field in self._scripts.run("list", cursor, _PAGE))
            for at in range(0, len(fields), 9):
                worker_id, state, runtime_id, image, target, drains, granted, ready, single_use = fields[at : at + 9]
                if state:
                    yield WorkerRecord(
                        worker_id, state, runtime_id, image, target, drains == "1", int(granted or 0), ready != "",
                        single_use == "1",
                    )  # fmt: skip
            if cursor == "0":
                return
