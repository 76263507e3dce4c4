"""Calls with an idempotency key: each key runs its function once, and a repeated request gets the same execution.

A request looks at its key first. There are six cases:

1. The key is absent: the call runs, or is accepted.
2. The key was used for another request: `Unprocessable`.
3. Its execution was accepted, or has ended: the request gets that execution.
4. Its synchronous execution waits for a worker, or runs: `Conflict`, with the time after which to try again.
5. Its claim has ended, its execution has no row, and no journal in Redis has it: the process that claimed the key is
   lost, and the function has not run. This request takes the key over.
6. Its execution had a row that was deleted: `ExecutionDeleted`. The function has run, so it does not run again.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

from qinling_falcon.errors import Conflict, NotFound, Unprocessable
from qinling_falcon.invocation.acceptance import Acceptance
from qinling_falcon.invocation.call_keys import CallKey, CallKeys, KeyTaken
from qinling_falcon.invocation.calls import Call, accepted_again
from qinling_falcon.invocation.engine import Engine
from qinling_falcon.models import clock, idempotency
from qinling_falcon.models.execution import Execution
from qinling_falcon.models.idempotency import FoundKey, KeyClaim
from qinling_falcon.models.records import ExecutionRecord
from qinling_falcon.models.scope import Context
from qinling_falcon.models.states import ExecutionStatus
from qinling_falcon.pool.pool import Pool
from qinling_falcon.settings import Settings

# Each further look at a key follows a change by another request.
_TRIES = 5
_RETRY_AFTER_S = 1


class ExecutionDeleted(NotFound):
    """The execution of a key was deleted by its owner or by retention.

    Attributes:
        execution_id: the execution.
    """

    def __init__(self, key: RequestKey, execution_id: str):
        super().__init__(
            f"Execution {execution_id} of {_name(key)} was deleted. The function has not run again; use a new key to"
            " run it."
        )
        self.execution_id = execution_id


class RequestKey(NamedTuple):
    """The idempotency key of a request.

    Attributes:
        text: the key.
        digest: SHA-256 of what the request asks for, as hexadecimal digits.
        least_ttl_s: how many seconds the key lasts at least, if that is longer than the setting says.
    """

    text: str
    digest: str
    least_ttl_s: int = 0


class Answered(NamedTuple):
    """The execution that answers a request.

    Attributes:
        execution: the execution, as the first request with the key got it.
        is_replay: whether an earlier request has made it.
    """

    execution: ExecutionRecord | Execution
    is_replay: bool


class IdempotentCalls:
    """Runs and accepts calls with an idempotency key.

    Args:
        engine: runs synchronous calls.
        acceptance: accepts asynchronous ones.
        pool: finds executions that have no row.
        settings: how long keys and claims last.
    """

    def __init__(self, engine: Engine, acceptance: Acceptance, pool: Pool, settings: Settings):
        self._engine = engine
        self._acceptance = acceptance
        self._pool = pool
        self._settings = settings
        self._keys = CallKeys(settings)

    def invoke(self, context: Context, call: Call, key: RequestKey) -> Answered:
        """Run a call, or return the execution of an earlier request with its key.

        Raises:
            Unprocessable, Conflict, ExecutionDeleted: see the module.
            PoolUnavailable: Redis is away, and is needed to find the execution of an earlier request.
            Unavailable: see `Acceptance.place`.
            The errors of `Engine.invoke`. After all but `NotRecorded`, the key is absent again.
        """

        def run(wanted: KeyClaim) -> ExecutionRecord:
            call_key = CallKey(self._keys, wanted)
            try:
                return self._engine.invoke(context, call, call_key)
            finally:
                call_key.forget()

        return self._once(context, call, key, run)

    def accept(self, context: Context, call: Call, key: RequestKey) -> Answered:
        """Accept a call, or return the execution of an earlier request with its key.

        Raises:
            Unprocessable, ExecutionDeleted: see the module.
            The errors of `Acceptance.accept`. The key is absent then.
        """
        return self._once(context, call, key, lambda wanted: self._acceptance.accept(context, call, wanted))

    def _once(
        self, context: Context, call: Call, key: RequestKey, run: Callable[[KeyClaim], ExecutionRecord]
    ) -> Answered:
        """Run a call unless its key has an execution. `run` raises `KeyTaken` if another request was faster."""
        lasts = key_lifetime(self._settings, key.least_ttl_s)
        input_size = 0 if call.input is None else sys.getsizeof(call.input)
        for _ in range(_TRIES):
            now = clock.now()
            # `run` counts the input later. It counts here, too, because the look-up may wait for a connection.
            with self._acceptance.place(context.project_id, input_size):
                found = idempotency.find(context.project_id, key.text, now)
            if found is not None:
                execution = self._execution_of(context, key, found)
                if execution is not None:
                    return Answered(execution, is_replay=True)
            wanted = KeyClaim(
                project_id=context.project_id,
                key=key.text,
                digest=key.digest,
                execution_id=clock.new_id(now),
                created_at=now,
                expires_at=now + lasts,
                instead_of=None if found is None else found.execution_id,
            )
            try:
                return Answered(run(wanted), is_replay=False)
            except KeyTaken:
                continue
        raise Conflict(f"{_name(key)} is used by many requests at once. Try again.", retry_after_s=_RETRY_AFTER_S)

    def _execution_of(self, context: Context, key: RequestKey, found: FoundKey) -> ExecutionRecord | Execution | None:
        """The execution of a key; None: the key may be taken over.

        Raises:
            Unprocessable, Conflict, ExecutionDeleted: see the module.
        """
        if found.digest != key.digest:
            raise Unprocessable(
                f"{_name(key)} was used for a request with other fields. Repeat that request as it was, or use a new"
                " key for this one."
            )
        execution = found.execution
        if execution is not None and (context.is_admin or execution.project_id == context.project_id):
            if not execution.sync:
                return accepted_again(execution)
            if execution.status == ExecutionStatus.RUNNING:
                raise self._still_running(key, found, _RETRY_AFTER_S)
            return execution
        if found.claimed_until is None:
            raise ExecutionDeleted(key, found.execution_id)
        self.check_claim(key, found)
        return None

    def check_claim(self, key: RequestKey, found: FoundKey) -> None:
        """Check that the process that has claimed a key is lost: case 5 of the module.

        Raises:
            Conflict: the claim has not ended, or the execution is in a journal.
            PoolUnavailable: Redis is away.
        """
        assert found.claimed_until is not None
        left_s = (found.claimed_until - clock.now()).total_seconds()
        if left_s > 0 or self._pool.find(found.execution_id) is not None:
            raise self._still_running(key, found, max(_RETRY_AFTER_S, math.ceil(left_s)))

    def _still_running(self, key: RequestKey, found: FoundKey, retry_after_s: int) -> Conflict:
        return Conflict(
            f"The first request with {_name(key)} has not ended. Its execution is {found.execution_id}. Repeat this"
            " request later to get its result.",
            retry_after_s=retry_after_s,
        )


def key_lifetime(settings: Settings, least_ttl_s: int = 0) -> timedelta:
    """How long a key lasts: as the setting says, or longer if it has to."""
    return timedelta(seconds=max(settings.idempotency_ttl_s, least_ttl_s))


def _name(key: RequestKey) -> str:
    return f'Idempotency-Key "{key.text}"'
