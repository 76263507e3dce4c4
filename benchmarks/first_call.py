"""The first call of a new function: with a warm worker waiting, and with none.

    python -m benchmarks.first_call [--calls 25]

Upload is not counted, and no call is made while the pool starts other workers. Ends with status 1 when a median is
over its bound.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

from benchmarks.measure import HELLO, save
from tests.integration.service import Service, running_service, wait_until

WARM = 3
BOUNDS_MS = {"warm worker waiting": 60, "no warm worker": 500}


def first_calls(service: Service, calls: int, cold: str) -> list[float]:
    runtime = service.runtime()
    service.call(service.function(HELLO))  # takes the worker that proved the runtime's image
    taken = []
    for _ in range(calls):
        function = service.function(HELLO)
        if cold == "assign":
            wait_until("the stock is full", lambda: service.capacity(runtime)["available"] == WARM)
        began = time.perf_counter()
        execution = service.call(function)
        taken.append((time.perf_counter() - began) * 1000)
        assert execution["status"] == "success", execution
        assert execution["cold"] == cold, execution
        service.request("DELETE", f"/v1/functions/{function}")
    return taken


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--calls", type=int, default=25)
    options = arguments.parse_args()
    result = {}
    with running_service(warm_workers=WARM) as service:
        result["warm worker waiting"] = first_calls(service, options.calls, "assign")
    with running_service(warm_workers=0) as service:
        result["no warm worker"] = first_calls(service, options.calls, "start")
    held = True
    for name, taken in result.items():
        middle = statistics.median(taken)
        held = held and middle < BOUNDS_MS[name]
        print(f"{name}: median {middle:.1f} ms (bound {BOUNDS_MS[name]}), worst {max(taken):.1f} ms of {len(taken)}")
    save("first_call", {"ms": result})
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
