"""Processes of the service that are forks of one process, which has imported their modules.

To import its modules takes a web process or a pool manager longer than the rest of its start, and the tests start
hundreds of them. `fork_server.py` does it once for all tests of a process.

The kernel shows the server's command line and environment for its forks. So tests that look for secrets there start
the processes with `subprocess`.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class ForkedProcess:
    """A process that runs a module; like `subprocess.Popen`, as far as the tests need that.

    Args:
        module: what `python -m` would run, in the repository's folder.
        arguments: the command line after it.
        environ: the whole environment.
        log: a descriptor; it gets what the process writes.
    """

    def __init__(self, module: str, arguments: tuple[str, ...], environ: Mapping[str, str], log: int):
        self.args = [module, *arguments]
        self.returncode: int | None = None
        self._status, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            request = json.dumps({"command": self.args, "environ": dict(environ)}).encode()
            socket.send_fds(_connection(), [request], [log, theirs.fileno()])
        self.pid = int(self._status.recv(16))

    def poll(self) -> int | None:
        """The exit status; None while the process runs."""
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self.returncode = int(self._status.recv(16))
            self._status.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, and return the exit status."""
        if self.returncode is None and not select.select([self._status], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        status = self.poll()
        assert status is not None
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@functools.cache
def _connection() -> socket.socket:
    """The connection to the server, which starts with the first process and ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-m", "tests.servers.fork_server", str(theirs.fileno())]
        server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
    atexit.register(server.wait)
    atexit.register(ours.close)
    return ours
