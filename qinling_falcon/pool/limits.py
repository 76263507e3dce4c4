"""The limits of workers, leases and waiting calls. The manager computes them, and scripts read them in Redis.

Other processes could not compute them, because the number of workers depends on the host of the workers. Limits that
are not set are shares of `max_workers`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from qinling_falcon.settings import Settings

_FUNCTION_SHARE = Fraction(2, 3)
_PROJECT_SHARE = Fraction(5, 6)
_ASYNCHRONOUS_SHARE = Fraction(3, 4)
# The same value as in `scripts/parts/limits.lua`. A limit as large as the pool would block the queue of a new function,
# so that no worker would be evicted for it.
_UNLIMITED = 10**9
# The least bases of the limits of waiting calls. A waiting call costs little, so a host with few workers has queues as
# long as a host with 48 workers.
_LEAST_QUEUE_BASE_OF_FUNCTION = 32
_LEAST_QUEUE_BASE_OF_PROJECT = 40


@dataclass(frozen=True, slots=True)
class CallBounds:
    """How many calls may run and wait at once, in all processes together.

    Attributes:
        of_function: calls of one function.
        of_project: calls of one project.
    """

    of_function: float = math.inf
    of_project: float = math.inf


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of the pool.

    Attributes:
        max_workers: workers in all states.
        of_function: leases of one function.
        of_project: leases of one project.
        of_runtime: leases of one runtime.
        waiting: waiting calls of all projects.
        waiting_of_project: waiting calls of one project.
        waiting_of_function: waiting calls of one function, its versions and its aliases together.
        asynchronous: leases for asynchronous executions.
    """

    max_workers: int
    of_function: int
    of_project: int
    of_runtime: int
    waiting: int
    waiting_of_project: int
    waiting_of_function: int
    asynchronous: int

    @classmethod
    def of(cls, settings: Settings, max_workers: int) -> Limits:
        """The limits that the settings ask for.

        Args:
            settings: the limits that are set. The others are shares of `max_workers`.
            max_workers: the most workers in all states.
        """
        of_function = settings.function_concurrency or math.ceil(max_workers * _FUNCTION_SHARE)
        of_project = settings.project_concurrency or math.ceil(max_workers * _PROJECT_SHARE)
        return cls(
            max_workers=max_workers,
            of_function=of_function,
            of_project=of_project,
            of_runtime=settings.runtime_concurrency or _UNLIMITED,
            waiting=settings.max_waiters,
            waiting_of_project=settings.project_queue_factor
            * (settings.project_concurrency or max(of_project, _LEAST_QUEUE_BASE_OF_PROJECT)),
            waiting_of_function=settings.function_queue_factor
            * (settings.function_concurrency or max(of_function, _LEAST_QUEUE_BASE_OF_FUNCTION)),
            asynchronous=_asynchronous(settings, max_workers),
        )

    @property
    def calls(self) -> CallBounds:
        """How many calls may run and wait at once."""
        return CallBounds(self.of_function + self.waiting_of_function, self.of_project + self.waiting_of_project)


def _asynchronous(settings: Settings, max_workers: int) -> int:
    """The leases for asynchronous executions. At least one worker is left for calls, if there are several."""
    wanted = settings.async_workers or math.floor(max_workers * _ASYNCHRONOUS_SHARE)
    return max(1, min(wanted, max_workers - 1))
