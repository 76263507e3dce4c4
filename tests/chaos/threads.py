"""Threads that load a service until they are stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Threads:
    """Runs a function in several threads.

    Args:
        count: how many threads.
        run: gets the number of its thread. It returns soon after `stopping` was set.

    Attributes:
        stopping: is set by `stop`.
    """

    def __init__(self, count: int, run: Callable[[int], None]):
        self.stopping = threading.Event()
        self._run = run
        self._failures: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run_one, args=(number,)) for number in range(count)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def check(self) -> None:
        """Raise what has ended one of the threads."""
        if self._failures:
            raise self._failures[0]

    def stop(self) -> None:
        """End the threads. Raises what has ended one of them."""
        self.stopping.set()
        for thread in self._threads:
            thread.join()
        self.check()

    def _run_one(self, number: int) -> None:
        try:
            self._run(number)
        except BaseException as error:
            self._failures.append(error)
