"""The package cache: reads packages for workers, and keeps the most recently used ones in memory."""

from __future__ import annotations

import copy
import logging
import time

from qinling_falcon.bounded import BoundedCache
from qinling_falcon.errors import QinlingError, Unavailable
from qinling_falcon.flights import Flights
from qinling_falcon.storage.packages import PackageMissing, PackageStore
from qinling_falcon.storage.turns import TooManyWait, Turns, WaitedTooLong

logger = logging.getLogger(__name__)

# Packages are in memory while they are read, so only this many are read at once. One project may have `_SHARE` of
# these reads, so that its slow reads don't block other projects. Each read waits for at most `_PATIENCE_S`. A read that
# waits costs little, and a burst of first calls needs one for each function: `invocation.admission` limits the calls of
# a project, and `_MOST_OF_PROJECT` is above its default.
_MOST_AT_ONCE = 8
_SHARE = 4
_MOST_OF_PROJECT = 1000
_PATIENCE_S = 5.0
# A failed read is not repeated for this long, so that repeated calls cost the storage and the pool nothing.
_FAILED_S = 1.0
_MOST_FAILURES = 1000


class PackageCache:
    """Reads and caches packages. Concurrent reads of one package share one read.

    Args:
        packages: the package storage.
        size: the most bytes in the cache. A larger package is read each time.
    """

    def __init__(self, packages: PackageStore, size: int):
        self._packages = packages
        self._kept: BoundedCache[str, bytes] = BoundedCache(size, len)
        self._failed: BoundedCache[str, Exception] = BoundedCache(_MOST_FAILURES)
        self._readings: Flights[str, bytes] = Flights()
        self._turns = Turns(_MOST_AT_ONCE, _SHARE, _MOST_OF_PROJECT, _PATIENCE_S)

    def has(self, key: str) -> bool:
        """Whether the package is in the cache."""
        return key in self._kept

    def can_read(self, key: str, project_id: str, wait_s: float | None = None) -> bool:
        """Check whether the package can be read, by reading it into the cache.

        The caller does not keep the bytes while it waits for a worker. It reads the package again afterwards, normally
        from the cache.

        Args:
            key: the package's key.
            project_id: the project of the function; projects take turns.
            wait_s: the longest wait in seconds; None: no limit.

        Returns:
            True: the package can be read. False: the read has not ended in time.

        Raises:
            PackageMissing, Unavailable, BadGateway: see `read`.
        """
        return self._wait(key, project_id, wait_s) is not None

    def read(self, key: str, project_id: str) -> bytes:
        """Read the package from the cache or the storage. Arguments as for `can_read`.

        Raises:
            PackageMissing: the storage has no such package.
            Unavailable, BadGateway: the storage does not answer, or did not a moment ago.
        """
        package = self._wait(key, project_id, None)
        assert package is not None
        return package

    def _wait(self, key: str, project_id: str, wait_s: float | None) -> bytes | None:
        package = self._kept.get(key)
        if package is not None:
            return package
        failed = self._failed.get(key, time.monotonic())
        if failed is not None:
            raise copy.copy(failed)  # anew for each, for an error that is raised collects tracebacks
        reading = self._readings.share(key, lambda: self._read_in_turn(key, project_id))
        return reading.result() if reading.wait(wait_s) else None

    def _read_in_turn(self, key: str, project_id: str) -> bytes:
        """Read and cache the package, or its error."""
        try:
            with self._turns.turn(project_id):
                package = self._read(key)
        except (TooManyWait, WaitedTooLong):
            raise Unavailable("The package storage is slow at the moment; try again.", retry_after_s=1) from None
        except Exception as error:
            self._failed.put(key, copy.copy(error), time.monotonic() + _FAILED_S)
            raise
        self._kept.put(key, package)
        return package

    def _read(self, key: str) -> bytes:
        try:
            return self._packages.read(key)
        except (PackageMissing, QinlingError):
            raise
        except Exception as error:
            logger.exception("a package can't be read", extra={"package": key})
            raise Unavailable("The package can't be read; try again.", retry_after_s=1) from error
