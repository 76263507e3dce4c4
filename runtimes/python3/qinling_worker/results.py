"""Encodes the function's result as JSON, or names the value that is not JSON.

An example of such a message is `result.items[3].when is of type datetime`. This runs in
the child process together with user code. The encoder is written in C and was bound
before user code was loaded. The search for the invalid value calls no methods of values.
"""

from __future__ import annotations

import json
import math
import re
from _json import encode_basestring, make_encoder
from collections.abc import Callable
from types import AsyncGeneratorType, FunctionType
from typing import Any, NoReturn

from . import frames
from .event_loop import is_awaitable
from .failures import bounded, cut, described, encoded, type_name

_ADVICE = "Return only dicts, lists, text, numbers, booleans and None."
_AWAIT = "Await it, in a function that is async def."
_COLLECT = "Return a list of what it yields, [item async for item in ...], in a function that is async def."
_PICK = "The context can't be returned whole: return the members that you need, and call this one."
_MAX_STEPS = 12  # shown steps at the start of a path, and as many at its end
_MAX_KEY = 40
_MAX_TEXTS = 200_000  # texts that are searched for a lone surrogate
_isfinite = math.isfinite
_fullmatch = re.compile(r"[^\W\d]\w*").fullmatch
_quote = json.encoder.encode_basestring_ascii
_int_text = int.__repr__
_list_items, _tuple_items, _dict_items = list.__iter__, tuple.__iter__, dict.items


def _refuse(value: object) -> NoReturn:
    raise TypeError(type_name(type(value)))


# After a failed encoding, it still has the containers that the encoder was inside, from the outermost to the innermost.
_markers: dict[int, Any] = {}
_encode: Callable[[object, int], tuple[str, ...]] = make_encoder(
    _markers, _refuse, encode_basestring, None, ": ", ", ", False, False, False
)


def encode(value: object, max_size: int) -> tuple[int, bytes]:
    """The frame for a result: its JSON text, or the reason why there is none."""
    try:
        payload = "".join(_encode(value, 0)).encode("utf-8")
    except BaseException as error:
        trail = list(_markers.values())
        _markers.clear()
        return frames.BAD_RESULT, encoded(f"The result can't be JSON: {_explain(value, trail, error)}")
    if len(payload) > max_size:
        size = f"{len(payload)} bytes of JSON, and at most {max_size} are allowed"
        return frames.BAD_RESULT, encoded(f"The result is too large: {size}.")
    return frames.VALUE, payload


def _explain(value: object, trail: list[Any], error: BaseException) -> str:
    try:
        if type(error) is UnicodeEncodeError:
            return f"{_shown(_path_of_surrogate(value))} holds half a character (a lone surrogate)."
        path = _path_of(trail)
        if type(error) is RecursionError:
            return f"{_shown(path)} is nested too deeply, in {len(trail)} levels."
        last = trail[-1] if trail else value
        for step, item, is_key in _inside(last) if trail else [("", value, False)]:
            fault = _fault(item, is_key, trail, path)
            if fault is not None:
                return f"{_shown(path)} has a key that {fault}" if is_key else f"{_shown([*path, step])} {fault}"
        if _is(last, list, tuple, dict):
            return f"{_shown(path)}, of type {_type(last)}, can't be read: {bounded(described(error), 500)}."
        return f"{_shown(path)} {_no_json(last)}"
    except BaseException:
        return bounded(described(error), 500)  # the value has changed meanwhile, or memory has run out


def _path_of(trail: list[Any]) -> list[str]:
    """The path from the result through the containers of `trail` to the last one."""
    path = []
    for depth in range(1, len(trail)):
        steps = (step for step, item, is_key in _inside(trail[depth - 1]) if item is trail[depth] and not is_key)
        path.append(next(steps, "[...]"))
    return path


def _inside(container: Any) -> Any:
    """Tuples (step, item, whether it is a key) for a list, tuple or dict, in the order of the encoder."""
    if _is(container, dict):
        for key, item in _dict_items(container):
            yield "", key, True
            yield _member(key), item, False
    elif _is(container, list, tuple):
        items = _list_items(container) if _is(container, list) else _tuple_items(container)
        for number, item in enumerate(items):
            yield f"[{number}]", item, False


def _fault(item: Any, is_key: bool, trail: list[Any], path: list[str]) -> str | None:
    """The fault of a value itself, not of the values inside it; None if there is none."""
    if item is None or item is True or item is False or _is(item, str):
        return None
    if _is(item, float):
        return None if _isfinite(item) else f"is {float.__repr__(item)}, a number that JSON doesn't have."
    if _is(item, int):
        try:
            _int_text(item)
        except ValueError:
            return "is a whole number with too many digits."
        return None
    if is_key:
        return f"is of type {_type(item)}: keys must be text."
    for depth, outer in enumerate(trail):
        if outer is item:
            return f"refers back to {_shown(path[:depth])}, which it is in: a circular reference."
    return None if _is(item, list, tuple, dict) else _no_json(item)


def _no_json(value: object) -> str:
    if is_awaitable(value):
        advice = _AWAIT
    elif type(value) is AsyncGeneratorType:
        advice = _COLLECT
    else:
        advice = _PICK if type(value) is FunctionType and value.__name__ == "remaining_s" else _ADVICE
    return f"is of type {_type(value)}. {advice}"


def _path_of_surrogate(value: object) -> list[str]:
    """The path of a text that can't be encoded as UTF-8."""
    waiting: list[tuple[Any, Any]] = [(value, None)]  # each with its path, as a linked list
    for _ in range(_MAX_TEXTS):
        if not waiting:
            break
        item, steps = waiting.pop()
        if _is(item, str):
            try:
                str.encode(item)
            except UnicodeEncodeError:
                return _unlinked(steps)
        else:
            for step, inner, is_key in _inside(item):
                if len(waiting) > _MAX_TEXTS:
                    break
                waiting.append((inner, steps if is_key else (step, steps)))
    return ["..."]


def _unlinked(steps: Any) -> list[str]:
    path = []
    while steps is not None:
        step, steps = steps
        path.append(step)
    return path[::-1]


def _member(key: Any) -> str:
    text = str.__str__(key) if _is(key, str) else None
    if text is None:
        return f"[{cut(str(key), _MAX_KEY)}]" if key is None or type(key) in (bool, int, float) else "[...]"
    if len(text) <= _MAX_KEY and _fullmatch(text):
        return f".{text}"
    return f"[{_quote(text[:_MAX_KEY])}{'...' if len(text) > _MAX_KEY else ''}]"


def _shown(path: list[str]) -> str:
    if len(path) > 2 * _MAX_STEPS:
        path = [*path[:_MAX_STEPS], " ... ", *path[-_MAX_STEPS:]]
    return "result" + "".join(path)


def _is(value: object, *kinds: type) -> bool:
    """Like `isinstance`, but an object's `__class__` can't override it."""
    return any(issubclass(type(value), kind) for kind in kinds)


def _type(value: object) -> str:
    return cut(type_name(type(value)), _MAX_KEY)
