"""The child: loads the function once, then runs it for one request after another.

User code lives in this process and may patch whatever it can import. What this
loop needs is therefore bound below before any of it is loaded, this module is
taken out of `sys.modules`, and it has builtins of its own (see `template.py`).
"""

from __future__ import annotations

import importlib
import inspect
import io
import sys
import traceback
from _json import encode_basestring, make_encoder, make_scanner
from collections.abc import Callable
from os import _exit, getpid, read, write
from time import monotonic
from types import FunctionType, TracebackType
from typing import Any, NoReturn

from . import frames
from .os_session import ERROR, SESSION, SessionContext

_READ = 64 * 1024
_SPACE = " \t\n\r"
_request_header = frames.REQUEST
_answer_header = frames.ANSWER
_import_module = importlib.import_module
_importlib_file = importlib.__file__
_format_tb = traceback.format_tb
_format_exception = traceback.format_exception
_signature = inspect.signature
_iscoroutinefunction = inspect.iscoroutinefunction
_CO_VARKEYWORDS, _CO_COROUTINE = inspect.CO_VARKEYWORDS, inspect.CO_COROUTINE


class _Rules:
    """What `json.loads` gives its scanner: it takes NaN and infinities, which are not JSON, or refuses them."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int

    def __init__(self, parse_constant: Callable[[str], object]) -> None:
        self.parse_constant = parse_constant
        self.memo: dict[str, str] = {}


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _refuse(value: object) -> NoReturn:
    raise TypeError(f"an object of type {type(value).__name__} can't be shown as JSON")


_make_scanner: Any = make_scanner
_scan: Callable[[str, int], tuple[Any, int]] = _make_scanner(_Rules(float))
_scan_strictly: Callable[[str, int], tuple[Any, int]] = _make_scanner(_Rules(_refuse_constant))
_markers: dict[int, object] = {}
_encode: Callable[[object, int], tuple[str, ...]] = make_encoder(
    _markers, _refuse, encode_basestring, None, ": ", ", ", False, False, False
)


class _Channel:
    """The socket to the supervisor, by plain reads and writes."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def receive(self) -> str:
        data = read(self._fd, _READ)
        if len(data) < _request_header.size:
            _exit(0)  # the supervisor has closed it
        missing = _request_header.unpack_from(data)[0] + _request_header.size - len(data)
        if missing > 0:
            parts = [data]
            while missing > 0:
                part = read(self._fd, 1 << 20)
                if not part:
                    _exit(0)
                parts.append(part)
                missing -= len(part)
            data = b"".join(parts)
        return data[_request_header.size :].decode("utf-8")

    def send(self, kind: int, payload: bytes, duration_s: float = 0.0) -> None:
        data = _answer_header.pack(len(payload), kind, duration_s) + payload
        sent = write(self._fd, data)
        while sent < len(data):
            data = data[sent:]
            sent = write(self._fd, data)


def run(channel_fd: int, log_fd: int, entry: str, bare: int, max_result_size: int) -> NoReturn:
    """Load `entry` and serve for ever.

    Args:
        channel_fd: the socket to the supervisor.
        log_fd: a copy of the log's pipe that the function does not know of.
        entry: `module.function`.
        bare: resident bytes of this process before any user code.
        max_result_size: of the result's JSON text, in bytes.
    """
    pid = getpid()
    channel = _Channel(channel_fd)
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), encoding="utf-8")
    for number, name in enumerate(("stdout", "stderr"), 1):
        printer = _printer(number)
        setattr(sys, name, printer)
        setattr(sys, f"__{name}__", printer)
    channel.send(frames.BARE, b"%d" % bare)
    try:
        function = _load(entry)
        wants_context = _takes_context(function)
    except BaseException as error:
        if getpid() != pid:
            _exit(0)
        _log_exception(log_fd, error)
        channel.send(frames.LOAD_FAILED, _load_message(entry, error))
        _wait_for_the_end(channel_fd)
    if getpid() != pid:
        _exit(0)  # a forked copy came back out of the import
    channel.send(frames.LOADED, b"")
    try:
        _serve(channel, log_fd, function, wants_context, pid, max_result_size)
    finally:
        _exit(1)  # something of the function's (a signal handler) has raised inside this loop


def _serve(
    channel: _Channel, log_fd: int, function: Callable[..., Any], wants_context: bool, pid: int, max_result_size: int
) -> NoReturn:
    while True:
        request = _scan(channel.receive(), 0)[0]
        given = request["input"]
        args: tuple[str, ...] = ()
        kwargs: dict[str, Any] = {}
        if given is not None:
            parsed = _parse_object(given)
            if parsed is None:
                args = (given,)
            else:
                kwargs = parsed
        started = monotonic()
        if wants_context:
            kwargs["context"] = _context(request, started)
        try:
            value = function(*args, **kwargs)
        except BaseException as error:
            duration = monotonic() - started
            if getpid() != pid:
                _exit(0)
            kind, payload = _failure(error, log_fd)
        else:
            duration = monotonic() - started
            if getpid() != pid:
                _exit(0)
            kind, payload = _value(value, max_result_size)
            if getpid() != pid:
                _exit(0)  # encoding may run the function's code as well
            value = None
        args, kwargs, given, request = (), {}, None, None
        channel.send(kind, payload, duration)
        payload = b""


def _parse_object(text: str) -> dict[str, Any] | None:
    text = text.strip(_SPACE)
    if text[:1] != "{":
        return None
    try:
        value, end = _scan_strictly(text, 0)
    except (ValueError, StopIteration, RecursionError):
        return None
    return value if end == len(text) and type(value) is dict else None


def _context(request: dict[str, Any], started: float) -> dict[str, Any]:
    timeout: float = request["timeout_s"]
    context: dict[str, Any] = {"function_id": None, "function_version": None, "request_id": None}
    context.update(request.get("context") or {})
    openstack = request.get("openstack")
    if openstack is None:
        context[SESSION] = None
        context[ERROR] = "the function has no trust"
    else:
        context = SessionContext(context, openstack)
    context["execution_id"] = request["execution_id"]
    context["timeout"] = timeout

    def remaining_s() -> float:
        """Seconds that this execution has left."""
        return max(0.0, started + timeout - monotonic())

    context["remaining_s"] = remaining_s
    return context


def _value(value: object, max_result_size: int) -> tuple[int, bytes]:
    try:
        payload = "".join(_encode(value, 0)).encode("utf-8")
    except BaseException as error:
        _markers.clear()
        if isinstance(error, RecursionError):
            reason = "it is nested too deeply"
        elif isinstance(error, UnicodeEncodeError):
            reason = "a text in it holds half a character (a lone surrogate)"
        else:
            reason = _text(error)
        return frames.BAD_RESULT, _bounded("result is not JSON: " + reason)
    if len(payload) > max_result_size:
        message = f"result is too large: {len(payload)} bytes of JSON, at most {max_result_size} are allowed"
        return frames.BAD_RESULT, message.encode()
    return frames.VALUE, payload


def _failure(error: BaseException, log_fd: int) -> tuple[int, bytes]:
    kind = frames.OUT_OF_MEMORY if isinstance(error, MemoryError) else frames.RAISED
    payload = _bounded(_text(error))
    _log_exception(log_fd, error)
    return kind, payload


def _text(error: BaseException) -> str:
    name = type(error).__name__
    try:
        return str(error) or name
    except BaseException:
        return f"{name} (its text can't be made: its __str__ raised)"


def _bounded(text: str) -> bytes:
    if len(text) > frames.MAX_MESSAGE_SIZE:
        text = f"{text[: frames.MAX_MESSAGE_SIZE]}... ({len(text)} characters in all)"
    return text.encode("utf-8", "backslashreplace")


def _log_exception(log_fd: int, error: BaseException) -> None:
    """Write the traceback, from the function's own first frame on, into the log."""
    try:
        tb = _user_frames(error.__traceback__)
        text = _text(error)
        if len(text) <= frames.MAX_MESSAGE_SIZE:
            shown = "".join(_format_exception(type(error), error, tb))
        else:
            shown = "Traceback (most recent call last):\n" + "".join(_format_tb(tb))
            shown += f"{type(error).__name__}: {_bounded(text).decode()}\n"
        data = shown.encode("utf-8", "backslashreplace")
        while data:
            data = data[write(log_fd, data) :]
    except BaseException:
        return  # whatever it is that the function has done to tracebacks, it goes without one


def _user_frames(tb: TracebackType | None) -> TracebackType | None:
    while tb is not None:
        name = tb.tb_frame.f_code.co_filename
        if name != __file__ and not name.startswith("<frozen importlib") and name != _importlib_file:
            return tb
        tb = tb.tb_next
    return None


def _load(entry: str) -> Callable[..., Any]:
    module_name, _, function_name = entry.rpartition(".")
    if not module_name or not function_name:
        raise LookupError(f"the entry must be module.function, not {entry!r}")
    module = _import_module(module_name)
    try:
        function = getattr(module, function_name)
    except AttributeError:
        raise LookupError(f"module {module_name!r} has no function {function_name!r}") from None
    if not callable(function):
        raise LookupError(f"{function_name!r} in module {module_name!r} is not a function")  # noqa: TRY004
    return _runner(function) if _is_coroutine_function(function) else function


def _runner(function: Callable[..., Any]) -> Callable[..., Any]:
    import asyncio  # 40 ms, for those alone who use it

    asyncio_run = asyncio.run

    def run_coroutine(*args: Any, **kwargs: Any) -> Any:
        return asyncio_run(function(*args, **kwargs))

    run_coroutine.__wrapped__ = function  # type: ignore[attr-defined]  # for its signature
    return run_coroutine


def _is_coroutine_function(function: Callable[..., Any]) -> bool:
    if type(function) is FunctionType:
        return bool(function.__code__.co_flags & _CO_COROUTINE)
    return bool(_iscoroutinefunction(function))


def _takes_context(function: Callable[..., Any]) -> bool:
    if type(function) is FunctionType and "__wrapped__" not in function.__dict__:
        code = function.__code__  # an ordinary function needs nothing that may be patched
        names = code.co_varnames[code.co_posonlyargcount : code.co_argcount + code.co_kwonlyargcount]
        return "context" in names or bool(code.co_flags & _CO_VARKEYWORDS)
    try:
        parameters = _signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(
        parameter.kind is parameter.VAR_KEYWORD
        or (parameter.name == "context" and parameter.kind is not parameter.POSITIONAL_ONLY)
        for parameter in parameters
    )


def _load_message(entry: str, error: BaseException) -> bytes:
    message = _text(error)
    if type(error) is not LookupError:
        message = f"{type(error).__name__}: {message}"
    return _bounded(f"function {entry!r} can't be loaded: {message}")


def _printer(fd: int) -> io.TextIOWrapper:
    # Unbuffered below too: what was printed must be out when the process is killed.
    raw: Any = io.FileIO(fd, "w", closefd=False)
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", write_through=True)


def _wait_for_the_end(channel_fd: int) -> NoReturn:
    while read(channel_fd, _READ):
        continue
    _exit(0)
