"""The function's standard output and standard error. Both are one pipe to the supervisor, which keeps it as the log.

Printed text is written at once, so that it is in the log even if the process is killed.
A `print` is one write, so that its line stays whole beside those of other threads and
processes. At the end of a call, the buffers that the function has made are flushed.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
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

_TextIOWrapper, _BufferedWriter = io.TextIOWrapper, io.BufferedWriter
_write, _builtin_print = io.FileIO.write, builtins.print
_poll, _POLLOUT = select.poll, select.POLLOUT
_register_at_fork, _fstat, _ref = os.register_at_fork, os.fstat, ref
_monotonic = time.monotonic
_get_objects, _get_count, _suppress = gc.get_objects, gc.get_count, contextlib.suppress
_SEARCH_SHARE = 100  # searching for buffers takes at most one hundredth of the time
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
        size = len(view)
        with _lock:
            while True:
                sent: int | None = _write(self, view)
                if sent == len(view):
                    return size
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
        self._stdout, self._stderr = _stream(1), _stream(2)
        self._found: list[ref[Any]] = []
        self._next_search = inf
        self._count = _get_count()  # of new objects, after the last search; while it is the same, no stream is new
        sys.stdout = sys.__stdout__ = self._stdout  # type: ignore[misc]
        sys.stderr = sys.__stderr__ = self._stderr  # type: ignore[misc]
        builtins.print = _print
        _register_at_fork(after_in_child=_renew_lock)  # here, so that forks of a zygote do not write to this module

    def end_import(self) -> None:
        """Flush all streams to the log, including those that the module has made and that are not in `sys`."""
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
                or (_get_count() != self._count and _monotonic() >= self._next_search)
            )
        except BaseException:
            is_buffered = True  # the function has detached a stream of ours, or deleted one of `sys`
        if is_buffered:
            self._flush_streams()
        _fflush(None)

    def _flush_streams(self) -> None:
        now = _monotonic()
        if now >= self._next_search:
            self._find_buffers(0, 1)
            self._next_search = now + _SEARCH_SHARE * (_monotonic() - now)
            self._count = _get_count()
        found = [item() for item in self._found]
        named = [getattr(sys, name, None) for name in ("stdout", "stderr", "__stdout__", "__stderr__")]
        for stream in (*found, *named, self._stdout, self._stderr):
            with _suppress(BaseException):
                stream.flush()  # type: ignore[union-attr]

    def _find_buffers(self, *generations: int | None) -> None:
        """Find streams to the log among the objects of these generations of the garbage collector; None: of all."""
        with _suppress(OSError):  # descriptor 1 is closed
            log = _fstat(1)
            self._found = [item for item in self._found if item() is not None]
            known = [self._stdout, self._stderr, *(item() for item in self._found)]
            for item in [item for generation in generations for item in _get_objects(generation)]:
                if type(item) in (_TextIOWrapper, _BufferedWriter) and not any(item is other for other in known):
                    with _suppress(BaseException):
                        file = _fstat(item.fileno())
                        if (file.st_dev, file.st_ino) == (log.st_dev, log.st_ino):
                            self._found.append(_ref(item))


def _stream(fd: int) -> io.TextIOWrapper:
    pipe: Any = _Pipe(fd, "w", closefd=False)
    return _TextIOWrapper(pipe, encoding="utf-8", errors="backslashreplace", write_through=True)


def _print(*values: Any, sep: str | None = " ", end: str | None = "\n", file: Any = None, flush: bool = False) -> None:
    stream = getattr(sys, "stdout", None) if file is None else file
    if type(stream) is not _TextIOWrapper or type(sep) is not str or type(end) is not str:
        _builtin_print(*values, sep=sep, end=end, file=file, flush=flush)
        return
    stream.write(sep.join([str(value) for value in values]) + end)
    if flush:
        stream.flush()


_print.__name__ = _print.__qualname__ = "print"
_print.__module__, _print.__doc__ = "builtins", _builtin_print.__doc__
