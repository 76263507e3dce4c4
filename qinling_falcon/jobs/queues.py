"""Queues of RQ: their names, their connection, and JSON as the one form in which tasks travel."""

from __future__ import annotations

from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from qinling_falcon.settings import Settings

# EXECUTIONS has the RQ jobs that let drains take executions, TASKS the short tasks, so that none waits behind a drain.
EXECUTIONS = "executions"
TASKS = "tasks"

# How long RQ keeps a task that has failed or whose process was lost. RQ's default is a year.
_FAILURE_TTL_S = 24 * 3600
# Above the longest time that a command of RQ waits in the server.
_SOCKET_TIMEOUT_S = 10.0
_CONNECT_TIMEOUT_S = 2.0


class JsonJob(Job):
    """A job whose arguments are always JSON, because rq-scheduler passes no serializer on.

    RQ deletes a failed job after `failure_ttl`, by default a day. The default is set here, because rq-scheduler can't
    pass it.
    """

    def __init__(self, id: str | None = None, connection: Any = None, serializer: Any = None):
        del serializer
        super().__init__(id, connection, JSONSerializer)

    @classmethod
    def create(cls, *args: Any, **options: Any) -> Job:
        """As `Job.create`, with the default of this class for `failure_ttl`."""
        options["failure_ttl"] = options.get("failure_ttl") or _FAILURE_TTL_S
        return super().create(*args, **options)


class JsonQueue(Queue):
    """A queue of `JsonJob`s."""

    job_class = JsonJob

    def __init__(self, *args: Any, **options: Any):
        options["serializer"] = JSONSerializer
        super().__init__(*args, **options)


def connect(settings: Settings) -> Redis:
    """A client for RQ and rq-scheduler. Replies are bytes, and redis-py does not retry.

    A retry could run a command twice. It would also hide an outage from the worker and the scheduler, which have loops
    of their own that retry.
    """
    return Redis.from_url(
        settings.effective_redis_url,
        decode_responses=False,
        socket_timeout=_SOCKET_TIMEOUT_S,
        socket_connect_timeout=_CONNECT_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )
