"""Workers for a single execution: the pods of image functions.

The process that runs such an execution makes its worker, and the pool manager ends it. The process leases the worker
before it makes it, so the limits, the heartbeats and the reaper treat it like any other leased worker:

1. Its lease counts against the concurrency of its version, function, project and runtime, against the share of
   asynchronous executions, and it is one of `MAX_WORKERS`. Scripts check that, so it holds across all processes.
2. The journal of its process has the execution, from before the worker is made until the record is committed.
3. Its record says from the beginning that it drains after its lease. So it drains when its process releases it or
   dies, and when the deadline of the lease passes. The manager then destroys it, and has a lost execution recorded
   afterwards.

Calls that find a limit reached ask again until their time for waiting is over: when this process has ended a lease, and
about once a second. They don't stand in the queues in Redis. So the order of their arrival holds in one process only,
and a call that waits for a warm worker of the same project may overtake them.

If a process dies between the lease and the creation of the worker, the manager finds a draining worker that does not
exist, and removes its record. If it creates the worker after its lease has ended, or if Redis was emptied, the worker
exists and Redis does not know it: `Orphans` ends it when no live process holds its lease.
"""

from __future__ import annotations

import itertools
import logging
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from qinling_falcon.orchestrators.base import WorkerInfo
from qinling_falcon.pool.journal import JournalChanges
from qinling_falcon.pool.leases import Lease, LeasedWorker, LeaseRequest, StaleTarget
from qinling_falcon.pool.registry import Registry
from qinling_falcon.pool.runner import ScriptRunner
from qinling_falcon.pool.waiting import LocalQueues
from qinling_falcon.pool.wire import ReplyLost

logger = logging.getLogger(__name__)

RUNTIME = "image"
"""Stands for the runtime of all workers for a single execution, in records and counts."""


class SingleUseLeases:
    """Leases workers that this process makes.

    Args:
        scripts: run in Redis.
        holder: this process.
        journal: the changes of its journal.
        local_queues: know its leases.
    """

    def __init__(self, scripts: ScriptRunner, holder: str, journal: JournalChanges, local_queues: LocalQueues):
        self._scripts = scripts
        self._holder = holder
        self._journal = journal
        self._local_queues = local_queues

    def lease(self, request: LeaseRequest, wait_s: float) -> Lease | None:
        """Lease a new worker, which the caller makes. It gets a new id, and has no address.

        Args:
            request: the call, with the image.
            wait_s: its longest wait while limits are reached.

        Returns:
            The lease. Release it with `destroy`. None: a limit was reached for all the time.

        Raises:
            StaleTarget: the target has changed since it was resolved.
            PoolUnavailable: Redis is away.
        """
        deadline = time.monotonic() + wait_s
        while True:
            worker_id = str(uuid.uuid4())
            reply = self._ask(request, worker_id)
            if reply[0] == b"stale":
                raise StaleTarget(request.target)
            if reply[0] == b"lease":
                worker = LeasedWorker(worker_id, "", "", int(reply[1]), needs_load=False)
                return self._local_queues.hold(self._local_queues.queue_of(request), request, worker, "start")
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return None
            self._local_queues.share.wait(left_s)

    def _ask(self, request: LeaseRequest, worker_id: str) -> Any:
        taken = self._journal.take()
        try:
            return self._scripts.run(
                "lease_single_use",
                self._holder,
                worker_id,
                request.runtime_id,
                request.target,
                request.project_id,
                request.own_limit,
                request.execution_id,
                int(request.run_s * 1000),
                request.detail,
                request.single_use_image or "",
                taken,
                *itertools.chain.from_iterable(request.generations),
                abandoned=lambda reply: self._undo(worker_id, reply),
            )
        except BaseException as error:
            if isinstance(error, ReplyLost):
                # The execution may be in the journal. It is not to be recorded as lost, because it has not begun.
                self._journal.acknowledge(request.execution_id)
            self._journal.put_back(taken, self._local_queues.running)
            raise

    def _undo(self, worker_id: str, reply: Any) -> None:
        """Undo a lease whose greenlet has ended before the reply came. Runs in the reader, so it must not wait."""
        if isinstance(reply, list) and reply[0] == b"lease":
            self._scripts.cast("return_unused", worker_id, reply[1])


class Orphans:
    """Ends workers for a single execution that Redis does not know.

    Args:
        registry: knows the workers, and the leases that processes have reported.
        end: ends a worker.
        patience_s: how long a worker may exist without a holder. After Redis was emptied, live processes report their
            leases again within this time.
    """

    def __init__(self, registry: Registry, end: Callable[[str], None], patience_s: float):
        self._registry = registry
        self._end = end
        self._patience_s = patience_s
        # By worker, the time at which it was last held or first seen, on the monotonic clock.
        self._held_at: dict[str, float] = {}

    def check(self, workers: Iterable[WorkerInfo]) -> None:
        """Look at the workers that Redis did not know when it was last asked.

        Raises:
            PoolUnavailable: Redis is away.
        """
        now = time.monotonic()
        before, self._held_at = self._held_at, {}
        for worker in workers:
            assert worker.single_use is not None
            if self._registry.is_known(worker.worker_id):  # it was leased after that
                continue
            if self._registry.is_held(worker.single_use.holder, worker.single_use.lease):
                self._held_at[worker.worker_id] = now
                continue
            held_at = self._held_at[worker.worker_id] = before.get(worker.worker_id, now)
            if now - held_at >= self._patience_s:
                logger.warning("ends a worker that no process holds", extra={"worker_id": worker.worker_id})
                self._end(worker.worker_id)
