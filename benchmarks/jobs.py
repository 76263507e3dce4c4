"""Jobs: how late 10,000 jobs fire that are due once a minute each, and whether all of them do.

    python -m benchmarks.jobs [--jobs 10000] [--minutes 5]

The service is started as users do, with default settings and embedded defaults. All jobs are due at the beginning of
each minute. A job has fired when its execution is committed. Ends with status 1 when a bound is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
import uuid
from collections import Counter

import psutil

from benchmarks.async_executions import database
from benchmarks.measure import cpu_seconds, save
from benchmarks.warm_call import valkey_pid
from tests.integration.service import Service, running_service

NO_OP = "def main(**kwargs):\n    return None\n"
MOST = {"late_p99_s": 3.0, "missed": 0.0, "twice": 0.0, "tasks_growth_mib": 8.0}
PROCESSES = ("tasks", "scheduler", "worker", "web")
_LOOK_EVERY_S = 0.02
_MINUTE_US = 60_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--minutes", type=int, default=5)
    options = parser.parse_args()
    limits = {"quota_executions": -1, "quota_jobs": -1, "executions_kept": 10_000_000}
    with running_service(new_interpreters=True, with_workers=True, **limits) as service:
        service.start_scheduler()
        found = measure(service, options.jobs, options.minutes)
    missed = [name for name, most in MOST.items() if found[name] > most]
    for name, value in found.items():
        bound = f" (at most {MOST[name]})" if name in MOST else ""
        print(f"{name}: {value:.3f}{bound}{' MISSED' if name in missed else ''}")
    save("jobs", found)
    sys.exit(bool(missed))


def measure(service: Service, count: int, minutes: int) -> dict[str, float]:
    """Let the jobs fire for some minutes. The first minute after their creation is left out: their alarm is new."""
    function_id = service.function(NO_OP)
    first_us = (int(time.time()) // 60 + 2) * _MINUTE_US
    add_jobs(service, function_id, count, first_us)
    groups = {name: [service.processes[name].pid] for name in PROCESSES}
    groups["valkey"] = [valkey_pid(service.environ["REDIS_URL"])]
    groups["pool manager and workers"] = [service.processes["pool"].pid]
    lateness: list[float] = []
    memory: list[int] = []
    before = cpu_seconds(groups)
    for minute in range(minutes):
        due = first_us / 1e6 + 60 * minute
        time.sleep(max(0.0, due - 1 - time.time()))
        late = watch(service, due, count * minute, count)
        lateness += late
        memory.append(psutil.Process(service.processes["tasks"].pid).memory_info().rss >> 20)
        print(
            f"minute {minute + 1}: p50 {part(late, 0.5):.2f}, p99 {part(late, 0.99):.2f}, last {late[-1]:.2f} s late;"
            f" tasks {memory[-1]} MiB; {queue_length(service)} executions wait"
        )
    used = {name: seconds - before[name] for name, seconds in cpu_seconds(groups).items()}
    print(f"  CPU ms a fire: {', '.join(f'{name} {1000 * s / count / minutes:.3f}' for name, s in used.items())}")
    fires = fired(service)
    expected = {first_us + _MINUTE_US * minute for minute in range(minutes)}
    per_time = Counter(due for _, due in fires.elements())
    print(f"  executions by due time: {sorted(per_time.values())}")
    return {
        "late_p50_s": part(lateness, 0.5),
        "late_p99_s": part(lateness, 0.99),
        "late_most_s": max(lateness),
        "missed": float(sum(count - per_time[due] for due in expected)),
        "twice": float(sum(number - 1 for number in fires.values())),
        "tasks_growth_mib": float(memory[-1] - memory[min(1, len(memory) - 1)]),
    }


def add_jobs(service: Service, function_id: str, count: int, first_us: int) -> None:
    """Insert jobs that are due each minute from `first_us` on, in microseconds. By the API this takes a minute."""
    now = int(time.time() * 1e6)
    row = (
        "INSERT INTO jobs (id, project_id, created_at, function_id, function_version, pattern, status,"
        " first_execution_time, next_execution_time) VALUES (?, 'default', ?, ?, 0, '* * * * *', 'running', ?, ?)"
    )
    rows = [(str(uuid.uuid4()), now + number, function_id, first_us, first_us) for number in range(count)]
    with database(service) as connection:
        connection.executemany(row, rows)
        connection.commit()


def watch(service: Service, due: float, before: int, count: int) -> list[float]:
    """How late each of the jobs is that are due now, in seconds, by looking at the number of executions."""
    late: list[float] = []
    with database(service) as connection:
        while len(late) < count and time.time() < due + 50:
            (accepted,) = connection.execute("SELECT SUM(accepted) FROM execution_counters").fetchone()
            late += [time.time() - due] * (int(accepted) - before - len(late))
            time.sleep(_LOOK_EVERY_S)
    return late or [50.0]


def fired(service: Service) -> Counter[tuple[str, int]]:
    """The number of executions for each job and due time, which the id of an execution has."""
    found: Counter[tuple[str, int]] = Counter()
    with database(service) as connection:
        for execution_id, job_id in connection.execute("SELECT id, job_id FROM executions WHERE source = 'job'"):
            number = int(execution_id.replace("-", ""), 16)
            found[job_id, (number >> 80) * 1000 + (number >> 66 & 0x3FF)] += 1
    return found


def queue_length(service: Service) -> int:
    with database(service) as connection:
        return int(connection.execute("SELECT COUNT(*) FROM execution_queue").fetchone()[0])


def part(values: list[float], share: float) -> float:
    """The value below which this share of the values is."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


if __name__ == "__main__":
    main()
