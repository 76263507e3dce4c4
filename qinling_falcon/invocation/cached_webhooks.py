"""Caches webhooks in this process, so that a delivery needs no SQL.

A cached webhook has the generation under which it was read. Each delivery compares the generation with the present
one, before it is accepted and before it is refused because of what the webhook says. So a change acts at once in all
processes. A webhook is cached for a minute at most, because a restored database, or a process of an older release,
changes rows without their generations.

While deliveries arrive, one greenlet reads the webhook anew before its minute is over, so they do not wait for the
database.

Concurrent look-ups of the same id share one read. A read that they share may have begun before a change of the webhook.
Then its generation is not current any more, and the delivery reads the webhook again. If a change's process was killed,
the webhook can't be cached until the marker of the change expires, after a minute at most. Its deliveries share reads
until then.

The id of a missing webhook is looked up in the database each time: caching ids that anyone can invent would only push
out the webhooks that exist. Strangers can cause look-ups, and these use connections of the database. So at most
`_MOST_LOOKUPS` run at once for ids that this process has found before, and as many for all other ids. Strangers who
invent ids do not delay the webhooks that were found before.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from qinling_falcon.bounded import BoundedCache
from qinling_falcon.errors import NotFound
from qinling_falcon.flights import Flights
from qinling_falcon.models import webhook as webhooks
from qinling_falcon.models.scope import Context
from qinling_falcon.models.secret_keys import SecretUnreadable
from qinling_falcon.models.tables import Webhook
from qinling_falcon.pool.deliveries import RateLimit
from qinling_falcon.pool.generations import may_cache
from qinling_falcon.pool.pool import Pool
from qinling_falcon.turns import ConcurrencyLimit
from qinling_falcon.webhooks.signatures import Scheme, hmac_keys_of

logger = logging.getLogger(__name__)

_CACHE_SIZE = 10_000
_MOST_FOUND_BEFORE = 50_000
CACHED_S = 60.0
# A webhook of this age is read anew at its next delivery, which does not wait for that.
REFRESH_AFTER_S = 40.0
# At most this many look-ups at once for ids found before, and as many for all other ids.
_MOST_LOOKUPS = 2
_LOOKUP_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Signature:
    """How the deliveries to a webhook are signed.

    Attributes:
        scheme: the form of the signatures.
        tolerance_s: how old a signature may be.
        keys: the HMAC keys that are valid now; None: the secrets can't be decrypted with `SECRET_KEYS`.
    """

    scheme: Scheme
    tolerance_s: int
    keys: tuple[bytes, ...] | None


@dataclass(frozen=True, slots=True)
class CachedWebhook:
    """A webhook as a delivery uses it, with its secrets decrypted.

    Attributes:
        owner: the project in which the function runs.
        methods: the accepted methods; None: any.
        subpaths: whether paths below the URL are accepted.
        pass_request: whether the function gets the whole request.
        sync: whether the sender waits for the function's answer.
        cors: the origins whose pages may call it.
        signature: None: deliveries are not signed.
        rate_limit: None: no limit.
        generation: cache key and generation.
    """

    id: str
    owner: Context
    function_id: str | None
    function_version: int
    function_alias: str | None
    enabled: bool
    methods: tuple[str, ...] | None
    subpaths: bool
    pass_request: bool
    sync: bool
    cors: tuple[str, ...]
    signature: Signature | None
    rate_limit: RateLimit | None
    generation: tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Entry:
    """A cached webhook.

    Attributes:
        refresh_at: when it is to be read anew, on the monotonic clock.
    """

    webhook: CachedWebhook
    refresh_at: float


class CachedWebhooks:
    """Finds webhooks by their ids.

    Args:
        pool: reads the generations.
    """

    def __init__(self, pool: Pool):
        self._pool = pool
        self._entries: BoundedCache[str, _Entry] = BoundedCache(_CACHE_SIZE)
        # Ids of webhooks that were found before. They are kept longer than the webhooks.
        self._found_before: BoundedCache[str, bool] = BoundedCache(_MOST_FOUND_BEFORE)
        self._lookups: Flights[str, CachedWebhook] = Flights()
        busy = "Too many webhooks are being looked up."
        self._places_of_found = ConcurrencyLimit(_MOST_LOOKUPS, _LOOKUP_WAIT_S, busy)
        self._places_of_others = ConcurrencyLimit(_MOST_LOOKUPS, _LOOKUP_WAIT_S, busy)

    def get(self, webhook_id: str) -> CachedWebhook:
        """A webhook of any project. It may have changed meanwhile: use `is_current`, or compare its generation.

        Raises:
            NotFound: there is none with this id.
            Unavailable: Redis or the database is away, or too many webhooks are being looked up.
        """
        now = time.monotonic()
        entry = self._entries.get(webhook_id, now)
        if entry is None:
            return self._look_up(webhook_id, now)
        if entry.refresh_at <= now:
            self._lookups.share(webhook_id, lambda: self._read(webhook_id))
        return entry.webhook

    def is_current(self, webhook: CachedWebhook) -> bool:
        """Whether a webhook has not changed since it was read.

        Raises:
            PoolUnavailable: Redis is away.
        """
        return self._pool.is_current((webhook.generation,))

    def forget(self, webhook: CachedWebhook) -> None:
        """Remove a stale webhook from the cache, unless a newer read has replaced it."""
        entry = self._entries.get(webhook.id)
        if entry is not None and entry.webhook is webhook:
            self._entries.pop(webhook.id)

    def _look_up(self, webhook_id: str, asked_at: float) -> CachedWebhook:
        while True:
            lookup = self._lookups.share(webhook_id, lambda: self._read(webhook_id))
            lookup.wait()
            try:
                webhook = lookup.result()
                # Under the marker of a change, rows from before and after it have the same generation.
                if lookup.began >= asked_at or may_cache(webhook.generation[1]):
                    return webhook
            except NotFound:
                # A missing webhook has no generation to compare. The shared look-up may have begun before the webhook
                # was created, so it is repeated.
                if lookup.began >= asked_at:
                    raise

    def _read(self, webhook_id: str) -> CachedWebhook:
        was_found = webhook_id in self._found_before
        with self._places_of_found.place() if was_found else self._places_of_others.place():
            try:
                webhook = self._read_row(webhook_id)
            except NotFound:
                self._found_before.pop(webhook_id)
                self._entries.pop(webhook_id)
                raise
        self._found_before.put(webhook_id, True)
        return webhook

    def _read_row(self, webhook_id: str) -> CachedWebhook:
        # Only existing webhooks get a generation. It is read before the row, so a change in between makes it stale.
        if not webhooks.exists(webhook_id):
            raise _not_found(webhook_id)
        read_at = time.monotonic()
        cache_key = webhooks.cache_key(webhook_id)
        generation = self._pool.generations([cache_key])[cache_key]
        row = webhooks.read_for_call(webhook_id)
        if row is None:
            raise _not_found(webhook_id)
        webhook = _webhook_of(row, (cache_key, generation))
        if may_cache(generation):
            self._entries.put(webhook_id, _Entry(webhook, read_at + REFRESH_AFTER_S), read_at + CACHED_S)
        return webhook


def _webhook_of(row: Webhook, generation: tuple[str, str]) -> CachedWebhook:
    signature = rate_limit = None
    if row.signature_scheme is not None:
        scheme = Scheme(row.signature_scheme)
        keys = None
        try:
            keys = hmac_keys_of(scheme, webhooks.secrets_of(row))
        except SecretUnreadable:
            logger.exception("the secrets of a webhook can't be read", extra={"webhook_id": row.id})
        signature = Signature(scheme, row.signature_tolerance_s or 0, keys)
    if row.rate_per_minute is not None and row.rate_burst is not None:
        rate_limit = RateLimit.of(row.id, row.rate_per_minute, row.rate_burst)
    return CachedWebhook(
        id=row.id,
        owner=Context(row.project_id),
        function_id=row.function_id,
        function_version=row.function_version or 0,
        function_alias=row.function_alias,
        enabled=row.enabled,
        methods=None if "*" in row.methods else tuple(row.methods),
        subpaths=row.subpaths,
        pass_request=row.pass_request,
        sync=row.sync,
        cors=tuple(row.cors or ()),
        signature=signature,
        rate_limit=rate_limit,
        generation=generation,
    )


def _not_found(webhook_id: str) -> NotFound:
    return NotFound(f"Webhook {webhook_id} not found.")
