"""A tick of another process: `python -m tests.jobs.other_tick SETTINGS`, where SETTINGS are JSON.

It writes `ready`, waits for a line, fires what is due at the time in this line, writes the number of executions, and
so on, until its input ends.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from qinling_falcon.jobs import queues
from qinling_falcon.jobs.alarms import Alarms
from qinling_falcon.models import database
from qinling_falcon.settings import Settings
from tests.jobs.bench import Bench, Clock, utc


def main() -> None:
    """Tick as often as asked for."""
    given = json.loads(sys.argv[1])
    settings = Settings(var_dir=Path(given["var_dir"]), database_url=given["database_url"])
    database.connect(settings)
    clock = Clock()
    bench = Bench(settings, Alarms(queues.connect(Settings(redis_url=given["redis_url"]))), clock)
    print("ready", flush=True)
    for line in sys.stdin:
        clock.now = utc(line.strip())
        print(bench.run(), flush=True)
    database.disconnect()


if __name__ == "__main__":
    main()
