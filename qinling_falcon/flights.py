"""Single flight: greenlets that need the same thing at the same time share one piece of work."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import gevent

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")



class Flight(Generic[T]):
    """One piece of work, in a greenlet of its own: whoever waits for it may be killed without harm to the others.

    Attributes:
        began: when, on the monotonic clock.
    """

    def __init__(self, work: Callable[[], T], ended: Callable[[Flight[T]], None]):
        self.began = time.monotonic()
        self._work = work
        self._ended = ended
        self._error: Exception | None = None
        self._value: T
        self._greenlet = gevent.spawn(self._run)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the work has ended. False: it has not, in time."""
        self._greenlet.join(timeout_s)
        return bool(self._greenlet.ready())

    def result(self) -> T:
        """What the work returned, or raised, after it has ended. Each caller gets an error of its own, for an error
        that is raised collects tracebacks.
        """
        if self._error is not None:
            raise copy.copy(self._error)
        return self._value

    def _run(self) -> None:
        try:
            self._value = self._work()
        except Exception as error:  # a greenlet's error reaches nobody
            self._error = error.with_traceback(None)
        finally:
            self._ended(self)


class Flights(Generic[K, T]):
    """The work that is under way, by key."""

    def __init__(self) -> None:
        self._flights: dict[K, Flight[T]] = {}

    def get(self, key: K) -> Flight[T] | None:
        """The work under this key, if it is under way."""
        return self._flights.get(key)

    def start(self, key: K, work: Callable[[], T]) -> Flight[T]:
        """Begin work. Those who come from now on share this one, also if other work under this key is under way."""

        def ended(flight: Flight[T]) -> None:
            if self._flights.get(key) is flight:
                del self._flights[key]

        flight = self._flights[key] = Flight(work, ended)
        return flight

    def share(self, key: K, work: Callable[[], T]) -> Flight[T]:
        """The work under this key; it is begun unless it is under way."""
        return self._flights.get(key) or self.start(key, work)
