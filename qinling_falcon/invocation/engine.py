"""The engine: the one path on which functions get workers, for calls and for scaling.

`Engine.serve` has the steps in order: resolve the target, lease a worker, load it, use it. It alone decides what is
tried again, and how often. A `Task` decides how the worker is used: a `Run` calls it and records the execution, and a
`scaling.Addition` leaves it loaded.

If this process crashes during a call, there are three cases:

1. Before the lease: nothing is left. The caller gets no answer, and the function has not run.
2. Between the lease and the commit of the record: the lease is left, and the holder's journal has the execution. With a
   large input there is also a row with status `running`. The reaper notices that the holder is silent, drains the
   worker and has the execution recorded as `error`. If Redis has lost its data too, `record_overdue` records the row.
3. After the commit: the lease is left. The record is final and does not change.
"""

from __future__ import annotations

import logging
import time
from typing import Protocol, TypeVar

import gevent

from qinling_falcon.bounded import BoundedCache
from qinling_falcon.errors import NotRecorded, QinlingError, Unavailable
from qinling_falcon.invocation.admission import Admission
from qinling_falcon.invocation.attempts import Attempts
from qinling_falcon.invocation.call_keys import CallKey
from qinling_falcon.invocation.calls import TRIES, Accepted, Call, stored_record
from qinling_falcon.invocation.execution_quota import ExecutionQuota, Reservation
from qinling_falcon.invocation.image_calls import ImageCalls
from qinling_falcon.invocation.loading import Loading, Wait, package_lost
from qinling_falcon.invocation.long_runs import LongRuns
from qinling_falcon.invocation.run_cancellation import Interrupted
from qinling_falcon.invocation.runs import Run, RunParts
from qinling_falcon.invocation.sessions import Sessions
from qinling_falcon.invocation.targets import Resolver, Target
from qinling_falcon.invocation.worker_client import (
    DiskFull,
    NotLoaded,
    NotSent,
    WorkerClient,
)
from qinling_falcon.models import execution_queue
from qinling_falcon.models.records import ExecutionRecord
from qinling_falcon.models.scope import Context
from qinling_falcon.pool.leases import Lease, LeaseRequest, StaleTarget
from qinling_falcon.pool.pool import Pool
from qinling_falcon.settings import Settings
from qinling_falcon.storage.package_cache import PackageCache
from qinling_falcon.storage.packages import PackageMissing

logger = logging.getLogger(__name__)

# A process begins to run an execution within milliseconds after it has claimed it, unless it is overloaded.
_REMEMBER_CANCELLED_S = 30.0
_MOST_CANCELLED = 10_000

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Task(Protocol[T_co]):
    """A task for which the engine leases a worker.

    Attributes:
        failure_message: the message for the caller if no worker could take the task.
    """

    failure_message: str

    def resolve(self) -> Target:
        """The target as it is now."""

    def prepare(self, target: Target) -> LeaseRequest | T_co:
        """Do the work that needs no worker, before a worker is leased.

        Returns:
            The lease request; or the result, if no worker is needed.
        """

    def begin(self) -> None:
        """Commit what must be durable before the leased worker gets a request."""

    def use(self, lease: Lease, target: Target) -> T_co:
        """Use the worker, which holds the target, and call `lease.released`.

        Raises:
            NotSent: the worker did not do it; another one may be tried. The lease is not released.
            StaleTarget: the target was changed meanwhile. The lease is released.
        """

    def not_loaded(self, lease: Lease, target: Target, error: NotLoaded | DiskFull) -> T_co:
        """Handle a package that no worker can load. The lease is released or unused."""


class Engine:
    """Runs executions on the warm pool, and gives scaling its workers.

    Args:
        pool: leases workers.
        resolver: resolves a call to its target.
        packages: reads the target's package.
        settings: the limits.
        workers: calls workers; None: over HTTP.
        sessions: makes OpenStack sessions for functions with a trust; None: functions run without a session.
        quota: checks the quota of executions; None: no check.
        admission: limits the calls in flight; None: no limit, for processes that serve no connections.
        attempts: ends the attempts of accepted executions; None: this process runs none.
        images: runs functions from images; None: they end with an error.
    """

    def __init__(
        self,
        pool: Pool,
        resolver: Resolver,
        packages: PackageCache,
        settings: Settings,
        *,
        workers: WorkerClient | None = None,
        sessions: Sessions | None = None,
        quota: ExecutionQuota | None = None,
        admission: Admission | None = None,
        attempts: Attempts | None = None,
        images: ImageCalls | None = None,
    ):
        self._pool = pool
        self._resolver = resolver
        self._loading = Loading(pool, packages, settings)
        self._settings = settings
        self._quota = quota
        self._admission = admission
        self._workers = WorkerClient(settings) if workers is None else workers
        self._long_runs = LongRuns()
        self._running: dict[str, Run] = {}
        # Executions that were cancelled while this process did not run them. It may have claimed them just before.
        self._cancelled: BoundedCache[str, bool] = BoundedCache(_MOST_CANCELLED)
        self._parts = RunParts(
            resolver, self._workers, images, settings, sessions, self._long_runs, attempts, pool
        )

    def start(self) -> None:
        """Start two background tasks: list long-running executions as running, and count executions for the quota.

        Executions of this process can be cancelled from now on.
        """
        self._pool.on_notification("cancel", lambda execution_id: gevent.spawn(self._on_cancelled, execution_id))
        self._long_runs.start()
        if self._quota is not None:
            self._quota.start()

    def invoke(self, context: Context, call: Call, key: CallKey | None = None) -> ExecutionRecord:
        """Run `call` and return its final, durable record. If this raises anything but `NotRecorded`, the function has
        not run.

        Args:
            context: the caller.
            call: the call.
            key: its idempotency key, which is claimed before a worker is leased, and released if the function has not
                run; None: the request has no key.

        Raises:
            KeyTaken: another request has the key.
            NotRecorded: the function has run, or may have run, and the database did not record its result.
            NotFound, Conflict: the function does not exist, its runtime is not available, or its object in Swift is
                gone.
            QuotaExceeded: the function's project has reached its quota of executions.
            Unavailable: too many calls are in flight or wait for a worker, no worker was free in time, or the package
                is missing in the package storage. `WorkersUnreachable`: the workers are on another machine.
                `NoDescriptor`, `GatewayAway`: this process can't reach the worker.
        """
        if self._admission is None:
            return self._run_new(context, call, key)
        called = call.function_id or f"alias {call.function_alias}"
        with self._admission.admit(context.project_id, called, call.input):
            return self._run_new(context, call, key)

    def run(self, call: Call, accepted: Accepted) -> ExecutionRecord:
        """Run an execution that was accepted and claimed before, and write the end of this attempt.

        Nothing is written if the execution was cancelled, or claimed by another process since.

        Args:
            call: what was accepted. It names a function and version; an alias was followed when it was accepted.
            accepted: the execution.

        Returns:
            The record as it is shown now: final, or `running` if a further attempt will start.

        Raises:
            NotFound: the function is gone.
            Interrupted: see `cancel`.
            The other errors of `invoke`, except `QuotaExceeded`. The execution is still claimed.
        """
        with Reservation(None) as reservation:  # an accepted execution has its row, so the quota is not checked
            run = Run(self._parts, Context(accepted.project_id), call, reservation, accepted)
            self._running[accepted.id] = run
            try:
                if self._was_cancelled(accepted):
                    raise Interrupted
                return self.serve(run)
            finally:
                self._forget(run)

    def cancel(self, execution_id: str) -> None:
        """End an execution, if this process runs it.

        This tries until it has an effect, because the call may be on its way to a worker that does not know it yet. If
        a worker runs the function, it ends it, and `run` returns. If the function has not begun to run, `run` raises
        `Interrupted`. If the function has ended, `run` goes on to record that.
        """
        run = self._running.get(execution_id)
        if run is not None:
            run.cancellation.cancel()

    def serve(self, task: Task[T]) -> T:
        """Do a task on a worker that holds its target.

        There are two reasons to try again:

        1. The worker did not take the request, so nothing has run. Up to `TRIES` workers are tried.
        2. The target has changed since it was resolved. It is resolved again until the time for waiting is over. If a
           package is missing under the same name twice, it is lost.

        Raises:
            Unavailable: no worker could do the task, and nothing has run. Errors of the task's methods are raised, too.
        """
        wait = Wait(self._settings.invoke_queue_timeout_s)
        tries, missing = 0, None
        while tries < TRIES:
            target = task.resolve()
            if target.package == missing:
                raise package_lost(target, self._settings)
            request = task.prepare(target)
            if not isinstance(request, LeaseRequest):
                return request
            try:
                with self._loading.lease(target, request, wait) as lease:
                    return self._serve_on(lease, task, target)
            except NotSent as error:
                logger.warning("a worker was given up", extra={"reason": str(error)})
                tries += 1
            except (StaleTarget, PackageMissing) as error:
                self._resolver.forget(target)
                if self._quota is not None:
                    self._quota.forget(target.project_id)
                missing = target.package if isinstance(error, PackageMissing) else missing
                if wait.left_s() <= 0:
                    break
        raise Unavailable(task.failure_message, retry_after_s=1)

    def _was_cancelled(self, accepted: Accepted) -> bool:
        """Whether an execution was cancelled after it was claimed, and before it began to run here.

        Only the database knows whether a remembered id is of this claim: a cancelled execution may have been retried.
        """
        if self._cancelled.get(accepted.id, time.monotonic()) is None:
            return False
        self._cancelled.pop(accepted.id)
        return not execution_queue.is_claimed(accepted.id, accepted.claim)

    def _on_cancelled(self, execution_id: str) -> None:
        if execution_id not in self._running:
            self._cancelled.put(execution_id, True, time.monotonic() + _REMEMBER_CANCELLED_S)
        self.cancel(execution_id)

    def _run_new(self, context: Context, call: Call, key: CallKey | None) -> ExecutionRecord:
        with Reservation(self._quota) as reservation:
            run = Run(self._parts, context, call, reservation, key=key)
            self._running[run.id] = run
            try:
                return self.serve(run)
            except NotRecorded:
                raise
            except QinlingError:
                run.cancellation.is_over = True  # an exception of a cancel would leave the row
                run.withdraw()
                raise
            except Interrupted:
                return stored_record(context.project_id, run.id)
            finally:
                self._forget(run)

    def _forget(self, run: Run) -> None:
        run.cancellation.is_over = True
        # A later attempt of the same execution may have begun in this process.
        if self._running.get(run.id) is run:
            del self._running[run.id]

    def _serve_on(self, lease: Lease, task: Task[T], target: Target) -> T:
        """Do a task on a leased worker.

        Raises:
            PackageMissing: the package is neither in the cache nor in the storage any more. The worker got no request.
            WorkersUnreachable, NoDescriptor, GatewayAway: this process can't reach the worker, which got no request.
        """
        package = self._loading.package(target) if lease.worker.needs_load else None
        if not self._workers.knows(lease.worker):
            self._pool.check_reach(lease)
        task.begin()
        lease.used()
        try:
            if package is not None:
                self._loading.load(self._workers, lease, target, package)
            return task.use(lease, target)
        except NotSent:
            # The worker is not used again. The task goes to another one.
            lease.released(destroy=True)
            lease.withdrawn()
            raise
        except (NotLoaded, DiskFull) as error:
            return task.not_loaded(lease, target, error)
