"""The worker process: `python -m workers.worker` runs the tasks of RQ's queues."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import logging
import signal
import sys

import gevent
import redis.exceptions
from gevent.event import Event

from qinling_falcon.jobs.queues import connect
from qinling_falcon.jobs.worker import GeventWorker
from qinling_falcon.observability.logs import setup_logging
from qinling_falcon.settings import Settings, SettingsError, get_settings

logger = logging.getLogger(__name__)

_RETRY_S = 0.5


def main() -> None:
    """Work until SIGTERM or SIGINT; a task that runs is finished first."""
    try:
        settings = get_settings()
    except SettingsError as error:
        sys.exit(str(error))
    setup_logging(settings.log_level, "worker")
    stopping = Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(signum, stopping.set)
    healthy = True
    while not stopping.is_set():
        try:
            _work(settings, stopping)
            healthy = True
        except redis.exceptions.RedisError as error:
            if healthy:
                logger.warning("waiting for Redis", extra={"reason": str(error)})
            healthy = False
        if not stopping.is_set():
            stopping.wait(_RETRY_S)


def _work(settings: Settings, stopping: Event) -> None:
    """Run one RQ worker until it is to stop, or Redis fails it."""
    connection = connect(settings)
    try:
        worker = GeventWorker(connection)
        stopper = gevent.spawn(_stop_when, stopping, worker)
        try:
            worker.work()
        finally:
            stopper.kill()
    finally:
        connection.close()


def _stop_when(stopping: Event, worker: GeventWorker) -> None:
    stopping.wait()
    worker.stop()


if __name__ == "__main__":
    main()
