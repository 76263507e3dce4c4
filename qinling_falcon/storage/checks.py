"""Turns of uploads at being checked: as many at once as there are cores, and project after project.

Checking inflates all of a package, which may take a core for a second. The checks of
one project therefore wait for each other, while another project's next upload waits
for one check at most. Each process has turns of its own.
"""

from __future__ import annotations

import contextlib
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator

from gevent.event import Event

from qinling_falcon.errors import Unavailable
from qinling_falcon.settings import Settings
from qinling_falcon.storage.offload import CORES


class Checks:
    """Hands out turns.

    Args:
        most_of_project: uploads of one project that are checked or wait; further ones are refused.
        patience_s: the longest wait for a turn.
        width: checks at once.
    """

    def __init__(self, most_of_project: int = 32, patience_s: float = 30.0, width: int = CORES) -> None:
        self._most_of_project = most_of_project
        self._patience_s = patience_s
        self._free = width
        self._here: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[Event]] = OrderedDict()  # the project whose turn is next comes first

    @classmethod
    def from_settings(cls, settings: Settings) -> Checks:
        """Turns within the settings' bounds."""
        return cls(settings.project_uploads, settings.upload_queue_timeout_s)

    @contextlib.contextmanager
    def turn(self, project_id: str) -> Iterator[None]:
        """Wait for a turn of this project, and hold it.

        Raises:
            Unavailable: the project has too many uploads here already, or its turn did not come in time.
        """
        if self._here[project_id] >= self._most_of_project:
            raise Unavailable(
                f"Too many uploads of this project are being checked or wait for that: at most "
                f"{self._most_of_project} at once (PROJECT_UPLOADS). Try again.",
                retry_after_s=5,
            )
        self._here[project_id] += 1
        try:
            self._wait(project_id)
            try:
                yield
            finally:
                self._pass_on()
        finally:
            self._here[project_id] -= 1
            if not self._here[project_id]:
                del self._here[project_id]

    def _wait(self, project_id: str) -> None:
        if self._free:
            self._free -= 1
            return
        called = Event()
        queue = self._waiting.setdefault(project_id, deque())
        queue.append(called)
        try:
            called.wait(self._patience_s)
        except BaseException:
            if called.is_set():
                self._pass_on()
            else:
                self._leave(project_id, called)
            raise
        if not called.is_set():
            self._leave(project_id, called)
            raise Unavailable(
                f"The upload was not checked within {self._patience_s:g} s, because others were before it "
                "(UPLOAD_QUEUE_TIMEOUT_S). Try again.",
                retry_after_s=5,
            )

    def _pass_on(self) -> None:
        """Give the turn to the next project's first upload, if one waits."""
        if not self._waiting:
            self._free += 1
            return
        project_id, queue = self._waiting.popitem(last=False)
        queue.popleft().set()
        if queue:
            self._waiting[project_id] = queue

    def _leave(self, project_id: str, called: Event) -> None:
        queue = self._waiting[project_id]
        queue.remove(called)
        if not queue:
            del self._waiting[project_id]
