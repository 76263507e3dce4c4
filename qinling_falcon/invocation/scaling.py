"""Scaling: assigns more workers to a target ahead of calls, or ends some of them."""

from __future__ import annotations

import logging
import time
import uuid

import gevent

from qinling_falcon.errors import Conflict, Forbidden, QinlingError, Unavailable
from qinling_falcon.invocation.admission import Admission
from qinling_falcon.invocation.calls import TRIES
from qinling_falcon.invocation.loading import Loading, about, lease_request, package_lost
from qinling_falcon.invocation.swift_sources import SwiftSources
from qinling_falcon.invocation.targets import Resolver, Target
from qinling_falcon.invocation.worker_client import DiskFull, NotLoaded, NotSent, WorkerClient
from qinling_falcon.models.scope import Context
from qinling_falcon.pool.leases import Lease, StaleTarget
from qinling_falcon.pool.pool import Pool
from qinling_falcon.settings import Settings
from qinling_falcon.storage.package_cache import PackageCache
from qinling_falcon.storage.packages import PackageMissing

log = logging.getLogger(__name__)


class Scaler:
    """Loads functions into workers ahead of calls, and ends surplus workers.

    Args:
        pool: leases workers.
        resolver: resolves a function and version to its target.
        packages: reads the target's package.
        settings: the limits.
        sources: refreshes the copies of functions in Swift; None: the stored copies are used.
        admission: limits the requests in flight; None: no limit, for processes that serve no connections.
    """

    def __init__(
        self,
        pool: Pool,
        resolver: Resolver,
        packages: PackageCache,
        settings: Settings,
        sources: SwiftSources | None = None,
        admission: Admission | None = None,
    ):
        self._pool = pool
        self._resolver = resolver
        self._loading = Loading(pool, packages, settings)
        self._settings = settings
        self._sources = sources
        self._admission = admission
        self._workers = WorkerClient()

    def scale_up(self, context: Context, function_id: str, version: int, count: int) -> None:
        """Assign `count` more workers to the target. They hold it when this returns.

        After a crash of this process, the workers that are already assigned stay. A worker that was being loaded is
        lost with its lease and replaced.

        Raises:
            NotFound, Conflict: see `Resolver.resolve`; the object in Swift is gone; or the package can't be loaded.
            Forbidden: the function is an image, which workers can't hold.
            Unavailable: there was no room for all workers in time (the message says how many were assigned; they
                stay), or too many calls and requests of this function or project are in flight.
        """
        if self._admission is None:
            self._scale_up(context, function_id, version, count)
            return
        with self._admission.admit(context.project_id, function_id):
            self._scale_up(context, function_id, version, count)

    def _scale_up(self, context: Context, function_id: str, version: int, count: int) -> None:
        target = self._resolver.resolve(context, function_id, version)
        if target.image is not None:
            raise Forbidden(f"Function {function_id} is an image: it has no workers.")
        if target.swift is not None and self._sources is not None and not self._sources.is_current(target):
            self._resolver.forget(target)  # each worker is loaded with what it is by then
        deadline = time.monotonic() + self._settings.invoke_queue_timeout_s
        loads = [gevent.spawn(self._try_one, context, function_id, version, deadline) for _ in range(count)]
        try:
            gevent.joinall(loads)
        finally:
            gevent.killall(loads, block=False)
        refusals = [load.value for load in loads if load.value is not None]
        for refusal in refusals:
            if not isinstance(refusal, Unavailable):
                raise refusal  # it was deleted meanwhile, or its runtime's state has changed
        if refusals:
            added = count - len(refusals)
            message = f"{added} of {count} workers were added: {refusals[0].message}"
            raise Unavailable(message, retry_after_s=1)

    def scale_down(self, function_id: str, version: int, count: int) -> None:
        """End up to `count` workers that hold the target, but never the last: idle ones now, others after their call.

        Raises:
            Unavailable: Redis is away.
        """
        self._pool.shrink(function_id, version, count)

    def _try_one(self, context: Context, function_id: str, version: int, deadline: float) -> QinlingError | None:
        """Add one worker; why not, if it was refused. An error that goes up in a greenlet of its own reaches nobody."""
        try:
            self._add_one(context, function_id, version, deadline)
        except QinlingError as error:
            return error
        except Exception:
            log.exception("function %s: a worker could not be added", function_id)
            return Unavailable("A worker could not be added; try again.", retry_after_s=1)
        return None

    def _add_one(self, context: Context, function_id: str, version: int, deadline: float) -> None:
        settings = self._settings
        tries, missing = 0, None
        while tries < TRIES:
            target = self._resolver.resolve(context, function_id, version)
            if target.package == missing:
                raise package_lost(target, self._settings)
            request = lease_request(target, settings, str(uuid.uuid4()), "", 0.0, kind="warm")
            try:
                since = time.monotonic()
                try:
                    self._loading.check(target)
                finally:
                    deadline += time.monotonic() - since
                lease = self._pool.lease(request, max(0.0, deadline - time.monotonic()))
                with lease:
                    if self._load(lease, target, self._loading.package(target)):
                        return
            except NotSent as error:
                log.warning("a worker did not load a function", extra={"reason": str(error)})
            except (StaleTarget, PackageMissing) as error:
                self._resolver.forget(target)
                missing = target.package if isinstance(error, PackageMissing) else missing
                tries += time.monotonic() > deadline
                continue
            self._resolver.forget(target)
            tries += 1
        raise Unavailable("No worker could load it.", retry_after_s=1)

    def _load(self, lease: Lease, target: Target, package: bytes) -> bool:
        """Load a leased worker. Returns whether a call would find it: nothing was changed meanwhile."""
        self._pool.check_reach(lease)
        lease.used()
        try:
            self._workers.load(lease.worker, package, about(target), self._settings.unpack_timeout_s)
        except NotLoaded as error:
            if error.is_reusable:
                lease.unused()
            else:
                lease.finished(destroy=True)
            raise Conflict(f"Function {target.function_id} can't be loaded: {error}") from error
        except DiskFull as error:
            lease.unused()
            raise Unavailable(f"{error} Try again later.", retry_after_s=1) from error
        except NotSent:
            lease.finished(destroy=True)
            raise
        is_current = self._is_current(target)
        lease.finished(destroy=not is_current)
        return is_current

    def _is_current(self, target: Target) -> bool:
        """Whether nothing was changed while it was being loaded, so that a call would find it."""
        return self._pool.generations([what for what, _ in target.generations]) == dict(target.generations)
