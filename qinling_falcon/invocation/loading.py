"""What all need that lease workers, to call them or to load them ahead of calls."""

from __future__ import annotations

import logging
import time
from typing import Any

import gevent

from qinling_falcon.errors import BadGateway, Unavailable
from qinling_falcon.invocation.targets import Target
from qinling_falcon.pool.leases import Lease, LeaseRequest
from qinling_falcon.pool.pool import Pool
from qinling_falcon.settings import Settings
from qinling_falcon.storage.package_cache import PackageCache
from qinling_falcon.storage.packages import PackageMissing, advice_on_missing

log = logging.getLogger(__name__)

# While a package is long in coming, or can't be had, a worker that holds the function may get free.
_LOOK_EVERY_S = 0.1


class Loading:
    """Has packages at hand for the workers that are to load them.

    Before a worker is asked for that would have to load: none waits for the storage, and nobody's makes room for a
    package that can't be read.
    """

    def __init__(self, pool: Pool, packages: PackageCache, settings: Settings):
        self._pool = pool
        self._packages = packages
        self._longest_s = settings.invoke_queue_timeout_s

    def loaded_worker(self, target: Target, request: LeaseRequest) -> Lease | None:
        """A worker that holds the target; or None, when another may be asked for, which could load it.

        While the storage is slow or away, who calls a function that workers hold waits for one of them.

        Raises:
            StaleTarget: the target was resolved under an older generation.
            PackageMissing, Unavailable, BadGateway: the package can't be had, and no worker that holds it was free.
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
        """See that the package can be had.

        Raises:
            PackageMissing, Unavailable, BadGateway: it can't.
        """
        self._packages.can_read(target.package, target.project_id)

    def package(self, lease: Lease, target: Target) -> bytes:
        """The package for a leased worker, which is given back unused when it can't be had after all.

        Raises:
            PackageMissing, Unavailable, BadGateway: it can't.
        """
        try:
            return self._packages.read(target.package, target.project_id)
        except BaseException:
            self._pool.give_back(lease)
            raise


def package_lost(target: Target, settings: Settings) -> Unavailable:
    """Log and return the error of a target whose package is not in the storage though its row names it."""
    log.error("package %s of function %s is not in the package storage", target.package, target.function_id)
    message = f"The package of function {target.function_id} is not in the package storage; nothing has run."
    return Unavailable(f"{message} {advice_on_missing(settings)}", retry_after_s=60)


def longest_reading_s(settings: Settings) -> float:
    """How long a package may be read that was at hand when its worker was asked for, and is so no more."""
    return settings.swift_timeout_s + 2 * settings.keystone_timeout_s if settings.package_storage == "swift" else 0.0


def lease_request(
    target: Target, settings: Settings, execution_id: str, detail: str, timeout_s: float, *, fresh: bool = False
) -> LeaseRequest:
    """What the pool is asked for to have `target` run for up to `timeout_s`, after it was loaded."""
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
        fresh=fresh,
    )


def about(target: Target) -> dict[str, Any]:
    """What a worker is told of the target that it loads."""
    return {"target": target.key, "entry": target.entry, "memory_size": target.memory_size, "cpu": target.cpu}
