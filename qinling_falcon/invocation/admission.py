"""Limits the calls that a web process has in flight, so that calls never use all of its connections.

A call holds its connection from its admission to its record: while its function and package are read, while it waits
for Keystone, Swift or a worker, and while it runs. The queue in Redis (`scripts/lease.lua`) counts only calls that wait
for a worker. `Engine` and `Scaler` ask for the admission of a call before they wait for anything. Admission needs
neither Redis nor the database. It gets the limits with the heartbeats of the process.

There are three limits:

1. Calls of a function: as many as may run and wait in all processes together.
2. Calls of a project: as many as may run and wait in all processes together, and at most as many as the process has
   places left for calls.
3. Inputs of a project's calls: at most as much memory as the process has left for inputs.

Requests that wait for the end of an execution (`waits.py`) hold connections, too. They use at most half of the places
for calls, and those of one project at most as many of them as remain free for other projects.

As in the queue, a function has at most as many calls as its project has places left. One function or project therefore
never takes the last place.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from types import TracebackType

from qinling_falcon.errors import Unavailable
from qinling_falcon.invocation.process_limits import counted_size, most_input_bytes, most_places
from qinling_falcon.pool.limits import CallBounds
from qinling_falcon.settings import Settings

_RETRY_AFTER_S = 1


class Admission:
    """Counts the calls in flight in this process, and the requests that wait for executions.

    `Engine`, `Scaler` and `Waits` share one instance.

    Args:
        settings: the limits of this process.
        bounds: how many calls of a function and of a project may run and wait in all processes together (see
            `Pool.call_bounds`). There is no such limit before the manager has written one.

    Attributes:
        calls: the number of calls.
        waits: the number of requests that wait for the end of an execution.
        input_size: bytes of memory that the inputs of calls use.
    """

    def __init__(self, settings: Settings, bounds: Callable[[], CallBounds]):
        self._bounds = bounds
        self._most = most_places(settings)
        self._most_input = most_input_bytes(settings)
        self._projects: dict[str, _Project] = {}
        self.calls = 0
        self.waits = 0
        self.input_size = 0

    def admit(self, project_id: str, function: str, text: str | None = None) -> Admitted:
        """Count a call until the `with` block of the returned value ends.

        Args:
            project_id: the caller's project.
            function: the function or alias that the call names.
            text: its input.

        Raises:
            Unavailable: a limit is reached; the message names its settings.
        """
        project = self._projects.get(project_id) or _Project(project_id)
        share = project.functions.get(function) or _Share()
        input_size = 0 if text is None else counted_size(sys.getsizeof(text))
        self._check(project, function, share, input_size)
        self._projects[project_id] = project
        project.functions[function] = share
        self.calls += 1
        project.calls += 1
        share.calls += 1
        self._hold(project, input_size)
        share.input_size += input_size
        return Admitted(self, project, function, input_size)

    @contextlib.contextmanager
    def admit_wait(self, project_id: str) -> Iterator[None]:
        """Count a request that waits for the end of an execution until the `with` block ends.

        Args:
            project_id: the caller's project.

        Raises:
            Unavailable: a limit is reached.
        """
        project = self._projects.get(project_id) or _Project(project_id)
        room = min(self._most // 2, self._most - self.calls) - self.waits
        if project.waits >= room:
            raise Unavailable(
                f"Too many requests of project {project_id} wait for the end of executions in this process:"
                f" {project.waits} (limited by WEB_CONNECTIONS). Try again, or do not wait.",
                retry_after_s=_RETRY_AFTER_S,
            )
        self._projects[project_id] = project
        self.waits += 1
        project.waits += 1
        try:
            yield
        finally:
            self.waits -= 1
            project.waits -= 1
            self._discard_unused(project)

    def leave(self, project: _Project, function: str, input_size: int) -> None:
        """Stop counting a call."""
        share = project.functions[function]
        self.calls -= 1
        project.calls -= 1
        share.calls -= 1
        self._hold(project, -input_size)
        share.input_size -= input_size
        if not share.calls:
            del project.functions[function]
            self._discard_unused(project)

    def _hold(self, project: _Project, size: int) -> None:
        self.input_size += size
        project.input_size += size

    def _discard_unused(self, project: _Project) -> None:
        if not project.calls and not project.waits:
            del self._projects[project.id]

    def _check(self, project: _Project, function: str, share: _Share, input_size: int) -> None:
        bounds = self._bounds()
        if share.calls >= bounds.of_function:
            raise _refused(f"function {function}", share.calls, "FUNCTION_CONCURRENCY and FUNCTION_QUEUE_FACTOR")
        room = min(bounds.of_project, self._most - self.calls - self.waits)
        if share.calls >= room - project.calls:
            of_project = room == bounds.of_project
            bound = "PROJECT_CONCURRENCY and PROJECT_QUEUE_FACTOR" if of_project else "WEB_CONNECTIONS"
            raise _refused(f"project {project.id}", project.calls, bound)
        if input_size and share.input_size > self._most_input - self.input_size - input_size - project.input_size:
            raise Unavailable(
                f"Calls of project {project.id} in this process hold {project.input_size} bytes of inputs, which leaves"
                " no room for this input (limited by MAX_HELD_INPUT_SIZE). This call has not run; try again.",
                retry_after_s=_RETRY_AFTER_S,
            )


class Admitted:
    """An admitted call, a context manager. The call is counted until the `with` block ends."""

    __slots__ = ("_admission", "_function", "_input_size", "_project")

    def __init__(self, admission: Admission, project: _Project, function: str, input_size: int):
        self._admission = admission
        self._project = project
        self._function = function
        self._input_size = input_size

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._admission.leave(self._project, self._function, self._input_size)


class _Share:
    """The calls of one function."""

    __slots__ = ("calls", "input_size")

    def __init__(self) -> None:
        self.calls = 0
        self.input_size = 0


class _Project:
    """The calls of one project, in total and by function, and its requests that wait for executions."""

    __slots__ = ("calls", "functions", "id", "input_size", "waits")

    def __init__(self, project_id: str):
        self.id = project_id
        self.calls = 0
        self.waits = 0
        self.input_size = 0
        self.functions: dict[str, _Share] = {}


def _refused(whose: str, calls: int, bound: str) -> Unavailable:
    return Unavailable(
        f"Too many calls of {whose} run or wait in this process: {calls} (limited by {bound}). This call has not run; "
        "try again.",
        retry_after_s=_RETRY_AFTER_S,
    )
