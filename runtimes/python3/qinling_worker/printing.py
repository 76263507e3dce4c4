"""The function's standard output and standard error. Both are one pipe to the supervisor, which keeps it as the log.

Printed text is written at once, so that it is in the log even if the process is killed.
A `print` is one write, so that its line stays whole beside those of other threads and
processes. At the end of a call, the buffers that the function has made are flushed.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import fcntl
import gc
import io
import os
import select
import sys
import time
from math import inf
from threading import RLock
from typing import Any
from weakref import ref

_TextIOWrapper, _STREAMS = io.TextIOWrapper, (io.TextIOWrapper, io.BufferedWriter)
_write, _builtin_print = io.FileIO.write, builtins.print
_poll, _POLLOUT = select.poll, select.POLLOUT
_register_at_fork, _fstat, _ref = os.register_at_fork, os.fstat, ref
_monotonic, _used_time = time.monotonic, time.thread_time
_get_objects, _get_count, _get_stats, _suppress = gc.get_objects, gc.get_count, gc.get_stats, contextlib.suppress
_SEARCH_SHARE = 100  # each kind of search for buffers takes at most one hundredth of the time
_PIPE_BUF = select.PIPE_BUF  # the kernel does not divide shorter writes
_lock_file, _LOCK_EX, _LOCK_UN = fcntl.lockf, fcntl.LOCK_EX, fcntl.LOCK_UN
_LINE_BUFFERED = 1  # _IOLBF
_libc = ctypes.CDLL(None)
_fflush = _libc.fflush
_fflush.argtypes = [ctypes.c_void_p]
_lock = RLock()  # a signal handler may print while its thread prints


def _renew_lock() -> None:
    global _lock
    _lock = RLock()  # another thread may have held it when this process was forked


def _buffer_lines_of_c() -> None:
    """Make C's standard output line-buffered, so that at most a line is lost when the process is killed."""
    with _suppress(ValueError, AttributeError):  # this C library has no such name
        stdout = ctypes.c_void_p.in_dll(_libc, "stdout")
        _libc.setvbuf(stdout, None, ctypes.c_int(_LINE_BUFFERED), ctypes.c_size_t(0))


_buffer_lines_of_c()


class _Pipe(io.FileIO):
    """Descriptor 1 or 2. `close` does nothing: a text stream of the function around it closes it when it is deleted."""

    def write(self, data: Any) -> int:
        """Write all of `data`, even if signals interrupt this or a process has made the pipe non-blocking."""
        view = memoryview(data).cast("B")
        with _lock:
            if len(view) <= _PIPE_BUF:
                self._write_all(view)
            else:
                self._write_alone(view)
        return len(view)

    def _write_alone(self, view: memoryview) -> None:
        """Write while no other process of the function writes a long text.

        The lock is a record lock of the pipe. It belongs to one process: a forked process does not inherit it, and the
        kernel releases it when the process ends.
        """
        self._set_lock(_LOCK_EX)
        try:
            self._write_all(view)
        finally:
            self._set_lock(_LOCK_UN)

    def _set_lock(self, operation: int) -> None:
        try:
            _lock_file(self, operation)
        except OSError as error:
            if error.errno is None:  # a signal handler of the function has raised it, such as a TimeoutError
                raise
            # There are no locks for this file.

    def _write_all(self, view: memoryview) -> None:
        while True:
            sent: int | None = _write(self, view)
            if sent == len(view):
                return
            if sent is None:
                self._await_room()
            else:
                view = view[sent:]

    def close(self) -> None:
        """Do nothing."""

    def _await_room(self) -> None:
        poll = _poll()
        poll.register(self, _POLLOUT)
        poll.poll()


class Printing:
    """Installs our `sys.stdout`, `sys.stderr` and `print` in this process, and flushes them at the end of calls."""

    def __init__(self) -> None:
        self._stdout, self._stderr = _stream(1, "<stdout>"), _stream(2, "<stderr>")
        self._found: list[ref[Any]] = []
        self._next_search = inf
        self._next_full_search = 0.0
        self._count = _get_count()  # of new objects, after the last search
        self._promotions = 0  # until the last search of all objects
        # The stubs take `sys.__stdout__` and `sys.__stderr__` for final.
        sys.stdout = sys.__stdout__ = self._stdout  # type: ignore[misc]
        sys.stderr = sys.__stderr__ = self._stderr  # type: ignore[misc]
        builtins.print = _Print()
        _register_at_fork(after_in_child=_renew_lock)  # here, so that forks of a zygote do not write to this module

    def end_import(self) -> None:
        """Flush all streams to the log, including those that the module has made and that are not in `sys`."""
        self._promotions = _promotions()
        self._find_buffers(None)
        self.flush()
        self._next_search = 0.0

    def flush(self) -> None:
        """Flush all streams to the log: first those of the function, then ours, then those of C."""
        stdout, stderr = self._stdout, self._stderr
        try:
            # Fast path, because every call comes here: usually there are only our streams, which have no buffer.
            is_buffered = (
                stdout is not sys.stdout
                or stderr is not sys.stderr
                or not (stdout.write_through and stderr.write_through)
                or self._found
                or (_monotonic() >= self._next_search and self._has_new_objects())
            )
        except BaseException:
            is_buffered = True  # the function has detached a stream of ours, or deleted one of `sys`
        if is_buffered:
            self._flush_streams()
        _fflush(None)

    def _has_new_objects(self) -> bool:
        """Whether there may be objects that no search has looked at."""
        # The count alone may be the same again after a `gc.collect`.
        return _get_count() != self._count or _promotions() != self._promotions

    def _flush_streams(self) -> None:
        self._search()
        found = [item() for item in self._found]
        named = [getattr(sys, name, None) for name in ("stdout", "stderr", "__stdout__", "__stderr__")]
        for stream in (*found, *named, self._stdout, self._stderr):
            with _suppress(BaseException):
                stream.flush()  # type: ignore[union-attr]  # None has no `flush`, which is suppressed

    def _search(self) -> None:
        """Search for new buffers, if the last search was not too short a time ago.

        New objects are in the generations 0 and 1 of the garbage collector, unless a collection has moved them to the
        last one. Then all objects are searched, which takes longer, and is done less often.
        """
        now = _monotonic()
        if now < self._next_search:
            return
        promotions = _promotions()
        used = _used_time()
        if promotions != self._promotions and now >= self._next_full_search:
            self._promotions = promotions
            self._find_buffers(None)
            self._next_full_search = now + _SEARCH_SHARE * (_used_time() - used)
        else:
            self._find_buffers(0, 1)
            self._next_search = now + _SEARCH_SHARE * (_used_time() - used)
        self._count = _get_count()

    def _find_buffers(self, *generations: int | None) -> None:
        """Find streams to the log among the objects of these generations of the garbage collector; None: of all."""
        with _suppress(OSError):  # descriptor 1 is closed
            log = _fstat(1)
            self._found = [item for item in self._found if item() is not None]
            known = [self._stdout, self._stderr, *(item() for item in self._found)]
            for generation in generations:
                # Not `isinstance`, which asks an object for its `__class__`, and so may run code of the function.
                streams = [item for item in _get_objects(generation) if issubclass(type(item), _STREAMS)]
                for item in streams:
                    if any(item is other for other in known):
                        continue
                    with _suppress(BaseException):
                        file = _fstat(item.fileno())
                        if (file.st_dev, file.st_ino) == (log.st_dev, log.st_ino):
                            self._found.append(_ref(item))


def _promotions() -> int:
    """How often the garbage collector has moved objects to its last generation."""
    _, middle, last = _get_stats()
    count: int = middle["collections"] + last["collections"]
    return count


def _stream(fd: int, name: str) -> io.TextIOWrapper:
    pipe: Any = _Pipe(fd, "w", closefd=False)
    pipe.name = name
    stream = _TextIOWrapper(pipe, encoding="utf-8", errors="backslashreplace", write_through=True)
    stream.mode = "w"  # type: ignore[misc]  # that of `pipe` would be "wb"
    return stream


class _Print:
    """Stands for the built-in `print`.

    It is an object, not a function: as a value in a class, a function would become a method.
    """

    def __init__(self) -> None:
        self.__name__ = self.__qualname__ = "print"
        self.__module__ = "builtins"
        self.__doc__ = _builtin_print.__doc__
        self.__self__ = builtins

    def __call__(
        self, *args: Any, sep: str | None = " ", end: str | None = "\n", file: Any = None, flush: bool = False
    ) -> None:
        stream = getattr(sys, "stdout", None) if file is None else file
        if type(stream) is not _TextIOWrapper or type(sep) is not str or type(end) is not str:
            _builtin_print(*args, sep=sep, end=end, file=file, flush=flush)
            return
        stream.write(sep.join([str(value) for value in args]) + end)
        if flush:
            stream.flush()

    def __repr__(self) -> str:
        return "<built-in function print>"

    def __reduce__(self) -> str:
        return "print"
