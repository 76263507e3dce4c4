"""Loads function packages into leased workers, for calls and for scaling up."""

from __future__ import annotations

import logging
import time
from typing import Any

import gevent

from qinling_falcon.errors import BadGateway, Unavailable
from qinling_falcon.invocation.targets import Target
from qinling_falcon.pool.leases import Kind, Lease, LeaseRequest
from qinling_falcon.pool.pool import Pool
from qinling_falcon.settings import Settings
from qinling_falcon.storage.package_cache import PackageCache
from qinling_falcon.storage.packages import PackageMissing, advice_on_missing

log = logging.getLogger(__name__)

# While a package is read slowly or can't be read, the pool is asked this often for a worker that holds the function.
_LOOK_EVERY_S = 0.1


class Loading:
    """Reads packages before the pool is asked for a worker that has to load one.

    A leased worker therefore does not wait for the storage, and an unreadable package never costs another function its
    worker.
    """

    def __init__(self, pool: Pool, packages: PackageCache, settings: Settings):
        self._pool = pool
        self._packages = packages
        self._longest_s = settings.invoke_queue_timeout_s

    def loaded_worker(self, target: Target, request: LeaseRequest) -> Lease | None:
        """Lease a worker that holds the target, until the package is readable.

        While the storage is slow or away, the call waits for one of the workers that hold the function.

        Returns:
            The lease. None: the package is readable, so the caller may lease any worker and load it.

        Raises:
            StaleTarget: the target was resolved under an older generation.
            PackageMissing, Unavailable, BadGateway: the package can't be read, and no worker that holds the target
                became free in time.
        """
        if self._packages.has(target.package):
            return None
        failure: Exception | None = None
        until = time.monotonic() + self._longest_s
        while True:
            lease = self._pool.lease_loaded(request)
            if lease is not None:
                return lease
            if failure is not None:
                if time.monotonic() > until:
                    raise failure
                gevent.sleep(_LOOK_EVERY_S)
                continue
            try:
                if self._packages.can_read(target.package, target.project_id, _LOOK_EVERY_S):
                    return None
            except (PackageMissing, Unavailable, BadGateway) as error:
                if not self._pool.workers(target.function_id, target.version):
                    raise
                failure = error

    def check(self, target: Target) -> None:
        """Check that the package can be read.

        Raises:
            PackageMissing, Unavailable, BadGateway: it can't be read.
        """
        self._packages.can_read(target.package, target.project_id)

    def package(self, target: Target) -> bytes:
        """Read the package for a leased worker.

        Raises:
            PackageMissing, Unavailable, BadGateway: the package can't be read.
        """
        return self._packages.read(target.package, target.project_id)


def package_lost(target: Target, settings: Settings) -> Unavailable:
    """Log that a target's package is missing in the storage, and return the error for the caller."""
    log.error("package %s of function %s is not in the package storage", target.package, target.function_id)
    message = f"The package of function {target.function_id} is not in the package storage; nothing has run."
    return Unavailable(f"{message} {advice_on_missing(settings)}", retry_after_s=60)


def longest_reading_s(settings: Settings) -> float:
    """The longest time for reading a package again that left the cache between the check and the lease, in seconds."""
    return settings.swift_timeout_s + 2 * settings.keystone_timeout_s if settings.package_storage == "swift" else 0.0


def lease_request(
    target: Target, settings: Settings, execution_id: str, detail: str, timeout_s: float, *, kind: Kind = "any"
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
    )


def about(target: Target) -> dict[str, Any]:
    """The metadata of a target that a worker gets together with the package."""
    return {
        "target": target.key,
        "entry": target.entry,
        "memory_size": target.memory_size,
        "cpu": target.cpu,
        "isolation": target.isolation,
    }
