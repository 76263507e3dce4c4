"""Accepts asynchronous executions: they are durable when the caller gets its answer, and run later.

An accepted execution costs two commands of Redis (one of them is not waited for) and a share of one commit. If this
process dies, there are two cases:

1. Before the commit: nothing is left, and the caller gets no answer.
2. After the commit: the execution is queued. If it was not added to the ready set of its project, the sweep adds it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager

from qinling_falcon.errors import Unavailable
from qinling_falcon.invocation.accept_limits import AcceptLimits
from qinling_falcon.invocation.call_keys import KeyTaken
from qinling_falcon.invocation.calls import Call, accepted_record
from qinling_falcon.invocation.execution_quota import ExecutionQuota, Reservation
from qinling_falcon.invocation.targets import Resolver, Target
from qinling_falcon.models import clock, execution_queue, idempotency
from qinling_falcon.models.idempotency import KeyClaim
from qinling_falcon.models.records import ExecutionRecord
from qinling_falcon.models.scope import Context
from qinling_falcon.pool.ready_sets import ReadySets
from qinling_falcon.settings import Settings

_TRIES = 5
_RETRY_AFTER_S = 5

Admit = Callable[[Target], bool]
"""Says whether a target is current. Raises if its execution is not to be accepted."""

Write = Callable[[ExecutionRecord], None]
"""Writes an accepted execution, durably."""


class Acceptance:
    """Accepts executions.

    Args:
        resolver: finds the target, which is fixed from then on.
        ready: the executions that wait.
        quota: counts the executions of each project.
        settings: the limits.
        limits: limits the requests that are being accepted; None: no limit.
    """

    def __init__(
        self,
        resolver: Resolver,
        ready: ReadySets,
        quota: ExecutionQuota,
        settings: Settings,
        limits: AcceptLimits | None = None,
    ):
        self._resolver = resolver
        self._ready = ready
        self._quota = quota
        self._settings = settings
        self._limits = limits

    def accept(
        self, context: Context, call: Call, key: KeyClaim | None = None, *, write: Write | None = None
    ) -> ExecutionRecord:
        """Accept an execution, and return its record with status `running`; durable on return.

        Args:
            context: the caller.
            call: the call.
            key: the idempotency key that is bound in the same transaction, with the id and the time of the execution;
                None: the request has no key.
            write: writes the execution if there is no key; None: `execution_queue.accept`.

        Raises:
            KeyTaken: another request has the key. Nothing was accepted.
            NotFound, Conflict: see `Resolver.resolve`.
            QuotaExceeded: the project has reached its quota of executions.
            Unavailable: the project has too many executions that wait or are being accepted, or Redis or the database
                is away. Nothing was accepted.
            Exception: what `write` raised. Nothing was accepted.
        """
        with self.place(context.project_id, 0 if call.input is None else sys.getsizeof(call.input)):
            return self.accept_for(self.resolve(context, call, self._admit), call, key, write=write)

    def place(self, project_id: str, size: int) -> AbstractContextManager[None]:
        """A place for a request with an input of `size` bytes. It is held until the `with` block ends.

        `resolve` and `accept_for` run inside it.

        Raises:
            Unavailable: this process holds too many such requests of the project, or too large ones.
        """
        if self._limits is None:
            return contextlib.nullcontext()
        return self._limits.place(project_id, size)

    def accept_for(
        self, target: Target, call: Call, key: KeyClaim | None = None, *, write: Write | None = None
    ) -> ExecutionRecord:
        """Accept an execution of a target that `resolve` has found and admitted; durable on return.

        Raises:
            KeyTaken, QuotaExceeded, Unavailable: see `accept`.
            Exception: what `write` raised. Nothing was accepted.
        """
        with Reservation(self._quota) as reservation:
            reservation.take(target.project_id)
            now = clock.now()
            if key is None:
                record = accepted_record(target, call, clock.new_id(now), now)
                (write or execution_queue.accept)(record)
            else:
                record = accepted_record(target, call, key.execution_id, key.created_at)
                if not idempotency.accept(key, record):
                    raise KeyTaken(f"Another request has used Idempotency-Key {key.key!r}.")
            reservation.recorded()
        self._ready.push(record.project_id, record.function_id, record.id)
        return record

    def room(self, project_id: str) -> int:
        """How many more executions of a project may be queued; 0: its queue is full.

        Raises:
            PoolUnavailable: Redis is away.
        """
        return self._ready.room(project_id, self._settings.async_queue_limit)

    def check_room(self, project_id: str, refused: str) -> None:
        """Check that a further execution of a project may be queued.

        Args:
            project_id: the project.
            refused: the part of the message that says what was not done, such as "No execution was queued again".

        Raises:
            Unavailable: the project has too many executions that wait, or Redis is away.
        """
        size = self._ready.backlog(project_id, ()).size
        if size >= self._settings.async_queue_limit:
            raise self.queue_full(project_id, size, refused)

    def queue_full(self, project_id: str, size: int, refused: str = "This execution was not accepted") -> Unavailable:
        """The error for a project with too many executions that wait.

        Args:
            project_id: the project.
            size: how many of its executions wait.
            refused: as in `check_room`.
        """
        return Unavailable(
            f"Project {project_id} has {size} executions that wait, and at most"
            f" {self._settings.async_queue_limit} may wait (ASYNC_QUEUE_LIMIT). {refused}; try again later.",
            retry_after_s=_RETRY_AFTER_S,
        )

    def resolve(self, context: Context, call: Call, admit: Admit) -> Target:
        """Resolve the target of a call, and have it admitted. The input of the call does not matter.

        Raises:
            Exception: the errors of `admit`.
            NotFound, Conflict: see `Resolver.resolve`.
            Unavailable: Redis or the database is away, or the target is changed again and again.
        """
        for _ in range(_TRIES):
            if call.function_alias is not None:
                target = self._resolver.resolve_alias(context, call.function_alias)
            else:
                assert call.function_id is not None
                target = self._resolver.resolve(context, call.function_id, call.function_version)
            if admit(target):
                return target
            self._resolver.forget(target)
            self._quota.forget(target.project_id)
        raise Unavailable("The function is changed again and again. This execution was not accepted.", retry_after_s=1)

    def _admit(self, target: Target) -> bool:
        backlog = self._ready.backlog(target.project_id, target.generations)
        if backlog.size >= self._settings.async_queue_limit:
            raise self.queue_full(target.project_id, backlog.size)
        return backlog.is_current
