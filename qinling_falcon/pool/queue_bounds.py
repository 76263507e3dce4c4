"""How many calls may wait for a worker: of one function, of one project, and of all together."""

from __future__ import annotations

from dataclasses import dataclass

from qinling_falcon.errors import Unavailable
from qinling_falcon.pool.leases import LeaseRequest
from qinling_falcon.settings import Settings

_RETRY_AFTER_S = 1
_NOT_RUN = "This call has not run; try again."


@dataclass(frozen=True, slots=True)
class QueueBounds:
    """The most waiters in Redis, over all processes. `scripts/lease.lua` applies them.

    Attributes:
        of_all: of all projects.
        of_project: of one project.
        of_function: of one function, also of its versions and aliases together.
    """

    of_all: int
    of_project: int
    of_function: int

    @classmethod
    def of(cls, settings: Settings) -> QueueBounds:
        """The bounds that the settings give."""
        return cls(
            of_all=settings.max_waiters,
            of_project=settings.project_queue_factor * settings.project_concurrency,
            of_function=settings.function_queue_factor * settings.function_concurrency,
        )

    def refusal(self, request: LeaseRequest, bound: str, waiting: int) -> Unavailable:
        """The error for a call that found no place.

        Args:
            request: the call.
            bound: `function`, `project` or `all`, as the script names it.
            waiting: how many calls wait under that bound.
        """
        match bound:
            case "function":
                message = (
                    f"Too many calls of function {request.function_id} wait for a worker: {waiting} of at most "
                    f"{self.of_function} (FUNCTION_QUEUE_FACTOR times FUNCTION_CONCURRENCY)."
                )
            case "project":
                message = (
                    f"Too many calls of project {request.project_id} wait for a worker: {waiting} of at most "
                    f"{self.of_project} (PROJECT_QUEUE_FACTOR times PROJECT_CONCURRENCY), of which one function never "
                    f"takes all."
                )
            case _:  # without a number: it would tell of other projects
                message = "Too many calls wait for a worker (MAX_WAITERS, of which one project never takes all)."
        return Unavailable(f"{message} {_NOT_RUN}", retry_after_s=_RETRY_AFTER_S)
