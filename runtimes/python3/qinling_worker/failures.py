"""Describes an exception of the function: its text, its type, the line that raised it, and its traceback.

This runs in the child process together with user code. The exception's own methods may
raise or lie. They can't end the child's loop, and every text is limited in length.
"""

from __future__ import annotations

import os.path
import traceback
from os import write
from types import TracebackType

from . import frames

_format_tb = traceback.format_tb
_format_exception = traceback.format_exception
# Like `type(error).__name__`, but a metaclass can't override it.
_name_of = type.__dict__["__name__"].__get__
_OWN = os.path.dirname(os.path.abspath(__file__)) + "/"
_MAX_FRAMES = 100_000
_MAX_PATH = 100


class NotLoaded(Exception):
    """The entry names nothing that can be called. The message lists what the package has instead."""


def type_name(kind: type) -> str:
    """The name of a type, from its definition."""
    name: str = _name_of(kind)
    return name


def text_of(error: BaseException) -> str:
    """The exception's text, or the name of its type if the text is empty."""
    said = _said(error)
    return _unsaid(error) if said is None else said or type_name(type(error))


def described(error: BaseException) -> str:
    """The exception's type and text, like the last line of a traceback: `ValueError: no luck`."""
    said, name = _said(error), type_name(type(error))
    return _unsaid(error) if said is None else f"{name}: {said}" if said else name


def _said(error: BaseException) -> str | None:
    try:
        return str.__str__(str(error))
    except BaseException:
        return None


def _unsaid(error: BaseException) -> str:
    return f"{type_name(type(error))} (its text can't be made: its __str__ raised)"


def bounded(text: str, limit: int = frames.MAX_MESSAGE_SIZE) -> str:
    """`text`, cut off after `limit` characters."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}... ({len(text)} characters in all)"


def cut(text: str, limit: int) -> str:
    """A name, shortened to about `limit` characters, for a list or a path."""
    return text if len(text) <= limit else f"{text[:limit]}..."


def encoded(text: str) -> bytes:
    """`text` as bytes for the channel to the supervisor; a long text is cut off."""
    return bounded(text).encode("utf-8", "backslashreplace")


def is_of_the_call(error: BaseException) -> bool:
    """Whether the call itself or the import system raised the error, before any code of the function ran."""
    try:
        return user_frames(error.__traceback__) is None
    except BaseException:
        return False


def place_of(error: BaseException, code_dir: str) -> str | None:
    """The innermost line of the package in the traceback, such as `main.py, line 3`."""
    place = None
    try:
        tb = error.__traceback__
        for _ in range(_MAX_FRAMES):
            if tb is None:
                break
            name = tb.tb_frame.f_code.co_filename
            if name.startswith(code_dir + "/"):
                place = name[len(code_dir) + 1 :], tb.tb_lineno
            tb = tb.tb_next
        return None if place is None else f"{cut(place[0], _MAX_PATH)}, line {place[1]}"
    except BaseException:
        return None


def user_frames(tb: TracebackType | None) -> TracebackType | None:
    """The traceback, starting at the first frame that belongs neither to the worker nor to the import system."""
    while tb is not None:
        name = tb.tb_frame.f_code.co_filename
        if not name.startswith((_OWN, "<frozen importlib")) and not name.endswith("/importlib/__init__.py"):
            return tb
        tb = tb.tb_next
    return None


def log_exception(log_fd: int, error: BaseException) -> None:
    """Write the traceback to the log, starting at the function's first frame."""
    try:
        if isinstance(error, NotLoaded):
            shown = f"{error}\n"
        elif len(text := text_of(error)) <= frames.MAX_MESSAGE_SIZE:
            shown = "".join(_format_exception(type(error), error, user_frames(error.__traceback__)))
        else:
            shown = "Traceback (most recent call last):\n" + "".join(_format_tb(user_frames(error.__traceback__)))
            shown += f"{type_name(type(error))}: {bounded(text)}\n"
        data = shown.encode("utf-8", "backslashreplace")
        while data:
            data = data[write(log_fd, data) :]
    except BaseException:
        return  # the function has broken traceback formatting, so the log gets no traceback
