"""Deliveries to webhooks: which of them are admitted, and the log that tells their owners."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from enum import Enum, StrEnum
from typing import NamedTuple

import gevent

from qinling_falcon.pool.runner import ScriptRunner

MOST_LOGGED = 100
"""At most so many deliveries of a webhook are shown. Half of the places are for accepted ones, if so many exist."""

_KEPT_S = 7 * 24 * 3600
_FLUSH_S = 0.2
# Further entries push the oldest ones out, while Redis is away or deliveries come faster than they can be logged.
_MOST_UNFLUSHED = 10_000


class RateLimit(NamedTuple):
    """A token bucket.

    Attributes:
        webhook_id: the webhook whose bucket it is.
        every_ms: the time between two tokens, as text with three decimals.
        burst: how many tokens it holds.
    """

    webhook_id: str
    every_ms: str
    burst: int

    @classmethod
    def of(cls, webhook_id: str, per_minute: int, burst: int) -> RateLimit:
        """A bucket that gets `per_minute` tokens a minute, and holds `burst`."""
        return cls(webhook_id, f"{60_000 / per_minute:.3f}", burst)


_NO_LIMIT = RateLimit("", "0", 0)


class DeliveryResult(StrEnum):
    """What became of a delivery, as the log tells it."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    BAD_SIGNATURE = "bad_signature"
    STALE = "stale"
    RATE_LIMITED = "rate_limited"
    TOO_LARGE = "too_large"
    DISABLED = "disabled"
    REFUSED = "refused"


class Outcome(Enum):
    """Whether a delivery is admitted."""

    ADMITTED = b"admitted"
    STALE_WEBHOOK = b"stale webhook"
    STALE_TARGET = b"stale target"
    FULL = b"full"
    LIMITED = b"limited"


class AdmitResult(NamedTuple):
    """What `Deliveries.admit` has found.

    Attributes:
        outcome: whether the delivery is admitted.
        waiting: with `FULL`: how many executions of the project wait.
        retry_after_s: with `LIMITED`: when there is a token, in seconds from now, rounded up.
    """

    outcome: Outcome
    waiting: int = 0
    retry_after_s: int = 0


class Deliveries:
    """Admits deliveries to webhooks, and logs them.

    Log entries are gathered and sent every 0.2 s. If this process dies, those of the last 0.2 s are lost.

    Args:
        scripts: runs scripts.
    """

    def __init__(self, scripts: ScriptRunner):
        self._scripts = scripts
        self._unflushed: deque[tuple[str, str, bytes]] = deque(maxlen=_MOST_UNFLUSHED)
        self._flushing: gevent.Greenlet | None = None

    def admit(
        self,
        webhook: tuple[str, str],
        target: Collection[tuple[str, str]],
        limit: RateLimit | None,
        project_id: str = "",
        most_waiting: int = 0,
    ) -> AdmitResult:
        """Check that a delivery may be accepted, and take a token if it may.

        Args:
            webhook: cache key and generation of the webhook.
            target: pairs of (cache key, generation) of the target.
            limit: the webhook's rate limit; None: none.
            project_id: the project whose waiting executions are counted; empty: they do not matter.
            most_waiting: how many of them there may be.

        Raises:
            PoolUnavailable: Redis is away.
        """
        pairs = (part for pair in (webhook, *target) for part in pair)
        found, *more = self._scripts.run("admit_delivery", *(limit or _NO_LIMIT), project_id, most_waiting, *pairs)
        outcome = Outcome(found)
        if outcome is Outcome.FULL:
            return AdmitResult(outcome, waiting=more[0])
        if outcome is Outcome.LIMITED:
            return AdmitResult(outcome, retry_after_s=math.ceil(more[0] / 1000))
        return AdmitResult(outcome)

    def log(self, webhook_id: str, entry: bytes, *, refused: bool = False) -> None:
        """Add an entry to the log of a webhook, soon and without waiting for Redis."""
        self._unflushed.append((webhook_id, "refused" if refused else "", entry))
        if self._flushing is None:
            self._flushing = gevent.spawn_later(_FLUSH_S, self.flush)

    def flush(self) -> None:
        """Send the gathered entries. Without a connection they stay, and the next entry's flush sends them."""
        self._flushing = None
        kept: dict[tuple[str, str], deque[bytes]] = {}
        for webhook_id, result, entry in self._unflushed:
            kept.setdefault((webhook_id, result), deque(maxlen=MOST_LOGGED)).append(entry)
        parts = [part for log, entries in kept.items() for entry in entries for part in (*log, entry)]
        if not parts or self._scripts.cast("log_deliveries", MOST_LOGGED, _KEPT_S * 1000, *parts):
            self._unflushed.clear()

    def logged(self, webhook_id: str) -> list[bytes]:
        """The logged deliveries to a webhook: the accepted ones, then the refused ones, each the newest first.

        Refused deliveries come from anyone, so they push at most half of the accepted ones out.

        Raises:
            PoolUnavailable: Redis is away.
        """
        accepted, refused = self._scripts.run("list_deliveries", webhook_id)
        refused = refused[: MOST_LOGGED - min(len(accepted), MOST_LOGGED // 2)]
        shown: list[bytes] = accepted[: MOST_LOGGED - len(refused)] + refused
        return shown

    def forget(self, webhook_id: str) -> None:
        """Remove the log and the bucket of a deleted webhook, without waiting for Redis.

        If the message is lost, they expire.
        """
        self._scripts.cast("forget_webhook", webhook_id)
