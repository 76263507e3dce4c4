"""The invoker runs targets: lease a worker, call it, record the execution, release the worker.

If this process crashes:

1. Before the lease, nothing is left. The caller gets no answer, and nothing has run.
2. Between the lease and the commit of the record, the lease is left (and for a
   large input a row with status `running`). The reaper notices that the holder is
   silent, destroys the worker and records the execution as `error`. If Redis was
   lost too, `record_overdue` records the row.
3. After the commit, the lease is left. The record is final and does not change.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import gevent

from qinling_falcon.errors import Unavailable
from qinling_falcon.invocation.admission import Admission
from qinling_falcon.invocation.calls import (
    TRIES,
    WORKER_LOST,
    Call,
    began,
    detail,
    failed,
    finished,
    is_inline,
    not_loaded,
    settled,
)
from qinling_falcon.invocation.execution_quota import ExecutionQuota, Place
from qinling_falcon.invocation.loading import Loading, about, lease_request, package_lost
from qinling_falcon.invocation.sessions import Sessions
from qinling_falcon.invocation.swift_sources import SwiftSources
from qinling_falcon.invocation.targets import Resolver, Target
from qinling_falcon.invocation.worker_client import DiskFull, NotLoaded, NotSent, WorkerClient, WorkerLost
from qinling_falcon.models import clock
from qinling_falcon.models.records import ExecutionRecord, begin, record
from qinling_falcon.models.scope import Context
from qinling_falcon.pool.leases import Lease, StaleTarget
from qinling_falcon.pool.pool import Pool
from qinling_falcon.settings import Settings
from qinling_falcon.storage.package_cache import PackageCache
from qinling_falcon.storage.packages import PackageMissing

logger = logging.getLogger(__name__)

_MOMENT_S = 1.0


class Invoker:
    """Runs calls on the warm pool.

    Args:
        pool: leases workers.
        resolver: resolves a call to its target.
        packages: reads the target's package.
        settings: the limits.
        sessions: makes OpenStack sessions for functions with a trust; None: functions run without a session.
        sources: refreshes the copies of functions in Swift; None: the stored copies are used.
        quota: checks the quota of executions; None: no check.
        admission: limits the calls in flight; None: no limit, for processes that serve no connections.
    """

    def __init__(
        self,
        pool: Pool,
        resolver: Resolver,
        packages: PackageCache,
        settings: Settings,
        sessions: Sessions | None = None,
        sources: SwiftSources | None = None,
        quota: ExecutionQuota | None = None,
        admission: Admission | None = None,
    ):
        self._pool = pool
        self._resolver = resolver
        self._loading = Loading(pool, packages, settings)
        self._settings = settings
        self._sessions = sessions
        self._sources = sources
        self._admission = admission
        self._workers = WorkerClient()
        self._running: dict[str, tuple[float, ExecutionRecord, Place]] = {}
        self._quota = quota

    def start(self) -> None:
        """Start two background tasks: list long-running executions as running, and count executions for the quota."""
        gevent.spawn(self._begin_long_ones)
        if self._quota is not None:
            self._quota.start()

    def invoke(self, context: Context, call: Call) -> ExecutionRecord:
        """Run `call` and return its final, durable record. If this raises anything but `NotRecorded`, the function has
        not run.

        Raises:
            NotRecorded: the function has run, or may have run, and the database did not record its result.
            NotFound, Conflict: the function does not exist, its runtime is not available, or its object in Swift is
                gone.
            QuotaExceeded: the function's project has reached its quota of executions.
            Unavailable: too many calls are in flight or wait for a worker, no worker was free in time, or the package
                is missing in the package storage. `WorkersElsewhere`: the workers are on another machine.
        """
        if self._admission is None:
            return self._run(context, call)
        called = call.function_id or f"alias {call.function_alias}"
        with self._admission.admit(context.project_id, called, call.input):
            return self._run(context, call)

    def _run(self, context: Context, call: Call) -> ExecutionRecord:
        with Place(self._quota) as place:
            return self._run_in(place, context, call)

    def _run_in(self, place: Place, context: Context, call: Call) -> ExecutionRecord:
        arrived = time.monotonic()
        deadline = arrived + self._settings.invoke_queue_timeout_s
        now = clock.now()
        execution_id = clock.new_id(now)
        tries, missing = 0, None
        while tries < TRIES:
            target = self._resolve(context, call)
            if target.package == missing:
                raise package_lost(target, self._settings)
            if target.swift is not None and self._sources is not None and not self._sources.is_current(target):
                self._resolver.forget(target)
                if time.monotonic() > deadline:
                    break
                continue
            place.take(target.project_id)
            begun = began(target, call, execution_id, now)
            if target.image is not None:
                final = failed(begun, "Functions from images run on Kubernetes, which this installation does not use.")
                record(final)
                place.recorded()
                return final
            # Before there is a lease: no worker waits for Keystone.
            openstack = None
            if target.trust_id is not None and self._sessions is not None:
                openstack = self._sessions.session(target.trust_id)
            request = lease_request(target, self._settings, execution_id, detail(begun), target.timeout_s)
            try:
                since = time.monotonic()
                try:
                    lease = self._loading.loaded_worker(target, request)
                finally:
                    deadline += time.monotonic() - since  # reading a package is no waiting in the queue
                if lease is None:
                    lease = self._pool.lease(request, max(0.0, deadline - time.monotonic()))
                with lease:
                    package = self._loading.package(target) if lease.worker.needs_load else None
                    final, was_sent = self._serve(lease, target, package, call, begun, place, arrived, openstack)
                    # The worker runs the next call already.
                    final = settled(final, was_sent=was_sent)
                    lease.committed()
                    place.recorded()
                    return final
            except NotSent as error:
                logger.warning("a worker was given up", extra={"reason": str(error)})
                tries += 1
            except (StaleTarget, PackageMissing) as error:
                # Somebody keeps changing it, which is no reason to give up: as read anew it names another package, or
                # is gone.
                self._resolver.forget(target)
                if self._quota is not None:
                    self._quota.forget(target.project_id)
                missing = target.package if isinstance(error, PackageMissing) else missing
                if time.monotonic() > deadline:
                    break
        raise Unavailable("No worker could take this call; it has not run. Try again.", retry_after_s=1)

    def _resolve(self, context: Context, call: Call) -> Target:
        if call.function_alias is not None:
            return self._resolver.resolve_alias(context, call.function_alias)
        assert call.function_id is not None
        return self._resolver.resolve(context, call.function_id, call.function_version)

    def _serve(
        self,
        lease: Lease,
        target: Target,
        package: bytes | None,
        call: Call,
        begun: ExecutionRecord,
        place: Place,
        arrived: float,
        openstack: Mapping[str, Any] | None,
    ) -> tuple[ExecutionRecord, bool]:
        """Call the leased worker. Returns the final record, and whether the worker got the call.

        Raises:
            NotSent: the function has not run; another worker may be tried.
            WorkersElsewhere: this process can't reach the worker, which got no request.
        """
        settings, worker = self._settings, lease.worker
        if not self._workers.knows(worker):
            self._pool.check_reach(lease)
        lease.used()
        try:
            if worker.needs_load:
                assert package is not None
                try:
                    self._workers.load(worker, package, about(target), settings.unpack_timeout_s)
                except NotLoaded as error:
                    # The package is at fault, so no other worker could load it either.
                    if error.is_reusable:
                        lease.unused()
                    else:
                        lease.finished(destroy=True)
                    return not_loaded(begun, str(error), lease.cold, _milliseconds(arrived)), False
                except DiskFull as error:
                    # Not tried on another worker: the workers share the disk, and each try would fill it again.
                    logger.warning("a worker can't store a function", extra=_about(lease, target, error))
                    lease.unused()
                    reason = f"{error} The function has not run; try again later."
                    return failed(begun, reason, lease.cold, _milliseconds(arrived)), False
            return self._execute(lease, target, call, begun, place, arrived, openstack), True
        except NotSent:
            lease.finished(destroy=True)
            lease.withdrawn()
            raise

    def _execute(
        self,
        lease: Lease,
        target: Target,
        call: Call,
        begun: ExecutionRecord,
        place: Place,
        arrived: float,
        openstack: Mapping[str, Any] | None,
    ) -> ExecutionRecord:
        """Run the function on a worker that holds it."""
        settings = self._settings
        if is_inline(call.input):
            self._running[begun.id] = time.monotonic(), begun, place
        else:
            begin(begun)
            place.recorded()
        queued_ms = _milliseconds(arrived)
        execution: dict[str, Any] = {
            "token": lease.worker.token,
            "execution_id": begun.id,
            "timeout_s": target.timeout_s,
            "input": call.input,
            "context": {
                "execution_id": begun.id,
                "function_id": target.function_id,
                "function_version": target.version,
                "request_id": call.request_id,
                "timeout": target.timeout_s,
            },
        }
        if openstack is not None:
            execution["openstack"] = openstack  # a secret: it goes to the worker and nowhere else
        longest_s = target.timeout_s + settings.load_timeout_s + settings.lease_grace_s / 2
        try:
            answer = self._workers.execute(lease.worker, execution, longest_s)
        except WorkerLost as error:
            logger.warning("a worker was lost", extra=_about(lease, target, error))
            lease.finished(destroy=True)
            return failed(begun, WORKER_LOST, lease.cold, queued_ms)
        finally:
            self._running.pop(begun.id, None)
        lease.finished()
        return finished(begun, answer, lease.cold, queued_ms)

    def _begin_long_ones(self) -> None:
        """Write the rows of executions that run for more than a moment; most end before, and cost no second write."""
        while True:
            gevent.sleep(_MOMENT_S)
            for execution_id, (since, begun, place) in list(self._running.items()):
                if time.monotonic() - since > _MOMENT_S and execution_id in self._running:
                    del self._running[execution_id]
                    try:
                        begin(begun)
                        place.recorded()
                    except Exception:
                        logger.exception("execution %s is not listed while it runs", execution_id)


def _about(lease: Lease, target: Target, error: Exception) -> dict[str, str]:
    return {
        "worker_id": lease.worker.worker_id,
        "execution_id": lease.execution_id,
        "function_id": target.function_id,
        "reason": str(error),
    }


def _milliseconds(since: float) -> float:
    return round((time.monotonic() - since) * 1000, 3)
