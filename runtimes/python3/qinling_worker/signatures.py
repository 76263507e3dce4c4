"""Finds out whether an entry takes `context`, and whether it is a coroutine function.

An entry may be any callable: a function, a decorated function, a method, a
`functools.partial`, a class, or an object with `__call__`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

_MAX_LAYERS = 100
_signature = inspect.signature
_partial = functools.partial
_CO_VARKEYWORDS, _CO_COROUTINE = inspect.CO_VARKEYWORDS, inspect.CO_COROUTINE


def takes_context(function: Callable[..., Any], layers: int = _MAX_LAYERS) -> bool:
    """Whether a call of the function may have `context` as a keyword argument.

    For a wrapper, its own parameters count, not those that `functools.wraps` shows. A wrapper with `**kwargs` probably
    passes them on, so the wrapped function must take `context`, too.

    Args:
        function: the entry.
        layers: how many wrapped functions are examined at most.
    """
    if type(function) is FunctionType:
        code = function.__code__  # for an ordinary function this uses nothing that user code may have patched
        if "context" in code.co_varnames[code.co_posonlyargcount : code.co_argcount + code.co_kwonlyargcount]:
            return True
        if not code.co_flags & _CO_VARKEYWORDS:
            return False
        if not function.__dict__:
            return True
    elif type(function) is _partial and "context" in function.keywords:
        return False
    inner = _inner(function)
    try:
        parameters = _signature(function, follow_wrapped=False).parameters.values()
    except (TypeError, ValueError):  # a function in C, such as that of functools.lru_cache
        return inner is not None and layers > 0 and takes_context(inner, layers - 1)
    if any(parameter.name == "context" and parameter.kind is not parameter.POSITIONAL_ONLY for parameter in parameters):
        return True
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return False
    return inner is None or (layers > 0 and takes_context(inner, layers - 1))


def is_async(function: Callable[..., Any]) -> bool:
    """Whether the function, or what it wraps, is `async def`."""
    inner: Callable[..., Any] | None = function
    for _ in range(_MAX_LAYERS):
        if type(inner) is FunctionType and inner.__code__.co_flags & _CO_COROUTINE:
            return True
        if inner is None:
            return False
        inner = _inner(inner)
    return False


def _inner(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """The callable that a wrapper calls, if that can be determined."""
    if type(function) is FunctionType:
        return function.__dict__.get("__wrapped__")
    if type(function) is _partial:
        return function.func
    if type(function) is MethodType:
        return function.__func__
    try:
        return function.__wrapped__  # type: ignore[attr-defined,no-any-return]  # any object may have it
    except Exception:
        # The method itself is wanted, and not whether there is one.
        call = None if isinstance(function, type) else getattr(type(function), "__call__", None)  # noqa: B004
        return call if type(call) is FunctionType else None
