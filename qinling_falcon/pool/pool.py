"""The warm pool, for the processes that run functions."""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import gevent

from qinling_falcon.errors import Unavailable
from qinling_falcon.orchestrators import addresses
from qinling_falcon.pool import keys
from qinling_falcon.pool.call_counts import CallCounts
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.deliveries import Deliveries
from qinling_falcon.pool.ended import Ended
from qinling_falcon.pool.generations import Generations
from qinling_falcon.pool.inspection import Inspection
from qinling_falcon.pool.journal import JournalChanges
from qinling_falcon.pool.leases import Capacity, Kind, Lease, LeasedWorker, LeaseRequest, StaleTarget, StartKind
from qinling_falcon.pool.limits import CallBounds
from qinling_falcon.pool.local_queue import LocalQueue
from qinling_falcon.pool.network import WorkersUnreachable, why_unreachable
from qinling_falcon.pool.queue_bounds import not_in_time, refusal
from qinling_falcon.pool.ready_sets import ReadySets
from qinling_falcon.pool.runner import Clock, ScriptRunner
from qinling_falcon.pool.single_use import SingleUseLeases
from qinling_falcon.pool.waiter import Gate, NoLease, Waiter
from qinling_falcon.pool.waiting import LocalQueues
from qinling_falcon.pool.watches import Watches
from qinling_falcon.pool.wire import PoolUnavailable, ReplyLost
from qinling_falcon.settings import Settings

logger = logging.getLogger(__name__)

_HEARTBEATS_PER_TTL = 5
# Asynchronous executions count as waiting calls after this time (see `LocalQueue.grace_s`).
_ASYNC_GRACE_S = 0.05
_REMOVAL_POLL_S = 0.05


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
        ready: the executions that wait to be claimed.
        deliveries: admits and logs deliveries to webhooks.
        ended: each writer of a final state reports to it.
        watches: the executions for whose end requests of this process wait.
        call_bounds: how many calls may run and wait at once, as of the last heartbeat.
    """

    def __init__(self, connection: PipelinedConnection, holder: str, settings: Settings, *, clock: Clock | None = None):
        self.holder = holder
        self.call_bounds = CallBounds()
        self._connection = connection
        super().__init__(ScriptRunner(connection, clock))
        self.inspection = Inspection(self._scripts, connection)
        self.ready = ReadySets(self._scripts, holder)
        self.deliveries = Deliveries(self._scripts)
        self._listening = connection.another()
        self._journal = JournalChanges()
        # As the scripts know them, which give these processes a share of the workers.
        self._grace_s = _ASYNC_GRACE_S if holder.startswith("worker:") else 0.0
        self._local_queues = LocalQueues(self, self._listening, self._scripts, holder, self._journal, self._grace_s)
        self._single_use = SingleUseLeases(self._scripts, holder, self._journal, self._local_queues)
        self.ended = Ended(self._scripts, holder, self._journal, self._local_queues.running)
        self.watches = Watches(self._scripts, holder)
        self._local_queues.missed = self.watches.register_again
        self.on_notification("ended", self.watches.notified)
        self._calls = CallCounts()
        self._heartbeat_s = settings.holder_ttl_s / _HEARTBEATS_PER_TTL
        self._as_of: str = "0"
        self._greenlets: list[gevent.Greenlet] = []

    def start(self) -> None:
        """Start the heartbeat, and listen for workers that Redis offers."""
        with contextlib.suppress(PoolUnavailable):
            self._beat()
        tasks = (self._beat_on, self._local_queues.listen, self._local_queues.sweep, self.watches.keep_registered)
        self._greenlets = [gevent.spawn(task) for task in tasks]

    def on_notification(self, message: str, notified: Callable[..., None]) -> None:
        """Call `notified` with the parts of each notification of this kind, in a greenlet that must not wait."""
        self._local_queues.listeners[message] = notified

    def close(self) -> None:
        """Stop, and release the spare workers. The reaper ends leases that calls still have, after `HOLDER_TTL_S`."""
        self._local_queues.close()
        self.deliveries.flush()
        gevent.killall(self._greenlets)
        self._greenlets = []
        self._listening.close()
        with contextlib.suppress(PoolUnavailable):
            self._beat()  # replies come in order, so its reply shows that Redis has got all releases

    def lease(self, request: LeaseRequest, wait_s: float, gate: Gate | None = None) -> Lease:
        """Lease a worker for `request`, waiting up to `wait_s` for one.

        Args:
            request: the call. If it has a single-use image, the caller makes the worker (see `single_use.py`).
            wait_s: its longest wait, without the time with a closed gate.
            gate: while it is closed, the call accepts only a worker that holds the target; None: the call may load one.

        Raises:
            StaleTarget: the target has changed since it was resolved.
            Exception: the error with which the gate failed.
            Unavailable: no worker was free in time, the queue is full, or Redis is away (`PoolUnavailable`).
        """
        now = time.monotonic()
        if request.single_use_image is not None:
            made = self._single_use.lease(request, wait_s)
            if made is None:
                raise self._not_in_time(request, time.monotonic() - now)
            return made
        arrived = now if request.arrived is None else request.arrived
        waiter = Waiter(request, arrived + self._grace_s, wait_s, gate, now + self._grace_s)
        queue = self._local_queues.queue_of(request)
        queue.note_arrival()
        while True:
            if request.kind == "any" and (queue.spares or (wait_s > 0 and queue.expects_worker_soon())):
                result: Lease | NoLease = self._local_queues.wait(queue, waiter)
            else:
                kind = request.kind if waiter.may_load else "loaded"
                result = self._ask(queue, waiter, kind, waits=wait_s > 0 or not waiter.may_load)
            if isinstance(result, Lease):
                if request.detail:
                    self._calls.served(request.runtime_id, result.cold, time.monotonic() - waiter.entered)
                return result
            if result is NoLease.STALE:
                raise StaleTarget(request.target)
            if result is NoLease.NO_SHARE and self._local_queues.queue_of(request).leased == 0:
                self._local_queues.share.wait(max(0.0, waiter.deadline - time.monotonic()))
            if result is NoLease.TIMED_OUT or (wait_s > 0 and time.monotonic() >= waiter.deadline):
                self._calls.refused(request.runtime_id)
                raise self._not_in_time(request, time.monotonic() - waiter.entered)
            queue = self._local_queues.queue_of(request)
            waiter = waiter.again()

    def lease_loaded(self, request: LeaseRequest) -> Lease | None:
        """Lease an idle worker that holds the target: a spare one of this process, or one that Redis has.

        Returns:
            None: there is no such worker. No worker was evicted for the call, and it does not wait.

        Raises:
            StaleTarget: the target has changed since it was resolved.
            PoolUnavailable: Redis is away.
        """
        queue = self._local_queues.queue_of(request)
        queue.note_arrival()
        waiter = Waiter(request, time.monotonic(), 0.0)
        result: Lease | NoLease = NoLease.ASK_AGAIN
        if queue.spares and not queue.waiters:
            result = self._local_queues.wait(queue, waiter)
        if result is NoLease.ASK_AGAIN:
            result = self._ask(self._local_queues.queue_of(request), waiter.again(), "loaded", waits=False)
        if result is NoLease.STALE:
            raise StaleTarget(request.target)
        return result if isinstance(result, Lease) else None

    def return_unused(self, lease: Lease) -> None:
        """End a lease whose worker was neither loaded nor called. The worker is again what it was before."""
        self._local_queues.running.discard(lease.execution_id)
        self._local_queues.return_unused(self._local_queues.queue_named(lease.queue), lease.worker)

    def hand_over(self, lease: Lease, *, destroy: bool, busy_s: float | None) -> None:
        """Give a worker to the next call of this process, or release it. With `destroy` it drains."""
        queue = self._local_queues.queue_named(lease.queue)
        if destroy or not queue.is_for_calls:
            self._local_queues.release(queue, lease.worker, destroy=destroy)
            return
        worker = lease.worker
        if worker.needs_load:  # its busy time includes the import
            worker = worker._replace(needs_load=False)
        elif busy_s is not None:
            is_news = queue.busy_s is None and queue.is_escalated
            queue.note_busy(busy_s)
            if is_news:
                self._local_queues.entries.escalate(queue)
        self._local_queues.pass_on(queue, worker)

    def acknowledge(self, execution_id: str) -> None:
        """Remove an execution from the journal. The next script of this process tells Redis."""
        self._local_queues.running.discard(execution_id)
        self.ended.notify((execution_id,))

    def abandon(self, lease: Lease, *, worker: bool) -> None:
        """Have an execution recorded as lost, and drain its worker if `worker`. If Redis is away, it is told later."""
        if worker:
            self._local_queues.forget_lease(self._local_queues.queue_named(lease.queue), lease.worker)
        self._local_queues.running.discard(lease.execution_id)
        token = lease.worker.token if worker else 0
        self._journal.abandoned.append((lease.execution_id, lease.worker.worker_id, token))
        gevent.spawn(self._hand_on_abandoned)

    def check_reach(self, lease: Lease) -> None:
        """Check that this process can reach a leased worker, before the first connection to it.

        Raises:
            WorkersUnreachable: the worker runs on another machine or in another network. Return the worker unused: it
                is healthy, and the processes there need it.
        """
        if not addresses.is_local(lease.worker.address):
            return
        with contextlib.suppress(PoolUnavailable):
            manager = self._connection.call("GET", keys.MANAGER)
            reason = why_unreachable(manager.decode()) if manager else None
            if reason is not None:
                raise WorkersUnreachable(f"The function has not run. {reason}", retry_after_s=5)

    def find(self, execution_id: str) -> str | None:
        """The detail of an execution that runs, or whose final record is not committed; None: there is no such one."""
        detail = self._scripts.run("find", execution_id)
        return None if detail is None else detail.decode()

    def uncommitted(self, execution_ids: Sequence[str]) -> set[str]:
        """Those of some executions for which `find` has a detail.

        Args:
            execution_ids: the executions, at most some hundreds.
        """
        found = self._scripts.run("uncommitted", *execution_ids) if execution_ids else ()
        return {execution.decode() for execution in found}

    def cancel(self, execution_id: str) -> None:
        """Notify the process that runs an execution, or may have claimed it, with the message `cancel`."""
        self._scripts.run("cancel", execution_id)

    def await_removal(self, worker_id: str, longest_s: float) -> bool:
        """Wait until a draining worker is removed, because the manager has ended it and all its processes.

        Returns:
            Whether it was removed within `longest_s`.
        """
        until = time.monotonic() + longest_s
        while True:
            with contextlib.suppress(PoolUnavailable):
                if not self._connection.call("SISMEMBER", keys.WORKERS, worker_id):
                    return True
            if time.monotonic() > until:
                return False
            gevent.sleep(_REMOVAL_POLL_S)

    def drop(self, execution_ids: Sequence[str]) -> None:
        """Remove executions whose records were deleted from the journals, so that they are not recorded again as lost.

        Args:
            execution_ids: the executions, at most some hundreds.
        """
        if execution_ids:
            self._scripts.run("drop", *execution_ids)

    def drain(self, function_id: str, version: int | None = None) -> None:
        """Drain the workers of a function: those of one version, or all."""
        self._scripts.run("drain", function_id, _beginning(function_id, version))

    def shrink(self, function_id: str, version: int, count: int) -> int:
        """Drain up to `count` workers of one version, idle ones first. One worker that can get calls always stays.

        Returns:
            The number of workers that drain.
        """
        return int(self._scripts.run("shrink", function_id, _beginning(function_id, version), count))

    def workers(self, function_id: str, version: int) -> list[str]:
        """Ids of the workers that hold one version and can get another call."""
        found = self._scripts.run("workers", function_id, _beginning(function_id, version))
        return sorted(worker.decode() for worker in found)

    def keep(self, target: str, count: int) -> int:
        """Mark `count` workers of a target as kept: they are not evicted, and not ended because they are idle.

        Returns:
            The number of workers that are kept now. It is less than `count` if the target has fewer workers.
        """
        return int(self._scripts.run("keep", target, count))

    def kept(self) -> set[str]:
        """The targets that have kept workers, or should have them."""
        return {target.decode() for target in self._connection.call("HKEYS", keys.KEPT)}

    def max_workers(self) -> int:
        """The most workers in all states; 0: no manager has written it yet."""
        return int(self._connection.call("HGET", keys.POLICY, "max_workers") or 0)

    def capacity(self, runtime_id: str) -> Capacity | None:
        """The number of workers that a runtime has; None: it has no pool."""
        reply = self._scripts.run("capacity", runtime_id)
        return None if reply is None else Capacity(total=reply[0], available=reply[1])

    def wake(self) -> None:
        """Make the pool manager run a full pass, because a runtime was made, changed or deleted."""
        self._connection.call("RPUSH", keys.WAKEUPS, keys.CHANGED)

    def _ask(self, queue: LocalQueue, waiter: Waiter, kind: Kind, *, waits: bool) -> Lease | NoLease:
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
                request.own_limit,
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
            if isinstance(error, ReplyLost) and request.detail:
                # The execution may be in the journal. It is not to be recorded as lost, because it has not begun.
                self._journal.acknowledge(request.execution_id)
            self._journal.put_back(taken, self._local_queues.running)
            self._local_queues.end_asking(queue)
            raise
        if reply[0] == b"queued":
            queue.asking -= 1
            queue.entry_count += 1
            if reply[1] == b"1" and queue.leased == 0:  # otherwise its first worker has come meanwhile
                queue.is_escalated = True
            waiter.is_counted = True
            return self._local_queues.wait(queue, waiter)
        if reply[0] == b"lease":
            lease = self._local_queues.hold(queue, request, *_worker(reply))
            self._local_queues.end_asking(queue)
            return lease
        self._local_queues.end_asking(queue)
        match reply[0]:
            case b"stale":
                return NoLease.STALE
            case b"full" if reply[1] == b"asynchronous":
                queue.note_refused()
                return NoLease.NO_SHARE
            case b"full":
                self._calls.refused(request.runtime_id)
                raise refusal(request, reply[1].decode(), int(reply[2]), int(reply[3]))
        return NoLease.TIMED_OUT

    def _not_in_time(self, request: LeaseRequest, waited_s: float) -> Unavailable:
        """The error for a call that got no worker in time. It names the limit that blocks the call."""
        try:
            reached = self._scripts.run("reached_limit", request.runtime_id, request.target, request.project_id)
        except PoolUnavailable as error:
            return error
        limit, most = (reached[0].decode(), int(reached[1])) if reached else (None, 0)
        return not_in_time(request, waited_s, limit, most)

    def _undo(self, queue: LocalQueue, reply: Any) -> None:
        """Undo a lease whose greenlet has ended before the reply came. Runs in the reader, so it must not wait."""
        queue = self._local_queues.queue_named(queue.name)
        if not isinstance(reply, list):
            queue.is_unsure = True  # the call may have been queued
        elif reply[0] == b"lease":
            self._scripts.cast("return_unused", reply[1], reply[4])
        elif reply[0] == b"queued":
            queue.entry_count += 1
            self._local_queues.update_entry(queue)

    def _hand_on_abandoned(self) -> None:
        abandoned, self._journal.abandoned = self._journal.abandoned, []
        if not abandoned:
            return
        try:
            self._scripts.run("abandon", self.holder, *(part for execution in abandoned for part in execution))
        except PoolUnavailable:
            self._journal.abandoned += abandoned

    def _beat_on(self) -> None:
        while True:
            gevent.sleep(self._heartbeat_s)
            try:
                self._beat()
                self._hand_on_abandoned()
            except PoolUnavailable:
                pass  # the next heartbeat comes soon
            except Exception:
                logger.exception("the pool's heartbeat failed")

    def _beat(self) -> None:
        taken = self._journal.take()
        try:
            now, unknown = self._scripts.run("heartbeat", self.holder, self._as_of, taken, *self._local_queues.held)
        except PoolUnavailable:
            self._journal.put_back(taken, self._local_queues.running)
            raise
        if counts := self._calls.take():
            self._scripts.cast("count", *counts)
        self._as_of = now.decode()
        if unknown:
            self._local_queues.ask_again()
            self.watches.register_again()
        *bounds, start_ms = self._connection.call(
            "HMGET", keys.POLICY, "calls of function", "calls of project", "start_ms"
        )
        if None not in bounds:
            self.call_bounds = CallBounds(*map(int, bounds))
        if start_ms is not None:
            self._local_queues.entries.start_s = float(start_ms) / 1000


def _worker(reply: list[bytes]) -> tuple[LeasedWorker, StartKind]:
    _, worker, address, secret, token, cold, needs_load = (part.decode() for part in reply)
    return LeasedWorker(worker, address, secret, int(token), needs_load == "1"), cast(StartKind, cold)


def _beginning(function_id: str, version: int | None) -> str:
    """The beginning of all targets of a function, or of one of its versions."""
    return f"{function_id}:" if version is None else f"{function_id}:{version}:"
