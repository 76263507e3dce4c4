"""How an execution ended: what its record says of it, for programs and for people."""

from __future__ import annotations

import signal
from json.encoder import encode_basestring
from typing import NamedTuple

OUT_OF_RESOURCES = "Function execution failed because of too much resource consumption"
TIMED_OUT = "Function execution timeout"
CANCELLED = "Function execution was cancelled"
_MIB = 1 << 20
_MAX_MESSAGE = 2000  # the child, which may lie, makes some of them


class Outcome(NamedTuple):
    """How an execution ended.

    Attributes:
        status: `success`, `failed` or `cancelled`.
        reason: the kind of a failure; see the README.
        output: JSON text.
        message: of a failure: what happened, and to what.
    """

    status: str
    reason: str | None
    output: str
    message: str | None

    @classmethod
    def failed(cls, reason: str, output: str, message: str) -> Outcome:
        """An execution that failed, with a text as its output."""
        return cls("failed", reason, encode_basestring(output), message[:_MAX_MESSAGE])


def succeeded(output: str) -> Outcome:
    """The function returned; `output` is JSON text."""
    return Outcome("success", None, output, None)


def raised(payload: str) -> Outcome:
    """The function raised; `payload` as in a frame `RAISED`."""
    message, _, text = payload.partition("\0")
    return Outcome.failed("exception", text, message)


def bad_result(message: str) -> Outcome:
    """The function returned what can't be its result."""
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


def exited(entry: str, exit_code: int | None, loading: bool) -> Outcome:
    """The function's process ended in the middle of the call or of the import.

    Args:
        entry: of the function.
        exit_code: as `os.waitstatus_to_exitcode` has it; None: it lives, but can't be talked to.
        loading: it happened while the function was loaded.
    """
    if exit_code is None:
        how = "has closed or spoiled its connection to the worker: leave alone file descriptors that you did not open"
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
