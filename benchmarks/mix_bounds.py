"""The bounds for the rows of `mix`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.mix_workloads import BURST, CAPACITY

SHARES = {"10x3": 0.9, "20x3": 0.8, "60x1": 0.7, "200x1": 0.6}  # of the calls a second of CAPACITY
REDIS = {CAPACITY: 12, "10x3": 20, "60x1": 40}
STARTS = {"10x3": 0.2, "20x3": 0.2}
BURST_MS = 6000
FLOOD_P99_MS = 150
ZIPF_P99_TO_P50 = 5
WORKERS_OF_BURST = 4
OVERTAKEN_IN_BURST = 20  # by calls on the other workers, and by those whose records share a commit


def missed(rows: dict[str, dict[str, Any]]) -> list[str]:
    """The bounds that the rows miss, one line each."""
    return [
        f"MISSED {name}: {what} is {value:.3g}, and the bound is {relation} {bound:g}"
        for name, what, value, relation, bound in _compared(rows)
        if not (value >= bound if relation == "at least" else value <= bound)
    ]


def _compared(rows: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str, float, str, float]]:
    for name, row in rows.items():
        if name in SHARES:
            share = row["calls/s"] / rows[CAPACITY]["calls/s"]
            yield name, f"calls/s as a share of {CAPACITY}", share, "at least", SHARES[name]
        if name in REDIS:
            yield name, "Redis commands a call", row["Redis"], "at most", REDIS[name]
        if name in STARTS:
            yield name, "starts of workers a second", row["starts/s"], "at most", STARTS[name]
        yield name, "failed calls", row["failed"], "at most", 0
        yield name, "refused calls later than 10 s", row["late 503"], "at most", 0
        if name == "zipf-500-60":
            yield name, "refused calls", row["503"], "at most", 0
            yield name, "p99 to p50", row["p99"] / row["p50"], "at most", ZIPF_P99_TO_P50
        if name == "flood":
            yield name, "p99 of the fast ones in ms", row["p99"], "at most", FLOOD_P99_MS
        if name.startswith("burst"):
            yield name, "answered calls", row["statuses"].get("201", 0), "at least", BURST
        if name == "burst-200":
            yield name, "ms until the last answer", row["max"], "at most", BURST_MS
        if name == "burst-1":
            yield name, "workers at once", row["most workers of the function"], "at most", WORKERS_OF_BURST
            yield name, "later calls that overtook one", row["overtaken by"], "at most", OVERTAKEN_IN_BURST
