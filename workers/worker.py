"""The `worker` process: runs asynchronous executions. `python -m workers.worker`

An RQ job lets this process take executions (`jobs/drains.py`); the engine runs them as it runs calls in `web`.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import gc
import os
import signal
import sys

import gevent
from gevent.event import Event

from qinling_falcon.assembly import Assembly
from qinling_falcon.jobs import drains
from qinling_falcon.jobs.drain import Drain
from qinling_falcon.jobs.queues import EXECUTIONS
from qinling_falcon.jobs.worker import work
from qinling_falcon.models.database import connect, disconnect
from qinling_falcon.observability.logs import setup_logging
from qinling_falcon.settings import SettingsError
from qinling_falcon.settings_environment import get_settings

# Web answers callers who wait, so it goes first where both want a processor.
_NICE = 5


def main() -> None:
    """Work until SIGTERM or SIGINT. Executions in flight get `SHUTDOWN_GRACE_S` to end; the others are queued again."""
    try:
        settings = get_settings()
    except SettingsError as error:
        sys.exit(str(error))
    setup_logging(settings.log_level, "worker")
    os.nice(_NICE)
    stopping = Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(signum, stopping.set)
    connect(settings)
    parts = Assembly(settings, "worker")
    drain = Drain(parts.engine, parts.pool, parts.attempts, settings)
    gevent.spawn(_stop_taking_when, stopping, drain)
    gc.freeze()  # all that was imported lives as long as the process, and need not be looked at again and again
    work(settings, EXECUTIONS, stopping, lambda connection: drains.use(drain, connection))
    drain.finish(settings.shutdown_grace_s)
    parts.close()
    disconnect()


def _stop_taking_when(stopping: Event, drain: Drain) -> None:
    stopping.wait()
    drain.stop_taking()


if __name__ == "__main__":
    main()
