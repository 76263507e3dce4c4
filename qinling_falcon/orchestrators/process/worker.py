"""One worker: its process, its groups, its folder, and how all of it comes and goes."""

from __future__ import annotations

import select
import signal
import subprocess
import threading

from qinling_falcon.orchestrators import addresses
from qinling_falcon.orchestrators.base import StartFailed, WorkerInfo
from qinling_falcon.orchestrators.process import leftovers
from qinling_falcon.orchestrators.process.cgroups import Group
from qinling_falcon.orchestrators.process.homes import Home
from qinling_falcon.orchestrators.process.messages import Messages
from qinling_falcon.orchestrators.process.processes import Process
from qinling_falcon.orchestrators.process.slots import Slot
from qinling_falcon.orchestrators.process.zygotes import Forked

_GONE_TIMEOUT_S = 10.0
_LAST_WORDS_S = 2.0


class Worker:
    """What belongs to one worker, from before its start until nothing of it is left.

    Attributes:
        worker_id: the caller's id.
        messages: what the supervisor writes to its standard output and error.
        home: its folder.
        slot: its user ids, if it has ones of its own.
        group: its control groups, falsy without any.
        process: its first process; None before that is made.
        lock: held while it is spawned and while it is ended.
        info: what others need to know of it; None until it has answered.
        ending: it is being ended, or gone.
    """

    def __init__(self, worker_id: str, mark: str, *, walled: bool):
        """`walled`: nothing of it lives outside its control groups or PID namespace."""
        self.worker_id = worker_id
        self.messages = Messages()
        self.home: Home | None = None
        self.slot: Slot | None = None
        self.group = Group([])
        self.lock = threading.Lock()
        self.info: WorkerInfo | None = None
        self.ending = False
        self._mark = mark
        self._walled = walled
        self.process: Process | None = None

    def await_sandbox(self, report: int, timeout_s: float) -> None:
        """Wait until the worker's sandbox stands, or it has ended.

        Raises:
            StartFailed: neither in time.
        """
        readable, _, _ = select.select([report], [], [], timeout_s)
        if not readable:
            raise StartFailed(self.messages.with_tail(f"no sandbox within {timeout_s:g} s"))

    def await_answer(self, address: str, timeout_s: float) -> None:
        """Wait until the worker answers `GET /ping`.

        The socket listens already, so that one request waits as long as it takes; the worker alone holds it, so
        that the request fails at once when the worker ends.

        Raises:
            StartFailed: it ended or did not answer in time.
        """
        try:
            with addresses.connect(address, timeout_s) as connection:
                connection.sendall(b"GET /ping HTTP/1.1\r\n\r\n")
                answer = connection.recv(1024)
        except TimeoutError:
            raise StartFailed(self.messages.with_tail(f"no answer within {timeout_s:g} s")) from None
        except OSError as error:
            raise StartFailed(self.messages.with_tail(self._last_words() or f"no answer: {error}")) from None
        if not answer:
            raise StartFailed(self.messages.with_tail(self._last_words() or "the worker closed the connection"))
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise StartFailed(self.messages.with_tail(f"GET /ping answered {answer[:100]!r}"))

    def has_exited(self) -> bool:
        """Whether it ended by itself."""
        if self.info is None or self.ending or self.process is None:
            return False
        return self.process.poll() is not None

    def describe_exit(self) -> str:
        """How it ended, for the log."""
        return self.messages.with_tail(self._last_words())

    def kill(self) -> None:
        """Kill everything of it, without waiting."""
        self._kill_found()

    def end(self) -> bool:
        """Kill everything of it and wait until that is gone; whether it is."""
        return leftovers.end(self._kill_found, _GONE_TIMEOUT_S)

    def _kill_found(self) -> bool:
        if isinstance(self.process, Forked):
            self.process.kill()  # the kernel then kills all others in its PID namespace: all of the worker's
            return self.process.poll() is None
        found, loose = self.group.processes(), False
        if found:
            self.group.kill()
        if not self.group or not self._walled:
            uids = (self.slot.uid, self.slot.child_uid) if self.slot else ()
            loose = leftovers.kill_found([self._mark], uids)
        # Reaped here, or it would stay in its groups.
        return bool(found) | loose | (self.process is not None and self.process.poll() is None)

    def _last_words(self) -> str:
        if self.process is None:
            return ""
        try:
            code = self.process.wait(_LAST_WORDS_S)
        except subprocess.TimeoutExpired:
            return ""
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
