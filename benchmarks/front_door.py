"""Measures one project's warm calls while another project holds 2,000 hostile connections.

    python -m benchmarks.front_door [--connections 2000] [--rounds 5] [--seconds 4]

The service has default settings and a real Keystone (its tools are beside the checkout; `tests/servers/openstack.py`).
Bob calls a warm function, one call after another, and requests `/healthz`, alternately without and with the crowd.
Alice's crowd (`crowd.py`) sends bodies that never end, reads answers very slowly, and makes calls that wait for a
worker. The results are the ratio of Bob's latencies and the growth of the web processes' memory. The exit status is 1
if a result misses its bound.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import psutil
import requests

from benchmarks.measure import HELLO, ROOT, save
from tests.integration.service import Service, running_service
from tests.servers.openstack import running_keystone

MOST_RATIO = 3.0
MOST_GROWTH_MIB = 150
SLOW = "import time\ndef main(**_):\n    time.sleep(5)\n"
ROWS = 60


def memory_mib(service: Service) -> float:
    """Resident memory of all web processes."""
    master = psutil.Process(service.processes["web"].pid)
    return sum(one.memory_info().rss for one in [master, *master.children()]) / 2**20


def latencies_ms(ask: Callable[[], object], seconds: float) -> list[float]:
    taken = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        start = time.perf_counter()
        ask()
        taken.append((time.perf_counter() - start) * 1000)
    return taken


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


@contextlib.contextmanager
def crowd(service: Service, token: str, function: str, connections: int) -> Iterator[None]:
    address = urlsplit(service.url)
    command = [sys.executable, "-m", "benchmarks.crowd", str(address.hostname), str(address.port)]
    process = subprocess.Popen(
        [*command, token, function, str(connections)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        time.sleep(3)
        yield
    finally:
        process.kill()
        process.wait(30)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--connections", type=int, default=2000)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=float, default=4)
    options = arguments.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.ExitStack() as held:
        keystone = held.enter_context(running_keystone())
        service = held.enter_context(running_service(new_interpreters=True, **keystone.settings()))
        service.http.headers["X-Auth-Token"] = keystone.token("admin")
        service.runtime()
        service.http.headers["X-Auth-Token"] = alice = keystone.token("alice")
        slow = service.function(SLOW, timeout=9)
        rows = service.function("def main(**_): ...")
        for _ in range(ROWS):
            service.call(rows, {"text": "x" * 100_000})
        service.http.headers["X-Auth-Token"] = keystone.token("bob")
        function = service.function(HELLO)

        def call() -> None:
            answer = service.request("POST", "/v1/executions", json={"function_id": function})
            assert answer.status_code == 201, answer.text

        def health() -> None:
            assert requests.get(service.url + "/healthz", timeout=60).status_code == 200

        asked = {"warm call": call, "/healthz": health}
        latencies_ms(call, 2)
        with crowd(service, alice, slow, options.connections):
            time.sleep(10)  # the workers of her function start
        time.sleep(8)
        memory = memory_mib(service)
        rounds: list[dict[str, dict[str, list[float]]]] = []
        grown = 0.0
        for number in range(options.rounds):
            one = {"alone": {what: latencies_ms(ask, options.seconds) for what, ask in asked.items()}}
            with crowd(service, alice, slow, options.connections):
                one["beside"] = {what: latencies_ms(ask, options.seconds) for what, ask in asked.items()}
                grown = max(grown, memory_mib(service) - memory)
            rounds.append(one)
            time.sleep(8)  # the calls that run and wait end
            print(f"round {number + 1} of {options.rounds} done", flush=True)
    sys.exit(report(rounds, grown))


def report(rounds: list[dict[str, dict[str, list[float]]]], grown: float) -> int:
    kept = True
    result: dict[str, object] = {"grown_mib": grown}
    print(f"\n{'median of the rounds':28} {'alone ms':>10} {'beside ms':>10} {'ratio':>8}   lowest to highest ratio")
    for what in rounds[0]["alone"]:
        for name, share in (("p50", 0.5), ("p95", 0.95)):
            alone, beside = ([percentile(one[which][what], share) for one in rounds] for which in ("alone", "beside"))
            ratios = sorted(this / other for this, other in zip(beside, alone, strict=True))
            middle = statistics.median(ratios)
            result[f"{what} {name}"] = {"alone": alone, "beside": beside, "ratios": ratios}
            print(
                f"{what + ' ' + name:28} {statistics.median(alone):10.2f} {statistics.median(beside):10.2f}"
                f" {middle:8.2f}   {ratios[0]:.2f} to {ratios[-1]:.2f}"
            )
            kept = kept and middle <= MOST_RATIO
    print(f"web processes' memory grows by {grown:.0f} MiB")
    kept = kept and grown <= MOST_GROWTH_MIB
    save("front_door", result)
    print("bounds hold" if kept else "BOUNDS MISSED")
    return 0 if kept else 1


if __name__ == "__main__":
    main()
