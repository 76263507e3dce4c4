"""Ticks of several processes at once, and changes of jobs meanwhile: each time fires once, and nothing deadlocks."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qinling_falcon.models import execution_counters, job
from qinling_falcon.models.database import transact
from qinling_falcon.models.tables import Job
from qinling_falcon.settings import Settings
from tests.jobs.bench import OWNER, Bench, due_time, executions, queued, row, utc
from tests.models.factories import in_one_batch, make_record

ROOT = Path(__file__).parents[2]


def make_jobs(function_id: str, count: int, bench: Bench) -> list[str]:
    """The ids of many jobs that fire every minute."""
    first = row(bench.job(function_id, count=10))
    rows = [first.__data__ | {"id": f"{number:08x}-0000-4000-8000-{number % 7:012x}"} for number in range(1, count)]

    def insert() -> None:
        for at in range(0, len(rows), 500):
            Job.insert_many(rows[at : at + 500]).execute()

    transact(insert)
    return [first.id, *(made["id"] for made in rows)]


@contextlib.contextmanager
def other_ticks(count: int, settings: Settings, redis_url: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that tick when a line tells them to."""
    given = json.dumps(
        {"var_dir": str(settings.var_dir), "database_url": settings.database_url, "redis_url": redis_url}
    )
    command = [sys.executable, "-m", "tests.jobs.other_tick", given]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    with contextlib.ExitStack() as stack:
        processes = []
        for _ in range(count):
            process = stack.enter_context(subprocess.Popen(command, **pipes))
            stack.callback(process.kill)
            processes.append(process)
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        yield processes
        for process in processes:
            process.stdin.close()
            assert process.wait(20) == 0


def tell(processes: list[subprocess.Popen[str]], text: str) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(f"{text}\n")
        process.stdin.flush()


def counts(processes: list[subprocess.Popen[str]]) -> list[int]:
    """How many executions each process has made."""
    assert all(process.stdout is not None for process in processes)
    return [int(process.stdout.readline()) for process in processes if process.stdout is not None]


def test_three_processes_fire_2000_jobs_of_one_minute_once(
    bench: Bench, function_id: str, redis_url: str, settings: Settings
) -> None:
    ids = make_jobs(function_id, 2000, bench)
    with other_ticks(3, settings, redis_url) as others:
        for minute in (1, 2):
            tell(others, f"2026-11-23 12:0{minute}:00.5")
            assert sum(counts(others)) == 2000

    made = executions()
    fired = Counter((one.job_id, due_time(one)) for one in made)
    assert set(fired) == {(job_id, utc(f"2026-11-23 12:0{minute}")) for job_id in ids for minute in (1, 2)}
    assert len(made) == len(fired) == len(queued()) == execution_counters.read().accepted
    assert {row(job_id).count for job_id in ids} == {8}


def test_jobs_are_changed_while_they_fire(
    bench: Bench, function_id: str, redis_url: str, settings: Settings
) -> None:
    ids = make_jobs(function_id, 300, bench)
    failures: list[Exception] = []

    def change() -> None:
        try:
            for job_id in ids[::3]:
                job.update(OWNER, job_id, {"name": "changed"})
                job.update(OWNER, job_id, {"status": "paused"})
            for job_id in ids[1::3]:
                job.delete(OWNER, job_id)
        except Exception as error:
            failures.append(error)

    changing = threading.Thread(target=change)
    with other_ticks(2, settings, redis_url) as others:
        changing.start()
        for minute in range(1, 9):
            tell(others, f"2026-11-23 12:0{minute}:01")
            counts(others)
        changing.join()

    assert failures == []
    fired = Counter((one.job_id, due_time(one)) for one in executions())
    assert set(fired.values()) == {1}
    for job_id in ids[2::3]:
        assert sum(1 for fired_id, _ in fired if fired_id == job_id) == 8
    for job_id in ids[::3]:
        paused = row(job_id)
        assert paused.count == 10 - sum(1 for fired_id, _ in fired if fired_id == job_id)


@pytest.mark.parametrize("policy", ["allow", "forbid"])
def test_a_job_is_run_on_request_while_it_fires(bench: Bench, function_id: str, policy: str) -> None:
    """The request and the tick lock the same row, so one of them sees the other's execution."""
    job_id = bench.job(function_id, overlap=policy)
    bench.clock.now = utc("2026-11-23 12:01:00")
    record = make_record(function_id, status="running", sync=False, attempt=0, result=None, log=None, updated_at=None)

    asked, _ = in_one_batch([lambda: job.run(OWNER, job_id, record), bench.run])

    assert len(executions()) == (2 if policy == "allow" else 1)
    assert row(job_id).last_execution_id in {one.id for one in executions()}
    assert (asked is None) == (record.id in {one.id for one in executions()})
