"""Runs the supervisor of a worker: reads the configuration, serves until the end, and waits for the template."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time

from . import linux
from .config import Config
from .supervisor import Supervisor

_STOP_TIMEOUT_S = 10.0
_READ = 64 * 1024


def supervise(listen_fd: int, config_fd: int, commands: socket.socket, template: int) -> int:
    """Run the supervisor in this process. Returns its exit status.

    Args:
        listen_fd: the listening socket.
        config_fd: the pipe with the configuration.
        commands: the socket to the template process.
        template: the pid of the template process.
    """
    linux.keep_capabilities(())
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    signal.signal(signal.SIGINT, lambda _number, _frame: sys.exit(0))
    try:
        config = Config.decode(_read(config_fd))
        for fd in (listen_fd, *config.descriptors()):
            os.set_inheritable(fd, False)
        return Supervisor(config, socket.socket(fileno=listen_fd), commands, template).run()
    finally:
        commands.close()  # now the template ends all processes below it, and itself
        _wait_for(template)


def _read(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, _READ):
        parts.append(part)
    os.close(fd)
    return b"".join(parts)


def _wait_for(pid: int) -> None:
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return
        time.sleep(0.01)
