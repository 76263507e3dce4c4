"""Measures starts of local workers: forked from a zygote, executed one by one, and as another checkout starts them.

    python -m benchmarks.worker_starts [--rounds 5] [--starts 100] [--before FOLDER]

FOLDER is a checkout of an earlier commit. The kinds take turns. A start lasts from the manager's request until the
worker has answered `/ping`. Its CPU time is that of the manager, the zygote and the worker; what the kernel's own
threads do is not in it. Ends with status 1 when a bound is exceeded.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import ROOT, save

BOUNDS = {
    "median ms": 12, "p99 ms": 25, "CPU ms": 12, "100 in a row s": 1.2, "100 at once s": 1.2,
    "warm PSS MB": 5, "assigned PSS MB": 8,
}  # fmt: skip
BOUND_OF_RATIO = 1 / 8


def measure(kind: str, starts: int, folder: Path) -> dict[str, float]:
    """One round, in a process of its own that runs the checkout in `folder`."""
    ran = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("worker_starts_round.py")), kind, str(starts)],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    found: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return found


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--starts", type=int, default=100)
    arguments.add_argument("--before", type=Path)
    options = arguments.parse_args()
    kinds = {"fork": ROOT, "exec": ROOT} | ({"before": options.before.resolve()} if options.before else {})
    rounds: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for number in range(options.rounds):
        for kind, folder in kinds.items():
            rounds[kind].append(measure(kind, options.starts if kind == "fork" else options.starts // 4, folder))
        print(f"round {number + 1} of {options.rounds} done", flush=True)
    medians = {
        kind: {name: statistics.median(row[name] for row in rows) for name in rows[0]} for kind, rows in rounds.items()
    }
    print(f"\n{'median of the rounds':<22}" + "".join(f"{kind:>10}" for kind in kinds) + f"{'bound':>10}")
    for name in medians["fork"]:
        bound = BOUNDS.get(name, "")
        print(f"{name:<22}" + "".join(f"{medians[kind][name]:>10.2f}" for kind in kinds) + f"{bound:>10}")
    ratio = statistics.median(
        mine["CPU ms"] / other["CPU ms"] for mine, other in zip(rounds["fork"], rounds["exec"], strict=True)
    )
    print(f"CPU, fork to exec: {ratio:.3f} (bound {BOUND_OF_RATIO:.3f})")
    save("worker_starts", {"rounds": rounds})
    held = ratio <= BOUND_OF_RATIO and all(medians["fork"][name] <= bound for name, bound in BOUNDS.items())
    print("bounds hold" if held else "a bound is exceeded")
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
