"""The `tasks` process: short tasks, which a long function never delays. `python -m workers.tasks`

It runs RQ's tasks, which are alarms that fire due jobs. It also delivers callbacks, enqueues missing drains, sweeps the
queue of executions, cancels executions of deleted functions, and sets missing alarms. Several may run. `SweepLock`
elects one of them for all but the tasks and the callbacks.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import gc
import logging
import signal
import sys
import time

import gevent
from gevent.event import Event
from redis.exceptions import RedisError

from qinling_falcon.assembly import Assembly
from qinling_falcon.errors import Unavailable
from qinling_falcon.jobs import alarms, drains, queues
from qinling_falcon.jobs.alarms import Alarms
from qinling_falcon.jobs.callbacks import Callbacks
from qinling_falcon.jobs.deleted_functions import DeletedFunctions
from qinling_falcon.jobs.drain import EXTENSIONS_PER_CLAIM
from qinling_falcon.jobs.sweep import Sweep
from qinling_falcon.jobs.sweep_lock import SweepLock
from qinling_falcon.jobs.worker import work
from qinling_falcon.models import clock, secrets_at_rest
from qinling_falcon.models.database import connect, disconnect
from qinling_falcon.observability.logs import setup_logging
from qinling_falcon.settings import Settings, SettingsError
from qinling_falcon.settings_environment import get_settings

logger = logging.getLogger(__name__)

_SWEEP_S = 1.0
_RESTORE_ALARMS_S = 10.0
_DELIVER_S = 0.5


def main() -> None:
    """Work until SIGTERM or SIGINT; a task that runs is finished first."""
    try:
        settings = get_settings()
    except SettingsError as error:
        sys.exit(str(error))
    setup_logging(settings.log_level, "tasks")
    stopping = Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(signum, stopping.set)
    connect(settings)
    try:
        secrets_at_rest.check()
    except SettingsError as error:
        sys.exit(str(error))
    except Unavailable as error:  # the process starts without the database, and needs no secret before it is there
        logger.warning("secrets are not checked", extra={"reason": str(error)})
    parts = Assembly(settings, "tasks")
    sweep = Sweep(parts.pool.ready, settings.async_claim_s, EXTENSIONS_PER_CLAIM)
    alarms.set_tick(parts.tick)
    gevent.spawn(_sweep_on, settings, sweep, DeletedFunctions(parts.pool.ended, parts.pool.ready), parts.alarms)
    gevent.spawn(_deliver_on, parts.callbacks)
    gc.freeze()  # all that was imported lives as long as the process, and need not be looked at again and again
    work(settings, queues.TASKS, stopping, lambda connection: None)
    parts.callbacks.close(settings.shutdown_grace_s)
    parts.close()
    disconnect()


def _sweep_on(settings: Settings, sweep: Sweep, deleted: DeletedFunctions, job_alarms: Alarms) -> None:
    """While elected, enqueue missing drains, sweep, cancel executions of deleted functions, and set missing alarms."""
    connection = queues.connect(settings)
    lock = SweepLock(connection)
    restored_at = -_RESTORE_ALARMS_S
    while True:
        gevent.sleep(_SWEEP_S)
        try:
            if lock.take():
                if slots := drains.restore(connection):
                    logger.info("drains were enqueued", extra={"slots": slots})
                sweep.step()
                if cancelled := deleted.step():
                    logger.info("executions of deleted functions were cancelled", extra={"count": cancelled})
                if time.monotonic() - restored_at >= _RESTORE_ALARMS_S:
                    if restored := job_alarms.restore(clock.wall()):
                        logger.info("alarms of jobs were set", extra={"count": restored})
                    restored_at = time.monotonic()
        except Exception as error:
            if isinstance(error, Unavailable | RedisError):
                logger.warning("can't sweep now", extra={"reason": str(error)})
            else:
                logger.exception("sweeping failed")
            lock.leave_to_others()


def _deliver_on(callbacks: Callbacks) -> None:
    """Deliver due callbacks every `_DELIVER_S` seconds, for ever."""
    while True:
        gevent.sleep(_DELIVER_S)
        try:
            callbacks.deliver_due()
        except Unavailable as error:
            logger.warning("can't deliver callbacks now", extra={"reason": str(error)})
        except Exception:
            logger.exception("delivering callbacks failed")


if __name__ == "__main__":
    main()
