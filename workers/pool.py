"""The `pool` process: the pool manager with the orchestrator of this host.

python -m workers.pool
"""

from gevent import monkey

monkey.patch_all()

import signal
import sys

import gevent
from gevent.event import Event

from qinling_falcon.invocation.invoker import record_lost
from qinling_falcon.models.database import connect
from qinling_falcon.observability.logs import setup_logging
from qinling_falcon.orchestrators.process.orchestrator import ProcessOrchestrator
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.manager import Manager
from qinling_falcon.pool.registry import Registry
from qinling_falcon.pool.runtimes import Runtimes
from qinling_falcon.settings import SettingsError, get_settings


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
    Manager(registry, orchestrator, runtimes, settings, record_lost).run(stopping)


if __name__ == "__main__":
    main()
