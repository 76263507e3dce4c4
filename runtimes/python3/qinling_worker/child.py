"""The child: loads the function once, then runs it for one request after another.

User code runs in this process and may patch everything that it can import. There are
three protections: this module binds all that the loop needs before user code is
loaded; it is removed from `sys.modules`; and it has its own builtins (`template.py`).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` wraps these functions in Python
from _json import make_scanner
from collections.abc import Callable
from os import _exit, getpid, read, write
from time import monotonic
from typing import Any, NoReturn

from . import frames, linux
from .event_loop import EventLoop, import_early, is_awaitable
from .failures import bounded, described, encoded, is_of_the_call, log_exception, place_of, text_of
from .interpreter import complete, note_fork
from .loading import load, message_of
from .os_session import ERROR, SESSION, SessionContext
from .per_call import check_alone, fork_for_calls
from .printing import Printing
from .results import encode
from .signatures import takes_context
from .timers import Timers
from .warm import hide_shadowed

_READ = 64 * 1024
_SPACE = " \t\n\r"
_request_header = frames.REQUEST
_answer_header = frames.ANSWER
_MAX_REASON = 500
_PLAIN = frozenset((dict, list, str, int, float, bool, type(None)))  # results of these types are not awaitable
_handle, _SIG_DFL, _raise_signal = _signal.signal, _signal.SIG_DFL, _signal.raise_signal
_mask, _UNBLOCK, _LOST_CHANNEL = _signal.pthread_sigmask, _signal.SIG_UNBLOCK, linux.LOST_CHANNEL


class _Rules:
    """Options of the JSON scanner, as `json.loads` passes them. `parse_constant` decides about NaN and infinities."""

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


_make_scanner: Any = make_scanner
_scan: Callable[[str, int], tuple[Any, int]] = _make_scanner(_Rules(float))
_scan_strictly: Callable[[str, int], tuple[Any, int]] = _make_scanner(_Rules(_refuse_constant))


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


class _CallChannel(_Channel):
    """The channel of a process that serves one call. The second `receive` waits until the supervisor closes it.

    Until then the process must live, because the supervisor reads its memory use after the answer.
    """

    _has_received = False

    def receive(self) -> str:
        if self._has_received:
            try:
                _wait_for_the_end(self._fd)
            finally:
                _exit(0)
        self._has_received = True
        return super().receive()


def run(
    channel_fd: int, log_fd: int, entry: str, code_dir: str, bare: int, max_result_size: int, by_call: bool
) -> NoReturn:
    """Load `entry`, then serve calls until the process is ended.

    Args:
        channel_fd: the socket to the supervisor.
        log_fd: a copy of the log pipe, hidden from the function.
        entry: `module.function`.
        code_dir: the folder of the unpacked package.
        bare: resident bytes of this process before it loads user code.
        max_result_size: the most bytes of the result's JSON text.
        by_call: whether each call runs in a process of its own.
    """
    try:
        _load_and_serve(channel_fd, log_fd, entry, code_dir, bare, max_result_size, by_call)
    except OSError:
        # The function has closed the channel or the log. An exit status would look like the function's own.
        _handle(_LOST_CHANNEL, _SIG_DFL)
        _mask(_UNBLOCK, [_LOST_CHANNEL])
        _raise_signal(_LOST_CHANNEL)
    finally:
        _exit(1)  # user code, such as a signal handler, has raised inside this loop


def _load_and_serve(
    channel_fd: int, log_fd: int, entry: str, code_dir: str, bare: int, max_result_size: int, by_call: bool
) -> NoReturn:
    pid = getpid()
    channel = _Channel(channel_fd)
    printing, timers = Printing(), Timers()
    complete()
    note_fork()
    hide_shadowed(code_dir)
    channel.send(frames.BARE, b"%d" % bare)
    try:
        function = load(entry, code_dir)
        wants_context = takes_context(function)
        if by_call and getpid() == pid:
            import_early(function, entry.rpartition(".")[0])
            check_alone()
    except BaseException as error:
        if getpid() != pid:
            _exit(0)
        printing.flush()
        log_exception(log_fd, error)
        message = message_of(entry, error, code_dir)
        if getpid() != pid:
            _exit(0)
        channel.send(frames.LOAD_FAILED, message)
        _wait_for_the_end(channel_fd)
    if getpid() != pid:
        _exit(0)  # the import has forked a process, which has come back from it
    printing.end_import()
    timers.end_import()
    channel.send(frames.LOADED, b"")
    if by_call:
        channel_fd, log_fd = fork_for_calls(channel_fd, log_fd)
        channel, pid = _CallChannel(channel_fd), getpid()
        note_fork()
    _serve(channel, log_fd, printing, timers, function, wants_context, pid, code_dir, max_result_size)


def _serve(
    channel: _Channel,
    log_fd: int,
    printing: Printing,
    timers: Timers,
    function: Callable[..., Any],
    wants_context: bool,
    pid: int,
    code_dir: str,
    max_result_size: int,
) -> NoReturn:
    event_loop = EventLoop(log_fd, code_dir)
    while True:
        first, about, *given = channel.receive().split("\n", 2)
        args: tuple[str, ...] = ()
        kwargs: dict[str, Any] = {}
        if given:
            parsed = _parse_object(given[0])
            if parsed is None:
                args = (given[0],)
            else:
                kwargs = parsed
        started = monotonic()
        if wants_context:
            kwargs["context"] = _context(first, about, started)
        try:
            value = function(*args, **kwargs)
            if type(value) not in _PLAIN and is_awaitable(value):
                value = event_loop.run(value, started + float(first.rpartition(" ")[2]))
        except BaseException as error:
            duration = monotonic() - started
            if getpid() != pid:
                _exit(0)
            timers.end_call(log_fd)
            printing.flush()  # the traceback comes after what was printed before
            kind, payload = _failure(error, log_fd, code_dir)
        else:
            duration = monotonic() - started
            if getpid() != pid:
                _exit(0)
            timers.end_call(log_fd)
            kind, payload = encode(value, max_result_size)
            value = None
        args, kwargs, given, about = (), {}, [], ""
        printing.flush()
        if getpid() != pid:
            _exit(0)  # the flush or the encoding may have run user code that forked
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


def _context(first: str, about: str, started: float) -> dict[str, Any]:
    """The `context` of a call, from the first two lines of its request."""
    _, execution_id, timeout_s = first.split(" ")
    timeout = int(timeout_s) if timeout_s.isdigit() else float(timeout_s)
    given = _scan(about, 0)[0]
    context: dict[str, Any] = {"function_id": None, "function_version": None, "request_id": None}
    context.update(given["context"])
    openstack = given.get("openstack")
    if openstack is None:
        context[SESSION] = None
        context[ERROR] = "the function has no trust"
    else:
        context = SessionContext(context, openstack)
    context["execution_id"] = execution_id
    context["timeout"] = timeout

    def remaining_s() -> float:
        """Seconds that this execution has left."""
        return max(0.0, started + timeout - monotonic())

    context["remaining_s"] = remaining_s
    return context


def _failure(error: BaseException, log_fd: int, code_dir: str) -> tuple[int, bytes]:
    """The frame for a call that raised: the reason, NUL, and the exception's text."""
    said, place = bounded(described(error), _MAX_REASON), place_of(error, code_dir)
    if isinstance(error, TypeError) and is_of_the_call(error):
        taken = "The members of a JSON object are passed as keyword arguments, any other input as one argument"
        reason = f"The function can't be called with this input. {said}. {taken}, and no input as none."
    else:
        reason = f"The function raised {said}" + (f" ({place})." if place is not None else ".")
    payload = encoded(reason).replace(b"\0", b"\\x00") + b"\0" + encoded(text_of(error))
    log_exception(log_fd, error)
    return frames.RAISED, payload


def _wait_for_the_end(channel_fd: int) -> NoReturn:
    while read(channel_fd, _READ):
        continue
    _exit(0)
