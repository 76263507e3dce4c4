"""The queues of this process: how waiting calls get workers, and how a worker goes from one call to the next.

A call gets a worker in one of three ways:

1. A worker of this process and of the same target is free: another call has just ended, or the worker was kept as a
   spare one. `pass_on` renews the lease for the oldest waiting call.
2. Redis offers a worker to this process, through its list of notifications. `pass_on` accepts it for the oldest call.
3. The call asks Redis, which has an idle or a warm worker (see `Pool.lease`).
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import time
from collections.abc import Callable
from typing import Any, cast

import gevent

from qinling_falcon.pool import keys
from qinling_falcon.pool.async_share import AsyncShare
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.entries import Entries
from qinling_falcon.pool.journal import JournalChanges
from qinling_falcon.pool.leases import Lease, LeasedWorker, LeaseKeeper, LeaseRequest, StartKind
from qinling_falcon.pool.local_queue import PATIENCE_S, LocalQueue, Offer
from qinling_falcon.pool.runner import ScriptRunner
from qinling_falcon.pool.timers import call_later
from qinling_falcon.pool.waiter import NoLease, Waiter
from qinling_falcon.pool.wire import PoolUnavailable, ReplyLost

logger = logging.getLogger(__name__)

_BLOCK_S = 5
_BATCH = 100
_RETRY_S = 0.2
_SWEEP_S = 0.1
_REPEAT_S = 1.0
# An unused queue is kept this long, because it knows the times of its calls.
_REMEMBERED_S = 10.0


class LocalQueues:
    """The queues of this process, one for each target.

    Args:
        keeper: the pool, to which leases report.
        listening: a connection for blocking commands.
        scripts: runs scripts.
        holder: the name of this process.
        journal: the changes of the journal that Redis has not got yet.
        grace_s: see `LocalQueue`.

    Attributes:
        held: the leases of this process, by the names that heartbeats use.
        running: the executions that this process has started and not acknowledged.
        share: the asynchronous executions that wait because there are as many as may be.
        listeners: what is called for notifications that belong to no queue, by the kind of message.
        missed: what is called after notifications may have been lost with their connection.
    """

    def __init__(
        self,
        keeper: LeaseKeeper,
        listening: PipelinedConnection,
        scripts: ScriptRunner,
        holder: str,
        journal: JournalChanges,
        grace_s: float,
    ):
        self._grace_s = grace_s
        self._keeper = keeper
        self._listening = listening
        self._scripts = scripts
        self._holder = holder
        self._journal = journal
        self.entries = Entries(scripts, holder)
        self._notifications = keys.grants(holder)
        self._queues: dict[str, LocalQueue] = {}
        self.held: set[str] = set()
        self.running: set[str] = set()
        self.share = AsyncShare()
        self.listeners: dict[str, Callable[..., None]] = {}
        self.missed: Callable[[], None] = lambda: None

    def queue_of(self, request: LeaseRequest) -> LocalQueue:
        """The queue of a call."""
        return self.queue_named(request.queue)

    def queue_named(self, name: str) -> LocalQueue:
        """The queue with this name."""
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = LocalQueue(name, self._grace_s)
        return queue

    def hold(self, queue: LocalQueue, request: LeaseRequest, worker: LeasedWorker, cold: StartKind) -> Lease:
        """Make the lease of a worker that Redis has leased to this process for `request`."""
        queue.add_leased()
        self.held.add(worker.name)
        return self._lease(queue, request, worker, cold)

    def wait(self, queue: LocalQueue, waiter: Waiter) -> Lease | NoLease:
        """Wait in the queue until the call gets a worker, or until it can't get one.

        Raises:
            PoolUnavailable: Redis is away.
            Exception: the call's gate was failed with it.
        """
        queue.enter(waiter)
        if waiter.is_counted and queue.may_ask_for_backlog:
            self.entries.escalate(queue)
        if waiter.gate is not None:
            waiter.gate.watch(lambda: self._gate_changed(queue, waiter))
            self._gate_changed(queue, waiter)
        self.use_offers(queue)
        while queue.spares and queue.waiters:
            self.pass_on(queue, queue.spares.pop()[0])
        self.entries.watch(queue)
        try:
            return cast("Lease | NoLease", waiter.result.get())
        except PoolUnavailable:
            raise
        except BaseException:  # the greenlet was killed, so no worker may stay reserved for it
            self._remove(queue, waiter)
            waiter.is_gone = True
            if waiter.result.successful() and isinstance(waiter.result.value, Lease):
                self.take_back(waiter.result.value)
            raise

    def end_asking(self, queue: LocalQueue) -> None:
        """Note that a call has got its reply from Redis, and does not wait."""
        queue.asking -= 1
        self.use_offers(queue)
        self.discard_unused(queue)

    def take_back(self, lease: Lease) -> None:
        """Give a lease that its call does not use to the next call, or end it."""
        queue = self.queue_named(lease.queue)
        self.running.discard(lease.execution_id)
        if lease.worker.needs_load:
            self.return_unused(queue, lease.worker)
            return
        if lease.is_journaled:
            self._journal.acknowledge(lease.execution_id)
        self.pass_on(queue, lease.worker)

    def pass_on(self, queue: LocalQueue, worker: LeasedWorker, cold: StartKind = "none") -> None:
        """Renew the lease of a worker for the oldest waiting call. If there is none, end the lease, or keep a spare."""
        queue.running_since.pop(worker.worker_id, None)
        waiter = queue.take_for(worker)
        if waiter is None:
            if worker.needs_load:
                self.entries.withdraw(queue)
                self.return_unused(queue, worker)
            elif queue.is_for_calls and queue.expects_call():
                self._keep_spare(queue, worker)
            else:
                self.release(queue, worker, destroy=False)
            return
        queue.waited_lately.add(queue.waited_s(waiter))
        request = waiter.request
        has_entry = queue.entry_count > 0 or queue.counted > 0 or queue.is_unsure
        waited_ms = queue.waited_ms()
        taken = self._journal.take()
        self._cast(
            taken,
            lambda reply: self._renewed(queue, worker, waiter, cold, reply),
            "renew",
            worker.worker_id,
            worker.token,
            self._holder,
            request.execution_id,
            int(request.run_s * 1000),
            request.detail,
            int((time.monotonic() - waiter.arrived) * 1000),
            queue.name if has_entry else "",
            queue.change() if has_entry else "",
            waited_ms,
            request.own_limit,
            taken,
            *itertools.chain.from_iterable(request.generations),
        )
        if waited_ms < PATIENCE_S * 1000:
            queue.is_escalated = False
        self.entries.watch(queue)

    def _keep_spare(self, queue: LocalQueue, worker: LeasedWorker) -> None:
        """Keep a free worker for the next call, which saves a release and a lease."""
        queue.spares.append((worker, time.monotonic()))
        if not queue.is_spare_timed:
            queue.is_spare_timed = True
            call_later(queue.spare_s, self._release_spares, queue)

    def _release_spares(self, queue: LocalQueue) -> None:
        for worker in queue.expired_spares():
            self.release(queue, worker, destroy=False)
        queue.is_spare_timed = bool(queue.spares)
        if queue.spares:
            call_later(queue.spares[0][1] + queue.spare_s - time.monotonic(), self._release_spares, queue)

    def close(self) -> None:
        """Release the spare workers."""
        for queue in list(self._queues.values()):
            while queue.spares:
                self.release(queue, queue.spares.pop()[0], destroy=False)

    def release(self, queue: LocalQueue, worker: LeasedWorker, *, destroy: bool) -> None:
        """End a lease without waiting. If the message is lost, the reaper ends the lease."""
        taken = self._journal.take()
        self._cast(taken, _ignore, "release", worker.worker_id, worker.token, int(destroy), self._holder, taken)
        self.forget_lease(queue, worker)  # a later heartbeat is sent after the release

    def return_unused(self, queue: LocalQueue, worker: LeasedWorker) -> None:
        """End a lease whose worker was neither loaded nor called. If the message is lost, the reaper ends the lease."""
        self._cast("", _ignore, "return_unused", worker.worker_id, worker.token)
        self.forget_lease(queue, worker)

    def forget_lease(self, queue: LocalQueue, worker: LeasedWorker) -> None:
        """Remove a lease from this process. Redis has ended it, or will."""
        self.held.discard(worker.name)
        queue.running_since.pop(worker.worker_id, None)
        queue.leased -= 1
        self.share.freed()
        self.discard_unused(queue)

    def discard_unused(self, queue: LocalQueue) -> None:
        """Remove a queue that is not needed any more."""
        if queue.is_unused and queue.freed_at is None and self._queues.get(queue.name) is queue:
            del self._queues[queue.name]

    def update_entry(self, queue: LocalQueue) -> None:
        """Tell Redis how many calls of this process still wait."""
        self.entries.update(queue)
        self.discard_unused(queue)

    def ask_again(self) -> None:
        """Make every waiting call ask Redis again, because Redis may have lost its queues."""
        for queue in list(self._queues.values()):
            queue.ask_again()

    def listen(self) -> None:
        """Read the notifications of Redis, for ever."""
        while True:
            try:
                reply = self._listening.call(
                    "BLMPOP", _BLOCK_S, 1, self._notifications, "LEFT", "COUNT", _BATCH, timeout_s=_BLOCK_S + 3
                )
                for message in reply[1] if reply is not None else ():
                    self._handle(*json.loads(message))
            except PoolUnavailable:
                self.missed()
                gevent.sleep(_RETRY_S)
            except Exception:
                logger.exception("a notification could not be used")
                gevent.sleep(_RETRY_S)

    def sweep(self) -> None:
        """End waits whose deadline has passed, repeat entries that may be lost, and remove unused queues, for ever.

        One pass over all queues is cheaper than a timer for each call.
        """
        while True:
            gevent.sleep(_SWEEP_S)
            for queue in list(self._queues.values()):
                try:
                    self._sweep(queue, time.monotonic())
                except Exception:
                    logger.exception("a queue could not be swept", extra={"queue": queue.name})

    def _sweep(self, queue: LocalQueue, now: float) -> None:
        if queue.is_unused:
            if queue.freed_at is None or queue.freed_at < now - _REMEMBERED_S:
                self._queues.pop(queue.name, None)
            return
        timed_out = [waiter for waiter in queue.waiters if waiter.deadline <= now]
        for waiter in timed_out:
            queue.remove(waiter)
            waiter.result.set(NoLease.TIMED_OUT)
        if timed_out and queue.entry_count:
            self.update_entry(queue)
        if queue.waiters and queue.waiters[0].entered < now - _REPEAT_S and queue.reported_at < now - _REPEAT_S:
            self.entries.repeat(queue)
        elif queue.is_unsure and not queue.waiters and not queue.asking:
            self.update_entry(queue)

    def _lease(self, queue: LocalQueue, request: LeaseRequest, worker: LeasedWorker, cold: StartKind) -> Lease:
        if request.detail:
            self.running.add(request.execution_id)
            queue.running_since[worker.worker_id] = time.monotonic()
        return Lease(
            self._keeper, worker, request.execution_id, queue.name, cold, time.monotonic(), bool(request.detail)
        )

    def _cast(self, taken: str, answered: Callable[[Any], None], name: str, *args: str | int) -> None:
        """Run a script without waiting. `answered` gets the reply, or `PoolUnavailable`."""

        def finish(reply: Any) -> None:
            if isinstance(reply, PoolUnavailable):
                self._journal.put_back(taken, self.running)
            answered(reply)

        if not self._scripts.cast(name, *args, answered=finish):
            finish(PoolUnavailable("Redis can't be reached"))

    def _renewed(self, queue: LocalQueue, worker: LeasedWorker, waiter: Waiter, cold: StartKind, reply: Any) -> None:
        """Handle the reply to a renewal for a waiting call. Runs in the reader of the connection: it must not wait."""
        if isinstance(reply, PoolUnavailable):
            # The lease may have the old token or the new one, so this process can't end it. The reaper does.
            queue.is_unsure = True
            self.forget_lease(queue, worker)
            if isinstance(reply, ReplyLost) and waiter.request.detail:
                # The execution may be in the journal. It is not to be recorded as lost, because it has not begun.
                self._journal.acknowledge(waiter.request.execution_id)
            waiter.result.set_exception(reply)
            queue.ask_again()
            return
        match reply[0]:
            case b"ok":
                self.held.discard(worker.name)
                worker = worker._replace(token=int(reply[1]))
                self.held.add(worker.name)
                lease = self._lease(queue, waiter.request, worker, cold)
                if waiter.is_gone:
                    self.take_back(lease)
                else:
                    waiter.result.set(lease)
            case b"stale":
                waiter.result.set(NoLease.STALE)
                self.pass_on(queue, worker, cold)
            case _:
                self.forget_lease(queue, worker)
                waiter.result.set(NoLease.ASK_AGAIN)

    def _handle(self, name: str, message: str, *parts: str) -> None:
        """Handle a notification: `lease` (an offer), `again` (the calls of a queue ask again), `refused` (asynchronous
        executions may have no more workers), or one of no queue.
        """
        if not name:
            if message in self.listeners:
                self.listeners[message](*parts)
            return
        queue = self._queues.get(name)
        if message == "again":
            if queue is not None:
                # The notification may have overtaken the reply to a call that is asking.
                queue.is_unsure = queue.is_unsure or queue.asking > 0
                queue.ask_again()
            return
        if message == "refused":
            if queue is not None:
                queue.is_unsure = queue.is_unsure or queue.asking > 0
                queue.uncount()
                queue.note_refused()
            return
        worker_id, address, secret, token, cold, needs_load = parts
        worker = LeasedWorker(worker_id, address, secret, int(token), needs_load == "1")
        queue = self.queue_named(name)
        queue.add_leased()
        # The first worker of a target ends the escalation of its queue.
        queue.is_escalated = queue.is_escalated and (queue.leased > 1 or not worker.needs_load)
        if queue.entry_count > 0 or queue.asking:  # otherwise the call has left, and the count was lowered then
            # If two messages have crossed, Redis may have another count.
            queue.is_unsure = queue.is_unsure or queue.entry_count <= 0
            queue.entry_count -= 1
            queue.is_escalated = queue.is_escalated and queue.entry_count > 0
        self.held.add(worker.name)
        queue.offers.append(Offer(worker, cast(StartKind, cold)))
        self.use_offers(queue)

    def use_offers(self, queue: LocalQueue) -> None:
        """Give offered workers to waiting calls. An offer without a call stays while calls are asking."""
        while queue.offers and (queue.waiters or not queue.asking):
            offer = queue.offers.popleft()
            self.pass_on(queue, offer.worker, offer.cold)

    def _remove(self, queue: LocalQueue, waiter: Waiter) -> None:
        queue.remove(waiter)
        if queue.entry_count:
            self.update_entry(queue)

    def _gate_changed(self, queue: LocalQueue, waiter: Waiter) -> None:
        """Handle the gate of a waiting call that has opened or failed."""
        assert waiter.gate is not None
        if waiter not in queue.waiters:
            return
        if waiter.gate.error is not None:
            waiter.result.set_exception(waiter.gate.error)
            self._remove(queue, waiter)
        elif waiter.gate.is_open and waiter.deadline == math.inf:
            waiter.deadline = time.monotonic() + waiter.wait_s
            self.entries.watch(queue)


def _ignore(reply: Any) -> None:
    """Ignore a reply that this process does not need."""
