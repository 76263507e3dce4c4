"""Adapts Python to what functions expect: its builtins, functions of `os`, and the id of the main thread.

`python -S` leaves out the builtins of the module `site`, such as `exit`. The sandbox has no pseudo terminals: no limit
counts the kernel memory that they take, and functions do not need this large interface of the kernel.
"""

from __future__ import annotations

import _sitebuiltins
import builtins
import errno
import io
import os
import sys
from os import write
from threading import main_thread
from typing import Any, NoReturn

_STDERR = 2
_NO_TERMINALS = "Functions have no pseudo terminals; use pipes"
_has_terminals = os.path.exists("/dev/ptmx")
_get_frame = sys._getframe
# Only `multiprocessing` calls this after a fork (bpo-38707). `threading` itself does not know that the id has changed.
_set_native_id = main_thread()._set_native_id  # type: ignore[attr-defined]  # private: the stubs lack it


class _Quitter(_sitebuiltins.Quitter):
    """`exit` and `quit`. Unlike those of `site`, they do not close standard input, which the next call may read."""

    def __call__(self, code: Any = None) -> NoReturn:
        raise SystemExit(code)


_BUILTINS = {
    "exit": _Quitter("exit", "Ctrl-D (i.e. EOF)"),
    "quit": _Quitter("quit", "Ctrl-D (i.e. EOF)"),
    "help": _sitebuiltins._Helper(),
    "copyright": _sitebuiltins._Printer("copyright", sys.copyright),
    "credits": _sitebuiltins._Printer("credits", "See https://www.python.org for the people who made Python."),
    "license": _sitebuiltins._Printer("license", "See https://docs.python.org/3/license.html"),
}


def complete() -> None:
    """Change the builtins, `os` and `sys.stdin` of this process. Call this before the function is loaded."""
    vars(builtins).update(_BUILTINS)
    sys.stdin = _open_stdin()
    if not _has_terminals:
        for name in ("openpty", "forkpty", "posix_openpt"):
            if hasattr(os, name):
                setattr(os, name, _refuse_terminal)


def note_fork() -> None:
    """Correct `threading.main_thread().native_id` in a new process."""
    _set_native_id()


def _open_stdin() -> io.TextIOWrapper:
    file: Any = io.FileIO(0, closefd=False)
    file.name = "<stdin>"
    stream: Any = io.TextIOWrapper(io.BufferedReader(file), encoding="utf-8")
    stream.mode = "r"  # that of the file would be "rb"
    text: io.TextIOWrapper = stream
    return text


def _refuse_terminal(*_: Any) -> NoReturn:
    if _get_frame(1).f_globals.get("__name__") == "pty":  # this module raises "out of pty devices" instead of our error
        write(_STDERR, f"{_NO_TERMINALS}.\n".encode())
    raise PermissionError(errno.EPERM, _NO_TERMINALS)
