"""What the benchmarks share: wrk, CPU time by process, workers without a pool, a place for results."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results"
HELLO = "def main(name='World'):\n    return 'Hello, ' + name\n"


def need_wrk() -> str:
    found = shutil.which("wrk")
    if not found:
        sys.exit(
            "make bench drives its load with wrk, which is not here: apt-get install wrk (Debian's package)"
        )
    return found


def wrk(
    url: str, connections: int, seconds: int, body: dict, *, headers: str = "", script: str = "wrk_call.lua"
) -> dict:
    """One run of a script of this folder: requests a second and percentiles in ms."""
    environ = os.environ | {"BODY": json.dumps(body), "HEADERS": headers}
    command = [need_wrk(), f"-t{min(connections, 2)}", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s"]
    done = subprocess.run(
        [*command, "-s", str(HERE / script), url], env=environ, capture_output=True, text=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("JSON ")]
    if not lines:
        sys.exit(f"wrk failed: {done.stdout}{done.stderr}")
    row = json.loads(lines[-1][5:])
    row["rps"] = row["requests"] / row["seconds"]
    return row


def cpu_seconds(groups: dict[str, list[int]]) -> dict[str, float]:
    """CPU time by group of processes: each pid with all that is below it, also what has ended."""
    used = {}
    for name, pids in groups.items():
        total = 0.0
        for pid in pids:
            for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    total += times.user + times.system + times.children_user + times.children_system
        used[name] = total
    return used


def median(rows: list[dict], key: str) -> float:
    return statistics.median(row[key] for row in rows)


def save(name: str, result: dict) -> None:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "at": time.strftime("%Y-%m-%d %H:%M:%S")}
    path.write_text(json.dumps(result | {"machine": machine}, indent=1) + "\n")
    print(f"written: {path.relative_to(ROOT)}")
