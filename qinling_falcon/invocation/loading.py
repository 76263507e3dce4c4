"""Loads function packages into leased workers, for calls and for scaling up."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

import gevent

from qinling_falcon.errors import Unavailable
from qinling_falcon.invocation.targets import Target
from qinling_falcon.invocation.worker_client import UNREACHED, DiskFull, NotLoaded, WorkerClient
from qinling_falcon.pool.leases import Kind, Lease, LeaseRequest
from qinling_falcon.pool.pool import Pool
from qinling_falcon.pool.waiter import Gate
from qinling_falcon.settings import Settings
from qinling_falcon.storage.package_cache import PackageCache
from qinling_falcon.storage.packages import advice_on_missing

logger = logging.getLogger(__name__)

# If a package is read within this time, its call does not queue with a closed gate.
_SOON_S = 0.02


class Wait:
    """The time for which a task may still wait in queues. The time for reading its package does not count.

    Args:
        longest_s: the longest wait, in seconds from now.
    """

    def __init__(self, longest_s: float):
        self._deadline = time.monotonic() + longest_s

    def left_s(self) -> float:
        """The seconds that are left, at least 0."""
        return max(0.0, self._deadline - time.monotonic())

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The time in this block does not count."""
        since = time.monotonic()
        try:
            yield
        finally:
            self._deadline += time.monotonic() - since


class Loading:
    """Reads packages before the pool is asked for a worker that has to load one.

    A leased worker therefore does not wait for the storage, and an unreadable package never costs another function its
    worker.
    """

    def __init__(self, pool: Pool, packages: PackageCache, settings: Settings):
        self._pool = pool
        self._packages = packages
        self._settings = settings

    def lease(self, target: Target, request: LeaseRequest, wait: Wait) -> Lease:
        """Lease a worker for the target. A warm one is leased only when the package is readable.

        While the storage is slow or away, the call waits in the queue for the workers that hold the target.

        Raises:
            StaleTarget: the target has changed since it was resolved.
            PackageMissing, Unavailable, BadGateway: the package can't be read, and no worker that holds the target
                became free in time; or see `Pool.lease`.
        """
        if request.single_use_image is not None or self._packages.has(target.package):
            return self._pool.lease(request, wait.left_s())
        if request.kind == "warm":
            with wait.paused():
                self._packages.can_read(target.package, target.project_id)
            return self._pool.lease(request, wait.left_s())
        lease = self._pool.lease_loaded(request)
        return lease if lease is not None else self._lease_while_reading(target, request, wait)

    def package(self, target: Target) -> bytes:
        """Read the package for a leased worker.

        Raises:
            PackageMissing, Unavailable, BadGateway: the package can't be read.
        """
        return self._packages.read(target.package, target.project_id)

    def load(self, workers: WorkerClient, lease: Lease, target: Target, package: bytes) -> None:
        """Load the package into a leased worker.

        Raises:
            NotLoaded, DiskFull: the worker did not take the package, and another one would not either. The lease is
                unused, or released if the worker's state is unknown.
            NotSent: the worker could not be reached, ended or refused; another worker may be tried.
            NoDescriptor, GatewayAway: this process can't reach it. The lease is unused.
        """
        try:
            workers.load(lease.worker, package, _metadata(target), self._settings.unpack_timeout_s)
        except NotLoaded as error:
            if error.is_reusable:
                lease.unused()
            else:
                lease.released(destroy=True)
            raise
        except (DiskFull, *UNREACHED):
            # Not tried on another worker, because it would fail, too: the workers share the disk, and this process can
            # reach none of them.
            lease.unused()
            raise

    def _lease_while_reading(self, target: Target, request: LeaseRequest, wait: Wait) -> Lease:
        gate = Gate()
        reading = gevent.spawn(self._read, gate, target, wait)
        try:
            reading.join(_SOON_S)
            if gate.error is not None:
                raise gate.error
            return self._pool.lease(request, wait.left_s(), gate)
        finally:
            reading.kill(block=False)

    def _read(self, gate: Gate, target: Target, wait: Wait) -> None:
        """Open the gate when the package is readable. If it is not, workers that hold the target may still serve."""
        try:
            with wait.paused():
                self._packages.can_read(target.package, target.project_id)
        except Exception as error:  # of any type, because the call waits for this greenlet
            gate.fail(self._outwait(target, error))
        else:
            gate.open()

    def _outwait(self, target: Target, error: Exception) -> Exception:
        """Wait as long as workers that hold the target may become free. Returns the error for the call."""
        try:
            if self._pool.workers(target.function_id, target.version):
                gevent.sleep(self._settings.invoke_queue_timeout_s)
        except Unavailable as away:
            return away
        return error


def package_lost(target: Target, settings: Settings) -> Unavailable:
    """Log that a target's package is missing in the storage, and return the error for the caller."""
    logger.error(
        "a package is not in the package storage",
        extra={"package": target.package, "function_id": target.function_id},
    )
    message = f"The package of function {target.function_id} is not in the package storage; nothing has run."
    return Unavailable(f"{message} {advice_on_missing(settings)}", retry_after_s=60)


def longest_reading_s(settings: Settings) -> float:
    """The longest time for reading a package again that left the cache between the check and the lease, in seconds."""
    return settings.swift_timeout_s + 2 * settings.keystone_timeout_s if settings.package_storage == "swift" else 0.0


def lease_request(
    target: Target,
    settings: Settings,
    execution_id: str,
    detail: str,
    timeout_s: float,
    *,
    kind: Kind = "any",
    arrived: float | None = None,
) -> LeaseRequest:
    """The lease request for running `target` for up to `timeout_s`; the lease also covers loading the package."""
    return LeaseRequest(
        target=target.key,
        runtime_id=target.runtime_id,
        function_id=target.function_id,
        project_id=target.project_id,
        execution_id=execution_id,
        generations=target.generations,
        run_s=longest_reading_s(settings)
        + settings.unpack_timeout_s
        + settings.load_timeout_s
        + timeout_s
        + settings.lease_grace_s,
        detail=detail,
        concurrency=target.concurrency,
        kind=kind,
        arrived=arrived,
    )


def _metadata(target: Target) -> dict[str, Any]:
    """The metadata of a target that a worker gets together with the package."""
    return {
        "target": target.key,
        "entry": target.entry,
        "memory_size": target.memory_size,
        "cpu": target.cpu,
        "isolation": target.isolation,
    }
