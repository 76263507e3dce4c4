"""Ends attempts of asynchronous executions: ends the execution, or queues it again.

An execution that is too old when it is to be started ends as `dead` (`expire`). At the end of an attempt there are six
cases:

1. The function succeeded, or a further attempt can't help (its result is not JSON): the execution ends.
2. The attempt failed: the function raised, timed out or broke a limit, or could not be loaded. If fewer attempts than
   the function's `max_attempts` have failed, and the maximum age allows it, the execution is queued again. Each pause
   is drawn from 0 to `backoff_s`, doubled with each failure ("full jitter"), so that executions that failed together do
   not come back together.
3. The last attempt failed, or the next one would be too late: if `max_attempts` is above 1, the execution ends as
   `dead`, else with the status of the attempt.
4. The attempt was cancelled. If a caller has cancelled the execution, its row has ended already. Otherwise this process
   stops, and the execution is queued again.
5. The process or the worker that ran the attempt was lost. It is not known whether the function has run, and an
   accepted execution runs at least once, so the execution is queued again, also after its last attempt. The pauses are
   those of case 2 with the default `backoff_s`, because the function may be the cause. At the maximum age the execution
   ends.
6. Another process has claimed the execution since, or its row is gone: nothing is written.
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta

from qinling_falcon.invocation.calls import Accepted
from qinling_falcon.invocation.targets import RetryPolicy
from qinling_falcon.models import clock, execution_ends, execution_queue
from qinling_falcon.models.execution_queue import ClaimedExecution
from qinling_falcon.models.records import ExecutionRecord
from qinling_falcon.models.states import ExecutionStatus
from qinling_falcon.pool.ended import Ended
from qinling_falcon.pool.ready_sets import ReadySets
from qinling_falcon.settings import Settings

_LONGEST_PAUSE_S = 3600.0
_TOO_OLD = "The execution is too old to be started."
_FAILED = (ExecutionStatus.FAILED, ExecutionStatus.ERROR)


class Attempts:
    """Ends attempts.

    Args:
        ready: where executions go that are started again.
        settings: the maximum age.
        ended: notifies those who wait for the end of an execution.
    """

    def __init__(self, ready: ReadySets, settings: Settings, ended: Ended):
        self._ready = ready
        self._settings = settings
        self._ended = ended

    def end(
        self, ended: ExecutionRecord, accepted: Accepted, retries: RetryPolicy, *, is_permanent: bool = False
    ) -> ExecutionRecord:
        """Write the end of an attempt; durable on return.

        Args:
            ended: the outcome of the attempt, as the record of a final execution.
            accepted: the execution and its attempt.
            retries: how its function is retried.
            is_permanent: whether a further attempt would fail in the same way.

        Returns:
            The execution as it is shown from now on: final, or `running` if it will be started again.

        Raises:
            Unavailable: the database is away. It is safe to call again.
        """
        ended = ended._replace(attempt=accepted.attempt, sync=False)
        if ended.status == ExecutionStatus.CANCELLED:
            self.give_back(accepted, clock.wall(), was_started=True)
            return ended
        if ended.status not in _FAILED or is_permanent:
            self._end(ended, accepted)
            return ended
        failures = accepted.failures + 1
        again_at = clock.wall() + timedelta(seconds=_pause_s(retries, failures))
        if failures < retries.max_attempts and again_at < self._latest_start(accepted, retries):
            return self._postpone(ended, accepted, again_at, failures)
        if retries.max_attempts > 1:
            ended = ended._replace(status=ExecutionStatus.DEAD, status_reason=_dead_reason(ended, failures, retries))
        self._end(ended, accepted)
        return ended

    def lose(self, lost: ExecutionRecord, accepted: Accepted, retries: RetryPolicy | None = None) -> ExecutionRecord:
        """Queue an execution again whose process or worker was lost; durable on return. Returns and raises as `end`.

        Args:
            lost: the record that ends the execution if it is too old.
            accepted: the execution and its attempt.
            retries: how its function is retried; None: unknown. The age is then checked at the next start (`expire`).
        """
        lost = lost._replace(attempt=accepted.attempt, sync=False)
        again_at = clock.wall() + timedelta(seconds=_pause_s(RetryPolicy(), accepted.attempt))
        if retries is None or again_at < self._latest_start(accepted, retries):
            return self._postpone(lost, accepted, again_at)
        lost = lost._replace(status=ExecutionStatus.DEAD)
        self._end(lost, accepted)
        return lost

    def give_back(self, accepted: Accepted, not_before: datetime, *, was_started: bool) -> None:
        """Queue an execution again whose attempt did not take place, or was interrupted. Raises as `end`."""
        if execution_queue.give_back(accepted.id, accepted.claim, not_before, was_started=was_started):
            self._push(accepted, not_before)

    def expire(self, started: ExecutionRecord, accepted: Accepted, retries: RetryPolicy) -> ExecutionRecord | None:
        """End an execution as `dead` if it is too old to be started. Raises as `end`.

        Args:
            started: its record as it would be started.
            accepted: the execution and its attempt, which is not counted then.
            retries: how its function is retried.

        Returns:
            Its final record; None: it may be started.
        """
        if clock.wall() < self._latest_start(accepted, retries):
            return None
        ended = started._replace(
            status=ExecutionStatus.DEAD, status_reason=_TOO_OLD, log="", updated_at=clock.now(),
            attempt=accepted.attempt - 1, sync=False,
        )  # fmt: skip
        self._end(ended, accepted)
        return ended

    def wait(self, claimed: ClaimedExecution, accepted: Accepted, not_before: datetime, reason: str) -> None:
        """Queue an execution again that can't be run now, or end it as `dead` at the maximum age of the settings.

        The function's own maximum age is not known, because the function can't be resolved.

        Args:
            claimed: the execution.
            accepted: the same, as for the engine.
            not_before: when it may be claimed again.
            reason: why it can't be run.

        Raises:
            Unavailable: as `end`.
        """
        if clock.wall() < self._latest_start(accepted, RetryPolicy()):
            self.give_back(accepted, not_before, was_started=False)
            return
        ended = ExecutionRecord(
            claimed.id,
            claimed.project_id,
            claimed.function_id,
            ExecutionStatus.DEAD,
            claimed.created_at,
            function_version=claimed.function_version,
            status_reason=f"{_TOO_OLD} {reason}",
            log="",
            updated_at=clock.now(),
            attempt=claimed.attempt - 1,
        )
        self._end(ended, accepted)

    def _latest_start(self, accepted: Accepted, retries: RetryPolicy) -> datetime:
        """Until when an execution may be started again."""
        max_age_s = self._settings.async_max_age_s if retries.max_age_s is None else retries.max_age_s
        return (accepted.since or accepted.created_at) + timedelta(seconds=max_age_s)

    def _end(self, ended: ExecutionRecord, accepted: Accepted) -> None:
        execution_ends.end(ended, accepted.claim)
        self._ended.notify((ended.id,))

    def _postpone(
        self, ended: ExecutionRecord, accepted: Accepted, again_at: datetime, failures: int | None = None
    ) -> ExecutionRecord:
        outcome = "was lost" if failures is None else "has failed"
        reason = f"Attempt {accepted.attempt} {outcome}. A further attempt will start: {ended.status_reason}"
        shown = ended._replace(status=ExecutionStatus.RUNNING, status_reason=reason)
        if execution_queue.postpone(shown, accepted.claim, again_at, failures):
            self._push(accepted, again_at)
        return shown

    def _push(self, accepted: Accepted, not_before: datetime) -> None:
        self._ready.push(accepted.project_id, accepted.function_id, accepted.id, clock.to_micros(not_before))


def _pause_s(retries: RetryPolicy, attempts: int) -> float:
    """The pause after so many attempts. A large number would overflow the power of 2."""
    return random.uniform(0, min(_LONGEST_PAUSE_S, retries.backoff_s * 2.0 ** min(attempts - 1, 40)))


def _dead_reason(ended: ExecutionRecord, failures: int, retries: RetryPolicy) -> str:
    if failures >= retries.max_attempts:
        return f"{failures} attempts have failed, which is the maximum: {ended.status_reason}"
    return f"Attempt {ended.attempt} has failed, and the execution is too old for another one: {ended.status_reason}"
