"""Calls of this process that wait for a worker: how they get one, and how a worker goes from one call to the next.

A call gets a worker in one of three ways:

1. A worker of this process and of the same target is free: another call has just ended, or the worker was kept as a
   spare one. `pass_on` renews the lease for the oldest waiting call.
2. Redis offers a worker to this process, on its list of notifications. `pass_on` accepts it for the oldest call.
3. The call asks Redis, which has an idle or a warm worker (see `Pool.lease`).
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from typing import Any, cast

import gevent

from qinling_falcon.pool import keys
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.entries import Entries
from qinling_falcon.pool.journal import JournalChanges
from qinling_falcon.pool.leases import Cold, Lease, LeasedWorker, LeaseKeeper, LeaseRequest
from qinling_falcon.pool.local_queue import PATIENCE_S, LocalQueue, Offer, Waiter, Word
from qinling_falcon.pool.runner import ScriptRunner
from qinling_falcon.pool.wire import PoolUnavailable

logger = logging.getLogger(__name__)

_BLOCK_S = 5
_BATCH = 100
_RETRY_S = 0.2
_SWEEP_S = 0.1
_SAY_AGAIN_S = 1.0
# So long a queue that is not in use keeps what it knows of the times of its calls.
_REMEMBERED_S = 10.0


class WaitingRoom:
    """The queues of this process.

    Args:
        keeper: what leases report to.
        listening: a connection of its own, which blocks.
        scripts: runs scripts.
        holder: this process.
        journal: what the journal still has to hear.
    """

    def __init__(
        self,
        keeper: LeaseKeeper,
        listening: PipelinedConnection,
        scripts: ScriptRunner,
        holder: str,
        journal: JournalChanges,
    ):
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

    def queue_of(self, request: LeaseRequest) -> LocalQueue:
        """The queue of a call."""
        return self.queue_named(request.queue)

    def queue_named(self, name: str) -> LocalQueue:
        """The queue with this name."""
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = LocalQueue(name)
        return queue

    def hold(self, queue: LocalQueue, request: LeaseRequest, worker: LeasedWorker, cold: Cold) -> Lease:
        """A worker that Redis leased to this process for `request`."""
        queue.add_leased()
        self.held.add(worker.name)
        return self._lease(queue, request, worker, cold)

    def wait(self, queue: LocalQueue, waiter: Waiter) -> Lease | Word:
        """Wait in the queue until the call gets a worker, or is told why not.

        Raises:
            PoolUnavailable: Redis is away.
            Exception: the call's gate was failed with it.
        """
        queue.enter(waiter)
        if waiter.gate is not None:
            waiter.gate.watch(lambda: self._gate_changed(queue, waiter))
            self._gate_changed(queue, waiter)
        self.use_offers(queue)
        while queue.spares and queue.waiters:
            self.pass_on(queue, queue.spares.pop()[0])
        self.entries.watch(queue)
        try:
            return cast("Lease | Word", waiter.place.get())
        except PoolUnavailable:
            raise
        except BaseException:  # the greenlet was killed: nothing may be left for it
            self._remove(queue, waiter)
            waiter.is_gone = True
            if waiter.place.successful() and isinstance(waiter.place.value, Lease):
                self.take_back(waiter.place.value)
            raise

    def end_asking(self, queue: LocalQueue) -> None:
        """A call that asked Redis was not told to wait."""
        queue.asking -= 1
        self.use_offers(queue)
        self.discard_unused(queue)

    def take_back(self, lease: Lease) -> None:
        """A lease that its call does not use: the next call gets it, or it ends."""
        queue = self.queue_named(lease.queue)
        self.running.discard(lease.execution_id)
        if lease.worker.needs_load:
            self.return_unused(queue, lease.worker)
            return
        if lease.is_journaled:
            self._journal.acknowledge(lease.execution_id)
        self.pass_on(queue, lease.worker)

    def pass_on(self, queue: LocalQueue, worker: LeasedWorker, cold: Cold = "none") -> None:
        """Give a worker of this process to its oldest waiting call; without one, give it back to the pool."""
        queue.began.pop(worker.worker_id, None)
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
        has_entry = queue.entry > 0 or queue.counted > 0 or queue.is_unsure
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
            queue.waited_ms(),
            taken,
            *(word for pair in request.generations for word in pair),
        )
        if queue.waited_ms() < PATIENCE_S * 1000:
            queue.is_escalated = False
        self.entries.watch(queue)

    def _keep_spare(self, queue: LocalQueue, worker: LeasedWorker) -> None:
        """Keep a free worker for the next call: it saves a release and a lease."""
        queue.spares.append((worker, time.monotonic()))
        if not queue.is_spare_timed:
            queue.is_spare_timed = True
            gevent.spawn_later(queue.spare_s, self._release_spares, queue)

    def _release_spares(self, queue: LocalQueue) -> None:
        for worker in queue.expired_spares():
            self.release(queue, worker, destroy=False)
        queue.is_spare_timed = bool(queue.spares)
        if queue.spares:
            gevent.spawn_later(queue.spares[0][1] + queue.spare_s - time.monotonic(), self._release_spares, queue)

    def close(self) -> None:
        """Give back what no call uses."""
        for queue in list(self._queues.values()):
            while queue.spares:
                self.release(queue, queue.spares.pop()[0], destroy=False)

    def release(self, queue: LocalQueue, worker: LeasedWorker, *, destroy: bool) -> None:
        """End a lease without waiting. If Redis does not hear of it, the reaper ends the lease."""
        taken = self._journal.take()
        self._cast(taken, _ignore, "release", worker.worker_id, worker.token, int(destroy), self._holder, taken)
        self.drop(queue, worker)  # a later heartbeat is sent after the release

    def return_unused(self, queue: LocalQueue, worker: LeasedWorker) -> None:
        """End a lease whose worker was neither loaded nor called. If Redis does not hear of it, the reaper ends it."""
        self._cast("", _ignore, "return_unused", worker.worker_id, worker.token)
        self.drop(queue, worker)

    def drop(self, queue: LocalQueue, worker: LeasedWorker) -> None:
        """Forget a lease, which somebody else ends."""
        self.held.discard(worker.name)
        queue.began.pop(worker.worker_id, None)
        queue.leased -= 1
        self.discard_unused(queue)

    def discard_unused(self, queue: LocalQueue) -> None:
        """Forget a queue that nothing needs any more."""
        if queue.is_unused and queue.freed_at is None and self._queues.get(queue.name) is queue:
            del self._queues[queue.name]

    def update_entry(self, queue: LocalQueue) -> None:
        """Say to Redis how many calls of this process still wait."""
        self.entries.update(queue)
        self.discard_unused(queue)

    def ask_again(self) -> None:
        """Every waiting call asks Redis again: the queues there are not what they were."""
        for queue in list(self._queues.values()):
            queue.ask_again()

    def listen(self) -> None:
        """Use what Redis offers, for ever."""
        while True:
            try:
                reply = self._listening.call(
                    "BLMPOP", _BLOCK_S, 1, self._notifications, "LEFT", "COUNT", _BATCH, timeout_s=_BLOCK_S + 3
                )
                for message in reply[1] if reply is not None else ():
                    self._hear(*json.loads(message))
            except PoolUnavailable:
                gevent.sleep(_RETRY_S)
            except Exception:
                logger.exception("a notification could not be used")
                gevent.sleep(_RETRY_S)

    def look_after(self) -> None:
        """End the waits that are over, repeat entries that may be lost, and forget unused queues, for ever.

        One pass for all is cheaper than a timer for each call.
        """
        while True:
            gevent.sleep(_SWEEP_S)
            for queue in list(self._queues.values()):
                try:
                    self._look_after(queue, time.monotonic())
                except Exception:
                    logger.exception("a queue could not be looked after", extra={"queue": queue.name})

    def _look_after(self, queue: LocalQueue, now: float) -> None:
        if queue.is_unused:
            if queue.freed_at is None or queue.freed_at < now - _REMEMBERED_S:
                self._queues.pop(queue.name, None)
            return
        late = [waiter for waiter in queue.waiters if waiter.deadline <= now]
        for waiter in late:
            queue.remove(waiter)
            waiter.place.set(Word.LATE)
        if late and queue.entry:
            self.update_entry(queue)
        if queue.waiters and queue.waiters[0].arrived < now - _SAY_AGAIN_S and queue.said < now - _SAY_AGAIN_S:
            self.entries.repeat(queue)
        elif queue.is_unsure and not queue.waiters and not queue.asking:
            self.update_entry(queue)

    def _lease(self, queue: LocalQueue, request: LeaseRequest, worker: LeasedWorker, cold: Cold) -> Lease:
        if request.detail:
            self.running.add(request.execution_id)
            queue.began[worker.worker_id] = time.monotonic()
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

    def _renewed(self, queue: LocalQueue, worker: LeasedWorker, waiter: Waiter, cold: Cold, reply: Any) -> None:
        """What Redis said to a renewal for a waiting call. Runs in the reader of the connection: it must not wait."""
        if isinstance(reply, PoolUnavailable):
            # The lease may have the old token or the new one: the reaper ends it.
            queue.is_unsure = True
            self.drop(queue, worker)
            waiter.place.set_exception(reply)
            queue.ask_again()
            return
        match reply[0]:
            case b"ok":
                self.held.discard(worker.name)
                worker = LeasedWorker(worker.worker_id, worker.address, worker.secret, int(reply[1]), worker.needs_load)
                self.held.add(worker.name)
                lease = self._lease(queue, waiter.request, worker, cold)
                if waiter.is_gone:
                    self.take_back(lease)
                else:
                    waiter.place.set(lease)
            case b"stale":
                waiter.place.set(Word.STALE)
                self.pass_on(queue, worker, cold)
            case _:
                self.drop(queue, worker)
                waiter.place.set(Word.AGAIN)

    def _hear(self, name: str, word: str, *rest: str) -> None:
        queue = self._queues.get(name)
        if word == "again":
            if queue is not None:
                queue.is_unsure = queue.is_unsure or queue.asking > 0  # this may have overtaken the answer to a call
                queue.ask_again()
            return
        worker_id, address, secret, token, cold, needs_load = rest
        worker = LeasedWorker(worker_id, address, secret, int(token), needs_load == "1")
        queue = self.queue_named(name)
        queue.add_leased()
        # The first worker of a target: it does not count as wanting one more any longer.
        queue.is_escalated = queue.is_escalated and (queue.leased > 1 or not worker.needs_load)
        if queue.entry > 0 or queue.asking:  # else that call has left, and the count was lowered then
            # Two messages may have crossed: then Redis may count another number.
            queue.is_unsure = queue.is_unsure or queue.entry <= 0
            queue.entry -= 1
            queue.is_escalated = queue.is_escalated and queue.entry > 0
        self.held.add(worker.name)
        queue.offers.append(Offer(worker, cold))  # type: ignore[arg-type]  # the script sends no other word
        self.use_offers(queue)

    def use_offers(self, queue: LocalQueue) -> None:
        """Give offered workers to waiting calls. One stays for a call that is about to be told that it waits."""
        while queue.offers and (queue.waiters or not queue.asking):
            offer = queue.offers.popleft()
            self.pass_on(queue, offer.worker, offer.cold)

    def _remove(self, queue: LocalQueue, waiter: Waiter) -> None:
        queue.remove(waiter)
        if queue.entry:
            self.update_entry(queue)

    def _gate_changed(self, queue: LocalQueue, waiter: Waiter) -> None:
        """The package of a waiting call is readable, or it was given up."""
        assert waiter.gate is not None
        if waiter not in queue.waiters:
            return
        if waiter.gate.error is not None:
            waiter.place.set_exception(waiter.gate.error)
            self._remove(queue, waiter)
        elif waiter.gate.is_open and waiter.deadline == math.inf:
            waiter.deadline = time.monotonic() + waiter.wait_s
            self.entries.watch(queue)


def _ignore(reply: Any) -> None:
    """The reply says nothing that this process needs."""
