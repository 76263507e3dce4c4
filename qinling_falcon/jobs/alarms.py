"""Alarms: entries of rq-scheduler that let a `tasks` process fire the jobs that are due.

The rows of the jobs say when they are due (`models/due_jobs.py`), and an alarm only wakes the process that looks. There
is one alarm for each second in which a job is due, however many jobs that are. Its id is made from the second, so
setting it again changes nothing. A lost alarm is set again by `restore`, and one too many finds nothing to do. For
overdue jobs, `restore` needs no scheduler.

Alarms are set for the next `_HORIZON` only: when a job is created or changed, when a job has fired, and by `restore`.
"""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import gevent
from redis import Redis
from redis.exceptions import RedisError
from rq_scheduler import Scheduler

from qinling_falcon.errors import Unavailable
from qinling_falcon.jobs.queues import TASKS, JsonJob, JsonQueue
from qinling_falcon.models import clock, due_jobs

if TYPE_CHECKING:
    from qinling_falcon.jobs.tick import Tick  # which sets alarms

logger = logging.getLogger(__name__)

_PATH = "qinling_falcon.jobs.alarms.ring"
# `restore` runs every 10 s, so an alarm is usually set long before it is due.
_HORIZON = datetime.timedelta(seconds=150)
_SECOND = datetime.timedelta(seconds=1)
_RETRY = datetime.timedelta(seconds=2)
# An alarm that rings too early waits for so long, at most: clocks of two machines differ.
_MOST_EARLY_S = 2.0

_tick: Tick | None = None


class Alarms:
    """Sets alarms.

    Args:
        connection: as `queues.connect` makes it.
    """

    def __init__(self, connection: Redis):
        self._connection = connection
        self._tasks = JsonQueue(TASKS, connection=connection)
        self._scheduler = Scheduler(TASKS, connection=connection, job_class=JsonJob, queue_class=JsonQueue)
        self._announced: set[int] = set()
        self._is_setting = False

    def set(self, moments: Iterable[datetime.datetime], now: datetime.datetime) -> None:
        """Set alarms for those of the moments that are within the horizon. One that has passed rings at once.

        Raises:
            RedisError: Redis is away. `restore` sets them later.
        """
        seconds = {_rounded_up(max(moment, now)) for moment in moments if moment <= now + _HORIZON}
        for second in sorted(seconds):
            self._set(second)

    def announce(self, moment: datetime.datetime) -> None:
        """Set an alarm without waiting for Redis. If that fails, `restore` sets it.

        While Redis hangs, one greenlet waits for it. Announced seconds are a set within the horizon, so they stay few.
        """
        now = clock.wall()
        if moment <= now + _HORIZON:
            self._announced.add(_rounded_up(max(moment, now)))
            if not self._is_setting:
                self._is_setting = True
                gevent.spawn(self._set_announced)

    def restore(self, now: datetime.datetime) -> int:
        """Set missing alarms within the horizon, and ring at once if jobs are overdue. Returns how many were missing.

        Raises:
            Unavailable: the database is away.
            RedisError: Redis is away.
        """
        if due_jobs.is_any_due(now - _SECOND):
            # Not by the scheduler: it may be away, or its clock behind.
            second = _rounded_up(now)
            self._tasks.enqueue(_PATH, second, job_id=_alarm_id(second), result_ttl=0)
        seconds = due_jobs.due_seconds(now, now + _HORIZON)
        if not seconds:
            return 0
        scores = self._connection.zmscore(self._scheduler.scheduled_jobs_key, [_alarm_id(second) for second in seconds])
        missing = [second for second, score in zip(seconds, scores, strict=True) if score is None]
        for second in missing:
            self._set(second)
        return len(missing)

    def _set(self, second: int) -> None:
        self._scheduler.enqueue_at(_moment(second), _PATH, second, job_id=_alarm_id(second), job_result_ttl=0)

    def _set_announced(self) -> None:
        try:
            while self._announced:
                self._set(self._announced.pop())
        except RedisError as error:
            self._announced.clear()
            logger.warning("alarms are not set yet", extra={"reason": str(error)})
        finally:
            self._is_setting = False


def set_tick(tick: Tick) -> None:
    """Set the tick of this process. RQ can't pass it to a task."""
    global _tick
    _tick = tick


def ring(second: int) -> None:
    """Fire due jobs. RQ runs this in a `tasks` process. It never raises, because RQ keeps failed tasks for a day.

    Args:
        second: the second of the alarm.
    """
    assert _tick is not None
    try:
        _wait_for(second, _tick.now)
        _tick.run()
    except Unavailable as error:
        logger.warning("jobs can't be fired now", extra={"reason": error.message})
        _tick.set_alarm_in(_RETRY)
    except Exception:
        logger.exception("firing jobs failed")


def _wait_for(second: int, now: Callable[[], datetime.datetime]) -> None:
    """Wait while this machine's clock is behind that of the scheduler."""
    ends_at = time.monotonic() + _MOST_EARLY_S
    while (early_s := (_moment(second) - now()).total_seconds()) > 0:
        left_s = ends_at - time.monotonic()
        if early_s > left_s:
            logger.warning("the scheduler's clock is ahead of this one", extra={"early_s": round(early_s, 1)})
            return  # `restore` sets an alarm when the jobs are overdue
        gevent.sleep(early_s)


def _moment(second: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(second, datetime.UTC)


def _alarm_id(second: int) -> str:
    return f"alarm-{second}"


def _rounded_up(moment: datetime.datetime) -> int:
    """The second, since the epoch, in which an alarm for the moment rings: not before it."""
    return -(-clock.to_micros(moment) // 1_000_000)
