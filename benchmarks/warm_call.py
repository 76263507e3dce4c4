"""The warm synchronous call beside two references, in one run on one machine.

    python -m benchmarks.warm_call [--rounds 5] [--seconds 4]

(a) `worker`: the runtime worker called directly, a connection each;
(b) `relay`: a bare Falcon app on the same Gunicorn settings that only relays the call (`relay.py`);
    `service`: POST /v1/executions.
Rounds are interleaved; the median over rounds counts. Ends with status 1 when a bound of BOUNDS is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import requests

from benchmarks.measure import HELLO, ROOT, cpu_seconds, median, need_wrk, save, wrk
from qinling_falcon.orchestrators.process.orchestrator import ProcessOrchestrator
from qinling_falcon.settings import Settings
from tests.integration.service import Service, free_port, package, running_service, wait_until

WORKERS = 32
CONCURRENCY = (1, 8, 32)
# Least throughput at 32 callers as a share of (b)'s, and most added median at one caller over (a)'s, in ms.
BOUNDS = {"throughput_to_relay_at_32": 0.4, "added_median_ms_at_1": 2.5}


def direct_workers(folder: Path) -> tuple[ProcessOrchestrator, list[tuple[str, str]]]:
    """Workers with the function loaded, without a pool."""
    settings = Settings(var_dir=folder, max_workers=WORKERS)
    orchestrator = ProcessOrchestrator(settings)
    started = [orchestrator.start(f"bench-{number}", "python3") for number in range(WORKERS)]
    for worker in started:
        about = {"target": "bench", "entry": "main.main", "memory_size": 32 << 20, "cpu": 100}
        headers = {"X-Worker-Secret": worker.secret, "X-Load": json.dumps(about)}
        requests.post(
            f"http://{worker.address}/load", package(main=HELLO), headers=headers, timeout=10
        ).raise_for_status()
    return orchestrator, [(worker.address, worker.secret) for worker in started]


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
    limits = {"warm_workers": 8, "max_workers": 48, "function_concurrency": 64, "project_concurrency": 64}
    with tempfile.TemporaryDirectory(prefix="qf-bench-") as folder, running_service(**limits) as service:
        direct = Path(folder) / "direct"
        claims = Path(folder) / "claims"
        claims.mkdir()
        orchestrator, workers = direct_workers(direct)
        relay, relay_url = start_relay(workers, claims, Settings().web_concurrency)
        try:
            function = service.function(HELLO)
            call = {"function_id": function, "input": None}
            execution = {"token": "%TOKEN%", "execution_id": "direct", "timeout_s": 5, "input": None, "context": {}}
            warm_up(service, call)
            groups = {
                "web": [service.processes["web"].pid],
                "pool manager and workers": [service.processes["pool"].pid],
                "relay": [relay.pid],
                "valkey": [valkey_pid(service.environ["REDIS_URL"])],
            }
            for number in range(options.rounds):
                for connections in CONCURRENCY:
                    url = f"http://{workers[0][0]}/execute"
                    row = wrk(url, connections, options.seconds, execution, addresses=workers)
                    rows.setdefault(("worker", connections), []).append(row)
                    start = cpu_seconds(groups)
                    relayed = wrk(relay_url, connections, options.seconds, {"input": None})
                    rows.setdefault(("relay", connections), []).append(relayed)
                    before = cpu_seconds(groups)
                    row = wrk(service.url + "/v1/executions", connections, options.seconds, call)
                    after = cpu_seconds(groups)
                    rows.setdefault(("service", connections), []).append(row)
                    if connections == max(CONCURRENCY):
                        relay_s = before["relay"] - start["relay"]
                        cpu.setdefault("relay", []).append(relay_s / relayed["requests"] * 1000)
                        for name in groups.keys() - {"relay"}:
                            cpu.setdefault(name, []).append((after[name] - before[name]) / row["requests"] * 1000)
                print(f"round {number + 1} of {options.rounds} done", flush=True)
        finally:
            relay.send_signal(signal.SIGTERM)
            relay.wait(20)
            orchestrator.detach()
    sys.exit(report(rows, cpu))


def report(rows: dict, cpu: dict) -> int:
    print(f"\n{'':8} {'callers':>7} {'calls/s':>9} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8} {'errors':>7}")
    table = {}
    for (name, connections), samples in rows.items():
        table[f"{name}@{connections}"] = row = {
            key: median(samples, key) for key in ("rps", "p50_ms", "p95_ms", "p99_ms")
        }
        row["errors"] = sum(sample["errors"] for sample in samples)
        row["rounds"] = [sample["rps"] for sample in samples]
        print(
            f"{name:8} {connections:7} {row['rps']:9.0f} {row['p50_ms']:8.2f} {row['p95_ms']:8.2f} {row['p99_ms']:8.2f}"
            f" {row['errors']:7}"
        )
    ratios = {
        "throughput_to_relay_at_32": table["service@32"]["rps"] / table["relay@32"]["rps"],
        "throughput_to_relay_at_1": table["service@1"]["rps"] / table["relay@1"]["rps"],
        "added_median_ms_at_1": table["service@1"]["p50_ms"] - table["worker@1"]["p50_ms"],
    }
    for name, value in ratios.items():
        print(f"{name}: {value:.3f}" + (f" (bound {BOUNDS[name]})" if name in BOUNDS else ""))
    by_process = {name: sorted(values)[len(values) // 2] for name, values in cpu.items()}
    print("CPU ms a call at 32 callers: " + ", ".join(f"{name} {value:.3f}" for name, value in by_process.items()))
    save("warm_call", {"table": table, "ratios": ratios, "cpu_ms_per_call": by_process})
    errors = sum(row["errors"] for row in table.values())
    held = ratios["throughput_to_relay_at_32"] >= BOUNDS["throughput_to_relay_at_32"]
    held = held and ratios["added_median_ms_at_1"] <= BOUNDS["added_median_ms_at_1"] and not errors
    print("bounds hold" if held else "BOUNDS MISSED")
    return 0 if held else 1


if __name__ == "__main__":
    main()
