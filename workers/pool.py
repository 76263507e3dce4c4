"""The `pool` process: the pool manager with the orchestrator of this host.

python -m workers.pool
"""

from gevent import monkey

monkey.patch_all()

import contextlib
import functools
import gc
import logging
import signal
import sys
from collections.abc import Callable

import gevent
from gevent.event import Event

from qinling_falcon.assembly import Assembly
from qinling_falcon.errors import Unavailable
from qinling_falcon.invocation.calls import record_overdue
from qinling_falcon.invocation.losses import record_lost
from qinling_falcon.invocation.worker_keeper import WorkerKeeper
from qinling_falcon.models import clock, idempotency, package_keys, retention
from qinling_falcon.models.database import connect
from qinling_falcon.observability.logs import setup_logging
from qinling_falcon.orchestrators.base import AlreadyRunning
from qinling_falcon.orchestrators.choice import make_orchestrator
from qinling_falcon.pool.claim import Claim
from qinling_falcon.pool.manager import Manager
from qinling_falcon.pool.registry import Registry
from qinling_falcon.pool.runtimes import Runtimes
from qinling_falcon.settings import Settings, SettingsError
from qinling_falcon.settings_environment import get_settings
from qinling_falcon.storage.packages import ORPHAN_AGE_S

log = logging.getLogger(__name__)

_SWEEP_INTERVAL_S = 60.0


def main() -> None:
    """Run until SIGTERM or SIGINT, then end all workers. While another pool manager is active, stand by."""
    try:
        settings = get_settings()
    except SettingsError as error:
        sys.exit(str(error))
    setup_logging(settings.log_level, "pool")
    stopping = Event()
    gevent.signal_handler(signal.SIGTERM, stopping.set)
    gevent.signal_handler(signal.SIGINT, stopping.set)
    retention.warn_if_useless(settings)
    connect(settings)
    parts = Assembly(settings, "pool")
    registry = Registry(parts.connection, settings)
    claim = Claim(registry, settings)
    # The claim comes first, because a new orchestrator ends the workers of another one in the same VAR_DIR.
    if not claim.wait(stopping):
        return
    try:
        orchestrator = make_orchestrator(settings)
    except (AlreadyRunning, SettingsError) as error:
        with contextlib.suppress(Unavailable):
            claim.resign()
        sys.exit(str(error))
    runtimes = Runtimes(registry, settings.warm_workers)
    packages, trusts = parts.packages, parts.trusts
    _start_periodic_task("executions without a process", lambda: record_overdue(settings, parts.pool.ended))
    # A crash between an upload and the commit of its function leaves the package.
    _start_periodic_task("packages of no function", lambda: packages.sweep(package_keys.in_use, ORPHAN_AGE_S))
    _start_periodic_task("packages of unknown size", lambda: package_keys.fill_sizes(packages.size))
    _start_periodic_task("old executions", lambda: _pruned(settings))
    _start_periodic_task("expired idempotency keys", _prune_keys)
    if trusts is not None:
        _start_periodic_task("trusts of no function", trusts.sweep)
    gevent.spawn(WorkerKeeper(parts.pool, parts.scaler).run, lambda: claim.held)
    gc.freeze()  # all that was imported lives as long as the process, and need not be looked at again and again
    attempts = parts.attempts
    record = functools.partial(record_lost, attempts=attempts, ended=parts.pool.ended)
    Manager(registry, orchestrator, runtimes, settings, record, claim).run(stopping)


def _start_periodic_task(what: str, sweep: Callable[[], list[str]]) -> None:
    """Start a periodic task that cleans up after crashes; `sweep` returns the names of the things that it removed."""

    def forever() -> None:
        while True:
            try:
                if found := sweep():
                    log.info("swept up %s: %s", what, ", ".join(found))
            except Unavailable as error:
                log.warning("%s can't be swept up now: %s", what, error)
            except Exception:
                log.exception("sweeping up %s failed", what)
            gevent.sleep(_SWEEP_INTERVAL_S)

    gevent.spawn(forever)


def _pruned(settings: Settings) -> list[str]:
    deleted = retention.prune(settings)
    return [str(deleted)] if deleted else []


def _prune_keys() -> list[str]:
    deleted = idempotency.prune(clock.now())
    return [str(deleted)] if deleted else []


if __name__ == "__main__":
    main()
