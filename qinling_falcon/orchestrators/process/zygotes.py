"""Zygotes: processes with the worker's program imported, from which workers are forked in milliseconds.

There is one zygote for each pair of runtime program and interpreter. It runs in a bubblewrap sandbox with the files
that its workers share. Each worker completes the sandbox for itself (`qinling_worker/sandbox.py`). All workers of a
zygote end with it. So a zygote that is slow to answer, or whose interpreter was replaced, is retired: it gets no more
requests, and lives until its workers have ended. It is killed only if it does not answer within the time that a worker
may take to start. The zygote's side of the protocol is `qinling_worker/zygote.py`; `launcher.py` calls this module.
"""

from __future__ import annotations

import array
import contextlib
import json
import logging
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qinling_falcon.orchestrators.base import StartFailed
from qinling_falcon.orchestrators.process import leftovers
from qinling_falcon.orchestrators.process.cgroups import Group, await_removed
from qinling_falcon.orchestrators.process.images import Interpreter, LocalRuntime
from qinling_falcon.orchestrators.process.messages import Messages
from qinling_falcon.orchestrators.process.processes import execute
from qinling_falcon.orchestrators.process.sandbox import Command

_log = logging.getLogger(__name__)
FIRST_PASSED = 3  # the number of the first passed descriptor in a worker, as in qinling_worker/zygote.py
_END_TIMEOUT_S = 10.0
_ANSWER_TIMEOUT_S = 3.0  # a zygote answers within milliseconds; one that takes longer gets no more requests
_STATUS_TIMEOUT_S = 0.5  # a zygote reports an exit status a moment after the process has ended
_UNKNOWN_STATUS = 1


class Forked:
    """A worker's first process, forked by a zygote (a `processes.Process`). All of its PID namespace ends with it."""

    def __init__(self, zygote: Zygote, worker_id: str, pidfd: int):
        self._zygote = zygote
        self._worker_id = worker_id
        self._pidfd = pidfd
        self._status: int | None = None

    def __del__(self) -> None:
        os.close(self._pidfd)

    def poll(self) -> int | None:
        """Its exit status once it has ended; None until then."""
        if self._status is None and self._await_end(0):
            self._status = self._zygote.status_of(self._worker_id)
        return self._status

    def wait(self, timeout: float) -> int:
        """Wait for its end, and return its exit status as `poll` does.

        Args:
            timeout: seconds to wait at most.

        Raises:
            subprocess.TimeoutExpired: it has not ended in time.
        """
        if self._status is None and not self._await_end(timeout):
            raise subprocess.TimeoutExpired(self._worker_id, timeout)
        status = self.poll()
        assert status is not None
        return status

    def kill(self) -> None:
        """Send it SIGKILL, if it has not ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _await_end(self, timeout_s: float) -> bool:
        poll = select.poll()  # unlike `select`, it takes descriptors of any number
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))


class Zygote:
    """A running zygote.

    Args:
        command: makes the command line from the number of the zygote's socket.
        group: the control groups that it runs in.
        timeout_s: seconds that it may take to be ready.

    Raises:
        StartFailed: the zygote ended, or was not ready in time.

    Attributes:
        workers: ids of the workers that it was asked to fork, and whose exit status it has not reported yet.
    """

    def __init__(self, command: Callable[[int], Command], group: Group, timeout_s: float):
        self._group = group
        self._messages = Messages()
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._statuses: dict[str, int] = {}
        self._is_retired = False
        self.workers: set[str] = set()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        os.set_blocking(theirs.fileno(), True)
        with theirs, contextlib.closing(command(theirs.fileno())) as made:
            self._process = execute(made, group, [theirs.fileno()], subprocess.DEVNULL, self._messages.fd)
        try:
            with self._lock:
                self._receive(timeout_s)
        except StartFailed:
            self.close()
            raise

    def fork(self, request: dict[str, Any], descriptors: Sequence[int]) -> Forked | None:
        """Fork a worker.

        Args:
            request: as described in `qinling_worker/zygote.py`.
            descriptors: the descriptors that belong to the request, in the order given there.

        Returns:
            The worker's process; None: the zygote is retired, so the request was not sent. Ask another one.

        Raises:
            StartFailed: the worker could not be forked.
        """
        worker_id: str = request["sandbox"]["worker_id"]
        while not self._lock.acquire(timeout=_ANSWER_TIMEOUT_S / 10):
            if self._is_retired:
                return None
        try:
            if self._is_retired:
                return None
            self.workers.add(worker_id)
            try:
                report, fds = self._ask(request, descriptors)
            except StartFailed:
                self.workers.discard(worker_id)
                raise
        finally:
            self._lock.release()
        if "error" in report:
            self.workers.discard(worker_id)
            raise StartFailed(self._messages.with_tail(report["error"]))
        return Forked(self, worker_id, fds[0])

    def status_of(self, worker_id: str) -> int:
        """The exit status of a worker's first process, which must have ended."""
        deadline = time.monotonic() + _STATUS_TIMEOUT_S
        # Also if the zygote reports it too late: a retired zygote is ended when it has no workers.
        self.workers.discard(worker_id)
        if not self._lock.acquire(timeout=_STATUS_TIMEOUT_S):
            return _UNKNOWN_STATUS  # a request waits for its answer
        try:
            while worker_id not in self._statuses:
                try:
                    _, fds = self._receive(max(0.0, deadline - time.monotonic()), only_status=True)
                except StartFailed:
                    return _UNKNOWN_STATUS if self.is_alive() else -signal.SIGKILL
                for fd in fds:  # of an answer that came too late; its worker has ended with the zygote
                    os.close(fd)
            return self._statuses.pop(worker_id)
        finally:
            self._lock.release()

    def is_alive(self) -> bool:
        """Whether the zygote runs."""
        return self._process.poll() is None

    def is_usable(self) -> bool:
        """Whether the zygote runs, and has answered all requests soon enough."""
        return self.is_alive() and not self._is_retired

    def close(self) -> None:
        """End the zygote and all its workers, and wait until they are gone."""
        self._control.close()
        self._process.kill()
        self._process.wait(_END_TIMEOUT_S)
        leftovers.end(self._kill_found, _END_TIMEOUT_S)
        await_removed(self._group)

    def _ask(self, request: dict[str, Any], descriptors: Sequence[int]) -> tuple[dict[str, Any], list[int]]:
        """Send a request and receive its answer. The caller must hold the lock.

        Raises:
            StartFailed: the zygote has ended, or was killed because it did not answer in time.
        """
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        try:
            self._control.sendmsg([json.dumps(request).encode()], ancillary)
        except OSError as error:
            raise StartFailed(self._messages.with_tail(f"the zygote has ended: {error}")) from None
        patience_s = min(self._timeout_s, _ANSWER_TIMEOUT_S)
        try:
            return self._receive(patience_s)
        except StartFailed:
            self._is_retired = True
        try:
            return self._receive(self._timeout_s - patience_s)
        except StartFailed:
            # Its workers end with it. If it lived on, it could fork this worker after its start was given up.
            self._process.kill()
            raise

    def _kill_found(self) -> bool:
        found = bool(self._group.processes())
        self._group.kill()
        return found

    def _receive(self, timeout_s: float, *, only_status: bool = False) -> tuple[dict[str, Any], list[int]]:
        """Receive the next report that is not an exit status. Exit statuses are stored. The caller must hold the lock.

        Args:
            timeout_s: seconds to wait for each report at most.
            only_status: return after the first exit status, too.

        Returns:
            The report, and the descriptors that came with it.

        Raises:
            StartFailed: no report came in time, or the zygote has ended.
        """
        while True:
            try:
                self._control.settimeout(timeout_s)
                data, ancillary, _, _ = self._control.recvmsg(64 * 1024, socket.CMSG_SPACE(4))
            except (TimeoutError, BlockingIOError):
                raise StartFailed(self._messages.with_tail("the zygote does not answer")) from None
            except OSError:
                data = b""
            if not data:
                raise StartFailed(self._messages.with_tail("the zygote has ended"))
            report: dict[str, Any] = json.loads(data)
            fds = array.array("i")
            for _, _, content in ancillary:
                fds.frombytes(content)
            if "status" not in report:
                return report, list(fds)
            self._statuses[report["worker"]] = report["status"]
            self.workers.discard(report["worker"])
            if only_status:
                return report, []


class Zygotes:
    """The zygotes of an install: one for each pair of runtime program and interpreter. It is started when it is first
    needed, and replaced when it has ended or is retired.

    Args:
        make: starts a zygote for a runtime; the number makes the name of its control group unique.
    """

    def __init__(self, make: Callable[[LocalRuntime, int], Zygote]):
        self._make = make
        self._lock = threading.Lock()
        self._number = 0
        self._current: dict[tuple[Path, Path], tuple[tuple[int, ...], Zygote]] = {}
        self._retired: list[Zygote] = []

    def fork(self, runtime: LocalRuntime, request: dict[str, Any], descriptors: Sequence[int]) -> Forked:
        """Fork a worker from the zygote of its runtime, as `Zygote.fork` does.

        Raises:
            StartFailed: the zygote can't be started, or the worker could not be forked.
        """
        while True:
            forked = self._of(runtime).fork(request, descriptors)
            if forked is not None:
                return forked

    def _of(self, runtime: LocalRuntime) -> Zygote:
        """The usable zygote of a runtime; starts one if there is none, or if the interpreter's files were replaced.

        Raises:
            StartFailed: the zygote can't be started.
        """
        key, files = (runtime.program, runtime.interpreter.program), _identity(runtime.interpreter)
        with self._lock:
            known_files, known = self._current.get(key, (None, None))
            if known is not None and known.is_usable() and known_files == files:
                self._end_retired()
                return known
            if known is not None:
                del self._current[key]
                self._retired.append(known)
                _log.warning("zygote_replaced program=%s alive=%s", runtime.program, known.is_alive())
                self._end_retired()
            self._number += 1
            made = self._make(runtime, self._number)
            self._current[key] = files, made
            return made

    def close(self) -> None:
        """End all zygotes and their workers."""
        for zygote in [*self._retired, *(zygote for _, zygote in self._current.values())]:
            zygote.close()
        self._retired.clear()
        self._current.clear()

    def _end_retired(self) -> None:
        for zygote in list(self._retired):
            if not zygote.workers or not zygote.is_alive():
                zygote.close()
                self._retired.remove(zygote)


def _identity(interpreter: Interpreter) -> tuple[int, ...]:
    """Numbers that change when the interpreter's files are replaced: a process must not import old and new files."""
    library = interpreter.prefix / "lib" / f"python{interpreter.version[0]}.{interpreter.version[1]}"
    found: list[int] = []
    for path in (interpreter.program, interpreter.prefix / "lib", library, library / "lib-dynload"):
        with contextlib.suppress(OSError):
            seen = path.stat()
            found += [seen.st_dev, seen.st_ino, seen.st_mtime_ns]
    return tuple(found)
