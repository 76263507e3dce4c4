"""The idempotency keys of the synchronous calls of this process, from their claim until they are bound or released.

`Run` claims the key before it asks for a worker, and binds it before the worker gets the call, both durably. There are
four cases when a call with a key ends early:

1. The call was refused before the function ran: the key is released, so that a retry runs.
2. The function has run, or may have run, and its result was not recorded (`NotRecorded`): the key stays bound. The
   reaper records the execution, and a retry gets that record.
3. This process dies before the key is bound: the claim ends after `HOLDER_TTL_S`, and a retry takes the key over.
4. This process dies after the key is bound: as 2.
"""

from __future__ import annotations

import logging
from datetime import timedelta

import gevent

from qinling_falcon.errors import Conflict, Unavailable
from qinling_falcon.models import clock, idempotency
from qinling_falcon.models.idempotency import KeyClaim
from qinling_falcon.models.records import ExecutionRecord
from qinling_falcon.settings import Settings

logger = logging.getLogger(__name__)

_EXTENSIONS_PER_TTL = 3
# Bounds the memory while the database is away. A key beyond this bound stays until it is taken over, if it was only
# claimed, or until `record_overdue` records its execution, if it was bound.
_MOST_UNRELEASED = 10_000


class KeyTaken(Conflict):
    """Another request has the key. This one has run nothing."""


class CallKeys:
    """Extends the claims of calls that wait for a worker, and releases keys that could not be released at once.

    Args:
        settings: how long a claim lasts without an extension.
    """

    def __init__(self, settings: Settings):
        self._ttl_s = settings.holder_ttl_s
        self._claimed: set[KeyClaim] = set()
        self._unreleased: set[KeyClaim] = set()
        self._keeping: gevent.Greenlet | None = None

    def claim(self, wanted: KeyClaim) -> None:
        """Claim a key, and extend the claim until `forget`; durable on return.

        Raises:
            KeyTaken: another request has it.
            Unavailable: the database is away.
        """
        now = clock.now()
        if not idempotency.claim(wanted, now, now + timedelta(seconds=self._ttl_s)):
            raise KeyTaken(f"Another request has claimed Idempotency-Key {wanted.key!r}.")
        self._claimed.add(wanted)
        self._start()

    def forget(self, claimed: KeyClaim) -> None:
        """Stop extending a claim. If the key is not bound, it can be taken over soon."""
        self._claimed.discard(claimed)

    def release(self, claimed: KeyClaim) -> None:
        """Delete a key whose function has not run; later, if the database is away."""
        self.forget(claimed)
        try:
            idempotency.release([claimed])
        except Unavailable as error:
            logger.warning(
                "an idempotency key is released later",
                extra={"execution_id": claimed.execution_id, "reason": str(error)},
            )
            if len(self._unreleased) < _MOST_UNRELEASED:
                self._unreleased.add(claimed)
                self._start()

    def _start(self) -> None:
        """Start the background task. It ends when it has nothing to do."""
        if not self._keeping:
            self._keeping = gevent.spawn(self._keep)

    def _keep(self) -> None:
        while self._claimed or self._unreleased:
            gevent.sleep(self._ttl_s / _EXTENSIONS_PER_TTL)
            try:
                if self._claimed:
                    until = clock.now() + timedelta(seconds=self._ttl_s)
                    idempotency.extend(list(self._claimed), until)
                if self._unreleased:
                    unreleased = set(self._unreleased)
                    idempotency.release(unreleased)
                    self._unreleased -= unreleased
            except Unavailable as error:
                logger.warning("idempotency keys could not be extended or released", extra={"reason": str(error)})


class CallKey:
    """The key of one synchronous call, for its `Run`.

    Args:
        keys: the keys of this process.
        wanted: the claim of this call.

    Attributes:
        id: the id that the execution has.
        created_at: when the execution was requested.
    """

    __slots__ = ("_keys", "_may_be_claimed", "_wanted", "created_at", "id")

    def __init__(self, keys: CallKeys, wanted: KeyClaim):
        self._keys = keys
        self._wanted = wanted
        self._may_be_claimed = False
        self.id = wanted.execution_id
        self.created_at = wanted.created_at

    def claim(self) -> None:
        """Claim the key, unless this call has done so before. Raises as `CallKeys.claim`."""
        if not self._may_be_claimed:
            # Set before the attempt, because a lost connection leaves it open whether the key is claimed.
            self._may_be_claimed = True
            try:
                self._keys.claim(self._wanted)
            except KeyTaken:
                self._may_be_claimed = False
                raise

    def begin(self, started: ExecutionRecord) -> None:
        """Write the row of the execution, and bind the key to it; durable on return.

        Raises:
            KeyTaken: another request has taken the key over. The function must not run.
            Unavailable: the database is away.
        """
        if not idempotency.begin(self._wanted, started):
            raise KeyTaken(f"Another request has taken over Idempotency-Key {self._wanted.key!r}.")
        self._keys.forget(self._wanted)

    def release(self) -> None:
        """Delete the key, because the function has not run, if this call has claimed it."""
        if self._may_be_claimed:
            self._may_be_claimed = False
            self._keys.release(self._wanted)

    def forget(self) -> None:
        """Stop extending the claim, because the call has ended."""
        self._keys.forget(self._wanted)
