"""The first call of a new function: with a warm worker waiting, and with none.

    python -m benchmarks.first_call [--calls 25]

Upload is not counted, and no call is made while the pool starts other workers. At last, many functions are called at
once for the first time, with a stock of warm workers that is much smaller. Ends with status 1 when a bound is exceeded.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import statistics
import sys
import threading
import time

import requests

from benchmarks.measure import HELLO, save
from tests.integration.service import Service, running_service, wait_until

WARM = 3
CROWD = 100
BOUNDS_MS = {"warm worker waiting": 60, "no warm worker": 35}
BOUND_OF_CROWD_S = 2.5


def first_calls(service: Service, calls: int, cold: str) -> list[float]:
    runtime = service.runtime()
    service.call(service.function(HELLO))  # takes the worker that proved the runtime's image
    taken = []
    for _ in range(calls):
        function = service.function(HELLO)
        if cold == "assign":
            wait_until("the stock is full", lambda: service.capacity(runtime)["available"] >= WARM)
        began = time.perf_counter()
        execution = service.call(function)
        taken.append((time.perf_counter() - began) * 1000)
        assert execution["status"] == "success", execution
        assert execution["cold"] == cold, execution
        service.request("DELETE", f"/v1/functions/{function}")
    return taken


def crowd_of_first_calls(service: Service) -> float:
    """Seconds until the last of many functions, called at once, has answered its first call."""
    runtime = service.runtime()
    functions = [service.function(f"{HELLO}# {number}\n") for number in range(CROWD)]
    wait_until("the stock is full", lambda: service.capacity(runtime)["available"] >= WARM)
    local, ready = threading.local(), threading.Barrier(CROWD)

    def call(function: str) -> None:
        local.http = requests.Session()
        local.http.get(f"{service.url}/healthz")
        ready.wait()
        answer = local.http.post(f"{service.url}/v1/executions", json={"function_id": function}, timeout=60)
        assert answer.status_code == 201, answer.text
        ended.append(time.perf_counter())

    ended: list[float] = []
    with concurrent.futures.ThreadPoolExecutor(CROWD) as threads:
        results = [threads.submit(call, function) for function in functions]
        while ready.n_waiting < CROWD - 1 and not any(result.done() for result in results):
            time.sleep(0.01)
        began = time.perf_counter()
        for result in results:
            result.result()
    return max(ended) - began


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--calls", type=int, default=25)
    options = arguments.parse_args()
    result = {}
    with running_service(new_interpreters=True, warm_workers=WARM) as service:
        result["warm worker waiting"] = first_calls(service, options.calls, "assign")
    with running_service(new_interpreters=True, warm_workers=0) as service:
        result["no warm worker"] = first_calls(service, options.calls, "start")
    held = True
    for name, taken in result.items():
        middle = statistics.median(taken)
        held = held and middle < BOUNDS_MS[name]
        print(f"{name}: median {middle:.1f} ms (bound {BOUNDS_MS[name]}), worst {max(taken):.1f} ms of {len(taken)}")
    with running_service(
        new_interpreters=True, warm_workers=WARM, max_workers=CROWD + 20, project_concurrency=CROWD,
        project_queue_factor=10,
    ) as service:
        last = crowd_of_first_calls(service)
    held = held and last < BOUND_OF_CROWD_S
    print(f"{CROWD} functions called at once: the last answer after {last:.2f} s (bound {BOUND_OF_CROWD_S})")
    save("first_call", {"ms": result, "crowd_s": last})
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
