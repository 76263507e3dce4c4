"""Fires due jobs, in batches. An alarm (`alarms`) starts it in a `tasks` process.

Several ticks may run at the same time, in one process or in many: each job and due time is fired by one of them
(`models/due_jobs.py`). If the process dies, there are four cases:

1. Before a batch is committed: its jobs are still due. RQ has taken the alarm from its queue, so `Alarms.restore` sets
   another one.
2. After the commit: the executions are queued, and the sweep adds them to the ready sets.
3. After they were added: the alarms of the next times are missing, and `Alarms.restore` sets them.
4. After that: nothing is missing.
"""

from __future__ import annotations

import datetime
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from operator import itemgetter

from redis.exceptions import RedisError

from qinling_falcon.errors import QuotaExceeded, Unavailable
from qinling_falcon.invocation.execution_quota import ExecutionQuota, Reservation
from qinling_falcon.jobs.alarms import Alarms
from qinling_falcon.models import clock, cooperation, due_jobs
from qinling_falcon.models.due_jobs import DueJob, Fired, Plan
from qinling_falcon.models.zones import next_fire
from qinling_falcon.pool.ready_sets import ReadySets
from qinling_falcon.pool.wire import PoolUnavailable
from qinling_falcon.settings import Settings

logger = logging.getLogger(__name__)

# The jobs of one transaction, and the length of their inputs in bytes: other writers wait for it, and it is in memory.
_BATCH = 500
_BATCH_BYTES = 4 * 1024 * 1024
# About this many due jobs are in memory at once. They are read again after `_TURN_S` seconds, because jobs of projects
# that have used less may have become due.
_MOST_FOUND = 10_000
_TURN_S = 1.0
# What firing a job costs, beside its input, as bytes of input.
_COST = 4096
# A line of the log names so many jobs, at most.
_MOST_LOGGED = 20
# Other greenlets have a turn after so many seconds of computing.
_PAUSE_AFTER_S = 0.005


class Tick:
    """Fires the jobs of all projects.

    Args:
        ready: the ready sets, to which the executions are added.
        quota: the quotas of executions.
        alarms: wakes the tick of the next times.
        settings: the limits.
        now: gives the present; `alarms.ring` reads it, too.
    """

    def __init__(
        self,
        ready: ReadySets,
        quota: ExecutionQuota,
        alarms: Alarms,
        settings: Settings,
        now: Callable[[], datetime.datetime] = clock.wall,
    ):
        self._ready = ready
        self._quota = quota
        self._alarms = alarms
        self._queue_limit = settings.async_queue_limit
        self._grace = datetime.timedelta(seconds=settings.job_misfire_grace_s)
        self.now = now

    def run(self) -> None:
        """Fire all jobs that are due.

        Raises:
            Unavailable: the database is away; call this again later.
        """
        tried: set[tuple[str, datetime.datetime]] = set()
        while True:
            due = self._untried(tried)
            if not due:
                return
            ends_at = time.monotonic() + _TURN_S
            for batch in _batches(_in_turn(due)):
                tried.update((job.id, job.next_execution_time) for job in batch)
                self._fire(batch, self.now())
                if time.monotonic() >= ends_at:
                    break

    def _untried(self, tried: Collection[tuple[str, datetime.datetime]]) -> list[DueJob]:
        """Read due jobs page by page, and leave out those tried in this run.

        `skip` jobs without room stay due and would fill every page.
        """
        found: list[DueJob] = []
        page: list[DueJob] = []
        while len(found) < _MOST_FOUND:
            page = due_jobs.find(self.now(), _MOST_FOUND, page[-1] if page else None)
            found += [job for job in page if (job.id, job.next_execution_time) not in tried]
            if len(page) < _MOST_FOUND:
                break
        return found

    def set_alarm_in(self, pause: datetime.timedelta) -> None:
        """Set an alarm after a pause. If Redis is away, `Alarms.restore` sets one later."""
        now = self.now()
        self._set_alarms((now + pause,), now)

    def _fire(self, due: Sequence[DueJob], now: datetime.datetime) -> None:
        """Fire a batch. If one of its jobs makes that fail, fire the others."""
        halves: Sequence[Sequence[DueJob]] = ()
        try:
            self._fire_together(due, now)
        except Unavailable:
            raise
        except Exception:
            if len(due) == 1:
                logger.exception("a job can't be fired", extra={"job_id": due[0].id})
            else:
                halves = due[: len(due) // 2], due[len(due) // 2 :]
        for half in halves:
            self._fire(half, now)

    def _fire_together(self, due: Sequence[DueJob], now: datetime.datetime) -> None:
        with ExitStack() as stack:
            reserved = self._reserve(due, stack)
            rooms = {project_id: len(reservations) for project_id, reservations in reserved.items()}
            fired = due_jobs.fire([job.id for job in due], Plan(now, self._grace, _next_times(due, now), rooms))
            for project_id, _, _ in fired.executions:
                reserved[project_id].pop().recorded()
        self._push(fired, now)
        self._set_alarms(fired.next_times, now)
        for skip in set(fired.skips.values()):
            ids = [job_id for job_id, why in fired.skips.items() if why is skip]
            about = {"reason": skip.value, "count": len(ids), "job_ids": ids[:_MOST_LOGGED]}
            logger.info("jobs did not fire", extra=about)

    def _reserve(self, due: Sequence[DueJob], stack: ExitStack) -> dict[str, list[Reservation]]:
        """Reserve a place in the quota of executions for each job that has room, until `stack` is closed."""
        reserved: dict[str, list[Reservation]] = {}
        projects = Counter(job.project_id for job in due)
        # A call learns of a changed limit when it resolves its target, but a tick resolves no targets.
        self._quota.refresh_limits(projects)
        for project_id, wanted in projects.items():
            mine = reserved[project_id] = []
            try:
                for _ in range(min(wanted, self._room(project_id))):
                    reservation = stack.enter_context(Reservation(self._quota))
                    reservation.take(project_id)
                    mine.append(reservation)
            except QuotaExceeded as error:
                logger.info("a quota keeps jobs from firing", extra={"project_id": project_id, "reason": error.message})
        return reserved

    def _room(self, project_id: str) -> int:
        """How many executions may be queued."""
        try:
            return self._ready.room(project_id, self._queue_limit)
        except PoolUnavailable:  # the queue is in the database, and fires need no Redis
            return self._queue_limit

    def _push(self, fired: Fired, now: datetime.datetime) -> None:
        by_project: defaultdict[str, list[tuple[str, str, int]]] = defaultdict(list)
        for project_id, function_id, execution_id in fired.executions:
            by_project[project_id].append((function_id, execution_id, clock.to_micros(now)))
        try:
            for project_id, executions in by_project.items():
                self._ready.push_all(project_id, executions)
        except PoolUnavailable as error:
            logger.warning("executions of jobs are queued by the sweep", extra={"reason": error.message})

    def _set_alarms(self, moments: Collection[datetime.datetime], now: datetime.datetime) -> None:
        try:
            self._alarms.set(moments, now)
        except RedisError as error:
            logger.warning("alarms are not set yet", extra={"reason": str(error)})


def _in_turn(due: Sequence[DueJob]) -> list[DueJob]:
    """The jobs in the order in which they fire: a project with many jobs, or with large inputs, delays no other one."""
    costs: defaultdict[str, int] = defaultdict(int)
    ordered = []
    for job in due:
        costs[job.project_id] += _COST + job.input_size
        ordered.append((costs[job.project_id], job))
    return [job for _, job in sorted(ordered, key=itemgetter(0))]


def _batches(due: Sequence[DueJob]) -> Iterator[list[DueJob]]:
    """The jobs in batches, each of one transaction."""
    batch: list[DueJob] = []
    size = 0
    for job in due:
        if batch and (len(batch) == _BATCH or size + job.input_size > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(job)
        size += job.input_size
    yield batch


def _next_times(due: Sequence[DueJob], now: datetime.datetime) -> dict[tuple[str, str], datetime.datetime | None]:
    """The next time of each pattern in each zone."""
    times: dict[tuple[str, str], datetime.datetime | None] = {}
    pause_at = time.monotonic() + _PAUSE_AFTER_S
    for job in due:
        if job.pattern is None or (job.pattern, job.timezone) in times:
            continue
        try:
            times[job.pattern, job.timezone] = next_fire(job.pattern, job.timezone, now)
        except Exception:
            logger.exception("the next time of a job can't be computed", extra={"job_id": job.id})
            times[job.pattern, job.timezone] = None
        if time.monotonic() >= pause_at:
            cooperation.pause()
            pause_at = time.monotonic() + _PAUSE_AFTER_S
    return times
