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

A request whose asynchronous execution is being accepted holds its input until the commit. The inputs count as those of
calls do. The requests are counted apart, because they end soon: there are at most as many as there are places for
calls, and those of one project are at most as many as remain free for other projects.

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
from qinling_falcon.pool.limits import CallBounds
from qinling_falcon.settings import Settings

_RETRY_AFTER_S = 1
# Inputs up to this many bytes are not counted: the number of calls is limited, so they use little memory in total.
_SMALL_INPUT = 4096
# The limit for inputs is at least this many times MAX_INPUT_SIZE. A Python string with one wide character uses four
# bytes for each character, so the largest input may use four times MAX_INPUT_SIZE.
_LARGEST_INPUTS = 8


class Admission:
    """Counts the calls in flight in this process, the requests that wait for executions, and those being accepted.

    `Engine`, `Scaler`, `Waits` and `Acceptance` share one instance.

    Args:
        settings: the limits of this process.
        bounds: how many calls of a function and of a project may run and wait in all processes together (see
            `Pool.call_bounds`). There is no such limit before the manager has written one.

    Attributes:
        calls: the number of calls.
        waits: the number of requests that wait for the end of an execution.
        accepts: the number of requests whose executions are being accepted.
        input_size: bytes of memory that the inputs of calls and of these requests use.
    """

    def __init__(self, settings: Settings, bounds: Callable[[], CallBounds]):
        self._bounds = bounds
        # A quarter of the connections is left for other requests: health checks, lists, uploads.
        self._most = settings.web_connections * 3 // 4
        largest = max(settings.max_input_size, settings.async_max_input_size)
        self._most_input = max(settings.max_held_input_size, _LARGEST_INPUTS * largest)
        self._projects: dict[str, _Project] = {}
        self.calls = 0
        self.waits = 0
        self.accepts = 0
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
        input_size = 0 if text is None else sys.getsizeof(text)
        if input_size <= _SMALL_INPUT:
            input_size = 0
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

    @contextlib.contextmanager
    def admit_accept(self, project_id: str, size: int) -> Iterator[None]:
        """Count a request whose asynchronous execution is being accepted until the `with` block ends.

        Args:
            project_id: the project of the execution.
            size: bytes of its input, or of the body that has the input.

        Raises:
            Unavailable: a limit is reached.
        """
        project = self._projects.get(project_id) or _Project(project_id)
        if project.accepts >= self._most - self.accepts:
            raise Unavailable(
                f"Too many executions of project {project_id} are being accepted by this process: {project.accepts} "
                "(limited by WEB_CONNECTIONS). This one was not accepted; try again.",
                retry_after_s=_RETRY_AFTER_S,
            )
        if size <= _SMALL_INPUT:
            size = 0
        self._check_input(project, 0, size)
        self._projects[project_id] = project
        self.accepts += 1
        project.accepts += 1
        self._hold(project, size)
        try:
            yield
        finally:
            self.accepts -= 1
            project.accepts -= 1
            self._hold(project, -size)
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
        if not project.calls and not project.waits and not project.accepts:
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
        self._check_input(project, share.input_size, input_size)

    def _check_input(self, project: _Project, held: int, size: int) -> None:
        """Check that there is room for an input.

        Args:
            project: the project.
            held: bytes of inputs that its function holds; 0 for the input of an execution that is being accepted.
            size: bytes of the input.
        """
        if size and held > self._most_input - self.input_size - size - project.input_size:
            raise Unavailable(
                f"Requests of project {project.id} to this process hold {project.input_size} bytes of inputs, which "
                "leaves no room for this input (limited by MAX_HELD_INPUT_SIZE). The function has not run; try again.",
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
    """The calls of one project, in total and by function, and its requests that wait or are being accepted."""

    __slots__ = ("accepts", "calls", "functions", "id", "input_size", "waits")

    def __init__(self, project_id: str):
        self.id = project_id
        self.calls = 0
        self.waits = 0
        self.accepts = 0
        self.input_size = 0
        self.functions: dict[str, _Share] = {}


def _refused(whose: str, calls: int, bound: str) -> Unavailable:
    return Unavailable(
        f"Too many calls of {whose} run or wait in this process: {calls} (limited by {bound}). This call has not run; "
        "try again.",
        retry_after_s=_RETRY_AFTER_S,
    )
