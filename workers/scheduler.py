"""The scheduler process: `python -m workers.scheduler` wakes what is due."""

from __future__ import annotations

import signal
import sys

from qinling_falcon.jobs.queues import connect
from qinling_falcon.jobs.scheduler import DueScheduler
from qinling_falcon.observability.logs import setup_logging
from qinling_falcon.settings import SettingsError
from qinling_falcon.settings_environment import get_settings


def main() -> None:
    """Schedule until SIGTERM or SIGINT."""
    try:
        settings = get_settings()
    except SettingsError as error:
        sys.exit(str(error))
    setup_logging(settings.log_level, "scheduler")
    scheduler = DueScheduler(connect(settings))
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: scheduler.stop())
    scheduler.run()


if __name__ == "__main__":
    main()
