"""Deliveries to webhooks: checks each one, and runs the function or accepts its execution.

A delivery is checked in this order: method and path, whether the webhook is enabled, size, signature, and then in one
round trip to Redis whether webhook and target are current, whether the project's queue has room, and the rate limit.
Only then is its body parsed, because that takes longest. The input can be larger than the body, as base64 is, so the
size of the input is checked last. The webhook's row is remembered (see `cached_webhooks`); if it was stale, all checks
are made again.

An accepted delivery costs that round trip, a share of one commit, and a message to Redis that is not waited for. The
sender gets its answer after the commit. If this process dies before the commit, nothing is left, and the sender gets no
answer. If it dies after the commit, the sweep adds the execution to the ready set, and a repeated delivery with the
same id gets the same execution. Entries of the log that were not sent to Redis are lost.
"""

from __future__ import annotations

import contextlib
import logging
import time
from contextlib import AbstractContextManager

import orjson

from qinling_falcon.errors import (
    Forbidden,
    MethodNotAllowed,
    NotFound,
    NotRecorded,
    QinlingError,
    TooLarge,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from qinling_falcon.invocation.acceptance import Acceptance
from qinling_falcon.invocation.cached_webhooks import CachedWebhook, CachedWebhooks
from qinling_falcon.invocation.calls import Call
from qinling_falcon.invocation.delivery import Delivery
from qinling_falcon.invocation.delivery_ids import Delivered, DeliveryIds, idempotency_key_of
from qinling_falcon.invocation.engine import Engine
from qinling_falcon.invocation.idempotency import IdempotentCalls
from qinling_falcon.invocation.targets import Target
from qinling_falcon.models import clock
from qinling_falcon.pool.deliveries import DeliveryResult, Outcome
from qinling_falcon.pool.pool import Pool
from qinling_falcon.pool.wire import PoolUnavailable
from qinling_falcon.settings import Settings
from qinling_falcon.webhooks.responses import EXECUTION_ID_HEADER
from qinling_falcon.webhooks.signatures import SignatureRefused, unverified_delivery_id, verify

logger = logging.getLogger(__name__)

_TRIES = 5
_RETRY_AFTER_S = 30
_LONGEST_REASON = 500
_ACCEPTED = (DeliveryResult.ACCEPTED, DeliveryResult.DUPLICATE)


class _WebhookChanged(Exception):
    """The webhook has changed since it was read."""


class _Refused(Exception):
    """A delivery is refused because of what its webhook says.

    Attributes:
        error: what the sender sees.
        result: what the log says.
        reason: why, for the owner.
    """

    def __init__(
        self, error: QinlingError, result: DeliveryResult = DeliveryResult.REFUSED, reason: str | None = None
    ):
        super().__init__(error.message)
        self.error = error
        self.result = result
        self.reason = error.message if reason is None else reason


class _BadInput(Exception):
    """An admitted delivery can't be made an input of the function.

    Attributes:
        error: what the sender sees.
        result: what the log says.
    """

    def __init__(self, error: QinlingError, result: DeliveryResult):
        super().__init__(error.message)
        self.error = error
        self.result = result


class WebhookCalls:
    """Takes deliveries.

    Args:
        engine: runs synchronous calls.
        acceptance: accepts asynchronous ones.
        idempotent_calls: runs synchronous calls of deliveries with ids.
        pool: admits and logs deliveries.
        settings: the limits.
    """

    def __init__(
        self, engine: Engine, acceptance: Acceptance, idempotent_calls: IdempotentCalls, pool: Pool, settings: Settings
    ):
        self._engine = engine
        self._acceptance = acceptance
        self._ids = DeliveryIds(acceptance, idempotent_calls, pool.ready, settings)
        self._webhooks = CachedWebhooks(pool)
        self._deliveries = pool.deliveries
        self._settings = settings
        # A body is read up to the larger limit, because the webhook may be stale, and a body can't be read again.
        self._most_bytes = max(settings.max_input_size, settings.async_max_input_size)

    def find(self, webhook_id: str) -> CachedWebhook:
        """A webhook as it is now.

        Raises:
            NotFound: there is none with this id.
            Unavailable: Redis or the database is away.
        """
        try:
            for _ in range(_TRIES):
                webhook = self._webhooks.get(webhook_id)
                if self._webhooks.is_current(webhook):
                    return webhook
                self._webhooks.forget(webhook)
            raise _changed_too_often()
        except Unavailable as error:
            raise _for_sender(error) from error

    def deliver(self, webhook_id: str, delivery: Delivery) -> Delivered:
        """Check a delivery, and run the function or accept its execution; durable on return.

        Raises:
            QinlingError: the delivery is refused. The message is for the sender. It tells nothing of the function and
                its project; the webhook's log does.
        """
        try:
            return self._deliver_retrying(webhook_id, delivery)
        except Unavailable as error:
            about = {"webhook_id": webhook_id, "request_id": delivery.request_id, "reason": error.message}
            logger.warning("a webhook could not take a delivery", extra=about)
            raise _for_sender(error) from error

    def _deliver_retrying(self, webhook_id: str, delivery: Delivery) -> Delivered:
        for _ in range(_TRIES):
            webhook = self._webhooks.get(webhook_id)
            delivery.set_webhook(webhook)
            try:
                return self._deliver_once(webhook, delivery)
            except _Refused as refused:
                if self._webhooks.is_current(webhook):
                    self._log(webhook, delivery, refused.result, reason=refused.reason)
                    raise refused.error from refused
            except _WebhookChanged:
                pass
            self._webhooks.forget(webhook)
        raise _changed_too_often()

    def _deliver_once(self, webhook: CachedWebhook, delivery: Delivery) -> Delivered:
        self._check_request(webhook, delivery)
        delivery_id, key = self._identify(webhook, delivery)
        try:
            run = self._run if webhook.sync else self._accept
            delivered = run(webhook, delivery, key)
        except _BadInput as bad:
            self._log(webhook, delivery, bad.result, delivery_id, reason=bad.error.message)
            raise bad.error from bad
        except TooManyRequests as error:
            self._log(webhook, delivery, DeliveryResult.RATE_LIMITED, delivery_id, reason=error.message)
            raise
        except NotRecorded as error:
            about = {"reason": error.message, "execution_id": error.execution_id}
            self._log(webhook, delivery, DeliveryResult.ACCEPTED, delivery_id, **about)
            raise
        except QinlingError as error:
            self._log(webhook, delivery, DeliveryResult.REFUSED, delivery_id, reason=error.message)
            if isinstance(error, Unavailable):
                raise
            raise Unavailable(error.message, retry_after_s=error.retry_after_s or _RETRY_AFTER_S) from error
        result = DeliveryResult.DUPLICATE if delivered.is_replay else DeliveryResult.ACCEPTED
        self._log(webhook, delivery, result, delivery_id, execution_id=delivered.execution_id)
        return delivered

    def _check_request(self, webhook: CachedWebhook, delivery: Delivery) -> None:
        if webhook.methods is not None and delivery.method not in webhook.methods:
            allowed = ", ".join(webhook.methods)
            message = f"This webhook does not take {delivery.method}. Allowed are {allowed}."
            raise _Refused(MethodNotAllowed(message, allowed=allowed))
        if delivery.has_subpath and not webhook.subpaths:
            raise _Refused(NotFound("This webhook has no paths below its URL."))
        if not webhook.enabled:
            raise _Refused(Forbidden("This webhook is disabled."), DeliveryResult.DISABLED)

    def _read(self, webhook: CachedWebhook, delivery: Delivery) -> bytes:
        try:
            return delivery.body(self._most_bytes)
        except QinlingError as error:
            # Not _Refused: another webhook would not help, and a body that was read in part can't be read again.
            result = DeliveryResult.TOO_LARGE if isinstance(error, TooLarge) else DeliveryResult.REFUSED
            self._log(webhook, delivery, result, reason=error.message)
            raise

    def _identify(self, webhook: CachedWebhook, delivery: Delivery) -> tuple[str | None, str | None]:
        """Read, measure and verify a delivery. Returns its id and its idempotency key."""
        body = self._read(webhook, delivery)
        limit = self._limit(webhook)
        if len(body) > limit:
            raise _Refused(TooLarge(f"The request body is larger than {limit} bytes."), DeliveryResult.TOO_LARGE)
        delivery_id = self._verify(webhook, delivery, body)
        if delivery_id is None:
            return None, None
        digest = delivery.digest(body) if webhook.signature is None else None
        return delivery_id, idempotency_key_of(webhook, delivery_id, digest)

    def _verify(self, webhook: CachedWebhook, delivery: Delivery, body: bytes) -> str | None:
        """Verify the signature, if there is to be one. Returns the id of the delivery."""
        signed = webhook.signature
        if signed is None:
            return unverified_delivery_id(delivery.header)
        if signed.keys is None:
            raise _Refused(Unavailable("The webhook's secrets can't be read: no key of SECRET_KEYS decrypts them."))
        try:
            return verify(signed.scheme, signed.keys, signed.tolerance_s, delivery.header, body, time.time())
        except SignatureRefused as refused:
            error = Unauthorized("The signature of this delivery is not valid.", challenge="Webhook-Signature")
            result = DeliveryResult.STALE if refused.stale else DeliveryResult.BAD_SIGNATURE
            raise _Refused(error, result, refused.reason) from refused

    def _accept(self, webhook: CachedWebhook, delivery: Delivery, key: str | None) -> Delivered:
        with self._place(webhook, delivery):
            try:
                return self._accept_new(webhook, delivery, key)
            except PoolUnavailable:
                # Redis has not confirmed that the webhook is current, so no earlier execution is shown.
                raise
            except QinlingError as error:
                if key is None:
                    raise
                refused = error.with_traceback(None)  # tracebacks hold the input
                refused.__cause__ = refused.__context__ = None
        # The place is left first, because the look-up may wait for a connection, and would delay others.
        delivery.drop_body()
        earlier = None
        with contextlib.suppress(Unavailable):  # raise the refusal, not the error of the look-up
            earlier = self._ids.find_earlier(webhook, key)
        if earlier is None:
            raise refused
        return earlier

    def _accept_new(self, webhook: CachedWebhook, delivery: Delivery, key: str | None) -> Delivered:
        is_compared = False

        def admit(target: Target) -> bool:
            nonlocal is_compared
            is_compared = True
            return self._admit(webhook, target)

        call = _call(webhook, delivery)
        try:
            target = self._acceptance.resolve(webhook.owner, call, admit)
        except QinlingError as error:
            # Perhaps this target is gone because the webhook has another one now.
            if not is_compared and not self._webhooks.is_current(webhook):
                raise _WebhookChanged from error
            raise
        call = call._replace(input=self._input(webhook, delivery))
        if key is not None:
            return self._ids.accept(webhook, target, call, key)
        return Delivered(self._acceptance.accept_for(target, call).id, None, is_replay=False)

    def _run(self, webhook: CachedWebhook, delivery: Delivery, key: str | None) -> Delivered:
        self._admit(webhook)
        with self._place(webhook, delivery):  # a large body is in memory while it waits to be parsed
            call = _call(webhook, delivery)._replace(input=self._input(webhook, delivery))
        if key is not None:
            return self._ids.run(webhook, call, key)
        execution = self._engine.invoke(webhook.owner, call)
        return Delivered(execution.id, execution, is_replay=False)

    def _place(self, webhook: CachedWebhook, delivery: Delivery) -> AbstractContextManager[None]:
        return self._acceptance.place(webhook.owner.project_id, len(delivery.body(self._most_bytes)))

    def _limit(self, webhook: CachedWebhook) -> int:
        """The largest size of a body, and of the input made of it, in bytes."""
        return self._settings.max_input_size if webhook.sync else self._settings.async_max_input_size

    def _input(self, webhook: CachedWebhook, delivery: Delivery) -> str | None:
        """The function's input. The webhook was current when the delivery was admitted."""
        limit = self._limit(webhook)
        try:
            text = delivery.function_input(delivery.body(self._most_bytes))
        except QinlingError as error:
            raise _BadInput(error, DeliveryResult.REFUSED) from error
        delivery.drop_body()
        # A character has at most four bytes, so most inputs need not be encoded to be measured.
        if text is not None and len(text) * 4 > limit and len(text.encode()) > limit:
            too_large = TooLarge(f"The function's input would be larger than {limit} bytes.")
            raise _BadInput(too_large, DeliveryResult.TOO_LARGE)
        return text

    def _admit(self, webhook: CachedWebhook, target: Target | None = None) -> bool:
        """Ask Redis whether a delivery may be accepted. Returns whether the target is current."""
        if target is None:  # it runs at once: the lease compares its target
            found = self._deliveries.admit(webhook.generation, (), webhook.rate_limit)
        else:
            most = self._settings.async_queue_limit
            found = self._deliveries.admit(
                webhook.generation, target.generations, webhook.rate_limit, target.project_id, most
            )
        match found.outcome:
            case Outcome.STALE_WEBHOOK:
                raise _WebhookChanged
            case Outcome.LIMITED:
                message = "This webhook gets more deliveries than its rate limit allows."
                raise TooManyRequests(message, retry_after_s=found.retry_after_s)
            case Outcome.FULL:
                raise self._acceptance.queue_full(webhook.owner.project_id, found.waiting)
        return found.outcome is Outcome.ADMITTED

    def _log(
        self,
        webhook: CachedWebhook,
        delivery: Delivery,
        result: DeliveryResult,
        delivery_id: str | None = None,
        *,
        reason: str | None = None,
        execution_id: str | None = None,
    ) -> None:
        entry = {
            "received_at": clock.to_micros(delivery.received_at),
            "delivery_id": delivery_id,
            "result": result,
            "reason": None if reason is None else f"{reason[:_LONGEST_REASON]} ({delivery.request_id})",
            "execution_id": execution_id,
        }
        self._deliveries.log(webhook.id, orjson.dumps(entry), refused=result not in _ACCEPTED)


def _call(webhook: CachedWebhook, delivery: Delivery) -> Call:
    """The call of a delivery, without its input."""
    return Call(
        function_id=webhook.function_id,
        function_version=webhook.function_version,
        function_alias=webhook.function_alias,
        description=f"Created by Webhook {webhook.id}",
        request_id=delivery.request_id,
        source="webhook",
        webhook_id=webhook.id,
        callback_depth=delivery.callback_depth,
    )


def _changed_too_often() -> Unavailable:
    return Unavailable(f"The webhook has changed during each of {_TRIES} tries.", retry_after_s=1)


def _for_sender(error: Unavailable) -> Unavailable:
    """The error that a sender sees if the platform or the owner's project can't take its delivery now."""
    if isinstance(error, NotRecorded):
        told = Unavailable("The function may have run. Send this delivery again only if it may run twice.")
        told.headers = {EXECUTION_ID_HEADER: error.execution_id}
        return told
    message = "The webhook can't take this delivery now. Send it again later."
    return Unavailable(message, retry_after_s=error.retry_after_s)
