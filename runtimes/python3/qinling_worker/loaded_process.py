"""The supervisor's side of a process that has loaded the function and forks a process for each call."""

from __future__ import annotations

from collections.abc import Callable

from . import frames
from .child_process import ChildProcess

_END_TIMEOUT_S = 0.25  # a process closes its descriptors a moment before it has ended


class LoadedProcess:
    """A loaded process. This class sends its requests and reads its reports; `per_call.py` runs in the process.

    Args:
        process: the loaded process, which is a child of the template.
        on_forked: called when the process of the next call exists and the process of the call before has ended.
        on_ended: called when the process of a call has ended before `fork` has replaced it.
        on_leftovers: called when a call has left processes behind.
        on_corrupted: called when a report is not one that `per_call.py` sends, so that user code must have sent it.
    """

    def __init__(
        self,
        process: ChildProcess,
        on_forked: Callable[[], None],
        on_ended: Callable[[], None],
        on_leftovers: Callable[[], None],
        on_corrupted: Callable[[], None],
    ) -> None:
        self.process = process
        self.calls = 0  # of all processes that have been replaced
        self._next = process  # the process of the call that runs, or of the next call
        self._running: ChildProcess | None = None  # the process that was reported last as forked, and not yet as ended
        self._awaited = False
        self._on_forked = on_forked
        self._on_ended = on_ended
        self._on_leftovers = on_leftovers
        self._on_corrupted = on_corrupted
        process.on_frame = self._on_frame

    @property
    def is_ending(self) -> bool:
        """Whether the process of the last call has not ended yet, or processes that it has left have not."""
        return self._running is not None and self._running is not self._next

    def fork(self, new: ChildProcess) -> None:
        """Replace the process of the last call, which ends now, with a new one."""
        old, self._next = self._next, new
        if old is self.process:
            new.log.take_over(old.log)  # what the import printed is shown with the first call
        else:
            self.calls += old.calls
            old.close()
        self.process.send_ends(new.ends)
        new.close_ends()

    def await_end(self) -> None:
        """Wait briefly for the report that the call's process has ended. Its channel is closed already."""
        if not self._awaited:
            self._awaited = True
            self.process.await_frame(_END_TIMEOUT_S)

    def _on_frame(self, kind: int, _duration: float, payload: bytes) -> None:
        try:
            numbers = [int(number) for number in payload.split(b" ")]
        except ValueError:
            numbers = []
        if kind == frames.FORKED and self._running is None and len(numbers) == 1:
            self._running = self._next
            self._next.pid = numbers[0]
            self._on_forked()
        elif kind == frames.ENDED and self._running is not None and len(numbers) == 2:
            self._end(self._running, numbers[0], bool(numbers[1]))
        else:
            self._on_corrupted()

    def _end(self, process: ChildProcess, exit_code: int, has_left_others: bool) -> None:
        self._running = None
        if process is self._next:
            process.exit_code = exit_code
            process.read()  # first, because the process may have answered before it ended
        if process is self._next:
            self._on_ended()
        elif has_left_others:
            self._on_leftovers()
