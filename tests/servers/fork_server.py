"""Forks processes of the service that need not import its modules: `python -m tests.servers.fork_server FD`.

`forked_process.py` starts one server for each process of tests. FD is a socket to it. A request names a module, the
arguments and the environment; with it come descriptors of a log and of a socket. The server answers on that socket
with the pid of the fork, and with its exit status when it has ended. The fork runs the module as `python -m` does.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()  # before the other imports, as in the web processes and the pool manager

import gc
import importlib
import json
import os
import runpy
import select
import socket
import sys
import time
from typing import Any

_PRELOADED = (
    "gunicorn.app.wsgiapp",
    "gunicorn.arbiter",
    "qinling_falcon.api",
    "qinling_falcon.jobs.drains",
    "qinling_falcon.jobs.worker",
    "qinling_falcon.web.worker",
    "workers.pool",
)
_MAX_REQUEST_SIZE = 1 << 17

# The server waits without gevent, whose event loop its forks would inherit.
_fork, _waitpid = monkey.get_original("os", ["fork", "waitpid"])
_poll = monkey.get_original("select", "poll")
_Socket = monkey.get_original("socket", "socket")


class Server:
    """Serves the requests of one process of tests.

    Args:
        control: the descriptor of the connection on which they come.
    """

    def __init__(self, control: int):
        self._control = _Socket(fileno=control)
        self._forks: dict[int, tuple[int, socket.socket]] = {}  # by descriptors of the processes

    def serve(self) -> list[str] | None:
        """Fork for each request, until the connection ends.

        Returns:
            In a fork, the command line that it is to run, which begins with the module; in the server, None.
        """
        poll = _poll()
        poll.register(self._control, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor in self._forks:
                    poll.unregister(descriptor)
                    self._report_end(descriptor)
                    continue
                request, passed, _, _ = socket.recv_fds(self._control, _MAX_REQUEST_SIZE, 2)
                if not request:
                    return None
                log, status = passed
                pid = _fork()
                if pid == 0:
                    return self._become(json.loads(request), log, status)
                os.close(log)
                poll.register(process := os.pidfd_open(pid), select.POLLIN)
                self._forks[process] = (pid, _Socket(fileno=status))
                self._forks[process][1].send(str(pid).encode())

    def _report_end(self, process: int) -> None:
        pid, status = self._forks.pop(process)
        os.close(process)
        code = os.waitstatus_to_exitcode(_waitpid(pid, 0)[1])
        with status:
            try:
                status.send(str(code).encode())
            except BrokenPipeError:
                pass  # the test waits no longer

    def _become(self, request: dict[str, Any], log: int, status: int) -> list[str]:
        """Give this fork what a new process has, and leave it nothing of the server's."""
        self._control.close()
        for process, (_, other) in self._forks.items():
            os.close(process)
            other.close()
        os.close(status)
        os.setsid()
        for standard in (1, 2):
            os.dup2(log, standard)
        os.close(log)
        os.environ.clear()
        os.environ.update(request["environ"])
        time.tzset()
        command: list[str] = request["command"]
        return command


def main() -> None:
    """Serve; in a fork, run its module."""
    for name in _PRELOADED:
        importlib.import_module(name)
    del sys.modules["workers.pool"]  # the forks run it as `__main__`; it was imported because of what it imports
    gc.freeze()  # a collection in a fork would copy the pages of what was imported here
    if command := Server(int(sys.argv[1])).serve():
        module, *_ = sys.argv = command
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
