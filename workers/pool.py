"""The `pool` process: the pool manager with the orchestrator of this host.

python -m workers.pool
"""

from gevent import monkey

monkey.patch_all()

import logging
import signal
import sys

import gevent
from gevent.event import Event

from qinling_falcon.errors import Unavailable
from qinling_falcon.invocation.calls import record_lost, record_overdue
from qinling_falcon.models import package_keys
from qinling_falcon.models.database import connect
from qinling_falcon.observability.logs import setup_logging
from qinling_falcon.orchestrators.process.orchestrator import ProcessOrchestrator
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.manager import Manager
from qinling_falcon.pool.registry import Registry
from qinling_falcon.pool.runtimes import Runtimes
from qinling_falcon.settings import Settings, SettingsError, get_settings
from qinling_falcon.storage.packages import PackageStore
from qinling_falcon.storage.stores import make_packages

log = logging.getLogger(__name__)

_SWEEP_INTERVAL_S = 60.0
# Longer than any upload takes from its last byte to the commit of its function.
_ORPHAN_AGE_S = 3600.0


def main() -> None:
    """Run until SIGTERM or SIGINT, then end all workers."""
    try:
        settings = get_settings()
    except SettingsError as error:
        sys.exit(str(error))
    setup_logging(settings.log_level, "pool")
    stopping = Event()
    gevent.signal_handler(signal.SIGTERM, stopping.set)
    gevent.signal_handler(signal.SIGINT, stopping.set)
    connect(settings)
    registry = Registry(PipelinedConnection(settings.effective_redis_url), settings)
    orchestrator = ProcessOrchestrator(settings)
    runtimes = Runtimes(registry, settings.warm_workers)
    gevent.spawn(_sweep, settings, make_packages(settings))
    if settings.auth_mode == "keystone":
        gevent.spawn(_sweep_trusts, settings)
    Manager(registry, orchestrator, runtimes, settings, record_lost).run(stopping)


def _sweep(settings: Settings, packages: PackageStore) -> None:
    """Set right, now and then, what crashes have left in the database and among the packages."""
    while True:
        try:
            if overdue := record_overdue(settings):
                log.warning("recorded executions that nobody runs any more: %s", ", ".join(overdue))
            # A crash between an upload and the commit of its function leaves the package.
            if removed := packages.sweep(package_keys.in_use, _ORPHAN_AGE_S):
                log.info("removed packages of no function: %s", ", ".join(removed))
        except Unavailable as error:
            log.warning("nothing can be swept now: %s", error)
        except Exception:
            log.exception("a sweep failed")
        gevent.sleep(_SWEEP_INTERVAL_S)


def _sweep_trusts(settings: Settings) -> None:
    """Delete, now and then, the trusts that are left: of functions that went while Keystone or their process did."""
    from qinling_falcon.auth.trusts import Trusts  # 800 modules that noauth has no use for

    trusts = Trusts(settings)
    while True:
        try:
            if gone := trusts.sweep():
                log.info("deleted trusts of no function: %s", ", ".join(gone))
        except Unavailable as error:
            log.warning("no trusts can be swept now: %s", error)
        except Exception:
            log.exception("a sweep of trusts failed")
        gevent.sleep(_SWEEP_INTERVAL_S)


if __name__ == "__main__":
    main()
