"""The warm synchronous call with default settings beside three references, in one run on one machine.

    python -m benchmarks.warm_call [--rounds 5] [--seconds 4]

(a) `worker`: a runtime worker called directly, by one caller;
(b) `relay`: a bare Falcon app on the same Gunicorn settings that only relays the call (`relay.py`);
(c) `framework`: the latest `functions-framework` (Python), which serves a function that does nothing;
    `service`: POST /v1/executions.
Rounds are interleaved; the median over rounds counts. Ends with status 1 when a bound is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import requests

from benchmarks import functions_framework
from benchmarks.measure import HELLO, ROOT, cpu_seconds, median, need_wrk, save, wrk
from benchmarks.worker_calls import Client, calls
from qinling_falcon.orchestrators.process.orchestrator import ProcessOrchestrator
from qinling_falcon.settings import Settings
from tests.integration.service import Service, free_port, running_service, wait_until

WORKERS = 32
CONCURRENCY = (1, 8, 32)
# Whose CPU time counts under which load.
CPU_OF = {
    "relay": ("relay",), "framework": ("framework",), "service": ("web", "pool manager and workers", "valkey"),
}  # fmt: skip
# Least throughput at 32 callers as a share of (b)'s and of (c)'s.
LEAST = {"throughput_to_relay_at_32": 0.55, "throughput_to_framework_at_32": 0.7}
# Most added median at one caller over (a)'s, in ms.
MOST = {"added_median_ms_at_1": 2.5}


def direct_workers(folder: Path) -> tuple[ProcessOrchestrator, Client, list[tuple[str, str]]]:
    """Workers with the function loaded, without a pool: a client of one, and address and secret of the others."""
    orchestrator = ProcessOrchestrator(Settings(var_dir=folder, max_workers=WORKERS + 1))
    started = [orchestrator.start(f"bench-{number}", "python3") for number in range(WORKERS + 1)]
    clients = [Client(worker, HELLO) for worker in started]
    return orchestrator, clients[0], [(worker.address, worker.secret) for worker in started[1:]]


def call_directly(client: Client, seconds: float) -> dict:
    """A row as `wrk` gives it."""
    taken = calls(client, seconds)
    parts = statistics.quantiles(taken, n=100)
    return {
        "requests": len(taken), "rps": len(taken) / seconds, "errors": 0,
        "p50_ms": parts[49], "p95_ms": parts[94], "p99_ms": parts[98],
    }  # fmt: skip


def start_relay(workers: list[tuple[str, str]], claims: Path, processes: int) -> tuple[subprocess.Popen, str]:
    port = free_port()
    shares = [workers[number::processes] for number in range(processes)]
    environ = os.environ | {"PORT": str(port), "RELAY_WORKERS": json.dumps(shares), "RELAY_CLAIMS": str(claims)}
    config = str(ROOT / "config" / "gunicorn.conf.py")
    command = [sys.executable, "-m", "gunicorn", "-c", config, "--no-control-socket", "benchmarks.relay:application"]
    process = subprocess.Popen(command, cwd=ROOT, env=environ | {"VAR_DIR": str(claims)}, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/call"
    wait_until("the relay answers", lambda: requests.post(url, json={"input": None}, timeout=5).status_code == 201)
    return process, url


def warm_up(service: Service, call: dict, headers: str = "") -> None:
    """Call until every worker that is needed has the function, and no further one is being started."""
    runtime, before = service.runtime(), None
    while before != (before := service.capacity(runtime)):
        wrk(service.url + "/v1/executions", WORKERS, 3, call, headers=headers)


def valkey_pid(url: str) -> int:
    socket_path = url.removeprefix("unix://").partition("?")[0]
    rows = psutil.process_iter(["pid", "cmdline"])
    return next(row.pid for row in rows if socket_path in " ".join(row.info["cmdline"] or []))


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=int, default=4)
    options = arguments.parse_args()
    need_wrk()
    rows: dict[tuple[str, int], list[dict]] = {}
    cpu: dict[str, list[float]] = {}
    program, version = functions_framework.install()
    with (
        tempfile.TemporaryDirectory(prefix="qf-bench-") as folder,
        running_service(new_interpreters=True) as service,
        functions_framework.functions_framework(program, Path(folder) / "hello") as (framework, framework_url),
    ):
        direct = Path(folder) / "direct"
        claims = Path(folder) / "claims"
        claims.mkdir()
        orchestrator, client, workers = direct_workers(direct)
        relay, relay_url = start_relay(workers, claims, Settings().web_concurrency)
        try:
            function = service.function(HELLO)
            call = {"function_id": function, "input": None}
            warm_up(service, call)
            groups = {
                "web": [service.processes["web"].pid],
                "pool manager and workers": [service.processes["pool"].pid],
                "relay": [relay.pid],
                "framework": [framework.pid],
                "valkey": [valkey_pid(service.environ["REDIS_URL"])],
            }
            url = service.url + "/v1/executions"
            loads = {
                "worker": lambda _count: call_directly(client, options.seconds),
                "relay": lambda count: wrk(relay_url, count, options.seconds, {"input": None}),
                "framework": lambda count: wrk(framework_url, count, options.seconds, {"input": None}),
                "service": lambda count: wrk(url, count, options.seconds, call),
            }
            for number in range(options.rounds):
                for connections in CONCURRENCY:
                    for name, load in loads.items():
                        if name == "worker" and connections > 1:
                            continue
                        before = cpu_seconds(groups)
                        row = load(connections)
                        after = cpu_seconds(groups)
                        rows.setdefault((name, connections), []).append(row)
                        if connections == max(CONCURRENCY):
                            for group in CPU_OF.get(name, ()):
                                used = (after[group] - before[group]) / row["requests"] * 1000
                                cpu.setdefault(group, []).append(used)
                print(f"round {number + 1} of {options.rounds} done", flush=True)
        finally:
            relay.send_signal(signal.SIGTERM)
            relay.wait(20)
            orchestrator.detach()
    print(f"\nfunctions-framework {version}")
    sys.exit(report(rows, cpu))


def report(rows: dict, cpu: dict) -> int:
    print(f"\n{'':9} {'callers':>7} {'calls/s':>9} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8} {'errors':>7}")
    table = {}
    for (name, connections), samples in rows.items():
        table[f"{name}@{connections}"] = row = {
            key: median(samples, key) for key in ("rps", "p50_ms", "p95_ms", "p99_ms")
        }
        row["errors"] = sum(sample["errors"] for sample in samples)
        row["rounds"] = [sample["rps"] for sample in samples]
        print(
            f"{name:9} {connections:7} {row['rps']:9.0f} {row['p50_ms']:8.2f} {row['p95_ms']:8.2f} {row['p99_ms']:8.2f}"
            f" {row['errors']:7}"
        )
    ratios = {
        "throughput_to_relay_at_32": table["service@32"]["rps"] / table["relay@32"]["rps"],
        "throughput_to_relay_at_1": table["service@1"]["rps"] / table["relay@1"]["rps"],
        "throughput_to_framework_at_32": table["service@32"]["rps"] / table["framework@32"]["rps"],
        "throughput_to_framework_at_1": table["service@1"]["rps"] / table["framework@1"]["rps"],
        "added_median_ms_at_1": table["service@1"]["p50_ms"] - table["worker@1"]["p50_ms"],
    }
    bounds = LEAST | MOST
    for name, value in ratios.items():
        print(f"{name}: {value:.3f}" + (f" (bound {bounds[name]})" if name in bounds else ""))
    by_process = {name: sorted(values)[len(values) // 2] for name, values in cpu.items()}
    print("CPU ms a call at 32 callers: " + ", ".join(f"{name} {value:.3f}" for name, value in by_process.items()))
    save("warm_call", {"table": table, "ratios": ratios, "cpu_ms_per_call": by_process})
    errors = sum(row["errors"] for row in table.values())
    held = all(ratios[name] >= bound for name, bound in LEAST.items()) and not errors
    held = held and all(ratios[name] <= bound for name, bound in MOST.items())
    print("bounds hold" if held else "BOUNDS MISSED")
    return 0 if held else 1


if __name__ == "__main__":
    main()
