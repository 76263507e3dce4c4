"""Starting a worker: the template is forked before there is a secret in this process's memory."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from typing import NoReturn

from . import linux

_STOP_TIMEOUT_S = 10.0


def main(argv: list[str]) -> int:
    """Run a worker until it is told to end. Returns its exit status."""
    # argparse would take longer than all that follows.
    options = {argv[at]: argv[at + 1] for at in range(0, len(argv) - 1, 2)}
    listen_fd, config_fd = int(options["--listen-fd"]), int(options["--config-fd"])
    linux.set_dumpable(False)
    linux.set_no_new_privs()
    commands, template_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    template = os.fork()
    if template == 0:
        commands.close()
        _run_template(template_end)
    template_end.close()

    from .config import Config  # the template starts up meanwhile
    from .supervisor import Supervisor

    linux.keep_capabilities(())
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    signal.signal(signal.SIGINT, lambda _number, _frame: sys.exit(0))
    try:
        with open(config_fd, "rb") as file:
            config = Config.decode(file.read())
        for fd in (listen_fd, config.cpu_shares_fd, config.memory_events_fd):
            if fd is not None:
                os.set_inheritable(fd, False)
        return Supervisor(config, socket.socket(fileno=listen_fd), commands, template).run()
    finally:
        commands.close()  # upon which the template ends what is below it, and itself
        _wait_for(template)


def _run_template(commands: socket.socket) -> NoReturn:
    try:
        from .template import Template

        Template(commands).run()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def _wait_for(pid: int) -> None:
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return
        time.sleep(0.01)
