"""Scaling: assigns more workers to a target ahead of calls, or ends some of them."""

from __future__ import annotations

import logging
import uuid

import gevent

from qinling_falcon.errors import Conflict, Forbidden, QinlingError, Unavailable
from qinling_falcon.invocation.admission import Admission
from qinling_falcon.invocation.engine import Engine
from qinling_falcon.invocation.loading import lease_request
from qinling_falcon.invocation.targets import Resolver, Target
from qinling_falcon.invocation.worker_client import DiskFull, NotLoaded
from qinling_falcon.models.scope import Context
from qinling_falcon.pool.leases import Lease, LeaseRequest, StaleTarget
from qinling_falcon.pool.pool import Pool
from qinling_falcon.settings import Settings

logger = logging.getLogger(__name__)


class Scaler:
    """Loads functions into workers ahead of calls, and ends surplus workers.

    Args:
        engine: leases and loads the workers.
        pool: ends workers.
        resolver: resolves a function and version to its target.
        settings: the limits.
        admission: limits the requests in flight; None: no limit, for processes that serve no connections.
    """

    def __init__(
        self, engine: Engine, pool: Pool, resolver: Resolver, settings: Settings, admission: Admission | None = None
    ):
        self._engine = engine
        self._pool = pool
        self._resolver = resolver
        self._settings = settings
        self._admission = admission

    def scale_up(self, context: Context, function_id: str, version: int, count: int) -> None:
        """Assign `count` more workers to the target. They hold it when this returns.

        After a crash of this process, the workers that are already assigned stay. A worker that was being loaded is
        lost with its lease and replaced.

        Raises:
            NotFound, Conflict: see `Resolver.resolve`; or the package can't be loaded.
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
        if self._resolver.resolve(context, function_id, version).image is not None:
            raise Forbidden(f"Function {function_id} is an image: it has no workers.")
        addition = Addition(self._pool, self._resolver, self._settings, context, function_id, version)
        additions = [gevent.spawn(self._try_one, addition) for _ in range(count)]
        try:
            gevent.joinall(additions)
        finally:
            gevent.killall(additions, block=False)
        refusals = [added.value for added in additions if added.value is not None]
        for refusal in refusals:
            if not isinstance(refusal, Unavailable):
                raise refusal  # it was deleted meanwhile, or its runtime's state has changed
        if refusals:
            message = f"{count - len(refusals)} of {count} workers were added: {refusals[0].message}"
            raise Unavailable(message, retry_after_s=1)

    def scale_down(self, function_id: str, version: int, count: int) -> None:
        """End up to `count` workers that hold the target, but never the last: idle ones now, others after their call.

        Raises:
            Unavailable: Redis is away.
        """
        self._pool.shrink(function_id, version, count)

    def _try_one(self, addition: Addition) -> QinlingError | None:
        """Add one worker. Returns the error, if there is one, because an exception would be lost in this greenlet."""
        try:
            self._engine.serve(addition)
        except QinlingError as error:
            return error
        except Exception:
            logger.exception("a worker could not be added", extra={"function_id": addition.function_id})
            return Unavailable("A worker could not be added; try again.", retry_after_s=1)
        return None


class Addition:
    """One more worker that holds a target, as a task of the engine. It can be served any number of times."""

    failure_message = "No worker could load it."

    def __init__(
        self, pool: Pool, resolver: Resolver, settings: Settings, context: Context, function_id: str, version: int
    ):
        self._pool = pool
        self._resolver = resolver
        self._settings = settings
        self._context = context
        self.function_id = function_id
        self._version = version

    def resolve(self) -> Target:
        """The target as it is now."""
        return self._resolver.resolve(self._context, self.function_id, self._version)

    def prepare(self, target: Target) -> LeaseRequest | None:
        """A warm worker, on which nothing is executed."""
        return lease_request(target, self._settings, str(uuid.uuid4()), "", 0.0, kind="warm")

    def begin(self) -> None:
        """Do nothing, because there is no execution to record."""

    def use(self, lease: Lease, target: Target) -> None:
        """Leave the worker loaded, unless the target has changed meanwhile: then it drains.

        Raises:
            StaleTarget: the target has changed.
        """
        is_current = self._pool.is_current(target.generations)
        lease.released(destroy=not is_current)
        if not is_current:
            raise StaleTarget(target.key)

    def not_loaded(self, lease: Lease, target: Target, error: NotLoaded | DiskFull) -> None:
        """Raise the reason.

        Raises:
            Conflict: the package can't be loaded.
            Unavailable: the disk is full.
        """
        if isinstance(error, DiskFull):
            raise Unavailable(f"{error} Try again later.", retry_after_s=1) from error
        raise Conflict(f"Function {target.function_id} can't be loaded: {error}") from error
