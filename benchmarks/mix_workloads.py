"""The workloads of `mix`: their functions, and when each one is called."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

SLEEP_S = 0.02
SLOW_S = 5.0
SLOW_CALLERS = 60  # of each slow function
FAST, FAST_RATE = 10, 10.0
PERIOD_S = 30.0
BURST = 200
ZIPF_EXPONENT = 1.1


@dataclass(slots=True)
class Plan:
    """One workload.

    Attributes:
        sleeps: how long each function sleeps, in seconds.
        settle: seconds that are not measured.
        seconds: seconds that are measured after that. 0: a burst, which is measured until its last answer.
        callers: how many callers call each function in a closed loop; none where it is shorter than `sleeps`.
        arrivals: (seconds after the start, number of the function) in an open loop.
        shown: the functions whose calls are shown; empty: all.
        fields: further fields of the functions.
    """

    sleeps: list[float]
    settle: float
    seconds: float
    callers: list[int] = field(default_factory=list)
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    shown: list[int] = field(default_factory=list)
    fields: dict[str, int] = field(default_factory=dict)

    @property
    def is_burst(self) -> bool:
        return self.seconds == 0

    @property
    def all_shown(self) -> list[int]:
        return self.shown or list(range(len(self.sleeps)))


Make = Callable[[float, float, float], Plan]
"""Makes a plan from seconds to settle, seconds to measure, and the capacity in calls a second."""


def closed(functions: int, callers: int) -> Make:
    def make(settle: float, seconds: float, capacity: float) -> Plan:
        return Plan([SLEEP_S] * functions, settle, seconds, callers=[callers] * functions)

    return make


def zipf(functions: int, share: float) -> Make:
    """Calls arrive at random (Poisson) at a share of the capacity. Functions are drawn by rank (Zipf)."""

    def make(settle: float, seconds: float, capacity: float) -> Plan:
        rng = random.Random(functions)
        weights = [(rank + 1) ** -ZIPF_EXPONENT for rank in range(functions)]
        times = poisson(rng, share * capacity, 0, settle + seconds)
        drawn = rng.choices(range(functions), weights, k=len(times))
        return Plan([SLEEP_S] * functions, settle, seconds, arrivals=list(zip(times, drawn, strict=True)))

    return make


def burst(functions: int, fields: dict[str, int]) -> Make:
    """`BURST` first calls, almost at once. Their times only give them an order."""

    def make(settle: float, seconds: float, capacity: float) -> Plan:
        arrivals = [(number / 1e5, number % functions) for number in range(BURST)]
        return Plan([SLEEP_S] * functions, 0, 0, arrivals=arrivals, fields=fields)

    return make


def flood(settle: float, seconds: float, capacity: float) -> Plan:
    """Three slow functions with many callers each. Beside them, fast ones are called a few times a second."""
    rng = random.Random(0)
    settle = max(settle, 2 * SLOW_S)
    fast = range(3, 3 + FAST)
    arrivals = [(at, one) for one in fast for at in poisson(rng, FAST_RATE, settle - SLOW_S, settle + seconds)]
    return Plan(
        [SLOW_S] * 3 + [SLEEP_S] * FAST, settle, seconds, callers=[SLOW_CALLERS] * 3, arrivals=arrivals,
        shown=list(fast), fields={"timeout": 30},
    )  # fmt: skip


def periodic(settle: float, seconds: float, capacity: float) -> Plan:
    """300 functions, each called every 30 s. Each one is called once before the measured time."""
    rng = random.Random(300)
    settle, seconds = max(settle, PERIOD_S), max(seconds, PERIOD_S)
    firsts = [rng.uniform(0, PERIOD_S) for _ in range(300)]
    arrivals = [
        (first + turn * PERIOD_S, number)
        for number, first in enumerate(firsts)
        for turn in range(int((settle + seconds - first) / PERIOD_S) + 1)
    ]
    return Plan([SLEEP_S] * 300, settle, seconds, arrivals=arrivals)


def poisson(rng: random.Random, rate: float, begin: float, end: float) -> list[float]:
    times, at = [], begin
    while (at := at + rng.expovariate(rate)) < end:
        times.append(at)
    return times


CAPACITY = "1x30"
"""The workload whose calls a second are the capacity; it runs first."""

WORKLOADS: dict[str, Make] = {
    CAPACITY: closed(1, 30),
    "10x3": closed(10, 3),
    "20x3": closed(20, 3),
    "60x1": closed(60, 1),
    "200x1": closed(200, 1),
    "zipf-50-30": zipf(50, 0.3),
    "zipf-50-60": zipf(50, 0.6),
    "zipf-500-30": zipf(500, 0.3),
    "zipf-500-60": zipf(500, 0.6),
    "burst-200": burst(200, {}),
    "burst-1": burst(1, {"concurrency": 4}),
    "flood": flood,
    "periodic": periodic,
}
