"""Limits the requests that hold an input in a web process before it is committed or runs.

These are asynchronous requests and deliveries until their commit, synchronous deliveries while their body is parsed,
and requests with an idempotency key while the key is looked up. They end soon. So they do not use the places of calls
(`admission.py`), which may run for minutes, nor the memory for the inputs of calls.

There are two limits (`process_limits.py`). A project gets at most as much of each as it leaves free, so one project
alone can't use up a limit:

1. Places. A request of a project that has no more places waits for one, because many senders of webhooks do not repeat
   a delivery that was refused. It waits for a second at most. A quarter as many requests as there are places may wait,
   and those of one project at most as many as it leaves free. Others are refused at once.
2. Memory for inputs, also of requests that wait. A request for which there is none is refused at once.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator

from gevent.event import Event

from qinling_falcon.errors import Unavailable
from qinling_falcon.invocation.process_limits import counted_size, most_input_bytes, most_places
from qinling_falcon.settings import Settings

_WAIT_S = 1.0
_RETRY_AFTER_S = 1


class AcceptLimits:
    """Counts these requests, and lets those without a place wait.

    Args:
        settings: the limits of this process.
        wait_s: how long a request waits for a place.

    Attributes:
        held: the number of requests that hold a place.
        waiting: the number of those that wait for one.
        input_size: bytes of the inputs of both.
    """

    def __init__(self, settings: Settings, wait_s: float = _WAIT_S):
        self._most = most_places(settings)
        self._most_waiting = max(1, self._most // 4)
        self._most_input = most_input_bytes(settings)
        self._wait_s = wait_s
        self._projects: dict[str, _Project] = {}
        # The projects whose requests wait, in the order in which they get the next places.
        self._waiting_projects: dict[str, _Project] = {}
        self.held = 0
        self.waiting = 0
        self.input_size = 0

    @contextlib.contextmanager
    def place(self, project_id: str, size: int) -> Iterator[None]:
        """Hold a place until the `with` block ends.

        Args:
            project_id: the project of the request.
            size: bytes of its input, or of the body that has the input.

        Raises:
            Unavailable: a limit is reached.
        """
        project = self._projects.get(project_id) or _Project(project_id)
        size = counted_size(size)
        self._check_input(project, size)
        self._projects[project_id] = project
        self._add_input(project, size)
        try:
            self._take_place(project)
            try:
                yield
            finally:
                self._leave_place(project)
        finally:
            self._add_input(project, -size)
            if not project.held and not project.queue:
                self._projects.pop(project_id, None)

    def _add_input(self, project: _Project, size: int) -> None:
        self.input_size += size
        project.input_size += size

    def _take_place(self, project: _Project) -> None:
        if not project.queue and self._has_place(project):
            self._give_place(project)
            return
        if len(project.queue) >= self._most_waiting - self.waiting:
            raise _no_place(project)
        served = Event()
        project.queue.append(served)
        self._waiting_projects[project.id] = project
        self.waiting += 1
        try:
            served.wait(self._wait_s)
        except BaseException:  # the greenlet is killed
            if served.is_set():
                self._leave_place(project)
            raise
        finally:
            self.waiting -= 1
            if not served.is_set():
                project.queue.remove(served)
                if not project.queue:
                    del self._waiting_projects[project.id]
        if not served.is_set():
            raise _no_place(project)

    def _leave_place(self, project: _Project) -> None:
        self.held -= 1
        project.held -= 1
        self._serve_waiting()

    def _serve_waiting(self) -> None:
        """Give the places that are free to requests that wait, one for each project in turn."""
        for project in list(self._waiting_projects.values()):
            if self._has_place(project):
                self._give_place(project)
                del self._waiting_projects[project.id]
                project.queue.popleft().set()
                if project.queue:
                    self._waiting_projects[project.id] = project

    def _has_place(self, project: _Project) -> bool:
        return project.held < self._most - self.held

    def _give_place(self, project: _Project) -> None:
        self.held += 1
        project.held += 1

    def _check_input(self, project: _Project, size: int) -> None:
        if size and self._most_input - self.input_size - size < project.input_size:
            raise Unavailable(
                f"Requests of project {project.id} that this process prepares hold {project.input_size} bytes of"
                " inputs, which leaves no room for this input (limited by MAX_HELD_INPUT_SIZE). This request was not"
                " accepted and has not run; try again.",
                retry_after_s=_RETRY_AFTER_S,
            )


class _Project:
    """The requests of one project.

    Attributes:
        held: the number of those that hold a place.
        queue: those that wait, the longest first. An event is set when its request has got a place.
        input_size: bytes of the inputs of both.
    """

    __slots__ = ("held", "id", "input_size", "queue")

    def __init__(self, project_id: str):
        self.id = project_id
        self.held = 0
        self.input_size = 0
        self.queue: deque[Event] = deque()


def _no_place(project: _Project) -> Unavailable:
    return Unavailable(
        f"This process prepares too many requests of project {project.id}: {project.held} (limited by WEB_CONNECTIONS)."
        " This request was not accepted and has not run; try again.",
        retry_after_s=_RETRY_AFTER_S,
    )
