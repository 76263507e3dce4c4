"""Caches validated tokens for a limited time, and shares one validation between concurrent requests."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from qinling_falcon.bounded import BoundedCache
from qinling_falcon.errors import QinlingError, Unavailable
from qinling_falcon.flights import Flights
from qinling_falcon.models.scope import Context

logger = logging.getLogger(__name__)

# A token that was refused won't become good; so short, because a refusal may have been about a moment.
_REFUSED_S = 5.0


@dataclass(frozen=True, slots=True)
class Known:
    """A good token.

    Attributes:
        context: its project, user and roles.
        object_store: URL of its project's account in Swift, if there is one.
        left_s: seconds until it ends, from when it was asked about.
        role_ids: of its roles.
        by_credential: it is an application credential's.
        restricted: it is good for the method and path that it came with; others are another question.
    """

    context: Context
    object_store: str | None
    left_s: float
    restricted: bool = False
    role_ids: tuple[str, ...] = ()
    by_credential: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """A token that is no good: `error` makes what its sender is told."""

    error: Callable[[], QinlingError]


@dataclass(frozen=True, slots=True)
class Question:
    """A token, and the request that it came with."""

    token: str
    method: str
    path: str


Ask = Callable[[Question], Known | Refused]


class TokenCache:
    """A bounded cache of validated and refused tokens.

    The keys are hashes, so that a dump of this process's memory contains no list of tokens. Concurrent requests with
    the same uncached token share one validation. A failed validation is not cached.

    Args:
        ask: validates one token; may raise `Unavailable`.
        keep_s: seconds for which a valid token is cached, counted from the start of its validation, or until it
            expires. A request is never accepted because of an older validation.
        size: the most valid tokens, and the most refused tokens.
        wait_s: the longest wait of a request for a validation, in seconds.
        most_waiting: the most requests that wait at once. Further ones are refused, so that requests with uncached
            tokens never hold all connections of the process.
    """

    def __init__(self, ask: Ask, *, keep_s: float, size: int, wait_s: float, most_waiting: int):
        self._ask = ask
        self._keep_s = keep_s
        self._wait_s = wait_s
        self._good = BoundedCache[bytes, Known](size)
        # Apart, and by the request too: one such token, sent to many paths, would drive out all others.
        self._restricted = BoundedCache[bytes, Known](size)
        self._refused = BoundedCache[bytes, Refused](size)
        self._flights: Flights[bytes, tuple[Question, Known | Refused]] = Flights()
        self._most_waiting = most_waiting
        self._waiting = 0

    def find(self, question: Question) -> Known:
        """The identity of a token, from the cache or by validation.

        Raises:
            Unauthorized, Forbidden: the token is refused.
            Unavailable: the validation failed or took too long, or too many requests wait for one.
        """
        came = time.monotonic()
        name = hashlib.sha256(question.token.encode("ascii")).digest()
        found: Known | Refused | None = self._good.get(name, came)
        if found is None:
            found = self._find_out(name, question, came)
        if isinstance(found, Refused):
            raise found.error()
        return found

    def _find_out(self, name: bytes, question: Question, came: float) -> Known | Refused:
        narrow = _narrow(name, question)
        found: Known | Refused | None = self._restricted.get(narrow, came) or self._refused.get(narrow, came)
        if found is not None:
            return found
        if self._waiting >= self._most_waiting:
            raise Unavailable("Too many requests wait for their tokens to be validated; try again.", retry_after_s=1)
        self._waiting += 1
        try:
            return self._ask_together(name, narrow, question, came)
        finally:
            self._waiting -= 1

    def _ask_together(self, name: bytes, narrow: bytes, question: Question, came: float) -> Known | Refused:
        """Validate the token, once for all requests that wait for it now."""
        asked, answer = self._answer(name, question, came)
        if asked == question or (isinstance(answer, Known) and not answer.restricted):
            return answer
        # It holds for the other request alone; those that are like this one go on together.
        return self._answer(narrow, question, came)[1]

    def _answer(self, key: bytes, question: Question, came: float) -> tuple[Question, Known | Refused]:
        """The answer to this question, or to the one under way, if it will be new enough for a request that came then.

        Returns:
            The question that was asked, and the answer.
        """
        flight = self._flights.get(key)
        if flight is None or came - flight.began > self._keep_s:
            flight = self._flights.start(key, lambda: self._fly(question))
        if not flight.wait(max(0.0, came + self._wait_s - time.monotonic())):
            raise Unavailable("The token could not be validated in time; try again.", retry_after_s=1)
        return flight.result()

    def _fly(self, question: Question) -> tuple[Question, Known | Refused]:
        """Ask, and remember."""
        asked = time.monotonic()
        try:
            answer = self._ask(question)
        except Unavailable:
            raise
        except Exception as error:
            logger.exception("a token could not be asked about")
            raise Unavailable("The token could not be validated; try again.", retry_after_s=1) from error
        name = hashlib.sha256(question.token.encode("ascii")).digest()
        narrow = _narrow(name, question)
        if isinstance(answer, Refused):
            self._refused.put(narrow, answer, asked + _REFUSED_S)
        elif answer.restricted:
            self._restricted.put(narrow, answer, asked + min(self._keep_s, answer.left_s))
        else:
            self._good.put(name, answer, asked + min(self._keep_s, answer.left_s))
        return question, answer


def _narrow(name: bytes, question: Question) -> bytes:
    """The token with the method and path that it came with."""
    return hashlib.sha256(b"%s %s %s" % (name, question.method.encode(), question.path.encode())).digest()
