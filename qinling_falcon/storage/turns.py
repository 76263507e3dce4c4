"""Limits how much work of one kind runs at once, and shares it fairly between projects.

There are two users:

1. `spool` checks uploads. A check inflates the whole package and may use a core for a second.
2. `package_cache` reads packages for calls. Each package is in memory while it is read.

The next turn goes to the project that has waited longest for one. A project with one
upload therefore waits for one check of another project, and not for all of its sixty.
Each process has its own turns.
"""

from __future__ import annotations

import contextlib
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator

from gevent.event import Event


class TooManyWait(Exception):
    """The project already has the most turns and waiting requests that it may have."""


class WaitedTooLong(Exception):
    """No turn became free in time."""


class Turns:
    """Hands out turns, project after project.

    Args:
        width: the number of turns at once.
        share: the most turns of one project.
        most_of_project: the most turns and waiting requests of one project.
        patience_s: the longest wait in seconds.
    """

    def __init__(self, width: int, share: int, most_of_project: int, patience_s: float) -> None:
        self.most_of_project = most_of_project
        self.patience_s = patience_s
        self._free = width
        self._share = share
        self._here: Counter[str] = Counter()
        self._having: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[Event]] = OrderedDict()  # the project that has waited longest is first

    @contextlib.contextmanager
    def turn(self, project_id: str) -> Iterator[None]:
        """Wait for a turn for this project, and hold it during the `with` block.

        Raises:
            TooManyWait: raised at once.
            WaitedTooLong: raised after `patience_s`.
        """
        if self._here[project_id] >= self.most_of_project:
            raise TooManyWait
        self._here[project_id] += 1
        try:
            self._wait(project_id)
            try:
                yield
            finally:
                self._give_back(project_id)
        finally:
            _count_down(self._here, project_id)

    def _wait(self, project_id: str) -> None:
        called = Event()
        self._waiting.setdefault(project_id, deque()).append(called)
        self._hand_out()
        try:
            called.wait(self.patience_s)
        except BaseException:
            if called.is_set():
                self._give_back(project_id)
            else:
                self._leave(project_id, called)
            raise
        if not called.is_set():
            self._leave(project_id, called)
            raise WaitedTooLong

    def _hand_out(self) -> None:
        """Give the free turns to waiting requests, project after project."""
        while self._free:
            project_id = next((name for name in self._waiting if self._having[name] < self._share), None)
            if project_id is None:
                return
            queue = self._waiting.pop(project_id)
            queue.popleft().set()
            if queue:
                self._waiting[project_id] = queue
            self._free -= 1
            self._having[project_id] += 1

    def _give_back(self, project_id: str) -> None:
        self._free += 1
        _count_down(self._having, project_id)
        self._hand_out()

    def _leave(self, project_id: str, called: Event) -> None:
        queue = self._waiting[project_id]
        queue.remove(called)
        if not queue:
            del self._waiting[project_id]


def _count_down(counter: Counter[str], name: str) -> None:
    """Decrement a count. A name with count 0 is removed, because the number of projects is unlimited."""
    counter[name] -= 1
    if not counter[name]:
        del counter[name]
