"""The warm synchronous call of this tree beside that of another commit, interleaved in one run.

    python -m benchmarks.two_commits COMMIT [--pairs 9] [--seconds 4] [--callers 32] [--sleep-ms 0]

Both services run all the time, with databases and a Valkey of their own. A pair is one run of wrk against each, in an
order that alternates. What counts is the median over the pairs of the ratio of CPU time a call (all processes of a
service), of calls a second and of the median time of a call. `--sleep-ms` is how long the function sleeps.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import tempfile
from pathlib import Path

from benchmarks.measure import HELLO, ROOT, cpu_seconds, need_wrk, save, wrk
from benchmarks.warm_call import WORKERS, valkey_pid, warm_up
from tests.integration.service import Service, running_service

LIMITS = {"warm_workers": 8, "max_workers": 48, "function_concurrency": 64, "project_concurrency": 64}


def check_out(commit: str, folder: Path) -> Path:
    tree = folder / "tree"
    subprocess.run(["git", "clone", "--quiet", "--no-checkout", str(ROOT), str(tree)], check=True)
    subprocess.run(["git", "-C", str(tree), "checkout", "--quiet", commit], check=True)
    return tree


def run(
    service: Service, call: dict, seconds: int, headers: str = "", callers: int = WORKERS
) -> dict[str, float]:
    """CPU ms a call by process, calls a second and their median time in ms; `headers` as `wrk` takes them."""
    groups = {
        "web": [service.processes["web"].pid],
        "pool manager and workers": [service.processes["pool"].pid],
        "valkey": [valkey_pid(service.environ["REDIS_URL"])],
    }
    before = cpu_seconds(groups)
    row = wrk(service.url + "/v1/executions", callers, seconds, call, headers=headers)
    after = cpu_seconds(groups)
    assert not row["errors"], row
    used = {name: (after[name] - before[name]) / row["requests"] * 1000 for name in groups}
    return used | {"all": sum(used.values()), "calls/s": row["rps"], "p50 ms": row["p50_ms"]}


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("commit")
    arguments.add_argument("--pairs", type=int, default=9)
    arguments.add_argument("--seconds", type=int, default=4)
    arguments.add_argument("--callers", type=int, default=WORKERS)
    arguments.add_argument("--sleep-ms", type=float, default=0)
    options = arguments.parse_args()
    need_wrk()
    source = HELLO
    if options.sleep_ms:
        source = f"import time\n\n\ndef main(name='World'):\n    time.sleep({options.sleep_ms / 1000})\n"
    with contextlib.ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="qf-bench-")))
        root = check_out(options.commit, folder)
        services = {
            options.commit: held.enter_context(running_service(root=root, new_interpreters=True, **LIMITS)),
            "this tree": held.enter_context(running_service(new_interpreters=True, **LIMITS)),
        }
        calls = {name: {"function_id": service.function(source), "input": None} for name, service in services.items()}
        for name, service in services.items():
            warm_up(service, calls[name])
        pairs: list[dict[str, dict[str, float]]] = []
        for number in range(options.pairs):
            names = list(services) if number % 2 == 0 else list(services)[::-1]
            pairs.append(
                {name: run(services[name], calls[name], options.seconds, callers=options.callers) for name in names}
            )
            print(f"pair {number + 1} of {options.pairs} done", flush=True)
    result = {}
    print(f"\n{'median':28} {options.commit[:12]:>12} {'this tree':>12} {'ratio':>8}   lowest to highest ratio")
    for what in pairs[0]["this tree"]:
        old, new = ([pair[name][what] for pair in pairs] for name in services)
        ratios = sorted(this / other for this, other in zip(new, old, strict=True))
        result[what] = {"old": statistics.median(old), "new": statistics.median(new), "ratios": ratios}
        print(
            f"{what:28} {statistics.median(old):12.3f} {statistics.median(new):12.3f} {statistics.median(ratios):8.3f}"
            f"   {ratios[0]:.3f} to {ratios[-1]:.3f}"
        )
    save("two_commits", {"commit": options.commit, **result})


if __name__ == "__main__":
    main()
