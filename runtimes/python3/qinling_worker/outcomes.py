"""The outcome of an execution: its status and output for programs, and its message for people."""

from __future__ import annotations

import signal
from json.encoder import encode_basestring
from typing import NamedTuple

from .frames import MAX_MESSAGE_SIZE

OUT_OF_RESOURCES = "Function execution failed because of too much resource consumption"
TIMED_OUT = "Function execution timeout"
CANCELLED = "Function execution was cancelled"
_MIB = 1 << 20
_MAX_MESSAGE = 2000  # some messages come from the child, which is not trusted


class Outcome(NamedTuple):
    """The outcome of an execution.

    Attributes:
        status: `success`, `failed` or `cancelled`.
        reason: the kind of failure; see the README.
        output: the output as JSON text.
        message: for a failure, a sentence that says what happened.
    """

    status: str
    reason: str | None
    output: str
    message: str | None

    @classmethod
    def failed(cls, reason: str, output: str, message: str) -> Outcome:
        """The outcome of a failed execution, with a text as its output."""
        message = message[:_MAX_MESSAGE].replace("\0", "\N{REPLACEMENT CHARACTER}")  # databases take no NUL
        return cls("failed", reason, encode_basestring(output[: 2 * MAX_MESSAGE_SIZE]), message)


def succeeded(output: str) -> Outcome:
    """The function returned; `output` is JSON text."""
    return Outcome("success", None, output, None)


def raised(payload: str) -> Outcome:
    """The function raised an exception; `payload` is that of a frame `RAISED`."""
    message, _, text = payload.partition("\0")
    return Outcome.failed("exception", text, message)


def bad_result(message: str) -> Outcome:
    """The function returned a value that can't be its result."""
    return Outcome.failed("result", message, message)


def not_loaded(message: str) -> Outcome:
    """The function could not be loaded."""
    return Outcome.failed("load", message, message)


def timed_out(timeout_s: float) -> Outcome:
    """The function was ended at its timeout."""
    return Outcome.failed("timeout", TIMED_OUT, f"The function ran longer than its timeout of {timeout_s:g} s.")


def out_of_memory(memory_size: int, loading: bool) -> Outcome:
    """The function was ended because it used more than its `memory_size`."""
    limit = f"{memory_size} bytes ({memory_size / _MIB:g} MiB)"
    when = ", while its module was imported" if loading else ""
    return Outcome.failed("memory", OUT_OF_RESOURCES, f"The function used more than its memory_size of {limit}{when}.")


def too_much(message: str) -> Outcome:
    """The function was ended because it used more of something other than memory; `message` says of what."""
    return Outcome.failed("limit", OUT_OF_RESOURCES, message)


def exited(entry: str, exit_code: int | None, loading: bool) -> Outcome:
    """The function's process ended during the call or during the import.

    Args:
        entry: the function's entry.
        exit_code: the result of `linux.exit_code`; None: the process is alive, but its channel is unusable.
        loading: whether this happened during the import.
    """
    if exit_code is None:
        how = "has closed or corrupted its connection to the worker: don't use file descriptors that you did not open"
    elif exit_code >= 0:
        how = f"ended by itself with exit status {exit_code}, as by os._exit"
    else:
        how = f"was ended by signal {_signal_name(-exit_code)}"
    if loading:
        return not_loaded(f"Function {entry!r} can't be loaded. While its module was imported, its process {how}.")
    return Outcome.failed("exited", OUT_OF_RESOURCES, f"The function's process {how}.")


def cancelled() -> Outcome:
    """The execution was cancelled."""
    return Outcome("cancelled", "cancelled", encode_basestring(CANCELLED), "The execution was cancelled.")


def _signal_name(number: int) -> str:
    try:
        return f"{number} ({signal.Signals(number).name})"
    except ValueError:
        return str(number)
