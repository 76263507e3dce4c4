"""The zygote: a process that has imported all that a worker needs, and forks workers.

It has one thread and no secret, and never runs user code. Its requests and reports are JSON
datagrams on one socket to the pool manager. When the manager closes the socket, the zygote
ends, and all workers with it: they are in PID namespaces below its own.

A request holds these fields:

- `sandbox`: the fields of `sandbox.Sandbox`;
- `passed`, `entrances`, `has_folder`: how many descriptors of each kind come with it;
- `listen_fd`, `config_fd`, `group_fd`: the worker's numbers of these descriptors;
- `needs_folder`: whether the worker may only be forked into the control group.

Its descriptors are, in this order: those that the worker's program gets (as 3, 4, …), the file for the worker's
messages, the entrances of its control groups (files to which it writes `0`), and the folder of its version 2 control
group.

Reports are: `ready`; `worker` with `pid` (and a pidfd) or `error`, the answer to a request; and `worker` with `status`,
when the worker's first process has ended.
"""

from __future__ import annotations

import array
import fcntl
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from . import linux
from .clone import fork_into
from .sandbox import Sandbox

_FIRST_PASSED = 3
_ABOVE = 64  # received descriptors are first moved above all numbers that they get in the end
_MAX_DESCRIPTORS = 32


class Zygote:
    """Forks workers on request.

    Args:
        control: the socket to the pool manager.
        work: runs the worker in the forked process, and returns its exit status. It is called with the numbers of the
            listening socket, the configuration pipe, and the control group for the template (or None).
    """

    def __init__(self, control: socket.socket, work: Callable[[int, int, int | None], int]) -> None:
        self._control = control
        self._work = work
        self._workers: dict[int, str] = {}
        linux.limit_bounding_set(linux.ZYGOTE_CAPABILITIES)
        self._wakeup, wakeup_end = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(wakeup_end, False)
        signal.set_wakeup_fd(wakeup_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)

    def run(self) -> NoReturn:
        """Serve requests until the manager closes its end of the socket."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wakeup, select.POLLIN)
        self._report(ready=True)
        while True:
            ready = [fd for fd, _ in poll.poll()]
            if self._wakeup in ready:
                os.read(self._wakeup, 4096)
                self._reap()
            if self._control.fileno() in ready:
                self._serve()

    def _serve(self) -> None:
        data, ancillary, _, _ = self._control.recvmsg(64 * 1024, socket.CMSG_SPACE(4 * _MAX_DESCRIPTORS))
        if not data:
            os._exit(0)
        fds = array.array("i")
        for _, _, content in ancillary:
            fds.frombytes(content)
        request = json.loads(data)
        try:
            pid, pidfd = self._fork(request, fds)
        except OSError as error:
            self._report(worker=request["sandbox"]["worker_id"], error=str(error))
        else:
            self._report([pidfd], worker=request["sandbox"]["worker_id"], pid=pid)
            os.close(pidfd)
        finally:
            for fd in fds:
                os.close(fd)

    def _fork(self, request: dict[str, Any], fds: Sequence[int]) -> tuple[int, int]:
        sandbox = Sandbox(**request["sandbox"])
        threads = len(os.listdir("/proc/self/task"))
        if threads != 1:
            raise OSError(f"the zygote has {threads} threads, and a fork would have only one of them")
        try:
            pid, pidfd = fork_into(sandbox.namespaces, fds[-1] if request["has_folder"] else None)
        except OSError:
            if request["needs_folder"] or not request["has_folder"]:
                raise
            pid, pidfd = fork_into(sandbox.namespaces, None)
        if pid == 0:
            self._become_worker(sandbox, request, fds)
        self._workers[pid] = sandbox.worker_id
        return pid, pidfd

    def _become_worker(self, sandbox: Sandbox, request: dict[str, Any], fds: Sequence[int]) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            passed: int = request["passed"]
            moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE) for fd in fds]
            for number in (1, 2):
                os.dup2(moved[passed], number)
            for number, fd in enumerate(moved[:passed], _FIRST_PASSED):
                os.dup2(fd, number, inheritable=False)
            entrances = moved[passed + 1 : passed + 1 + request["entrances"]]
            kept = range(_FIRST_PASSED + passed)
            linux.close_all_but([*kept, *entrances])
            sandbox.enter(entrances)
            linux.close_all_but(kept)
            os._exit(self._work(request["listen_fd"], request["config_fd"], request["group_fd"]))
        except SystemExit as end:
            os._exit(end.code if isinstance(end.code, int) else 1)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(1)

    def _reap(self) -> None:
        while self._workers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self._report(worker=self._workers.pop(pid), status=linux.exit_code(status))

    def _report(self, fds: Sequence[int] = (), **said: Any) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._control.sendmsg([json.dumps(said).encode()], ancillary)
        except OSError:
            os._exit(0)  # the manager has ended
