"""The worker and scheduler processes on a real Valkey: tasks run, and nothing short of a signal ends them."""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from qinling_falcon.jobs.queues import EXECUTIONS, TASKS, JsonJob, JsonQueue, connect
from qinling_falcon.jobs.scheduler import DueScheduler
from qinling_falcon.settings import Settings
from tests.run import tasks
from tests.servers.valkey import ValkeyServer, valkey_server

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with valkey_server("--appendonly", "yes", "--appendfsync", "always") as running:
        yield running


@pytest.fixture
def client(server: ValkeyServer) -> Any:
    return connect(Settings(redis_url=server.url))


@contextlib.contextmanager
def process(name: str, url: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the Procfile, with its log in a pipe."""
    running = subprocess.Popen(
        [sys.executable, "-m", f"workers.{name}"],
        cwd=ROOT,
        env={**os.environ, "REDIS_URL": url, "TZ": "UTC"},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait for `condition`, through outages of the server."""
    deadline = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(redis.RedisError):
            if condition():
                return
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


def workers_seen(client: Any) -> int:
    return int(client.scard("rq:workers"))


def test_tasks_travel_as_json(client: Any, server: ValkeyServer) -> None:
    job = JsonQueue(TASKS, connection=client).enqueue(tasks.note, server.url, "seen", "a", job_id="note-1")

    assert b'"seen"' in zlib.decompress(client.hget(job.key, "data"))


@pytest.mark.parametrize(("name", "queue", "other"), [("worker", EXECUTIONS, TASKS), ("tasks", TASKS, EXECUTIONS)])
def test_a_process_runs_the_tasks_of_its_queue_and_ends_idle(
    client: Any, server: ValkeyServer, name: str, queue: str, other: str
) -> None:
    with process(name, server.url) as worker:
        JsonQueue(other, connection=client).enqueue(tasks.note, server.url, "seen", "of another queue")
        JsonQueue(queue, connection=client).enqueue(tasks.fail)
        JsonQueue(queue, connection=client).enqueue(tasks.note, server.url, "seen", "a task")
        until(lambda: client.lrange("seen", 0, -1) == [b"a task"])

        worker.send_signal(signal.SIGTERM)

        assert worker.wait(10) == 0
        assert workers_seen(client) == 0


def test_busy_worker_finishes_its_task_before_it_ends(client: Any, server: ValkeyServer) -> None:
    with process("tasks", server.url) as worker:
        queue = JsonQueue(TASKS, connection=client)
        queue.enqueue(tasks.wait_and_note, server.url, "seen")
        until(lambda: client.llen("seen") == 1)
        queue.enqueue(tasks.note, server.url, "later", "too late")

        worker.send_signal(signal.SIGTERM)
        client.set("seen:go-on", 1)

        assert worker.wait(10) == 0
        assert client.lrange("seen", 0, -1) == [b"began", b"ended"]
        assert client.llen("later") == 0
        assert queue.count == 1


def test_worker_outlives_redis(client: Any, server: ValkeyServer) -> None:
    with process("tasks", server.url) as worker:
        until(lambda: workers_seen(client) == 1)
        server.kill()
        server.start()
        until(lambda: client.ping())
        client.flushall()
        until(lambda: workers_seen(client) == 1)

        JsonQueue(TASKS, connection=client).enqueue(tasks.note, server.url, "seen", "after")

        until(lambda: client.lrange("seen", 0, -1) == [b"after"])
        assert worker.poll() is None


def test_worker_ends_while_redis_is_away(client: Any, server: ValkeyServer) -> None:
    with process("worker", server.url) as worker:
        until(lambda: workers_seen(client) == 1)
        server.kill()

        worker.send_signal(signal.SIGTERM)

        assert worker.wait(10) == 0


def test_scheduler_queues_what_is_due_through_outages(client: Any, server: ValkeyServer) -> None:
    with process("scheduler", server.url) as running, process("tasks", server.url):
        now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
        alarm = DueScheduler(client)
        alarm.enqueue_at(now, tasks.note, server.url, "seen", "first", job_id="first")
        until(lambda: client.lrange("seen", 0, -1) == [b"first"])
        server.kill()
        server.start()
        until(lambda: client.ping())

        alarm.enqueue_at(now, tasks.note, server.url, "seen", "second", job_id="second")

        until(lambda: client.lrange("seen", 0, -1) == [b"first", b"second"])
        running.send_signal(signal.SIGTERM)
        assert running.wait(10) == 0


def test_entry_that_cannot_be_read_is_put_off_and_others_go_on(client: Any, server: ValkeyServer) -> None:
    past = datetime.datetime(2020, 1, 1)
    alarm = DueScheduler(client)
    alarm.enqueue_at(past, tasks.note, server.url, "seen", "broken", job_id="broken")
    client.hset(JsonJob.key_for("broken"), "created_at", b"no date")
    alarm.enqueue_at(past, tasks.note, server.url, "seen", "sound", job_id="sound")
    client.zadd(DueScheduler.scheduled_jobs_key, {"vanished": 1})

    assert alarm.enqueue_jobs() == ["sound"]

    assert client.zrange(DueScheduler.scheduled_jobs_key, 0, -1) == [b"broken"]
    assert client.zscore(DueScheduler.scheduled_jobs_key, "broken") > time.time()


def test_lock_is_removed_by_its_holder_alone(client: Any) -> None:
    slow, other = DueScheduler(client), DueScheduler(client)
    assert slow.acquire_lock()
    client.delete(DueScheduler.scheduler_lock_key)  # it ran out
    assert other.acquire_lock()

    slow.remove_lock()

    assert client.exists(DueScheduler.scheduler_lock_key)
    other.remove_lock()
    assert not client.exists(DueScheduler.scheduler_lock_key)
