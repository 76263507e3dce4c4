"""Starting a worker, or the zygote that workers are forked from.

A worker forks its template before there is a secret in its memory.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from . import keyrings, linux

_STOP_TIMEOUT_S = 10.0

RunChild = Callable[..., NoReturn]


def main(argv: list[str]) -> int:
    """Run a worker (`--listen-fd N --config-fd M`) or a zygote (`--zygote-fd N`); the exit status."""
    # argparse would take longer than all that follows.
    options = {argv[at]: int(argv[at + 1]) for at in range(0, len(argv) - 1, 2)}
    keyrings.join_new_session()  # once for all workers of a zygote
    if "--zygote-fd" in options:
        _run_zygote(options["--zygote-fd"])
    return _run_worker(options["--listen-fd"], options["--config-fd"], None)


def _run_zygote(control_fd: int) -> NoReturn:
    run_child = _import_child()
    from . import supervisor, template  # noqa: F401 - a worker imports nothing after the fork
    from .zygote import Zygote

    _freeze_memory()
    Zygote(
        socket.socket(fileno=control_fd), lambda listen_fd, config_fd: _run_worker(listen_fd, config_fd, run_child)
    ).run()


def _run_worker(listen_fd: int, config_fd: int, run_child: RunChild | None) -> int:
    linux.set_dumpable(False)
    linux.set_no_new_privs()
    commands, template_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    template = os.fork()
    if template == 0:
        commands.close()
        _run_template(template_end, run_child)
    template_end.close()

    from .config import Config  # the template imports its own modules meanwhile
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
        supervisor = Supervisor(config, socket.socket(fileno=listen_fd), commands, template)
        if run_child is None:
            _freeze_memory()
        return supervisor.run()
    finally:
        commands.close()  # upon which the template ends what is below it, and itself
        _wait_for(template)


def _run_template(commands: socket.socket, run_child: RunChild | None) -> NoReturn:
    try:
        if run_child is None:
            run_child = _import_child()
            from .template import Template

            _freeze_memory()
        else:
            from .template import Template
        Template(commands, run_child).run()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def _import_child() -> RunChild:
    from .warm import load_sealed

    run_child: RunChild = load_sealed("failures", "results", "loading", "child").run
    return run_child


def _freeze_memory() -> None:
    """Keep the garbage collector from what exists now, so that its pages stay shared with forked processes."""
    gc.collect()
    gc.freeze()


def _wait_for(pid: int) -> None:
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return
        time.sleep(0.01)
