"""An rq-scheduler that survives outages of Redis and entries that can't be read."""

from __future__ import annotations

import logging
import threading
import time
import uuid

import redis.exceptions
from redis import Redis
from rq.exceptions import NoSuchJobError
from rq_scheduler import Scheduler

from qinling_falcon.jobs.queues import TASKS, JsonJob, JsonQueue

logger = logging.getLogger(__name__)

_INTERVAL_S = 1
_RETRY_S = 0.5
# A turn begins this long after a whole second, so that a `tasks` process whose clock is a little behind finds the jobs
# due.
_INTO_SECOND_S = 0.005
# When the lock of a killed scheduler expires. Two turns at once do no harm.
_LOCK_MS = 2000
# How long an entry waits after it could not be read or queued.
_DEFER_S = 60
_BATCH = 1000

_RELEASE_LOCK = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"


class DueScheduler(Scheduler):  # type: ignore[misc]  # rq_scheduler has no types
    """Moves due entries to their queues, at the beginning of every second, because entries are due at whole seconds.

    Several may run: they take turns by a lock that only its holder removes.

    Args:
        connection: as `queues.connect` makes it.
    """

    def __init__(self, connection: Redis):
        super().__init__(
            TASKS, interval=_INTERVAL_S, connection=connection, job_class=JsonJob, queue_class=JsonQueue
        )
        self._stopping = threading.Event()
        self._token = uuid.uuid4().hex

    def stop(self) -> None:
        """End `run()` before its next turn."""
        self._stopping.set()

    def run(self, burst: bool = False) -> None:
        """Take turn after turn until `stop()`; while Redis is away, try again until it is back.

        Args:
            burst: take one turn, and return.
        """
        healthy = False
        while not self._stopping.is_set():
            try:
                if not healthy:
                    self._register()
                    logger.info("scheduling", extra={"scheduler": self.name})
                healthy = True
                self._turn()
            except redis.exceptions.RedisError as error:
                if healthy:
                    logger.warning("waiting for Redis", extra={"reason": str(error)})
                healthy = False
            if burst:
                return
            self._stopping.wait(_until_next_second() if healthy else _RETRY_S)
        if healthy:
            self._unregister()

    def acquire_lock(self) -> bool:
        """Take the lock of this turn; it runs out by itself when its holder dies."""
        self._lock_acquired = bool(self.connection.set(self.scheduler_lock_key, self._token, px=_LOCK_MS, nx=True))
        return self._lock_acquired

    def remove_lock(self) -> None:
        """Release the lock, if this scheduler still holds it."""
        if self._lock_acquired:
            self._lock_acquired = False
            self.connection.eval(_RELEASE_LOCK, 1, self.scheduler_lock_key, self._token)

    def enqueue_jobs(self) -> list[str]:
        """Move due entries to their queues, each by itself: one that fails is put off, and the others go on.

        Returns:
            ids of the jobs that were queued.
        """
        queued = []
        due = self.connection.zrangebyscore(self.scheduled_jobs_key, 0, time.time(), start=0, num=_BATCH)
        for raw in due:
            job_id = raw.decode()
            try:
                self.enqueue_job(self.job_class.fetch(job_id, connection=self.connection))
                queued.append(job_id)
            except redis.exceptions.RedisError:
                raise
            except NoSuchJobError:
                self.cancel(job_id)
            except Exception:
                logger.exception("an entry can't be queued", extra={"job_id": job_id, "again_in_s": _DEFER_S})
                self.connection.zadd(self.scheduled_jobs_key, {job_id: time.time() + _DEFER_S}, xx=True)
        return queued

    def _turn(self) -> None:
        if not self.connection.exists(self.key):
            self._register()  # Redis was wiped
        self.heartbeat()
        if self.acquire_lock():
            try:
                self.enqueue_jobs()
            finally:
                self.remove_lock()

    def _register(self) -> None:
        self.connection.delete(self.key)  # no other scheduler has it, because the name is random
        self.register_birth()

    def _unregister(self) -> None:
        try:
            self.register_death()
        except redis.exceptions.RedisError as error:
            logger.info("the scheduler is not unregistered", extra={"reason": str(error)})


def _until_next_second() -> float:
    """How many seconds it takes until the next whole second has just begun."""
    return 1.0 - time.time() % 1.0 + _INTO_SECOND_S
