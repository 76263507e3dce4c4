"""Jobs with all processes: they fire by the real clock, and go on after kills and after the loss of Redis."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pytest

from qinling_falcon.jobs import queues
from qinling_falcon.jobs.alarms import Alarms
from qinling_falcon.settings import Settings
from tests.integration.service import Service, running_service, wait_until
from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.xdist_group("integration-jobs")

ANSWERS = "def main(name='nobody'):\n    return f'Hello, {name}'\n"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running_service(with_workers=True, max_workers=6, worker_idle_s=600) as running:
        running.start_scheduler()
        yield running


@pytest.fixture(scope="module")
def function_id(service: Service) -> str:
    return service.function(ANSWERS)


@pytest.fixture
def make(service: Service, function_id: str) -> Iterator[Any]:
    """Make a job, which is deleted after the test."""
    made = []

    def make_job(**fields: Any) -> dict[str, Any]:
        body = {"function_id": function_id, "pattern": "* * * * *"} | fields
        answer = service.request("POST", "/v1/jobs", json=body)
        assert answer.status_code == 201, answer.text
        made.append(answer.json()["id"])
        return dict(answer.json())

    yield make_job
    for job_id in made:
        assert service.request("DELETE", f"/v1/jobs/{job_id}").status_code == 204


def due_in(service: Service, job: dict[str, Any], seconds: float) -> None:
    """Let a job be due in some seconds, which the API takes no request for."""
    due = round((time.time() + seconds) * 1_000_000)
    write(service, f"UPDATE jobs SET next_execution_time = {due} WHERE id = '{job['id']}'")


def due_soon(service: Service, job: dict[str, Any]) -> None:
    """Let a job be due in a second, and set its alarm, as `web` does. Without it, the job may fire 11 s later."""
    due_in(service, job, 1)
    now = datetime.now(UTC)
    with contextlib.closing(queues.connect(Settings(redis_url=service.environ["REDIS_URL"]))) as connection:
        Alarms(connection).set([now + timedelta(seconds=1)], now)


def add_jobs(service: Service, job: dict[str, Any], count: int, seconds: float) -> int:
    """Insert copies of a job that are due in some seconds: more than a project may make. Returns the time of that."""
    due = round((time.time() + seconds) * 1_000_000)
    write(
        service,
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
        " INSERT INTO jobs (id, project_id, created_at, function_id, function_version, pattern, status, count,"
        " first_execution_time, next_execution_time) SELECT lower(hex(randomblob(16))), project_id, created_at,"
        f" function_id, function_version, pattern, status, count, first_execution_time, {due}"
        f" FROM n, jobs WHERE jobs.id = '{job['id']}'",
    )
    return due


@contextlib.contextmanager
def database(service: Service) -> Iterator[Any]:
    """A connection to the service's database."""
    url = service.environ["DATABASE_URL"]
    connect: Any = psycopg2.connect if url else sqlite3.connect
    with contextlib.closing(connect(url or service.var_dir / "qinling.db")) as connection:
        yield connection


def write(service: Service, sql: str) -> None:
    with database(service) as connection:
        connection.cursor().execute(sql)
        connection.commit()


def query(service: Service, sql: str) -> list[tuple[Any, ...]]:
    with database(service) as connection:
        cursor = connection.cursor()
        cursor.execute(sql)
        return list(cursor.fetchall())


def shown(service: Service, job: dict[str, Any]) -> dict[str, Any]:
    return dict(service.request("GET", f"/v1/jobs/{job['id']}").json())


def executions(service: Service, job: dict[str, Any]) -> list[dict[str, Any]]:
    """The executions of a job that have ended."""
    rows = service.request("GET", "/v1/executions?sort_dir=asc&source=job").json()
    return [row for row in rows if row["job_id"] == job["id"] and row["status"] != "running"]


def fires(service: Service, job: dict[str, Any], count: int = 1) -> list[dict[str, Any]]:
    """The executions of a job, as soon as so many have ended."""

    def look() -> list[dict[str, Any]] | None:
        found = executions(service, job)
        return found if len(found) >= count else None

    return list(wait_until(f"job {job['id']} has fired", look, 60))


def test_a_job_fires_at_the_next_minute_by_itself(service: Service, make: Any) -> None:
    before = datetime.now(UTC)
    job = make(function_input='{"name": "Ada"}', count=1)

    (execution,) = fires(service, job)

    assert (execution["status"], execution["source"], execution["sync"]) == ("success", "job", False)
    assert "Hello, Ada" in execution["result"]
    assert execution["description"] == f"Created by Job {job['id']}"
    assert execution["created_at"] >= job["first_execution_time"] > before.strftime("%Y-%m-%d %H:%M:%S")
    ended = shown(service, job)
    assert (ended["status"], ended["count"], ended["updated_at"]) == ("done", 0, None)
    assert ended["next_execution_time"] == job["first_execution_time"]


def test_a_job_is_run_on_request(service: Service, make: Any) -> None:
    job = make(pattern="0 0 1 1 *", count=2)

    answer = service.request("POST", f"/v1/jobs/{job['id']}/run")

    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"] == f"{service.url}/v1/executions/{answer.json()['id']}"
    assert service.ended(answer.json()["id"])["status"] == "success"
    assert shown(service, job) == job


def test_a_job_fires_after_the_scheduler_and_the_tasks_were_killed(service: Service, make: Any) -> None:
    job = make(pattern="0 0 1 1 *", count=2)
    service.stop("scheduler", signal.SIGKILL)
    service.stop("tasks", signal.SIGKILL)
    due_in(service, job, 1)

    service.start_scheduler()
    service.start_module("tasks", "workers.tasks")

    assert len(fires(service, job)) == 1
    assert shown(service, job)["count"] == 1


def test_a_job_fires_after_redis_was_emptied(service: Service, make: Any) -> None:
    job = make(count=2)
    due_in(service, job, 3)

    service.flush_redis()

    assert len(fires(service, job)) == 1


def test_a_job_does_not_fire_while_its_project_has_no_room(service: Service, make: Any) -> None:
    job = make(pattern="0 0 1 1 *", count=3)
    due_soon(service, job)
    fires(service, job)
    used = service.request("GET", "/v1/quotas").json()["quotas"]["executions"]["used"]
    assert service.request("PUT", "/v1/quotas", json={"executions": used}).status_code == 200
    try:
        due_soon(service, job)
        later = (datetime.now(UTC) + timedelta(seconds=30)).strftime("%Y-%m-%d %H:%M:%S")
        wait_until("it waits for a minute", lambda: shown(service, job)["next_execution_time"] > later)
        assert shown(service, job)["count"] == 2
        assert len(executions(service, job)) == 1
    finally:
        assert service.request("PUT", "/v1/quotas", json={"executions": -1}).status_code == 200
    due_soon(service, job)
    fires(service, job, 2)
    assert shown(service, job)["count"] == 1


def test_two_schedulers_and_two_tasks_processes_fire_each_time_once(service: Service, make: Any) -> None:
    service.start_scheduler("scheduler-2")
    service.start_module("tasks-2", "workers.tasks")
    try:
        jobs = [make(pattern="0 0 1 1 *", count=5) for _ in range(20)]
        for job in jobs:
            due_in(service, job, 2)
        for job in jobs:
            fires(service, job)
        assert {len(executions(service, job)) for job in jobs} == {1}
        assert {shown(service, job)["count"] for job in jobs} == {4}
    finally:
        service.stop("scheduler-2")
        service.stop("tasks-2")


@pytest.mark.timeout(240)
def test_2000_jobs_that_are_due_at_once_fire_once_each_and_all_of_them_run(service: Service, make: Any) -> None:
    job = make(pattern="0 0 1 1 *", count=5)
    due = add_jobs(service, job, 2000, 2)
    service.start_scheduler("scheduler-2")
    service.start_module("tasks-2", "workers.tasks")
    try:
        left = f"SELECT COUNT(*) FROM jobs WHERE next_execution_time = {due}"
        wait_until("all have fired", lambda: query(service, left) == [(0,)], 60)
        of_these = "FROM executions WHERE job_id IN (SELECT id FROM jobs WHERE count = 4)"
        ended = f"SELECT COUNT(*), COUNT(DISTINCT job_id) {of_these} AND status = 'success'"
        wait_until("all have run", lambda: query(service, ended) == [(2000, 2000)], 90)
        assert query(service, f"SELECT COUNT(*) {of_these}") == [(2000,)]
    finally:
        service.stop("scheduler-2")
        service.stop("tasks-2")


def test_a_job_fires_on_postgresql(postgres: PostgresServer) -> None:
    with running_service(postgres.create_database(), with_workers=True, max_workers=3) as service:
        service.start_scheduler()
        body = {"function_id": service.function(ANSWERS), "pattern": "* * * * *", "count": 2}
        job = service.request("POST", "/v1/jobs", json=body).json()
        for number in (1, 2):
            due_soon(service, job)
            assert {row["status"] for row in fires(service, job, number)} == {"success"}
        wait_until("it is done", lambda: shown(service, job)["status"] == "done")
        assert len(executions(service, job)) == 2
