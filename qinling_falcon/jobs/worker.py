"""An RQ worker for gevent: no forks, no SIGALRM, an end in order whether busy or idle."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event
from redis import Redis
from redis.exceptions import RedisError
from rq import SimpleWorker
from rq.exceptions import DequeueTimeout, StopRequested
from rq.job import Job
from rq.queue import Queue
from rq.timeouts import BaseDeathPenalty
from rq.worker import WorkerStatus

from qinling_falcon.jobs.queues import JsonJob, JsonQueue, connect
from qinling_falcon.settings import Settings

logger = logging.getLogger(__name__)

_POLL_S = 1
_RETRY_S = 0.5
_WORKER_TTL_S = 30
_MAINTENANCE_INTERVAL_S = 30
_JOB_MONITORING_INTERVAL_S = 5


class NoDeathPenalty(BaseDeathPenalty):
    """Sets no deadline of RQ, because its signal would hit the greenlet that runs. The engine has its own deadlines."""

    def setup_death_penalty(self) -> None:
        """Set nothing up."""

    def cancel_death_penalty(self) -> None:
        """Cancel nothing."""


class GeventWorker(SimpleWorker):
    """Runs the tasks of one queue, one after another, in this process.

    Args:
        connection: as `queues.connect` makes it.
        queue: the name of the queue.
    """

    death_penalty_class = NoDeathPenalty
    job_class = JsonJob
    queue_class = JsonQueue

    def __init__(self, connection: Redis, queue: str):
        super().__init__(
            [queue],
            connection=connection,
            serializer="json",
            worker_ttl=_WORKER_TTL_S,
            maintenance_interval=_MAINTENANCE_INTERVAL_S,
            job_monitoring_interval=_JOB_MONITORING_INTERVAL_S,
        )

    def stop(self) -> None:
        """End `work()`: after the task that runs, or within a second when there is none."""
        self._stop_requested = True

    def get_heartbeat_ttl(self, job: Job) -> int:
        """After how many seconds the key of a process that is killed during a task expires. By default it is 420."""
        return _WORKER_TTL_S

    def subscribe(self) -> None:
        """Do nothing. This process is stopped by a signal, and RQ's listener would outlive its connection."""

    def unsubscribe(self) -> None:
        """As `subscribe`."""

    def _install_signal_handlers(self) -> None:
        """Do nothing, because the process handles its signals. RQ's handler would switch greenlets."""

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """Wait for a task, and check for a stop once a second. No task is taken and then dropped.

        Trouble with Redis ends `work()`: its caller makes a new worker when Redis is back. A burst (no `timeout`)
        returns None when the queues are empty.
        """
        try:
            return self._dequeue(timeout)
        except RedisError as error:
            self.log.warning("Worker %s: Redis fails: %s", self.name, error)
            raise StopRequested from error

    def _dequeue(self, timeout: int | None) -> tuple[Job, Queue] | None:
        self.set_state(WorkerStatus.IDLE)
        while not self._stop_requested:
            self._register_again_if_lost()
            self.heartbeat()
            if self.should_run_maintenance_tasks:
                self.run_maintenance_tasks()  # type: ignore[no-untyped-call]  # RQ has no type for it
            try:
                found: Any = self.queue_class.dequeue_any(
                    self._ordered_queues,
                    None if timeout is None else _POLL_S,
                    connection=self.connection,
                    job_class=self.job_class,
                    serializer=self.serializer,
                    death_penalty_class=self.death_penalty_class,
                )
            except DequeueTimeout:
                continue
            if found is None:
                return None
            job, queue = found
            job.redis_server_version = self.get_redis_server_version()  # type: ignore[no-untyped-call]  # as above
            self.log.info("Worker %s: %s: %s", self.name, queue.name, job.id)
            return job, queue
        raise StopRequested

    def _register_again_if_lost(self) -> None:
        """Redis may have been wiped: put this worker back into RQ's list of workers."""
        if not self.connection.hexists(self.key, "birth"):
            self.connection.delete(self.key)
            self.register_birth()  # type: ignore[no-untyped-call]  # as above
            self.set_state(WorkerStatus.IDLE)


def work(settings: Settings, queue: str, stopping: Event, connected: Callable[[Redis], None]) -> None:
    """Run the tasks of a queue until `stopping` is set. While Redis is away, try again until it is back.

    Args:
        settings: the address of Redis.
        queue: the name of the queue.
        stopping: ends this after the task that runs.
        connected: gets each new connection before it is used.
    """
    healthy = True
    while not stopping.is_set():
        try:
            _work_once(settings, queue, stopping, connected)
            healthy = True
        except RedisError as error:
            if healthy:
                logger.warning("waiting for Redis", extra={"reason": str(error)})
            healthy = False
        if not stopping.is_set():
            stopping.wait(_RETRY_S)


def _work_once(settings: Settings, queue: str, stopping: Event, connected: Callable[[Redis], None]) -> None:
    """Run one RQ worker until it is to stop, or Redis fails it."""
    connection = connect(settings)
    try:
        connected(connection)
        worker = GeventWorker(connection, queue)
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
