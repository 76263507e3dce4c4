"""The warm pool, for the processes that run functions."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import time
from typing import Any, cast

import gevent

from qinling_falcon.errors import Unavailable
from qinling_falcon.pool import keys
from qinling_falcon.pool.call_counts import CallCounts
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.generations import Generations
from qinling_falcon.pool.inspection import Inspection
from qinling_falcon.pool.journal import JournalChanges
from qinling_falcon.pool.leases import Capacity, Cold, Kind, Lease, LeasedWorker, LeaseRequest, StaleTarget
from qinling_falcon.pool.limits import CallBounds
from qinling_falcon.pool.local_queue import Gate, LocalQueue, Waiter, Word
from qinling_falcon.pool.place import WorkersElsewhere, elsewhere
from qinling_falcon.pool.queue_bounds import not_in_time, refusal
from qinling_falcon.pool.runner import Clock, ScriptRunner
from qinling_falcon.pool.waiting import WaitingRoom
from qinling_falcon.pool.wire import PoolUnavailable
from qinling_falcon.settings import Settings

logger = logging.getLogger(__name__)

_HEARTBEATS_PER_TTL = 5


class Pool(Generations):
    """Leases workers and waits for them. A lease ends with its context (see `Lease`).

    Make one per process, after forks, and `start` it before the first lease.

    Args:
        connection: the process's connection to Redis.
        holder: this process's name, which no other process has or had.
        settings: limits and times.
        clock: for tests.

    Attributes:
        inspection: reads the pool for the operator.
        call_bounds: how many calls may run and wait at once, as the manager has written lately.
    """

    def __init__(self, connection: PipelinedConnection, holder: str, settings: Settings, *, clock: Clock | None = None):
        self.holder = holder
        self.call_bounds = CallBounds()
        self._connection = connection
        super().__init__(ScriptRunner(connection, clock))
        self.inspection = Inspection(self._scripts, connection)
        self._listening = connection.another()
        self._journal = JournalChanges()
        self._waiting = WaitingRoom(self, self._listening, self._scripts, holder, self._journal)
        self._calls = CallCounts()
        self._heartbeat_s = settings.holder_ttl_s / _HEARTBEATS_PER_TTL
        self._as_of: str = "0"
        self._greenlets: list[gevent.Greenlet] = []

    def start(self) -> None:
        """Report to the reaper from now on, and listen for workers that Redis offers."""
        with contextlib.suppress(PoolUnavailable):
            self._beat()
        tasks = (self._beat_on, self._waiting.listen, self._waiting.look_after)
        self._greenlets = [gevent.spawn(task) for task in tasks]

    def close(self) -> None:
        """Stop that, and give back what no call uses. Other leases that are still held will be lost when the holder was
        silent for its time to live.
        """
        self._waiting.close()
        gevent.killall(self._greenlets)
        self._greenlets = []
        self._listening.close()
        with contextlib.suppress(PoolUnavailable):
            self._beat()  # its answer comes after those to all releases, which Redis has then heard of

    def lease(self, request: LeaseRequest, wait_s: float, gate: Gate | None = None) -> Lease:
        """Lease a worker for `request`, waiting up to `wait_s` for one.

        Args:
            request: what is needed.
            wait_s: the longest wait, not counting the time with a closed gate.
            gate: while it is closed, only a worker that holds the target will do; None: the call may load one.

        Raises:
            StaleTarget: the target was resolved under an older generation.
            Exception: the gate was failed with it.
            Unavailable: no worker was free in time, no place was left in the queue, or Redis is away
                (`PoolUnavailable`).
        """
        waiter = Waiter(request, time.monotonic(), wait_s, gate)
        queue = self._waiting.queue_of(request)
        queue.note_arrival()
        while True:
            if request.kind == "any" and (queue.spares or (wait_s > 0 and queue.expects_worker_soon())):
                news: Lease | Word = self._waiting.wait(queue, waiter)
            else:
                kind = request.kind if waiter.may_load else "loaded"
                news = self._ask(queue, waiter, kind, waits=wait_s > 0 or not waiter.may_load)
            if isinstance(news, Lease):
                if request.detail:
                    self._calls.served(request.runtime_id, news.cold, time.monotonic() - waiter.arrived)
                return news
            if news is Word.STALE:
                raise StaleTarget(request.target)
            if news is Word.LATE or (wait_s > 0 and time.monotonic() >= waiter.deadline):
                self._calls.refused(request.runtime_id)
                raise self._not_in_time(request, time.monotonic() - waiter.arrived)
            queue = self._waiting.queue_of(request)
            waiter = waiter.again()

    def lease_loaded(self, request: LeaseRequest) -> Lease | None:
        """Lease a worker that holds the target and is idle, if there is one: a spare one
        of this process, or one that Redis has. No worker is evicted.

        Raises:
            StaleTarget: the target was resolved under an older generation.
            PoolUnavailable: Redis is away.
        """
        queue = self._waiting.queue_of(request)
        queue.note_arrival()
        waiter = Waiter(request, time.monotonic(), 0.0)
        news: Lease | Word = Word.AGAIN
        if queue.spares and not queue.waiters:
            news = self._waiting.wait(queue, waiter)
        if news is Word.AGAIN:
            news = self._ask(self._waiting.queue_of(request), waiter.again(), "loaded", waits=False)
        if news is Word.STALE:
            raise StaleTarget(request.target)
        return news if isinstance(news, Lease) else None

    def return_unused(self, lease: Lease) -> None:
        """End a lease whose worker was neither loaded nor called: what it was before, it is again."""
        self._waiting.running.discard(lease.execution_id)
        self._waiting.return_unused(self._waiting.queue_named(lease.queue), lease.worker)

    def hand_over(self, lease: Lease, *, destroy: bool, busy_s: float | None) -> None:
        """A worker is free: it runs the next call of this process, or is released. With `destroy` it drains."""
        queue = self._waiting.queue_named(lease.queue)
        if destroy or not queue.is_for_calls:
            self._waiting.release(queue, lease.worker, destroy=destroy)
            return
        worker = lease.worker
        if worker.needs_load:  # its busy time includes the import
            worker = dataclasses.replace(worker, needs_load=False)
        elif busy_s is not None:
            is_news = queue.busy_s is None and queue.is_escalated
            queue.note_busy(busy_s)
            if is_news:
                self._waiting.entries.escalate(queue)
        self._waiting.pass_on(queue, worker)

    def acknowledge(self, execution_id: str) -> None:
        """The journal needs this execution no longer. Redis hears of it with the next script."""
        self._waiting.running.discard(execution_id)
        self._journal.acknowledge(execution_id)

    def abandon(self, lease: Lease, *, worker: bool) -> None:
        """Hand an execution on as lost, and drain its worker if `worker`. If Redis is away, it hears of it later."""
        if worker:
            self._waiting.drop(self._waiting.queue_named(lease.queue), lease.worker)
        self._waiting.running.discard(lease.execution_id)
        token = lease.worker.token if worker else 0
        self._journal.abandoned.append((lease.execution_id, lease.worker.worker_id, token))
        gevent.spawn(self._hand_on_abandoned)

    def check_reach(self, lease: Lease) -> None:
        """Check that this process can reach a leased worker, before the first connection to it.

        Raises:
            WorkersElsewhere: the worker runs on another machine or in another network. Return the worker unused: it
                is healthy, and the processes there need it.
        """
        if not lease.worker.address.startswith("127."):
            return
        with contextlib.suppress(PoolUnavailable):
            manager = self._connection.call("GET", keys.MANAGER)
            far = elsewhere(manager.decode()) if manager else None
            if far is not None:
                raise WorkersElsewhere(f"The function has not run. {far}", retry_after_s=5)

    def find(self, execution_id: str) -> str | None:
        """The detail of an execution that runs, or whose final record is not committed yet."""
        detail = self._scripts.run("find", execution_id)
        return None if detail is None else detail.decode()

    def drop(self, execution_id: str) -> None:
        """The record of an execution was deleted: its journal, which may hear late of its end, has it no more."""
        self._scripts.run("drop", execution_id)

    def drain(self, function_id: str, version: int | None = None) -> None:
        """The function's workers (of one version, or all) get no further call and end."""
        self._scripts.run("drain", function_id, _beginning(function_id, version))

    def shrink(self, function_id: str, version: int, count: int) -> int:
        """End up to `count` workers of one version, never the last: idle ones first, leased ones after their call.

        Returns:
            How many end.
        """
        return int(self._scripts.run("shrink", function_id, _beginning(function_id, version), count))

    def workers(self, function_id: str, version: int) -> list[str]:
        """Ids of the workers that hold one version and can get another call."""
        found = self._scripts.run("workers", function_id, _beginning(function_id, version))
        return sorted(worker.decode() for worker in found)

    def keep(self, target: str, count: int) -> int:
        """Keep `count` workers of a target: they are not evicted, and not ended because they are idle.

        Returns:
            How many are kept now: fewer, if the target has fewer workers.
        """
        return int(self._scripts.run("keep", target, count))

    def kept(self) -> set[str]:
        """The targets of which workers are to be kept."""
        return {target.decode() for target in self._connection.call("HKEYS", keys.KEPT)}

    def max_workers(self) -> int:
        """The most workers in any state; 0: no manager has written it yet."""
        return int(self._connection.call("HGET", keys.POLICY, "max_workers") or 0)

    def capacity(self, runtime_id: str) -> Capacity | None:
        """How many workers a runtime has; None when it has no pool."""
        reply = self._scripts.run("capacity", runtime_id)
        return None if reply is None else Capacity(total=reply[0], available=reply[1])

    def wake(self) -> None:
        """Tell the pool manager that there is something to do: a runtime has come, changed or gone."""
        self._connection.call("RPUSH", keys.WAKEUPS, keys.CHANGED)

    def _ask(self, queue: LocalQueue, waiter: Waiter, kind: Kind, *, waits: bool) -> Lease | Word:
        """Ask Redis for a worker, and wait for one if there is none and the call waits."""
        request = waiter.request
        queue.asking += 1
        taken = self._journal.take()
        try:
            reply = self._scripts.run(
                "lease",
                self.holder,
                kind,
                request.runtime_id,
                request.target,
                request.project_id,
                "" if request.concurrency is None else request.concurrency,
                request.execution_id,
                int(request.run_s * 1000),
                request.detail,
                int(waits),
                max(queue.waited_ms(), int((time.monotonic() - waiter.arrived) * 1000)),
                taken,
                *itertools.chain.from_iterable(request.generations),
                abandoned=lambda reply: self._undo(queue, reply),
            )
        except BaseException as error:
            queue.is_unsure = queue.is_unsure or isinstance(error, PoolUnavailable)
            self._journal.put_back(taken, self._waiting.running)
            self._waiting.end_asking(queue)
            raise
        if reply[0] == b"queued":
            queue.asking -= 1
            queue.entry += 1
            if reply[1] == b"1" and queue.leased == 0:  # else its first worker has come meanwhile
                queue.is_escalated = True
            waiter.is_counted = True
            return self._waiting.wait(queue, waiter)
        if reply[0] == b"lease":
            lease = self._waiting.hold(queue, request, *_worker(reply))
            self._waiting.end_asking(queue)
            return lease
        self._waiting.end_asking(queue)
        match reply[0]:
            case b"stale":
                return Word.STALE
            case b"full":
                self._calls.refused(request.runtime_id)
                raise refusal(request, reply[1].decode(), int(reply[2]), int(reply[3]))
        return Word.LATE

    def _not_in_time(self, request: LeaseRequest, waited_s: float) -> Unavailable:
        """The error for a call that got no worker in time, with the limit that holds it back."""
        try:
            reached = self._scripts.run("reached", request.runtime_id, request.target, request.project_id)
        except PoolUnavailable as error:
            return error
        limit, most = (reached[0].decode(), int(reached[1])) if reached else (None, 0)
        return not_in_time(request, waited_s, limit, most)

    def _undo(self, queue: LocalQueue, reply: Any) -> None:
        """The answer to a lease came when its greenlet had gone. Runs in the reader: it must not wait."""
        queue = self._waiting.queue_named(queue.name)
        if not isinstance(reply, list):
            queue.is_unsure = True  # the call may have been queued
        elif reply[0] == b"lease":
            self._scripts.cast("return_unused", reply[1], reply[4])
        elif reply[0] == b"queued":
            queue.entry += 1
            self._waiting.update_entry(queue)

    def _hand_on_abandoned(self) -> None:
        abandoned, self._journal.abandoned = self._journal.abandoned, []
        if not abandoned:
            return
        try:
            self._scripts.run("abandon", self.holder, *(word for entry in abandoned for word in entry))
        except PoolUnavailable:
            self._journal.abandoned += abandoned

    def _beat_on(self) -> None:
        while True:
            gevent.sleep(self._heartbeat_s)
            try:
                self._beat()
                self._hand_on_abandoned()
            except PoolUnavailable:
                pass  # the next one comes soon
            except Exception:
                logger.exception("the pool's heartbeat failed")

    def _beat(self) -> None:
        taken = self._journal.take()
        try:
            now, unknown = self._scripts.run("heartbeat", self.holder, self._as_of, taken, *self._waiting.held)
        except PoolUnavailable:
            self._journal.put_back(taken, self._waiting.running)
            raise
        if counts := self._calls.take():
            self._scripts.cast("count", *counts)
        self._as_of = now.decode()
        if unknown:
            self._waiting.ask_again()
        *bounds, start_ms = self._connection.call(
            "HMGET", keys.POLICY, "calls of function", "calls of project", "start_ms"
        )
        if None not in bounds:
            self.call_bounds = CallBounds(*map(int, bounds))
        if start_ms is not None:
            self._waiting.entries.start_s = float(start_ms) / 1000


def _worker(reply: list[bytes]) -> tuple[LeasedWorker, Cold]:
    _, worker, address, secret, token, cold, needs_load = (part.decode() for part in reply)
    return LeasedWorker(worker, address, secret, int(token), needs_load == "1"), cast(Cold, cold)


def _beginning(function_id: str, version: int | None) -> str:
    """What the targets of a function, or of one of its versions, begin with."""
    return f"{function_id}:" if version is None else f"{function_id}:{version}:"
