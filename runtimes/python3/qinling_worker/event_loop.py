"""Awaits the awaitables that a function returns, on one event loop for all calls of the process.

Async objects in module state, such as connections and queues, therefore work from call to
call. The loop runs only during calls. This module runs in the child process together with
user code. `asyncio` takes 40 ms to import, so it is imported only for functions that need it.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Awaitable, Generator, Iterator
from contextvars import ContextVar
from os import _exit, getpid, write
from time import monotonic
from types import CoroutineType, FunctionType, GeneratorType, coroutine
from typing import Any
from weakref import WeakSet

from .failures import cut, type_name

_CO_COROUTINE = 0x80  # of a function that is `async def`
_CO_ITERABLE_COROUTINE = 0x100  # of a generator function that `types.coroutine` decorates
_CANCEL_TIMEOUT_S = 1.0
_LEAST_TIMEOUT_S = 0.01  # lets tasks see their cancellation, even after the deadline
_ANSWER_S = 0.2  # the part of a call's time that is kept for its answer
_CANCEL_ROUNDS = 10  # a task may start another one while it is cancelled
_REPAIRS = 3
_MAX_LISTED = 10
_MAX_NAME = 60
_modules = sys.modules
_serves = ContextVar("serves", default=False)  # whether this is part of the service of an accepted connection
_catch_warnings, _ignore_warnings = warnings.catch_warnings, warnings.simplefilter


def is_awaitable(value: object) -> bool:
    """Whether `await` takes the value."""
    kind = type(value)
    if kind is CoroutineType:
        return True
    if kind is GeneratorType:
        # mypy does not know that `kind` is the type of `value`.
        return bool(value.gi_code.co_flags & _CO_ITERABLE_COROUTINE)  # type: ignore[attr-defined]
    return issubclass(kind, Awaitable)


def import_early(function: Any, module: str) -> None:
    """Import `asyncio` if calls may need it, so that not every fork of this process has to import it.

    Args:
        function: the function that is called. One that is no plain function, such as a method, may return an awaitable.
        module: the name of its module. If that has a function or method that is `async def`, calls may await that.
    """
    if type(function) is not FunctionType or any(_is_async(value) for value in _members(module)):
        import asyncio  # noqa: F401 - calls find it imported


def _is_async(value: object) -> bool:
    return type(value) is FunctionType and bool(value.__code__.co_flags & _CO_COROUTINE)


def _members(module: str) -> Iterator[object]:
    """The values of a module's names, and the members of its classes."""
    values = list(getattr(_modules.get(module), "__dict__", {}).values())
    yield from values
    for value in values:
        if type(value) is type:
            yield from list(value.__dict__.values())


class EventLoop:
    """The event loop of the function's process.

    Args:
        log_fd: the descriptor for messages about cancelled tasks.
        code_dir: the folder of the package. Paths in the messages are relative to it.
    """

    def __init__(self, log_fd: int, code_dir: str) -> None:
        self._log_fd = log_fd
        self._code_dir = code_dir
        self._pid = getpid()
        self._asyncio: Any = None
        self._loop: Any = None
        self._deadline = 0.0
        self._others: WeakSet[Any] = WeakSet()  # tasks that no call has started; they go on between calls

    def run(self, awaitable: Any, deadline: float) -> Any:
        """Await `awaitable`, then end the tasks that the call has started and not awaited.

        If the function has forked a process, and that returns from the function, it ends here.

        Args:
            awaitable: what to await.
            deadline: the time of `monotonic` at which the call must have been answered.

        Returns:
            The awaitable's value.

        Raises:
            BaseException: the exception that the awaitable raised.
        """
        self._deadline = deadline
        loop = self._usable_loop(awaitable)
        ended: list[Any] = []
        main = loop.create_task(self._run(awaitable, ended))
        try:
            try:
                loop.run_until_complete(main)
            except RuntimeError:  # the loop was stopped, perhaps before this call
                loop.run_until_complete(main)
        except BaseException:  # such as SystemExit and KeyboardInterrupt in another task or a callback
            self._end_if_forked()
            unfinished = not ended
            self._repair(loop, main)
            if unfinished:
                raise
        value, error = ended
        ended.clear()
        if error is None:
            return value
        try:
            raise error
        finally:
            error = value = None  # otherwise this frame and the traceback would keep each other alive

    async def _run(self, awaitable: Any, ended: list[Any]) -> None:
        try:
            ended += (await awaitable, None)
        except GeneratorExit:
            raise
        except BaseException as error:
            ended += (None, error)
        awaitable = None
        self._end_if_forked()
        # Let callbacks run now that the end of the function has scheduled; otherwise they would run in the next call.
        # They close sockets, and make tasks that close unfinished async generators.
        await _next_turn()
        await _next_turn()
        await self._end_tasks()

    async def _end_tasks(self) -> None:
        """Cancel the unfinished tasks of the call, and wait up to `_CANCEL_TIMEOUT_S` for them.

        The wait is shorter if the call's deadline is near, so that a finished call does not become a timeout. A task
        that still runs then is not cancelled again.
        """
        for _ in range(_CANCEL_ROUNDS):
            left = self._unfinished()
            if not left:
                return
            self._log("Cancelled at the end of the call", left)
            for task in left:
                task.cancel()
            timeout_s = max(_LEAST_TIMEOUT_S, min(_CANCEL_TIMEOUT_S, self._deadline - _ANSWER_S - monotonic()))
            _, stubborn = await self._asyncio.wait(left, timeout=timeout_s)
            if stubborn:
                break
        left = self._unfinished()
        self._others.update(left)
        self._log("Goes on after the call, although it was cancelled", left)

    def _unfinished(self) -> list[Any]:
        me = self._asyncio.current_task()
        return [task for task in self._asyncio.all_tasks() if task is not me and task not in self._others]

    def _repair(self, loop: Any, main: Any) -> None:
        """Cancel the call's main task and its other tasks, after an exception has interrupted the loop."""
        for _ in range(_REPAIRS):
            main.cancel()
            try:
                loop.run_until_complete(self._end_tasks() if main.done() else main)
            except BaseException:
                continue  # another task has interrupted the loop again, or the main task has ended with an exception
            break

    def _usable_loop(self, awaitable: Any) -> Any:
        import asyncio

        self._asyncio = asyncio
        loop = awaitable.get_loop() if asyncio.isfuture(awaitable) else self._loop
        if not _is_free(loop):
            loop = self._loop = _current_loop(asyncio)
        asyncio.set_event_loop(loop)  # a function that calls `asyncio.run` has unset it
        if "create_task" not in vars(loop):
            self._follow(loop)
        return loop

    def _follow(self, loop: Any) -> None:
        """Wrap the loop's `create_task`, to remember in `_others` the tasks that no call has started.

        These are: 1. tasks that exist already, from the import, and tasks that they make; 2. tasks that serve a
        connection that a server has accepted, and whatever they and its callbacks make. A loop makes a task of its own
        coroutine for each connection that it accepts, and all that follows from it inherits its context, which has
        `_serves`. A task factory would not do, because the function may set its own.
        """
        create_task, current_task, others = loop.create_task, self._asyncio.current_task, self._others
        accept = getattr(getattr(type(loop), "_accept_connection2", None), "__code__", None)
        others.update(self._asyncio.all_tasks(loop))

        def create(coro: Any, **options: Any) -> Any:
            if not loop.is_running():
                return create_task(coro, **options)
            maker = current_task(loop)
            # In a loop of another kind, such as that of uvloop, all tasks that callbacks make count as a server's.
            serves = maker is None if accept is None else getattr(coro, "cr_code", None) is accept
            token = _serves.set(True) if serves else None
            try:
                task = create_task(coro, **options)
                if _serves.get() or maker in others:
                    others.add(task)
            finally:
                if token is not None:
                    _serves.reset(token)
            return task

        loop.create_task = create

    def _end_if_forked(self) -> None:
        if getpid() != self._pid:
            _exit(0)

    def _log(self, what: str, tasks: Any) -> None:
        lines = sorted(f"{what}: {self._described(task)}\n" for task in tasks)
        if len(lines) > _MAX_LISTED:
            lines[_MAX_LISTED:] = [f"{what}: {len(lines) - _MAX_LISTED} more tasks\n"]
        write(self._log_fd, "".join(lines).encode("utf-8", "backslashreplace"))

    def _described(self, task: Any) -> str:
        """The task's name, its coroutine, and the line where the coroutine waits."""
        try:
            coro = task.get_coro()
            said = f"{cut(str(task.get_name()), _MAX_NAME)}, {cut(coro.__qualname__, _MAX_NAME)}"
            file = coro.cr_code.co_filename
            if file.startswith(self._code_dir + "/"):
                file = file[len(self._code_dir) + 1 :]
            return f"{said} ({cut(file, 2 * _MAX_NAME)}, line {coro.cr_frame.f_lineno})"
        except BaseException:
            return f"a task of type {cut(type_name(type(task)), _MAX_NAME)}"


@coroutine
def _next_turn() -> Generator[None, None, None]:
    yield


def _is_free(loop: Any) -> bool:
    return loop is not None and not loop.is_closed() and not loop.is_running()


def _current_loop(asyncio: Any) -> Any:
    """The event loop that the module has set, if that can be used; otherwise a new one."""
    with _catch_warnings():
        _ignore_warnings("ignore")  # some versions of Python warn that get_event_loop makes a loop
        try:
            loop = asyncio.get_event_loop()
        except RuntimeError:
            loop = None
    return loop if _is_free(loop) else asyncio.new_event_loop()
