"""Who tokens are of: asked once, then known for a bounded time."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import gevent

from qinling_falcon.errors import QinlingError, Unavailable
from qinling_falcon.models.scope import Context

T = TypeVar("T")

# A token that was refused won't become good; so short, because a refusal may have been about a moment.
_REFUSED_S = 5.0


@dataclass(frozen=True, slots=True)
class Known:
    """A good token.

    Attributes:
        context: its project, user and roles.
        object_store: URL of its project's account in Swift, if there is one.
        left_s: seconds until it ends, from when it was asked about.
        restricted: it is good for the method and path that it came with; others are another question.
    """

    context: Context
    object_store: str | None
    left_s: float
    restricted: bool = False


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
    """Tokens that were asked about, by their hashes: a dump of this process's memory should not be a list of tokens.

    Simultaneous requests with one token make one question. What fails is not remembered.

    Args:
        ask: asks about one token; may raise `Unavailable`.
        keep_s: a good token is believed for so long after the question was sent, or until its end.
        size: most tokens, good ones and refused ones each.
        wait_s: longest wait of a request for an answer.
    """

    def __init__(self, ask: Ask, *, keep_s: float, size: int, wait_s: float):
        self._ask = ask
        self._keep_s = keep_s
        self._size = size
        self._wait_s = wait_s
        # By hash, or where the answer holds for one method and path only, by those too.
        self._good: OrderedDict[object, tuple[Known, float]] = OrderedDict()
        self._refused: OrderedDict[object, tuple[Refused, float]] = OrderedDict()
        self._asking: dict[bytes, gevent.Greenlet] = {}

    def find(self, question: Question) -> Known:
        """What is known of the token.

        Raises:
            Unauthorized, Forbidden: it is no good.
            Unavailable: whoever knows doesn't answer, or not in time.
        """
        name = hashlib.sha256(question.token.encode("ascii")).digest()
        found: Known | Refused | None = self._remembered(name, question)
        deadline = time.monotonic() + self._wait_s
        while found is None:
            flight = self._asking.get(name)
            mine = flight is None
            if flight is None:
                # In a greenlet of its own: the request that asks may be ended while others wait for the answer.
                flight = self._asking[name] = gevent.spawn(self._fly, name, question)
            flight.join(max(0.0, deadline - time.monotonic()))
            if not flight.ready():
                raise Unavailable("The token could not be validated in time; try again.", retry_after_s=1)
            answer = flight.value
            if isinstance(answer, QinlingError):
                raise type(answer)(answer.message, retry_after_s=answer.retry_after_s)
            # What was asked for another request may hold for this one too; if not, this one asks for itself.
            found = answer if mine else self._remembered(name, question)
        if isinstance(found, Refused):
            raise found.error()
        return found

    def _remembered(self, name: bytes, question: Question) -> Known | Refused | None:
        now = time.monotonic()
        good = self._good
        kept = good.get(name)
        if kept is not None and kept[1] > now:
            good.move_to_end(name)
            return kept[0]
        narrow = (name, question.method, question.path)
        kept = good.get(narrow)
        if kept is not None and kept[1] > now:
            good.move_to_end(narrow)
            return kept[0]
        refused = self._refused.get(narrow)
        return refused[0] if refused is not None and refused[1] > now else None

    def _fly(self, name: bytes, question: Question) -> Known | Refused | QinlingError:
        """Ask, and remember; errors are values here, for one that goes up in a greenlet is printed."""
        asked = time.monotonic()
        narrow = (name, question.method, question.path)
        try:
            answer = self._ask(question)
        except QinlingError as error:
            return error
        else:
            if isinstance(answer, Refused):
                _keep(self._refused, narrow, (answer, asked + _REFUSED_S), self._size)
            else:
                until = asked + min(self._keep_s, answer.left_s)
                _keep(self._good, narrow if answer.restricted else name, (answer, until), self._size)
            return answer
        finally:
            del self._asking[name]


def _keep(kept: OrderedDict[object, T], key: object, value: T, size: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > size:
        kept.popitem(last=False)
