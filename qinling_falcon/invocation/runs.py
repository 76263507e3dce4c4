"""A run: what the engine does for one execution before it has a worker, on the worker, and afterwards."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

import gevent

from qinling_falcon.errors import Unavailable
from qinling_falcon.invocation.attempts import Attempts
from qinling_falcon.invocation.call_keys import CallKey
from qinling_falcon.invocation.calls import (
    WORKER_LOST,
    Accepted,
    Call,
    commit_record,
    completed_record,
    detail,
    failed_record,
    is_inline,
    not_loaded_record,
    not_recorded,
    started_record,
)
from qinling_falcon.invocation.execution_quota import Reservation
from qinling_falcon.invocation.image_calls import ImageCalls
from qinling_falcon.invocation.loading import lease_request
from qinling_falcon.invocation.long_runs import LongRuns
from qinling_falcon.invocation.run_cancellation import Interrupted, RunCancellation
from qinling_falcon.invocation.sessions import Sessions
from qinling_falcon.invocation.targets import Resolver, Target
from qinling_falcon.invocation.worker_client import (
    DiskFull,
    Execution,
    NotLoaded,
    NotSent,
    Ran,
    WorkerClient,
    WorkerLost,
)
from qinling_falcon.models import clock, execution, execution_queue
from qinling_falcon.models.records import ExecutionRecord, begin
from qinling_falcon.models.scope import Context
from qinling_falcon.pool.leases import Lease, LeasedWorker, LeaseRequest
from qinling_falcon.pool.pool import Pool
from qinling_falcon.settings import Settings

logger = logging.getLogger(__name__)

_BAD_RESULT = "result"  # the worker's name for a result that is not JSON, or is too large
# While the database is away, the end of an accepted execution is retried for this fraction of its claim.
_COMMIT_PART_OF_CLAIM = 0.5
# An accepted execution whose worker was lost waits for the end of the worker for this fraction of its claim, at most.
_WORKER_END_PART_OF_CLAIM = 0.5
_RETRY_COMMIT_S = 0.2
_NO_IMAGES = "Functions from images run on Kubernetes, which this installation does not use."


@dataclass(frozen=True, slots=True)
class RunParts:
    """The collaborators of all runs of a process. `images` is None if the orchestrator runs no images."""

    resolver: Resolver
    workers: WorkerClient
    images: ImageCalls | None
    settings: Settings
    sessions: Sessions | None
    long_runs: LongRuns
    attempts: Attempts | None
    pool: Pool


class Run:
    """One execution, as a task of the engine.

    Args:
        parts: the collaborators.
        context: the caller.
        call: the call.
        reservation: reserves the execution in the quota.
        accepted: the execution, if it was accepted before and has a row; None: it is a new one.
        key: the idempotency key of a new execution, with its id and time; None: the request has no key.

    Attributes:
        id: the execution's id.
        cancellation: cancels the run.
    """

    failure_message = "No worker could take this call; it has not run. Try again."

    __slots__ = (
        "_accepted",
        "_arrived",
        "_call",
        "_context",
        "_created_at",
        "_has_row",
        "_key",
        "_openstack",
        "_parts",
        "_reservation",
        "_started",
        "_target",
        "_was_prepared",
        "cancellation",
        "id",
    )  # fmt: skip

    _started: ExecutionRecord
    _target: Target

    def __init__(
        self,
        parts: RunParts,
        context: Context,
        call: Call,
        reservation: Reservation,
        accepted: Accepted | None = None,
        key: CallKey | None = None,
    ) -> None:
        self._parts = parts
        self._context = context
        self._call = call
        self._reservation = reservation
        self._accepted = accepted
        self._arrived = time.monotonic()
        self._key = key
        known = accepted if key is None else key
        self._created_at = clock.now() if known is None else known.created_at
        self.id = clock.new_id(self._created_at) if known is None else known.id
        self._openstack: Any = None
        self._has_row = False
        self._was_prepared = False
        self.cancellation = RunCancellation(parts.workers, self.id)

    def resolve(self) -> Target:
        """The target of the call."""
        call, resolver = self._call, self._parts.resolver
        if call.function_alias is not None:
            return resolver.resolve_alias(self._context, call.function_alias)
        assert call.function_id is not None
        return resolver.resolve(self._context, call.function_id, call.function_version)

    def prepare(self, target: Target) -> LeaseRequest | ExecutionRecord:
        """Reserve an execution in the quota, claim the idempotency key, and get the function's OpenStack session.

        Raises:
            Interrupted: the execution was cancelled after a worker had refused it, or this process was silent for so
                long that it has lost the execution.
        """
        if self.cancellation.is_requested:
            raise Interrupted
        parts = self._parts
        if self._accepted is None:
            self._reservation.take(target.project_id)
        if self._key is not None:
            self._key.claim()
        self._target = target
        self._started = started_record(target, self._call, self.id, self._created_at)
        if self._accepted is not None:
            if self._was_prepared and not execution_queue.is_claimed(self.id, self._accepted.claim):
                raise Interrupted
            self._was_prepared = True
            assert parts.attempts is not None
            if (expired := parts.attempts.expire(self._started, self._accepted, target.retries)) is not None:
                return expired
        if target.image is not None and parts.images is None:
            if self._key is not None:
                self.begin()
            return self._record(failed_record(self._started, _NO_IMAGES), was_sent=False)
        # Reset, because the target of an earlier try may have had a trust.
        self._openstack = None
        if target.trust_id is not None and parts.sessions is not None:
            self._openstack = parts.sessions.session(target.trust_id)
        journaled = detail(self._started, self._accepted)
        if target.image is not None:
            assert parts.images is not None
            return parts.images.lease_request(target, self.id, journaled, self._arrived)
        return lease_request(target, parts.settings, self.id, journaled, target.timeout_s, arrived=self._arrived)

    def begin(self) -> None:
        """Write the row of an execution before it runs. There are two cases:

        1. It has an idempotency key, which is bound in the same transaction.
        2. Its input is large, so that the journal does not have the input.

        Raises:
            Interrupted: the execution was accepted before, and its claim has ended, because the database was away.
        """
        if self._accepted is not None:
            if time.monotonic() >= self._accepted.claimed_until:
                raise Interrupted
            return
        if self._key is not None:
            self._key.begin(self._started)
        elif is_inline(self._call.input):
            return
        else:
            begin(self._started)
        self._has_row = True
        self._reservation.recorded()

    def use(self, lease: Lease, target: Target) -> ExecutionRecord:
        """Call the worker and record its answer. The worker runs the next call while the record is committed.

        The worker of a function from an image runs only this call.

        Raises:
            Unavailable: the call can't be sent now, for a reason that is not the worker's. The function has not run.
        """
        queued_ms = self._queued_ms()
        is_image = target.image is not None
        if self._accepted is None and not self._has_row:
            self._parts.long_runs.add(self._started, self._reservation)
        is_permanent = is_lost = False
        self.cancellation.worker = lease.worker
        self.cancellation.was_sent = True
        try:
            ran = self._run_image(lease, target) if is_image else self._call_worker(lease, target)
        except WorkerLost as error:
            logger.warning("a worker was lost", extra=_log_extra(lease, target, error))
            lease.released(destroy=True)
            is_lost = True
            final = failed_record(self._started, WORKER_LOST, lease.cold, queued_ms)
        except NotSent:
            self.cancellation.was_sent = False
            raise
        except Unavailable:  # as `UNREACHED`
            self.cancellation.was_sent = False
            lease.released(destroy=is_image)  # the worker holds the target now, so it is not returned unused
            lease.withdrawn()
            raise
        else:
            lease.released(destroy=is_image, busy_s=ran.busy_s)
            is_permanent = ran.reason == _BAD_RESULT
            final = completed_record(self._started, ran, lease.cold, queued_ms)
        finally:
            self.cancellation.worker = None
            self._parts.long_runs.remove(self.id)
        if is_lost and self._accepted is not None:
            self._await_end_of(lease.worker)
        final = self._record(final, is_permanent=is_permanent, is_lost=is_lost)
        lease.committed()
        return final

    def not_loaded(self, lease: Lease, target: Target, error: NotLoaded | DiskFull) -> ExecutionRecord:
        """Record why the function has not run: `failed` for a bad package, `error` for a full disk.

        Raises:
            Unavailable: the disk is full, and the execution was accepted before; or the database is away.
        """
        queued_ms = self._queued_ms()
        if isinstance(error, DiskFull):
            logger.warning("a worker can't store a function", extra=_log_extra(lease, target, error))
            reason = f"{error} The function has not run; try again later."
            if self._accepted is not None:
                raise Unavailable(reason) from error  # it is tried again later
            final = failed_record(self._started, reason, lease.cold, queued_ms)
        else:
            final = not_loaded_record(self._started, str(error), lease.cold, queued_ms)
        try:
            final = self._record(final, was_sent=False)
        except Unavailable:
            lease.withdrawn()
            raise
        lease.committed()
        return final

    def withdraw(self) -> None:
        """Delete the row of an execution that has not run, if it has one, and release its idempotency key.

        If that fails, `record_overdue` records the row as an error later.
        """
        if self._key is not None:
            self._key.release()
        elif self._has_row:
            try:
                execution.withdraw(self.id)
            except Unavailable as error:
                logger.warning(
                    "an execution that has not run is listed as running",
                    extra={"execution_id": self.id, "reason": str(error)},
                )

    def _queued_ms(self) -> float:
        """How long the call has waited for its worker; an accepted execution also in the queue.

        Clocks of machines differ, so the difference to the time of another process may be negative. It counts as 0.
        """
        if self._accepted is None or self._accepted.due_at is None:
            return round((time.monotonic() - self._arrived) * 1000, 3)
        return round(max(0.0, (clock.wall() - self._accepted.due_at).total_seconds()) * 1000, 3)

    def _record(
        self, final: ExecutionRecord, *, was_sent: bool = True, is_permanent: bool = False, is_lost: bool = False
    ) -> ExecutionRecord:
        if self._accepted is not None:
            return self._end_attempt(final, self._accepted, is_permanent=is_permanent, is_lost=is_lost)
        final = commit_record(final, was_sent=was_sent)
        self._reservation.recorded()
        return final

    def _end_attempt(
        self, final: ExecutionRecord, accepted: Accepted, *, is_permanent: bool, is_lost: bool
    ) -> ExecutionRecord:
        """Write the end of an attempt. While the database is away, try again, so that the function runs only once."""
        attempts, settings = self._parts.attempts, self._parts.settings
        assert attempts is not None
        until = time.monotonic() + settings.async_claim_s * _COMMIT_PART_OF_CLAIM
        while True:
            try:
                if is_lost:
                    return attempts.lose(final, accepted, self._target.retries)
                return attempts.end(final, accepted, self._target.retries, is_permanent=is_permanent)
            except Unavailable as error:
                if time.monotonic() > until:
                    raise not_recorded(final) from error
                gevent.sleep(_RETRY_COMMIT_S)

    def _await_end_of(self, worker: LeasedWorker) -> None:
        """Wait until the pool manager has ended a worker that was lost, because the function may still run there.

        The execution is queued again after that, and its two runs must not overlap.
        """
        longest_s = self._parts.settings.async_claim_s * _WORKER_END_PART_OF_CLAIM
        if not self._parts.pool.await_removal(worker.worker_id, longest_s):
            logger.error(
                "an execution is queued again, although its worker may still run it",
                extra={"worker_id": worker.worker_id, "execution_id": self.id},
            )

    def _call_worker(self, lease: Lease, target: Target) -> Ran:
        parts = self._parts
        longest_s = target.timeout_s + parts.settings.load_timeout_s + parts.settings.lease_grace_s / 2
        return parts.workers.execute(lease.worker, self._execution(target), longest_s)

    def _run_image(self, lease: Lease, target: Target) -> Ran:
        images = self._parts.images
        assert images is not None
        self.cancellation.ends = images
        return images.run(lease.worker, target, self.id, self._call.input)

    def _execution(self, target: Target) -> Execution:
        """The request for the worker."""
        metadata: dict[str, Any] = {
            "context": {
                "function_id": target.function_id,
                "function_version": target.version,
                "request_id": self._call.request_id,
            }
        }
        if self._openstack is not None:
            metadata["openstack"] = self._openstack  # a secret, which only the worker gets
        return Execution(self.id, target.timeout_s, metadata, self._call.input)


def _log_extra(lease: Lease, target: Target, error: Exception) -> dict[str, str]:
    return {
        "worker_id": lease.worker.worker_id,
        "execution_id": lease.execution_id,
        "function_id": target.function_id,
        "reason": str(error),
    }
