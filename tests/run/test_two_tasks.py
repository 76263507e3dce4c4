"""Two `tasks` processes on one Valkey: one of them sweeps and sets the alarms of jobs, and no other one is held up."""

from __future__ import annotations

import contextlib
import datetime
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qinling_falcon.jobs.queues import connect
from qinling_falcon.jobs.scheduler import DueScheduler
from qinling_falcon.models import clock, database, job
from qinling_falcon.models.scope import Context
from qinling_falcon.settings import Settings
from tests.integration.service import ROOT, wait_until
from tests.models.factories import make_function, make_runtime
from tests.servers.valkey import valkey
from tests.support.tables import make_tables

OWNER = Context("project-a", is_admin=True)
NO_DATABASE = "postgresql://127.0.0.1:1/nothing"


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """The settings of a service with a due job whose alarm is missing."""
    with valkey() as url:
        made = Settings(var_dir=tmp_path, redis_url=url)
        make_tables(made)
        database.connect(made)
        function = make_function(OWNER, make_runtime(OWNER).id)
        now = clock.now()
        job.create(OWNER, function_id=function.id, first_execution_time=now + datetime.timedelta(seconds=100), now=now)
        database.disconnect()
        yield made


@contextlib.contextmanager
def tasks(settings: Settings, database_url: str) -> Iterator[Path]:
    """A `tasks` process. Gives its log."""
    log = settings.var_dir / f"tasks-{'lost' if database_url else 'sound'}.log"
    given = {"REDIS_URL": settings.redis_url, "VAR_DIR": str(settings.var_dir), "DATABASE_URL": database_url}
    with log.open("wb") as file:
        running = subprocess.Popen(
            [sys.executable, "-m", "workers.tasks"],
            cwd=ROOT,
            env={**os.environ, **given},
            stdin=subprocess.DEVNULL,
            stderr=file,
        )
    try:
        yield log
    finally:
        running.kill()
        running.wait()


def test_a_process_that_has_lost_the_database_does_not_keep_another_one_from_sweeping(settings: Settings) -> None:
    client: Any = connect(settings)
    with tasks(settings, NO_DATABASE) as log, contextlib.closing(client):
        wait_until("the first one has the lock", lambda: "can't sweep now" in log.read_text())
        with tasks(settings, ""):
            wait_until("the alarm is set", lambda: client.zcard(DueScheduler.scheduled_jobs_key) == 1)
