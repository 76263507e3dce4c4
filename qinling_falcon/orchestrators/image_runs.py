"""The interface through which a process runs functions from images: each execution in a container of its own.

The process that runs an execution makes its container, because only this process knows the input and waits for the end.
It leases the container before as a worker for a single execution (see `pool/single_use.py`), so the pool manager ends
the container after the lease, whatever happens to this process.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from qinling_falcon.errors import Unavailable
from qinling_falcon.orchestrators.base import SingleUse
from qinling_falcon.settings import Settings

# The end of a container may be told so much after its deadline, if the orchestrator's server is away for a moment.
_LATE_S = 30.0


class NotStarted(Unavailable):
    """The container can't be made now, although the image may be good. Nothing has run."""


class RunLost(Exception):
    """It is not known how the container has ended, or whether it has run. The message gives the reason."""


class EndKind(enum.Enum):
    """How an execution in a container has ended."""

    SUCCEEDED = "succeeded"
    """Its program ended with exit status 0."""
    FAILED = "failed"
    """Its program ended with another exit status."""
    OUT_OF_MEMORY = "out of memory"
    OUT_OF_DISK = "out of disk"
    TIMED_OUT = "timed out"
    CANCELLED = "cancelled"
    """It was ended by `ImageRuns.cancel`."""
    UNUSABLE = "unusable"
    """No container can be started from the image, or with these arguments."""


@dataclass(frozen=True, slots=True)
class ImageRun:
    """An execution of a function from an image.

    Attributes:
        execution_id: the execution.
        worker_id: the worker for which the container is made.
        lease: its lease.
        function_id: the function, for the operator.
        image: the image.
        arguments: of the image's program, in place of the image's own; empty: the image's own.
        cpu: millicores.
        memory_size: bytes.
        timeout_s: how long the container may run, in seconds.
    """

    execution_id: str
    worker_id: str
    lease: SingleUse
    function_id: str
    image: str
    arguments: tuple[str, ...]
    cpu: int
    memory_size: int
    timeout_s: int


@dataclass(frozen=True, slots=True)
class ImageRunEnd:
    """The end of an execution in a container.

    Attributes:
        kind: how it ended.
        duration_s: how long the container ran, in seconds.
        log: what it printed.
        exit_status: of its program; None: unknown.
        reason: why the image is unusable, or what the orchestrator tells.
    """

    kind: EndKind
    duration_s: float = 0.0
    log: str = ""
    exit_status: int | None = None
    reason: str = ""


class ImageRuns(Protocol):
    """Runs functions from images."""

    def run(self, run: ImageRun) -> ImageRunEnd:
        """Make the container, and wait (cooperatively) for its end. `longest_run_s` says for how long at most.

        Two containers of one execution never exist at the same time. This waits for the end of an earlier one.

        Raises:
            NotStarted: nothing has run.
            RunLost: the container may have run, or may still run until the pool manager has ended it.
        """

    def cancel(self, worker_id: str) -> bool:
        """End the container of a worker, so that `run` returns. Returns False if this process does not run it."""


def longest_run_s(settings: Settings, timeout_s: float) -> float:
    """The longest time that `ImageRuns.run` takes for an execution with this timeout, in seconds.

    The answer to a last request to the cluster may come later, within the grace of the lease.
    """
    return settings.kubernetes_start_timeout_s + timeout_s + _LATE_S
