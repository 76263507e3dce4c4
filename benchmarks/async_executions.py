"""Asynchronous executions: how fast they are accepted and run, and what that costs callers who wait.

    python -m benchmarks.async_executions [--backlog 50000] [--functions 20000] [--reference 2000] [part …]

Each part has a service of its own, started as users do, with default settings and embedded defaults:

`accept`    accepting alone, beside a bare Falcon app that sets a key in Redis (`bare_set.py`), in turn;
`drain`     a backlog of no-ops of one function; one of 50 functions (Zipf); and one with an RQ job for each execution;
`steady`    500 executions a second are accepted while others run; the length of the queue each second;
`sync`      synchronous calls of 32 callers, without and with a backlog.
Ends with status 1 when a bound is missed.
"""

from __future__ import annotations

import argparse
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import requests

from benchmarks import one_job_each
from benchmarks.measure import HELLO, ROOT, cpu_seconds, need_wrk, save, wrk
from benchmarks.warm_call import valkey_pid
from qinling_falcon.settings_environment import read_settings
from tests.integration.service import Service, free_port, running_service, wait_until

NO_OP = "def main(**kwargs):\n    return None\n"
CALLERS = 32
RATE = 500
ZIPF = 1.1
LEAST = {
    "accept_to_bare": 0.6, "drain_per_s": 2000.0, "drain_to_one_job_each": 15.0, "drain_50_to_1": 0.6,
    "steady_per_s": 0.99 * RATE,
}  # fmt: skip
MOST = {"sync_p99_with_backlog": 3.0, "steady_queue_growth_per_s": 5.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=[])
    parser.add_argument("--backlog", type=int, default=50_000)
    parser.add_argument("--functions", type=int, default=20_000, help="size of the backlog of 50 functions")
    parser.add_argument("--reference", type=int, default=2000, help="executions with an RQ job each")
    parser.add_argument("--seconds", type=int, default=20)
    options = parser.parse_args()
    need_wrk()
    found: dict[str, float] = {}
    parts = {"accept": accept, "drain": drain, "steady": steady, "sync": sync}
    for name in options.parts or parts:
        parts[name](options, found)
    if "drain_per_s" in found:
        found["drain_to_one_job_each"] = found["drain_per_s"] / found["one_job_each_per_s"]
        found["drain_50_to_1"] = found["drain_50_per_s"] / found["drain_per_s"]
    missed = [name for name, least in LEAST.items() if name in found and found[name] < least]
    missed += [name for name, most in MOST.items() if name in found and found[name] > most]
    for name, value in found.items():
        bound = f" (bound {LEAST.get(name, MOST.get(name))})" if name in LEAST | MOST else ""
        print(f"{name}: {value:.3f}{bound}{' MISSED' if name in missed else ''}")
    save("async_executions", found)
    sys.exit(bool(missed))


@contextmanager
def service_of(functions: int = 1, source: str = NO_OP) -> Iterator[tuple[Service, list[str]]]:
    """A service, and functions that each of its pool's runtimes can run."""
    with running_service(new_interpreters=True, quota_executions=-1, async_queue_limit=10_000_000) as service:
        yield service, [service.function(source) for _ in range(functions)]


def accept(options: argparse.Namespace, found: dict[str, float]) -> None:
    """Accepting alone, in turn with the bare app."""
    rows: dict[str, list[dict]] = {"service": [], "bare": []}
    with service_of() as (service, (function_id,)), bare_app(service) as bare_url:
        body = {"function_id": function_id, "sync": False}
        for _ in range(3):
            rows["service"].append(wrk(f"{service.url}/v1/executions", CALLERS, 5, body))
            rows["bare"].append(wrk(f"{bare_url}/v1/executions", CALLERS, 5, body))
    for name, of_it in rows.items():
        print(f"accept {name:8}", [_described(row) for row in of_it])
    found["accept_per_s"] = statistics.median(row["rps"] for row in rows["service"])
    found["bare_per_s"] = statistics.median(row["rps"] for row in rows["bare"])
    found["accept_to_bare"] = statistics.median(
        ours["rps"] / bare["rps"] for ours, bare in zip(rows["service"], rows["bare"], strict=True)
    )


@contextmanager
def bare_app(service: Service) -> Iterator[str]:
    port = free_port()
    config = str(ROOT / "config" / "gunicorn.conf.py")
    command = [sys.executable, "-m", "gunicorn", "-c", config, "--no-control-socket", "benchmarks.bare_set:application"]
    with tempfile.TemporaryDirectory() as folder:
        environ = service.environ | {"PORT": str(port), "VAR_DIR": folder}
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stderr=subprocess.DEVNULL)
        url = f"http://127.0.0.1:{port}"
        try:
            wait_until("the bare app answers", lambda: requests.post(f"{url}/v1/executions", json={}, timeout=5).ok)
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def drain(options: argparse.Namespace, found: dict[str, float]) -> None:
    """Backlogs that are accepted first, and run then."""
    with service_of() as (service, functions):
        found["drain_per_s"] = drained(service, functions, options.backlog, "one function")
    with service_of(50) as (service, functions):
        found["drain_50_per_s"] = drained(service, functions, options.functions, "50 functions")
    with service_of() as (service, functions):
        ids = fill(service, functions, options.reference)
        settings = read_settings(service.environ)
        one_job_each.enqueue(settings, ids)
        service.start("worker", sys.executable, "-m", "benchmarks.one_job_each")
        found["one_job_each_per_s"] = watch_queue(service, len(ids), "one RQ job each")


def drained(service: Service, functions: list[str], size: int, what: str) -> float:
    fill(service, functions, size)
    count = queue_length(service)
    service.start_workers()
    groups = groups_of(service)
    before, memory = cpu_seconds(groups), memory_of(groups)
    rate = watch_queue(service, count, what)
    used = {name: (seconds - before[name]) / count * 1000 for name, seconds in cpu_seconds(groups).items()}
    print(f"  CPU ms an execution: {', '.join(f'{name} {ms:.3f}' for name, ms in used.items())}")
    print(f"  memory MiB, before and after: {memory} {memory_of(groups)}")
    with database(service) as connection:
        rows = connection.execute("SELECT status, attempt, COUNT(*) FROM executions GROUP BY 1, 2").fetchall()
    print(f"  status, attempt, number: {rows}")
    return rate


def fill(service: Service, functions: list[str], size: int) -> list[str]:
    """Accept so many executions of functions by rank, and return their ids."""
    weights = [1 / (rank + 1) ** ZIPF for rank in range(len(functions))]
    url = f"{service.url}/v1/executions"
    began, before = time.monotonic(), cpu_seconds({"web": [service.processes["web"].pid]})["web"]

    def send(count: int) -> None:
        with requests.Session() as http:
            for function_id in random.choices(functions, weights, k=count):
                assert http.post(url, json={"function_id": function_id, "sync": False}, timeout=60).status_code == 201

    if len(functions) == 1 and size > 5000:  # quicker than by Python, and not exact
        while queue_length(service) < size:
            wrk(url, CALLERS, 1, {"function_id": functions[0], "sync": False})
    else:
        threads = [threading.Thread(target=send, args=(size // 16,)) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    took_s, count = time.monotonic() - began, queue_length(service)
    cpu_ms = (cpu_seconds({"web": [service.processes["web"].pid]})["web"] - before) / count * 1000
    print(f"accepted {count} in {took_s:.1f} s; CPU ms an execution: web {cpu_ms:.3f}")
    with database(service) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM execution_queue")]


def watch_queue(service: Service, size: int, what: str) -> float:
    """Wait until the queue is empty. Returns executions a second, from the first second in which it becomes shorter."""
    began, lengths = None, []
    while True:
        at, length = time.monotonic(), queue_length(service)
        lengths.append(length)
        if began is None and length < size:
            began = at
            size = length
        if length == 0 or len(lengths) > 600:
            break
        time.sleep(0.25)
    assert began is not None
    rate = size / (at - began)
    print(f"drain of {what}: {rate:.0f}/s")
    return rate


def steady(options: argparse.Namespace, found: dict[str, float]) -> None:
    """Executions that arrive at a fixed rate, while others run."""
    with service_of(source=HELLO) as (service, functions):
        service.start_workers()
        groups = groups_of(service)
        lengths: list[int] = []
        accepted = [0]
        ending = threading.Event()

        def send() -> None:
            http = requests.Session()
            due = time.monotonic()
            while not ending.is_set():
                due += 8 / RATE
                time.sleep(max(0.0, due - time.monotonic()))
                answer = http.post(
                    f"{service.url}/v1/executions", json={"function_id": functions[0], "sync": False}, timeout=60
                )
                accepted[0] += answer.status_code == 201

        threads = [threading.Thread(target=send) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(5)
        before, at, first = cpu_seconds(groups), time.monotonic(), accepted[0]
        memory = memory_of(groups)
        for _ in range(options.seconds):
            time.sleep(1)
            lengths.append(queue_length(service))
        count, took_s = accepted[0] - first, time.monotonic() - at
        used = {name: (seconds - before[name]) / count * 1000 for name, seconds in cpu_seconds(groups).items()}
        ending.set()
        for thread in threads:
            thread.join()
        print(f"steady: {count / took_s:.0f}/s accepted; queue each second: {lengths}")
        print(f"  CPU ms an execution: {', '.join(f'{name} {ms:.3f}' for name, ms in used.items())}")
        print(f"  memory MiB, before and after: {memory} {memory_of(groups)}")
        found["steady_per_s"] = count / took_s
        half = len(lengths) // 2
        growth = statistics.median(lengths[half:]) - statistics.median(lengths[:half])
        found["steady_queue_growth_per_s"] = growth / half


def sync(options: argparse.Namespace, found: dict[str, float]) -> None:
    """Synchronous calls without and with a backlog that is drained meanwhile."""
    with service_of(2) as (service, (called, queued)):
        body = {"function_id": called}
        wrk(f"{service.url}/v1/executions", CALLERS, 5, body)
        alone = [wrk(f"{service.url}/v1/executions", CALLERS, 5, body) for _ in range(3)]
        while queue_length(service) < options.backlog:
            wrk(f"{service.url}/v1/executions", CALLERS, 1, {"function_id": queued, "sync": False})
        service.start_workers()  # only now: otherwise executions may run as fast as they are accepted
        time.sleep(3)
        left = queue_length(service)
        assert left > 0
        beside = [wrk(f"{service.url}/v1/executions", CALLERS, 5, body) for _ in range(3)]
        done = left - queue_length(service)
        assert done < left, "the backlog was too small"
    for name, rows in (("alone", alone), ("with a backlog", beside)):
        print(f"sync {name}: {[_described(row) for row in rows]}")
    print(f"  {done} executions of the backlog were run meanwhile")
    found["sync_p99_with_backlog"] = _median_p99(beside) / _median_p99(alone)


def _median_p99(rows: list[dict]) -> float:
    return statistics.median(row["p99_ms"] for row in rows)


def groups_of(service: Service) -> dict[str, list[int]]:
    """The processes whose CPU time is measured."""
    own = {"web": "web", "worker": "worker", "tasks": "tasks", "pool manager and workers": "pool"}
    groups = {name: [service.processes[process].pid] for name, process in own.items()}
    return groups | {"valkey": [valkey_pid(service.environ["REDIS_URL"])]}


def memory_of(groups: dict[str, list[int]]) -> dict[str, int]:
    """The memory (RSS) of web and worker, each with its children, in MiB."""
    found = {}
    for name in ("web", "worker"):
        processes = [p for pid in groups[name] for p in [psutil.Process(pid), *psutil.Process(pid).children()]]
        found[name] = sum(p.memory_info().rss for p in processes) >> 20
    return found


def _described(row: dict) -> str:
    return f"{row['rps']:.0f}/s, p50 {row['p50_ms']:.1f}, p99 {row['p99_ms']:.1f} ms, {row['errors']} errors"


def queue_length(service: Service) -> int:
    with database(service) as connection:
        return int(connection.execute("SELECT COUNT(*) FROM execution_queue").fetchone()[0])


@contextmanager
def database(service: Service) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(Path(service.var_dir) / "qinling.db", timeout=10)
    try:
        yield connection
    finally:
        connection.close()


if __name__ == "__main__":
    main()
