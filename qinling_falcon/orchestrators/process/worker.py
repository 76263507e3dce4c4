"""One worker: its process, its groups, its folder, and how all of it comes and goes."""

from __future__ import annotations

import ctypes
import http.client
import os
import resource
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

from qinling_falcon.orchestrators.base import StartFailed
from qinling_falcon.orchestrators.process import leftovers
from qinling_falcon.orchestrators.process.cgroups import Group
from qinling_falcon.orchestrators.process.homes import Home
from qinling_falcon.orchestrators.process.sandbox import Command
from qinling_falcon.orchestrators.process.slots import Slot

_PR_SET_PDEATHSIG = 1
_GONE_TIMEOUT_S = 10.0
_LAST_WORDS_S = 2.0
_libc = ctypes.CDLL(None, use_errno=True)


class Worker:
    """What belongs to one worker, from before its start until nothing of it is left.

    Attributes:
        worker_id: the caller's id.
        home: its folder.
        slot: its user ids, if it has ones of its own.
        group: its control groups, falsy without any.
        lock: held while it is spawned and while it is ended.
        ready: it has answered.
        ending: it is being ended, or gone.
    """

    def __init__(self, worker_id: str, mark: str, *, walled: bool):
        """`walled`: nothing of it lives outside its control groups or PID namespace."""
        self.worker_id = worker_id
        self.home: Home | None = None
        self.slot: Slot | None = None
        self.group = Group([])
        self.lock = threading.Lock()
        self.ready = False
        self.ending = False
        self._mark = mark
        self._walled = walled
        self._process: subprocess.Popen[bytes] | None = None

    def spawn(self, command: Command, descriptors: Sequence[int], report: int, messages: int) -> None:
        """Execute the command inside the worker's groups; it ends with this thread.

        Args:
            command: what to execute.
            descriptors: passed on beside those of the command.
            report: where it says that its sandbox stands.
            messages: where its output goes.
        """
        entrances = self.group.open_entrances()
        try:
            self._process = subprocess.Popen(
                command.words,
                executable=command.program,
                env=command.environment,
                pass_fds=[*descriptors, *command.descriptors],
                stdin=report,
                stdout=messages,
                stderr=messages,
                cwd="/",
                start_new_session=True,  # a Ctrl-C for the service is not for its workers
                preexec_fn=_entering(entrances),
            )
        finally:
            for entrance in entrances:
                os.close(entrance)

    def await_sandbox(self, report: int, timeout_s: float) -> None:
        """Wait until the worker's sandbox stands, or it has ended.

        Raises:
            StartFailed: neither in time.
        """
        readable, _, _ = select.select([report], [], [], timeout_s)
        if not readable:
            raise StartFailed(self._told(f"no sandbox within {timeout_s:g} s"))

    def await_answer(self, port: int, timeout_s: float) -> None:
        """Wait until the worker answers `GET /ping`.

        The socket listens already, so that one request waits as long as it takes; the worker alone holds it, so
        that the request fails at once when the worker ends.

        Raises:
            StartFailed: it ended or did not answer in time.
        """
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
        try:
            connection.request("GET", "/ping")
            status = connection.getresponse().status
        except TimeoutError:
            raise StartFailed(self._told(f"no answer within {timeout_s:g} s")) from None
        except (OSError, http.client.HTTPException) as error:
            raise StartFailed(self._told(self._last_words() or f"no answer: {error}")) from None
        finally:
            connection.close()
        if status != 200:
            raise StartFailed(self._told(f"GET /ping answered {status}"))

    def has_exited(self) -> bool:
        """Whether it ended by itself."""
        return self.ready and not self.ending and self._process is not None and self._process.poll() is not None

    def describe_exit(self) -> str:
        """How it ended, for the log."""
        return self._told(self._last_words())

    def kill(self) -> None:
        """Kill everything of it, without waiting."""
        self._strike()

    def end(self) -> bool:
        """Kill everything of it and wait until that is gone; whether it is."""
        return leftovers.end(self._strike, _GONE_TIMEOUT_S)

    def _strike(self) -> bool:
        found = self.group.processes()
        if found:
            self.group.kill()
        if not self.group or not self._walled:
            uids = (self.slot.uid, self.slot.child_uid) if self.slot else ()
            loose = leftovers.find([self._mark], uids)
            leftovers.kill(loose)
            found |= loose
        # Reaped here, or it would stay in its groups.
        return bool(found) | (self._process is not None and self._process.poll() is None)

    def _last_words(self) -> str:
        if self._process is None:
            return ""
        try:
            code = self._process.wait(_LAST_WORDS_S)
        except subprocess.TimeoutExpired:
            return ""
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"

    def _told(self, what: str) -> str:
        tail = self.home.tail() if self.home else ""
        return f"{what}: {tail}" if tail else what


def _entering(entrances: Sequence[int]) -> Callable[[], None]:
    """What the forked process does before it executes anything."""
    manager = os.getpid()

    def enter() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != manager:  # killed before it could be noticed
            os._exit(1)
        for entrance in entrances:
            os.write(entrance, b"0")
        os.umask(0o022)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    return enter


def await_removed(group: Group, timeout_s: float = 1.0) -> bool:
    """Remove a worker's groups, which the kernel may hold a moment longer than the processes."""
    deadline = time.monotonic() + timeout_s
    while not group.remove():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True
