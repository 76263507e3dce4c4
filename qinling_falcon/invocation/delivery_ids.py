"""Deliveries with ids: each id runs its function once, and a repeated delivery gets the execution of the first one.

The id of a delivery is an idempotency key of the webhook's project, in a name space of the webhook. An asynchronous
delivery inserts its key without reading it first, because nearly all deliveries are new. If the insert conflicts, the
delivery is a repeat. A repeat that can't be accepted, because of a limit or because the function is gone, is looked up.

An asynchronous execution that has ended `failed`, `error` or `dead` is queued again by a repeat, as a new attempt. Of
several repeats at once, one queues it. A synchronous execution is not retried: if it has failed, a repeat runs the
function again, as a new execution.

The row of the execution may have been deleted since. There are two cases:

1. The execution had failed, and retention has deleted it (see `pruned_failures`): a repeat counts as the first
   delivery, and runs the function as a new execution.
2. All other executions: a repeat runs nothing, because the function may have succeeded, or the owner has deleted the
   row. The sender gets the id of the execution, because it would go on repeating a delivery that is refused.

The key may have been claimed for a synchronous execution that has no row yet, if the webhook was synchronous before.
While the claim lasts, a repeat is refused, because the execution may never have a row. After it, the key counts as
absent.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import NamedTuple

from qinling_falcon.errors import Conflict, NotFound
from qinling_falcon.invocation.acceptance import Acceptance
from qinling_falcon.invocation.cached_webhooks import CachedWebhook
from qinling_falcon.invocation.call_keys import KeyTaken
from qinling_falcon.invocation.calls import Call
from qinling_falcon.invocation.idempotency import ExecutionDeleted, IdempotentCalls, RequestKey, key_lifetime
from qinling_falcon.invocation.targets import Target
from qinling_falcon.models import clock, execution_retries, idempotency, pruned_failures
from qinling_falcon.models.execution import Execution
from qinling_falcon.models.idempotency import FoundKey, KeyClaim
from qinling_falcon.models.pruned_failures import FAILED
from qinling_falcon.models.records import ExecutionRecord
from qinling_falcon.models.states import ExecutionStatus
from qinling_falcon.pool.ready_sets import ReadySets
from qinling_falcon.settings import Settings
from qinling_falcon.turns import ConcurrencyLimit

# A repeat whose body differs is the same delivery all the same, so all digests are equal.
_DIGEST = "delivery"
_LONGEST_KEY = 255
_TRIES = 5
# Strangers can cause them, so they leave the connections for reads to others.
_MOST_LOOKUPS = 2
_LOOKUP_WAIT_S = 5.0
# A delivery holds its connection while it waits.
_MOST_WAITING = 16
_RETRY_AFTER_S = 1


class Delivered(NamedTuple):
    """What became of a delivery.

    Attributes:
        execution_id: its execution.
        execution: the execution, if the function has run for the sender's answer; None: it runs later, or its row was
            deleted.
        is_replay: whether an earlier delivery with the same id has made the execution.
    """

    execution_id: str
    execution: ExecutionRecord | Execution | None
    is_replay: bool


class DeliveryIds:
    """Accepts and runs the calls of deliveries with ids.

    Args:
        acceptance: accepts executions.
        calls: runs synchronous calls with idempotency keys.
        ready: the executions that wait.
        settings: how long a key lasts, unless the timestamp of its delivery is accepted for longer.
    """

    def __init__(self, acceptance: Acceptance, calls: IdempotentCalls, ready: ReadySets, settings: Settings):
        self._acceptance = acceptance
        self._calls = calls
        self._ready = ready
        busy = "Too many deliveries are being looked up."
        self._lookups = ConcurrencyLimit(_MOST_LOOKUPS, _LOOKUP_WAIT_S, busy, _MOST_WAITING)
        self._settings = settings

    def accept(self, webhook: CachedWebhook, target: Target, call: Call, key: str) -> Delivered:
        """Accept a call, or find the execution of an earlier delivery and queue it again if it has failed.

        If this process dies after an execution was queued again, the sweep adds it to the ready set. If it dies after
        it has deleted the key of a lost synchronous execution, the next repeat counts as the first delivery.

        A synchronous execution that has failed can't be queued again, and neither can one without a row. So the repeat
        counts as the first delivery then.

        Raises:
            Conflict: a synchronous execution of an earlier delivery has not begun to run, or runs.
            The errors of `Acceptance.accept_for`, except `KeyTaken`.
        """
        for _ in range(_TRIES):
            now = clock.now()
            wanted = KeyClaim(
                project_id=webhook.owner.project_id,
                key=key,
                digest=_DIGEST,
                execution_id=clock.new_id(now),
                created_at=now,
                expires_at=now + key_lifetime(self._settings, _tolerated_s(webhook)),
            )
            try:
                record = self._acceptance.accept_for(target, call, wanted)
                return Delivered(record.id, None, is_replay=False)
            except KeyTaken:
                found = idempotency.find(wanted.project_id, key, clock.now())
            if found is None:  # it has expired just now
                continue
            if self._settle(webhook, key, found):
                return Delivered(found.execution_id, None, is_replay=True)
        raise _used_by_many()

    def find_earlier(self, webhook: CachedWebhook, key: str) -> Delivered | None:
        """The execution of an earlier delivery with this id, for a repeat that was refused.

        Returns None if there is none, if it has no row yet, or if it has failed: to queue it again is refused, too.

        Raises:
            Unavailable: see `reading`; or too many deliveries are being looked up.
        """
        # Anyone can invent ids for a webhook without signatures, so such deliveries do not wait.
        with self._lookups.place(waits=webhook.signature is not None):
            found = idempotency.find(webhook.owner.project_id, key, clock.now())
            if found is None or _runs_again(webhook, found):
                return None
        return Delivered(found.execution_id, None, is_replay=True)

    def run(self, webhook: CachedWebhook, call: Call, key: str) -> Delivered:
        """Run a call, or find the execution of an earlier delivery.

        Raises:
            The errors of `IdempotentCalls.invoke`.
        """
        request_key = RequestKey(key, _DIGEST, _tolerated_s(webhook))
        for _ in range(_TRIES):
            # If the row was deleted, the key says what a repeat gets.
            with contextlib.suppress(ExecutionDeleted):
                answered = self._calls.invoke(webhook.owner, call, request_key)
                execution = answered.execution
                if not answered.is_replay or (execution.sync and execution.status not in FAILED):
                    return Delivered(execution.id, execution, answered.is_replay)
            found = idempotency.find(webhook.owner.project_id, key, clock.now())
            if found is not None and self._settle(webhook, key, found):
                ran = found.execution is not None and found.execution.sync
                return Delivered(found.execution_id, found.execution if ran else None, is_replay=True)
        raise _used_by_many()

    def _settle(self, webhook: CachedWebhook, key: str, found: FoundKey) -> bool:
        """Do for a repeat what the execution of the earlier delivery needs.

        Returns:
            Whether the repeat gets this execution; False: its key was deleted or has changed, so look again.

        Raises:
            Conflict: see `accept`.
        """
        execution, project_id = found.execution, webhook.owner.project_id
        if execution is None:
            if found.claimed_until is not None:
                self._calls.check_claim(RequestKey(key, _DIGEST), found)
                idempotency.forget_claim(project_id, key, found.execution_id, clock.now())
                return False
            if pruned_failures.is_remembered(project_id, found.execution_id, clock.now()):
                idempotency.forget(project_id, key, found.execution_id)
                return False
            return True
        if execution.sync and execution.status == ExecutionStatus.RUNNING:
            raise Conflict("The first delivery with this id has not ended.", retry_after_s=_RETRY_AFTER_S)
        if execution.status not in FAILED:
            return True
        if execution.sync:
            idempotency.forget(project_id, key, found.execution_id)
            return False
        return self._queue_again(webhook, execution)

    def _queue_again(self, webhook: CachedWebhook, execution: Execution) -> bool:
        """Queue an execution again that has failed. Returns whether it has a row still."""
        reason = f"A repeated delivery was received at {clock.now():%Y-%m-%d %H:%M:%S}."
        try:
            execution_retries.retry(webhook.owner, execution.id, reason)
        except NotFound:
            return False
        except Conflict:  # another repeat has queued it just before
            return True
        self._ready.push(execution.project_id, execution.function_id, execution.id)
        return True


def _tolerated_s(webhook: CachedWebhook) -> int:
    """For how many seconds a signed timestamp is accepted: the tolerance before and after the present."""
    return 0 if webhook.signature is None else 2 * webhook.signature.tolerance_s


def _runs_again(webhook: CachedWebhook, found: FoundKey) -> bool:
    """Whether a repeat runs the function, now or later, instead of getting the execution as it is."""
    execution = found.execution
    if execution is not None:
        return execution.status != ExecutionStatus.SUCCESS if execution.sync else execution.status in FAILED
    if found.claimed_until is not None:
        return True
    return pruned_failures.is_remembered(webhook.owner.project_id, found.execution_id, clock.now())


def _used_by_many() -> Conflict:
    return Conflict("The id of this delivery is used by many requests at once.")


def idempotency_key_of(webhook: CachedWebhook, delivery_id: str, digest: str | None) -> str:
    """The idempotency key of a delivery. It has characters that no header `Idempotency-Key` has.

    Args:
        webhook: the webhook.
        delivery_id: the delivery's id.
        digest: of the request, if the webhook has no signature. A stranger who guesses the id of a delivery then can't
            take its place.
    """
    name = f"webhook·{webhook.id}·" if digest is None else f"webhook·{webhook.id}·{digest}·"
    if len(name) + len(delivery_id) <= _LONGEST_KEY and delivery_id.isascii() and delivery_id.isprintable():
        return name + delivery_id
    return f"{name}sha256 {hashlib.sha256(delivery_id.encode('utf-8', 'replace')).hexdigest()}"
