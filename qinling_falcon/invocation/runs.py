"""A run: what the engine does for one execution before, on and after its worker."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

from qinling_falcon.errors import NotFound, Unavailable
from qinling_falcon.invocation.calls import (
    WORKER_LOST,
    Accepted,
    Call,
    began,
    detail,
    failed,
    finished,
    is_inline,
    not_loaded,
    settled,
)
from qinling_falcon.invocation.execution_quota import Place
from qinling_falcon.invocation.loading import lease_request
from qinling_falcon.invocation.long_runs import LongRuns
from qinling_falcon.invocation.sessions import Sessions
from qinling_falcon.invocation.targets import Resolver, Target
from qinling_falcon.invocation.worker_client import DiskFull, Execution, NotLoaded, WorkerClient, WorkerLost
from qinling_falcon.models import clock, execution
from qinling_falcon.models.records import ExecutionRecord, begin
from qinling_falcon.models.scope import Context
from qinling_falcon.pool.leases import Lease, LeaseRequest
from qinling_falcon.settings import Settings

logger = logging.getLogger(__name__)

_NO_IMAGES = "Functions from images run on Kubernetes, which this installation does not use."


@dataclass(frozen=True, slots=True)
class RunParts:
    """The collaborators of all runs of a process."""

    resolver: Resolver
    workers: WorkerClient
    settings: Settings
    sessions: Sessions | None
    long_runs: LongRuns


class Run:
    """One execution, as a task of the engine.

    Args:
        parts: the collaborators.
        context: the caller.
        call: what is to run.
        place: its place in the quota.
        accepted: the execution, if it was accepted before and has a row; None: it is a new one.
    """

    gave_up = "No worker could take this call; it has not run. Try again."

    __slots__ = (
        "_accepted", "_arrived", "_begun", "_call", "_context", "_created_at", "_has_row", "_id", "_openstack",
        "_parts", "_place",
    )  # fmt: skip

    _begun: ExecutionRecord

    def __init__(
        self, parts: RunParts, context: Context, call: Call, place: Place, accepted: Accepted | None = None
    ) -> None:
        self._parts = parts
        self._context = context
        self._call = call
        self._place = place
        self._accepted = accepted
        self._arrived = time.monotonic()
        self._created_at = clock.now() if accepted is None else accepted.created_at
        self._id = clock.new_id(self._created_at) if accepted is None else accepted.id
        self._openstack: Any = None
        self._has_row = False

    def resolve(self) -> Target:
        """The target of the call."""
        call, resolver = self._call, self._parts.resolver
        if call.function_alias is not None:
            return resolver.resolve_alias(self._context, call.function_alias)
        assert call.function_id is not None
        return resolver.resolve(self._context, call.function_id, call.function_version)

    def prepare(self, target: Target) -> LeaseRequest | ExecutionRecord:
        """Take a place in the quota, and get the function's session."""
        parts = self._parts
        if self._accepted is None:
            self._place.take(target.project_id)
        self._begun = began(target, self._call, self._id, self._created_at)
        if target.image is not None:
            return self._record(failed(self._begun, _NO_IMAGES), was_sent=False)
        # Anew for each target: the one before may have had a trust.
        self._openstack = None
        if target.trust_id is not None and parts.sessions is not None:
            self._openstack = parts.sessions.session(target.trust_id)
        described = detail(self._begun, self._accepted)
        return lease_request(target, parts.settings, self._id, described, target.timeout_s)

    def begin(self) -> None:
        """A large input is not in the journal: its row is written before the worker gets it."""
        if self._accepted is None and not is_inline(self._call.input):
            begin(self._begun)
            self._has_row = True
            self._place.recorded()

    def use(self, lease: Lease, target: Target) -> ExecutionRecord:
        """Call the worker and record its answer. The worker runs the next call while the record is committed."""
        queued_ms = _milliseconds(self._arrived)
        settings = self._parts.settings
        longest_s = target.timeout_s + settings.load_timeout_s + settings.lease_grace_s / 2
        if self._accepted is None and is_inline(self._call.input):
            self._parts.long_runs.add(self._begun, self._place)
        try:
            ran = self._parts.workers.execute(lease.worker, self._execution(target), longest_s)
        except WorkerLost as error:
            logger.warning("a worker was lost", extra=_about(lease, target, error))
            lease.released(destroy=True)
            final = failed(self._begun, WORKER_LOST, lease.cold, queued_ms)
        else:
            lease.released(busy_s=ran.busy_s)
            final = finished(self._begun, ran, lease.cold, queued_ms)
        finally:
            self._parts.long_runs.remove(self._id)
        try:
            final = self._record(final)
        except NotFound:  # the row of an accepted execution was deleted, and is not to come back
            lease.committed()
            raise
        lease.committed()
        return final

    def not_loaded(self, lease: Lease, target: Target, error: NotLoaded | DiskFull) -> ExecutionRecord:
        """Record why the function has not run: a bad package is its own fault, a full disk the platform's."""
        queued_ms = _milliseconds(self._arrived)
        if isinstance(error, DiskFull):
            logger.warning("a worker can't store a function", extra=_about(lease, target, error))
            reason = f"{error} The function has not run; try again later."
            final = failed(self._begun, reason, lease.cold, queued_ms)
        else:
            final = not_loaded(self._begun, str(error), lease.cold, queued_ms)
        try:
            final = self._record(final, was_sent=False)
        except (NotFound, Unavailable):
            lease.withdrawn()
            raise
        lease.committed()
        return final

    def withdraw(self) -> None:
        """The execution has not run, and its caller is told so: its row, if it has one, is deleted.

        If that fails, the row is recorded as an error later (`record_overdue`).
        """
        if self._has_row:
            try:
                execution.withdraw(self._id)
            except Unavailable as error:
                logger.warning(
                    "an execution that has not run is listed as running",
                    extra={"execution_id": self._id, "reason": str(error)},
                )

    def _record(self, final: ExecutionRecord, *, was_sent: bool = True) -> ExecutionRecord:
        final = settled(final, was_sent=was_sent, is_accepted=self._accepted is not None)
        self._place.recorded()
        return final

    def _execution(self, target: Target) -> Execution:
        """The request for the worker."""
        about: dict[str, Any] = {
            "context": {
                "function_id": target.function_id,
                "function_version": target.version,
                "request_id": self._call.request_id,
            }
        }
        if self._openstack is not None:
            about["openstack"] = self._openstack  # a secret: it goes to the worker and nowhere else
        return Execution(self._id, target.timeout_s, about, self._call.input)


def _about(lease: Lease, target: Target, error: Exception) -> dict[str, str]:
    return {
        "worker_id": lease.worker.worker_id,
        "execution_id": lease.execution_id,
        "function_id": target.function_id,
        "reason": str(error),
    }


def _milliseconds(since: float) -> float:
    return round((time.monotonic() - since) * 1000, 3)
