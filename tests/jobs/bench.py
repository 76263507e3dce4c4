"""A tick and its surroundings, with a clock that tests set."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Any

from qinling_falcon.errors import QuotaExceeded
from qinling_falcon.jobs.alarms import Alarms
from qinling_falcon.jobs.tick import Tick
from qinling_falcon.models import database, job
from qinling_falcon.models.clock import EPOCH
from qinling_falcon.models.database import transact
from qinling_falcon.models.internal_tables import QueuedExecution
from qinling_falcon.models.scope import Context
from qinling_falcon.models.tables import Execution, Job
from qinling_falcon.settings import Settings

OWNER = Context("project-a")
MINUTE = datetime.timedelta(minutes=1)
SECOND = datetime.timedelta(seconds=1)


def utc(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)


class Clock:
    """A clock that stands still until a test sets it."""

    def __init__(self) -> None:
        self.now = utc("2026-11-23 12:00:30")

    def __call__(self) -> datetime.datetime:
        return self.now


class Ready:
    """The ready sets of a test: notes what is pushed, and has as much room as the test says.

    Attributes:
        left: how many more executions of each project may wait.
    """

    def __init__(self) -> None:
        self.pushed: list[str] = []
        self.left = 1_000_000

    def room(self, project_id: str, limit: int) -> int:
        return self.left

    def push_all(self, project_id: str, executions: Iterable[tuple[str, str, int]]) -> None:
        self.pushed += [execution_id for _, execution_id, _ in executions]


class _Use:
    """A reservation, as `ExecutionQuota` counts it."""

    in_flight = 0
    recorded = 0


class Quota:
    """A quota of executions of which a test says how much is left.

    Attributes:
        left: how many executions all projects together may have.
        full: projects that have reached their quota.
    """

    def __init__(self) -> None:
        self.left = 1_000_000
        self.full: set[str] = set()

    def refresh_limits(self, project_ids: Iterable[str]) -> None:
        """Do nothing: the limits are those that the test says."""

    def admit(self, project_id: str) -> _Use:
        if self.left == 0 or project_id in self.full:
            raise QuotaExceeded("executions", 10, 10)
        self.left -= 1
        return _Use()


class Bench:
    """A tick on a real database and a real Valkey."""

    def __init__(self, settings: Settings, alarms: Alarms, clock: Clock):
        self.settings, self.alarms, self.clock = settings, alarms, clock
        self.ready, self.quota = Ready(), Quota()

    def tick(self) -> Tick:
        """The tick of another process."""
        quota: Any = self.quota
        ready: Any = self.ready
        return Tick(ready, quota, self.alarms, self.settings, self.clock)

    def run(self) -> int:
        """Tick. Returns how many executions were made."""
        before = len(self.ready.pushed)
        self.tick().run()
        return len(self.ready.pushed) - before

    def run_at(self, text: str) -> int:
        """Tick at this time."""
        self.clock.now = utc(text)
        return self.run()

    def job(self, function_id: str, /, **fields: Any) -> str:
        """The id of a job that fires every minute."""
        given: dict[str, Any] = {"function_id": function_id, "now": self.clock.now}
        if "first_execution_time" not in fields:
            given["pattern"] = "* * * * *"
        return job.create(OWNER, **(given | fields)).id


def row(job_id: str) -> Job:
    return job.get(OWNER, job_id)


def set_row(job_id: str, **columns: Any) -> None:
    """Change columns of a job, as nothing but a test does."""
    transact(lambda: Job.update(**columns).where(Job.id == job_id).execute())


def executions() -> list[Execution]:
    """All executions, in the order of their creation."""
    with database.reading():
        return list(Execution.select().order_by(Execution.created_at, Execution.id))


def fired_at() -> list[datetime.datetime]:
    """When executions were created."""
    return [execution.created_at for execution in executions()]


def queued() -> set[str]:
    with database.reading():
        return {one.id for one in QueuedExecution.select()}


def end_all() -> None:
    """End all executions, as if they had run."""

    def write() -> None:
        QueuedExecution.delete().execute()
        Execution.update(status="success").execute()

    transact(write)


def due_time(execution: Execution) -> datetime.datetime:
    """The due time in the id of a job's execution."""
    number = int(execution.id.replace("-", ""), 16)
    return EPOCH + datetime.timedelta(microseconds=(number >> 80) * 1000 + (number >> 66 & 0x3FF))
