"""Cancels one run of this process.

`cancellation.py` writes the cancelled row and notifies the process that runs the execution; that process's engine calls
`RunCancellation.cancel`.
"""

from __future__ import annotations

import logging
from typing import Protocol

import gevent
from gevent.hub import get_hub

from qinling_falcon.invocation.worker_client import UNREACHED, NotSent, WorkerLost
from qinling_falcon.pool.leases import LeasedWorker

logger = logging.getLogger(__name__)

# While a cancelled call is on its way to a worker, `cancel` looks again after pauses, each twice as long as the last.
_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.5


class Interrupted(Exception):
    """A run ends before its function has begun to run.

    There are three reasons:

    1. The execution was cancelled.
    2. This process has lost its claim of the execution, or the claim has ended.
    3. This process stops.
    """


class Ends(Protocol):
    """Ends functions that workers run."""

    def cancel(self, worker: LeasedWorker, execution_id: str) -> bool:
        """End a function. Returns False if the worker does not run it.

        Raises:
            NotSent, NoDescriptor, WorkerLost: the worker could not be asked.
        """


class RunCancellation:
    """Cancels one run. Make it in the greenlet of the run, which keeps the attributes current.

    Args:
        ends: ends functions, unless the run replaces it.
        execution_id: the execution.

    Attributes:
        ends: ends the function on `worker`.
        worker: the worker that has the call; None: the call has not been sent, or has been answered.
        was_sent: whether a worker may have got the call, so that the function may have run.
        is_over: whether the run has ended, so that its greenlet must not be interrupted any more.
        is_requested: whether the run was cancelled.
    """

    __slots__ = (
        "_execution_id",
        "_greenlet",
        "_is_interrupted",
        "ends",
        "is_over",
        "is_requested",
        "was_sent",
        "worker",
    )

    def __init__(self, ends: Ends, execution_id: str) -> None:
        self.ends = ends
        self._execution_id = execution_id
        self._greenlet = gevent.getcurrent()
        self._is_interrupted = False
        self.worker: LeasedWorker | None = None
        self.was_sent = False
        self.is_over = False
        self.is_requested = False

    def cancel(self) -> None:
        """Cancel the execution. There are three cases:

        1. A worker runs the function: the worker ends it.
        2. No worker has got the call yet: `Interrupted` is raised in the greenlet of this run.
        3. The function has ended, and its end is being recorded: nothing happens.

        The case can change while this looks: the call may be on its way to a busy worker, which does not know it yet,
        or the worker may refuse it. So this looks again until one of the cases is sure. A second call does nothing.
        """
        if self.is_requested:
            return
        self.is_requested = True
        pause_s = _FIRST_PAUSE_S
        while not self.is_over:
            if self.worker is not None:
                if self._is_ended_by(self.worker):
                    return
            elif self.was_sent:
                return
            else:
                get_hub().loop.run_callback(self._interrupt)
            gevent.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _is_ended_by(self, worker: LeasedWorker) -> bool:
        """Ask the worker to end the function. Returns whether it does."""
        try:
            return self.ends.cancel(worker, self._execution_id)
        except (NotSent, *UNREACHED, WorkerLost) as error:
            about = {"execution_id": self._execution_id, "reason": str(error)}
            logger.warning("a worker could not be asked to end a function", extra=about)
            return False

    def _interrupt(self) -> None:
        """Runs in the hub. So no other greenlet runs between the look and the exception."""
        if not (self.was_sent or self.is_over or self._is_interrupted):
            self._is_interrupted = True  # a second exception would hit what handles the first one
            self._greenlet.throw(Interrupted)
