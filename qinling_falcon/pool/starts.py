"""The starts of workers that run now: which of them hold a start slot, and which runtimes must wait.

An orchestrator runs `concurrent_starts` starts at once, and each one holds a slot. Starts that fail, or hang until
their timeout, must not keep the slots from other runtimes. There are two rules for that:

1. A start does not hold a slot if it takes much longer than usual, or if the runtime's last start has failed.
2. A runtime with such a start gets no other start until it has ended. After a failure the runtime waits before its next
   start, longer after each failure.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

_LONGEST_REST_S = 30.0
_FIRST_REST_S = 0.25
# Between two attempts while the orchestrator's server is away.
_REST_S = 1.0
# A start counts as hanging after `_HANGING` times the usual time, and at least `_LEAST_HANGING_S`.
_HANGING = 10
_LEAST_HANGING_S = 1.0


@dataclass(frozen=True, slots=True)
class _Start:
    runtime_id: str
    image: str
    is_trial: bool
    since: float


class Starts:
    """The starts that run now.

    Args:
        slots: how many starts may run at once.
        cost_ms: the present cost of a start (S), in ms.
    """

    def __init__(self, slots: int, cost_ms: Callable[[], float]):
        self._slots = slots
        self._cost_ms = cost_ms
        self._running: dict[str, _Start] = {}
        self._failures: dict[tuple[str, str], int] = {}
        self._rests_until: dict[tuple[str, str], float] = {}

    @property
    def workers(self) -> set[str]:
        """Ids of the workers that are being started."""
        return set(self._running)

    @property
    def free_slots(self) -> int:
        """How many more starts may begin now."""
        return self._slots - sum(not one.is_trial and self._holds_slot(one) for one in self._running.values())

    @property
    def free_trial_slots(self) -> int:
        """How many more trials of images may begin now. They have slots of their own."""
        return self._slots - sum(one.is_trial and self._holds_slot(one) for one in self._running.values())

    def begin(self, worker_id: str, runtime_id: str, image: str, *, is_trial: bool = False) -> None:
        """Add a start that begins now."""
        self._running[worker_id] = _Start(runtime_id, image, is_trial, time.monotonic())

    def end(self, worker_id: str) -> None:
        """Remove a start that has succeeded or failed."""
        self._running.pop(worker_id, None)

    def succeeded(self, runtime_id: str, image: str) -> None:
        """Note that a worker of the runtime has started from the image."""
        self._failures.pop((runtime_id, image), None)
        self._rests_until.pop((runtime_id, image), None)

    def failed(self, runtime_id: str, image: str) -> None:
        """Note that a worker of the runtime did not start from the image."""
        failures = self._failures[runtime_id, image] = self._failures.get((runtime_id, image), 0) + 1
        rest_s = min(_LONGEST_REST_S, _FIRST_REST_S * 2 ** min(failures, 10))
        self._rests_until[runtime_id, image] = time.monotonic() + rest_s

    def rest(self, runtime_id: str, image: str) -> None:
        """Note that no worker can be started now, which is not the fault of the image."""
        self._rests_until[runtime_id, image] = time.monotonic() + _REST_S

    def must_wait(self, runtime_id: str, image: str) -> bool:
        """Whether the runtime must wait before the next start from the image."""
        if time.monotonic() < self._rests_until.get((runtime_id, image), 0.0):
            return True
        return any(
            (one.runtime_id, one.image) == (runtime_id, image) and not one.is_trial and not self._holds_slot(one)
            for one in self._running.values()
        )

    def _holds_slot(self, start: _Start) -> bool:
        hanging_s = max(_LEAST_HANGING_S, _HANGING * self._slots * self._cost_ms() / 1000)
        is_failing = (start.runtime_id, start.image) in self._failures
        return not is_failing and time.monotonic() - start.since < hanging_s
