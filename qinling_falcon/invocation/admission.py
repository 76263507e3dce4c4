"""Bounds the calls that a web process has in flight, so that they never take all of its connections.

A call holds its connection while it waits: for its function and its package to be read, for Keystone or Swift, for a
worker, for its run and for its record. The queue in Redis (`pool/queue_bounds.py`) counts only those that wait for a
worker. `Invoker` and `Scaler` ask here before they wait for anything. Asking needs neither Redis nor the database.

There are three bounds:

1. A function has as many calls in flight as may run and wait in all processes together.
2. A project has as many, too; and no more than the process has places left for calls.
3. The inputs of a project's calls take no more memory than is left for inputs in this process.

As in the queue, a function takes no more of anything than its project has left. So one function and one project never
take the last place: the first one alone gets a part, and the next one a part of the rest.
"""

from __future__ import annotations

import sys
from types import TracebackType

from qinling_falcon.errors import Unavailable
from qinling_falcon.pool.queue_bounds import QueueBounds
from qinling_falcon.settings import Settings

_RETRY_AFTER_S = 1
# Inputs of so many bytes are not counted: as many as there are calls take little memory together.
_SMALL_INPUT = 4096
# The bound holds so many of the largest inputs; one wide character makes each of the others take four bytes, too.
_LARGEST_INPUTS = 8


class Admission:
    """The calls in flight in this process. One instance is shared by all that serve calls there.

    Attributes:
        calls: how many there are.
        input_size: bytes of memory that their inputs take.
    """

    def __init__(self, settings: Settings):
        queue = QueueBounds.of(settings)
        # A quarter of the connections is left for other requests: health checks, lists, uploads.
        self._most = settings.web_connections * 3 // 4
        self._most_of_project = settings.project_concurrency + queue.of_project
        self._most_of_function = settings.function_concurrency + queue.of_function
        self._most_input = max(settings.max_held_input_size, _LARGEST_INPUTS * settings.max_input_size)
        self._projects: dict[str, _Project] = {}
        self.calls = 0
        self.input_size = 0

    def admit(self, project_id: str, function: str, text: str | None = None) -> Admitted:
        """Count a call until the `with` block of the returned value ends.

        Args:
            project_id: the caller's project.
            function: the function or alias that the call names.
            text: its input.

        Raises:
            Unavailable: there is no place for the call; the message names the bound.
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
        if input_size:
            self.input_size += input_size
            project.input_size += input_size
            share.input_size += input_size
        return Admitted(self, project, function, input_size)

    def leave(self, project: _Project, function: str, input_size: int) -> None:
        """Count a call no longer."""
        share = project.functions[function]
        self.calls -= 1
        project.calls -= 1
        share.calls -= 1
        self.input_size -= input_size
        project.input_size -= input_size
        share.input_size -= input_size
        if not share.calls:
            del project.functions[function]
            if not project.calls:
                del self._projects[project.id]

    def _check(self, project: _Project, function: str, share: _Share, input_size: int) -> None:
        if share.calls >= self._most_of_function:
            raise _refused(f"function {function}", share.calls, "FUNCTION_CONCURRENCY and FUNCTION_QUEUE_FACTOR")
        room = min(self._most_of_project, self._most - self.calls)
        if share.calls >= room - project.calls:
            of_project = room == self._most_of_project
            bound = "PROJECT_CONCURRENCY and PROJECT_QUEUE_FACTOR" if of_project else "WEB_CONNECTIONS"
            raise _refused(f"project {project.id}", project.calls, bound)
        if input_size:
            room = self._most_input - self.input_size - input_size
            if share.input_size > room - project.input_size:
                raise Unavailable(
                    f"Calls of project {project.id} that run or wait in this process hold {project.input_size} bytes "
                    "of inputs, which leaves no room for this input (bounded by MAX_HELD_INPUT_SIZE). This call has "
                    "not run; try again.",
                    retry_after_s=_RETRY_AFTER_S,
                )


class Admitted:
    """A call that is counted until its `with` block ends."""

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
    """What a function has in flight."""

    __slots__ = ("calls", "input_size")

    def __init__(self) -> None:
        self.calls = 0
        self.input_size = 0


class _Project:
    """What a project has in flight, and by function."""

    __slots__ = ("calls", "functions", "id", "input_size")

    def __init__(self, project_id: str):
        self.id = project_id
        self.calls = 0
        self.input_size = 0
        self.functions: dict[str, _Share] = {}


def _refused(whose: str, calls: int, bound: str) -> Unavailable:
    return Unavailable(
        f"Too many calls of {whose} run or wait in this process: {calls} (bounded by {bound}). This call has not run; "
        "try again.",
        retry_after_s=_RETRY_AFTER_S,
    )
