"""The reference for draining: an RQ worker with one RQ job for each execution, on the same engine.

    python -m benchmarks.one_job_each            run jobs until SIGTERM
    enqueue(settings, ids)                       make a job for each execution
"""

from gevent import monkey

if __name__ == "__main__":
    monkey.patch_all()

import signal
from datetime import timedelta

import gevent
from gevent.event import Event

from qinling_falcon.assembly import Assembly
from qinling_falcon.invocation.calls import Accepted, Call
from qinling_falcon.jobs.queues import JsonQueue, connect
from qinling_falcon.jobs.worker import work
from qinling_falcon.models import clock, database, execution_queue
from qinling_falcon.observability.logs import setup_logging
from qinling_falcon.settings import Settings
from qinling_falcon.settings_environment import get_settings

QUEUE = "one-job-each"
_parts: Assembly | None = None


def run(execution_id: str) -> None:
    """Claim and run one execution."""
    assert _parts is not None
    now = clock.now()
    for it in execution_queue.claim([execution_id], now, now + timedelta(minutes=1)):
        call = Call(it.function_id, it.function_version, input=it.input, request_id=it.request_id or "")
        _parts.engine.run(call, Accepted(it.id, it.project_id, it.function_id, it.created_at, it.attempt, it.claim))


def enqueue(settings: Settings, ids: list[str]) -> None:
    """Make an RQ job for each execution."""
    connection = connect(settings)
    queue = JsonQueue(QUEUE, connection=connection)
    prepared = [
        JsonQueue.prepare_data("benchmarks.one_job_each.run", args=(execution_id,), result_ttl=0, timeout=60)
        for execution_id in ids
    ]
    queue.enqueue_many(prepared)
    connection.close()


def main() -> None:
    global _parts
    from benchmarks import one_job_each

    settings = get_settings()
    setup_logging("warning", "one-job-each")
    database.connect(settings)
    one_job_each._parts = _parts = Assembly(settings, "worker")
    stopping = Event()
    gevent.signal_handler(signal.SIGTERM, stopping.set)
    work(settings, QUEUE, stopping, lambda connection: None)
    _parts.close()


if __name__ == "__main__":
    main()
