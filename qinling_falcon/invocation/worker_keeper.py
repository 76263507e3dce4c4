"""Keeps workers assigned to functions and versions that have a `min_warm`, so that their calls find one.

A pass compares the rows with the pool. Workers that are missing (after a start, an update, a crash) are loaded ahead of
calls, and marked in the pool: a marked worker is not evicted, and not ended because it is idle. The pool manager's
process runs the passes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

import gevent
from gevent.pool import Group

from qinling_falcon.errors import QinlingError, Unavailable
from qinling_falcon.invocation.scaling import Scaler
from qinling_falcon.invocation.targets import stricter, target_key
from qinling_falcon.models import kept, runtime
from qinling_falcon.models.kept import Kept
from qinling_falcon.models.scope import Context
from qinling_falcon.models.states import RuntimeStatus
from qinling_falcon.pool.pool import Pool

logger = logging.getLogger(__name__)

_PASS_EVERY_S = 1.0
_FIRST_BACKOFF_S = 2.0
_LONGEST_BACKOFF_S = 300.0
# The most kept workers of all projects together, as a share of `MAX_WORKERS`. Other functions need the rest.
_MOST_KEPT = 1 / 2


class WorkerKeeper:
    """Keeps `min_warm` workers of each function and version.

    Args:
        pool: marks workers as kept.
        scaler: loads missing workers.
    """

    def __init__(self, pool: Pool, scaler: Scaler):
        self._pool = pool
        self._scaler = scaler
        self._loads = Group()
        self._loading: set[str] = set()
        self._failures: dict[str, tuple[int, float]] = {}
        self._reduced: set[str] = set()

    def run(self, is_active: Callable[[], bool]) -> None:
        """Run passes for ever. A pass is skipped while `is_active` is false: another process has the workers then."""
        while True:
            try:
                if is_active():
                    self.run_pass()
            except QinlingError as error:
                logger.info("workers can't be kept now", extra={"reason": str(error)})
            except Exception:
                logger.exception("keeping workers failed")
            gevent.sleep(_PASS_EVERY_S)

    def run_pass(self) -> None:
        """Run one pass. Loads go on in the background.

        Raises:
            Unavailable: Redis or the database is away.
        """
        wanted = self._wanted()
        for target in self._pool.kept() - wanted.keys():
            self._pool.keep(target, 0)
        self._failures = {target: failure for target, failure in self._failures.items() if target in wanted}
        for target, (row, count) in wanted.items():
            missing = count - self._pool.keep(target, count)
            _, retry_at = self._failures.get(target, (0, 0.0))
            if missing > 0 and target not in self._loading and time.monotonic() >= retry_at:
                self._loading.add(target)
                self._loads.spawn(self._load, target, row, count, missing)

    def wait(self) -> None:
        """Wait until the loads that are under way have ended."""
        self._loads.join()

    def _wanted(self) -> Mapping[str, tuple[Kept, int]]:
        """How many workers each target is to keep. All targets together keep at most `_MOST_KEPT` of all workers."""
        left = int(self._pool.max_workers() * _MOST_KEPT)
        isolations: dict[str, str] | None = None
        wanted, reduced = {}, set()
        for row in kept.all_kept():
            if isolations is None:
                isolations = _available_runtimes()
            if row.runtime_id not in isolations:
                continue
            target = target_key(
                row.function_id, row.version, row.digest, stricter(isolations[row.runtime_id], row.isolation)
            )
            count = min(row.count, left)
            left -= count
            if count < row.count:
                reduced.add(target)
            if count > 0:
                wanted[target] = row, count
        if reduced - self._reduced:
            logger.warning("half of MAX_WORKERS are kept; some functions get fewer", extra={"functions": len(reduced)})
        self._reduced = reduced
        return wanted

    def _load(self, target: str, row: Kept, count: int, missing: int) -> None:
        extra: dict[str, object] = {"function_id": row.function_id, "function_version": row.version}
        try:
            self._scaler.scale_up(Context(row.project_id), row.function_id, row.version, missing)
            self._pool.keep(target, count)
            self._failures.pop(target, None)
        except QinlingError as error:
            failures = self._failures.get(target, (0, 0.0))[0] + 1
            wait_s = min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** min(failures - 1, 10))
            if isinstance(error, Unavailable):  # its `retry_after_s` is short if only no worker was free
                wait_s = max(_FIRST_BACKOFF_S, error.retry_after_s or 0)
            self._failures[target] = failures, time.monotonic() + wait_s
            if failures == 1:
                logger.warning("workers of a function can't be kept", extra=extra | {"reason": str(error)})
        except Exception:
            self._failures[target] = 1, time.monotonic() + _LONGEST_BACKOFF_S
            logger.exception("workers of a function could not be loaded", extra=extra)
        finally:
            self._loading.discard(target)


def _available_runtimes() -> dict[str, str]:
    """The isolation of each runtime in which functions can run."""
    statuses = (RuntimeStatus.AVAILABLE, RuntimeStatus.UPGRADING)
    return {row.id: row.isolation for row in runtime.everything() if row.status in statuses}
