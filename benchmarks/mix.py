"""Measures mixes of functions on the real service with default settings, in comparison with one function alone.

    python -m benchmarks.mix [WORKLOAD …] [--before COMMIT] [--seconds 20] [--settle 20]

Each workload (see `mix_workloads.py`) has a service of its own, started as by `make run`. The functions sleep 20 ms.
With `--before`, each workload also runs on a checkout of that commit, right before or after, with the same arrivals.
Ends with status 1 when a bound is missed.

A row has these values of the measured time: successful calls a second and their times in ms, from the intended start;
starts of workers a second; Redis commands a call, including those in scripts; CPU ms a call by process (`pool` is the
manager with the workers); workers at the end; and the share of one core that the load itself used. Refused calls (503)
and failed calls are counted from the start of the load, and `late 503` from 10 s after it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, save
from benchmarks.mix_bounds import missed
from benchmarks.mix_service import DefaultService, Watch, check_defaults, default_service
from benchmarks.mix_workloads import CAPACITY, WORKLOADS, Plan
from benchmarks.two_commits import check_out
from qinling_falcon.models.clock import read_id
from tests.integration.service import package

LATE_S = 10.0
TOGETHER_S = 0.005
BURST_S = 30.0
COLUMNS = {
    "calls/s": "8.0f", "p50": "7.1f", "p99": "8.1f", "max": "8.0f", "starts/s": "8.2f", "503": "6.0f",
    "late 503": "8.0f", "failed": "6.0f", "Redis": "7.1f", "web": "6.2f", "pool": "6.2f", "valkey": "6.2f",
    "workers": "7.0f", "load": "5.2f",
}  # fmt: skip


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=", ".join(WORKLOADS))
    arguments.add_argument("--before", metavar="COMMIT")
    arguments.add_argument("--seconds", type=float, default=20)
    arguments.add_argument("--settle", type=float, default=20)
    options = arguments.parse_args()
    if unknown := set(options.workloads) - WORKLOADS.keys():
        arguments.error(f"no such workload: {', '.join(sorted(unknown))}")
    check_defaults()
    names = [name for name in WORKLOADS if name == CAPACITY or not options.workloads or name in options.workloads]
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    capacity = 0.0
    with tempfile.TemporaryDirectory(prefix="qf-bench-") as folder:
        trees = {"now": ROOT}
        if options.before:
            trees["before"] = check_out(options.before, Path(folder))
        print_head()
        for number, name in enumerate(names):
            plan = WORKLOADS[name](options.settle, options.seconds, capacity)
            rows[name] = {}
            for side in list(trees) if number % 2 else reversed(trees):
                with default_service(trees[side]) as service, _logs_on_error(service):
                    row = run(service, plan)
                if row is None:
                    print(f"{name:12} {side:6} this commit does not know {', '.join(plan.fields)}", flush=True)
                    continue
                rows[name][side] = row
                print_row(name, side, row)
            if len(rows[name]) == 2:
                print_row(name, "ratio", ratios(rows[name]["now"], rows[name]["before"]))
            if name == CAPACITY:
                capacity = rows[name]["now"]["calls/s"]
    save("mix", {"before": options.before, "rows": rows})
    broken = missed({name: row["now"] for name, row in rows.items() if "now" in row})
    print("\n".join(broken) if broken else "bounds hold")
    sys.exit(1 if broken else 0)


def run(service: DefaultService, plan: Plan) -> dict[str, Any] | None:
    """Make the functions, call them, and return a row. None: the API does not know the functions' fields."""
    functions = make_functions(service, plan)
    if functions is None:
        return None
    seconds = BURST_S if plan.is_burst else plan.settle + plan.seconds
    order = {
        "port": int(service.environ["PORT"]), "functions": functions, "callers": plan.callers,
        "arrivals": plan.arrivals, "seconds": 0.1 if plan.is_burst else seconds, "shown": plan.all_shown,
    }  # fmt: skip
    with (
        Watch(service, functions[0] if len(functions) == 1 else None) as watch,
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.mix_load"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        ) as load,
    ):  # fmt: skip
        assert load.stdin and load.stdout
        if plan.is_burst:
            first = watch.snapshot()
        json.dump(order, load.stdin)
        load.stdin.close()
        begun = float(load.stdout.readline().split()[1])
        if not plan.is_burst:
            _sleep_until(begun + plan.settle)
            first = watch.snapshot()
            _sleep_until(begun + seconds)
            last, workers = watch.snapshot(), watch.workers()
        report = json.loads(load.stdout.read())
        if plan.is_burst:
            last, workers = watch.snapshot(), watch.workers()
        assert load.wait() == 0
        begin = begun if plan.is_burst else first.at
        row = summary(report, plan, begun, begin, last.at)
        answered = sum(begin <= call[2] < last.at for call in report["calls"]) or math.nan
        row |= {
            "starts/s": watch.starts(begin, last.at) / (last.at - begin),
            "starts": watch.starts(begun, last.at),
            "Redis": (last.commands - first.commands) / answered,
            "workers": workers,
        }
        for name, column in (("web", "web"), ("pool manager and workers", "pool"), ("valkey", "valkey")):
            row[column] = (last.cpu[name] - first.cpu[name]) / answered * 1000
        if len(functions) == 1:
            row["most workers of the function"] = watch.most_of_function
    return row


def make_functions(service: DefaultService, plan: Plan) -> list[str] | None:
    runtime = service.runtime()
    form = {"name": "f", "runtime_id": runtime, "entry": "main.main", "code": '{"source": "package"}'}
    form |= {name: str(value) for name, value in plan.fields.items()}
    functions = []
    for number, sleep_s in enumerate(plan.sleeps):
        source = f"import time\n\n\ndef main():\n    time.sleep({sleep_s})\n    return {number}\n"
        files = {"package": ("f.zip", package(main=source), "application/zip")}
        answer = service.request("POST", "/v1/functions", data=form, files=files)
        if answer.status_code == 400 and "concurrency" in plan.fields:
            return None
        assert answer.status_code == 201, answer.text
        functions.append(answer.json()["id"])
    return functions


def summary(report: dict[str, Any], plan: Plan, begun: float, begin: float, end: float) -> dict[str, Any]:
    """The values of the calls between `begin` and `end`. Refused and failed calls are counted from the start."""
    shown = set(plan.all_shown)
    calls = [call for call in report["calls"] if call[0] in shown]
    good = [call for call in calls if call[3] == 201]
    times = sorted((ended - due) * 1000 for _, due, ended, *_ in good if begin <= due < end)
    statuses = Counter(call[3] for call in calls)
    cpu = [one for one in report["cpu"] if begin <= one[0] < end]
    last = max((call[2] for call in good), default=math.inf)
    return {
        "calls/s": sum(begin <= call[2] < end for call in good) / (min(last, end) - begin),
        "p50": percentile(times, 0.5), "p99": percentile(times, 0.99), "max": times[-1] if times else math.nan,
        "503": statuses[503],
        "late 503": sum(call[3] == 503 and call[2] > begun + LATE_S for call in calls),
        "failed": sum(count for status, count in statuses.items() if status not in (201, 503)),
        "statuses": {str(status): count for status, count in statuses.items()},
        "start kinds": Counter(call[4] for call in good if begin <= call[1] < end),
        "refusals": report["refusals"],
        "overtaken by": overtaken(good) if plan.is_burst and good else 0,
        "load": (cpu[-1][1] - cpu[0][1]) / (cpu[-1][0] - cpu[0][0]) if len(cpu) > 1 else math.nan,
    }  # fmt: skip


def percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else math.nan


def overtaken(calls: list[list[Any]]) -> int:
    """The most later calls by which a call was overtaken. The calls are in the order of their answers.

    Ids of executions sort by arrival in the web process. Calls that arrive within `TOGETHER_S` have no order.
    """
    arrivals = [_arrival_s(call[5]) for call in calls]
    return max(sum(one > arrival + TOGETHER_S for one in arrivals[:at]) for at, arrival in enumerate(arrivals))


def _arrival_s(execution_id: str) -> float:
    arrival = read_id(execution_id)
    assert arrival is not None
    return arrival.timestamp()


def ratios(now: dict[str, Any], before: dict[str, Any]) -> dict[str, float]:
    return {name: now[name] / before[name] if before[name] else math.nan for name in COLUMNS}


def print_head() -> None:
    widths = {name: int(form.partition(".")[0]) for name, form in COLUMNS.items()}
    print(f"{'':19} " + " ".join(f"{name:>{width}}" for name, width in widths.items()), flush=True)


def print_row(name: str, side: str, row: dict[str, Any]) -> None:
    forms = COLUMNS.values()
    if side == "ratio":
        forms = [form.partition(".")[0] + ".2f" for form in forms]
    cells = [f"{row[column]:{form}}" for column, form in zip(COLUMNS, forms, strict=True)]
    print(f"{name:12} {side:6} {' '.join(cells)}", flush=True)
    for message, count in row.get("refusals", {}).items():
        print(f"{'':12} {count} refused: {message}", flush=True)


def _sleep_until(at: float) -> None:
    time.sleep(max(0.0, at - time.monotonic()))


@contextlib.contextmanager
def _logs_on_error(service: DefaultService) -> Iterator[None]:
    try:
        yield
    except Exception:
        for path in sorted((service.var_dir / "log").glob("*.log")):
            print(f"== {path.name}\n{path.read_text(errors='replace')[-3000:]}", file=sys.stderr)
        raise


if __name__ == "__main__":
    main()
