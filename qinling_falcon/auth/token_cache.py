"""Caches validated tokens for a limited time, and shares one validation between concurrent requests."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import gevent

from qinling_falcon.errors import QinlingError, Unavailable
from qinling_falcon.models.scope import Context

T = TypeVar("T")

log = logging.getLogger(__name__)

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
        self._good = _Memory[Known](size)
        # Apart, and by the request too: one such token, sent to many paths, would drive out all others.
        self._restricted = _Memory[Known](size)
        self._refused = _Memory[Refused](size)
        self._flights: dict[bytes, _Flight] = {}
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
        flight = self._flight(name, question, came)
        answer = self._wait(flight, came)
        if flight.question == question or (isinstance(answer, Known) and not answer.restricted):
            return answer
        # It holds for the other request alone; those that are like this one go on together.
        return self._wait(self._flight(narrow, question, came), came)

    def _flight(self, key: bytes, question: Question, came: float) -> _Flight:
        """The question that is under way, if its answer will be new enough for a request that came then; or a new one.

        In a greenlet of its own: the request that asks may be ended while others wait for the answer.
        """
        flight = self._flights.get(key)
        if flight is None or came - flight.asked > self._keep_s:
            flight = self._flights[key] = _Flight(question, time.monotonic())
            flight.greenlet = gevent.spawn(self._fly, key, flight)
        return flight

    def _wait(self, flight: _Flight, came: float) -> Known | Refused:
        flight.greenlet.join(max(0.0, came + self._wait_s - time.monotonic()))
        if flight.answer is None:
            raise Unavailable("The token could not be validated in time; try again.", retry_after_s=1)
        if isinstance(flight.answer, Unavailable):  # anew for each, for an error that is raised collects tracebacks
            raise Unavailable(flight.answer.message, retry_after_s=flight.answer.retry_after_s)
        return flight.answer

    def _fly(self, key: bytes, flight: _Flight) -> None:
        """Ask, and remember; errors are values here, for one that goes up in a greenlet is printed."""
        try:
            answer = flight.answer = self._ask(flight.question)
        except Unavailable as error:
            flight.answer = error
        except Exception:
            log.exception("a token could not be asked about")
            flight.answer = Unavailable("The token could not be validated; try again.", retry_after_s=1)
        else:
            name = hashlib.sha256(flight.question.token.encode("ascii")).digest()
            narrow = _narrow(name, flight.question)
            if isinstance(answer, Refused):
                self._refused.put(narrow, answer, flight.asked + _REFUSED_S)
            elif answer.restricted:
                self._restricted.put(narrow, answer, flight.asked + min(self._keep_s, answer.left_s))
            else:
                self._good.put(name, answer, flight.asked + min(self._keep_s, answer.left_s))
        finally:
            if self._flights.get(key) is flight:
                del self._flights[key]


class _Flight:
    """A question that is under way, sent at `asked`; `answer` is set when its greenlet has ended."""

    greenlet: gevent.Greenlet

    def __init__(self, question: Question, asked: float):
        self.question = question
        self.asked = asked
        self.answer: Known | Refused | Unavailable | None = None


class _Memory(Generic[T]):
    """The answers that were used last, each until it ends."""

    def __init__(self, size: int):
        self._size = size
        self._kept: OrderedDict[bytes, tuple[T, float]] = OrderedDict()

    def get(self, key: bytes, now: float) -> T | None:
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept[1] <= now:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return kept[0]

    def put(self, key: bytes, value: T, until: float) -> None:
        self._kept[key] = (value, until)
        self._kept.move_to_end(key)
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)


def _narrow(name: bytes, question: Question) -> bytes:
    """The token with the method and path that it came with."""
    return hashlib.sha256(b"%s %s %s" % (name, question.method.encode(), question.path.encode())).digest()
