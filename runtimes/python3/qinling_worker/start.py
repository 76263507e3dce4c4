"""Starts a worker, or the zygote that workers are forked from.

A worker forks its template before it reads its configuration, so the template never has the worker's secret.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from . import keyrings, linux
from .allocator import fill_gaps
from .clone import fork, fork_into

if TYPE_CHECKING:
    from typing import TypeAlias

RunTemplate: TypeAlias = "Callable[[socket.socket], NoReturn]"
Supervise: TypeAlias = "Callable[[int, int, socket.socket, int], int]"


def main(argv: list[str]) -> int:
    """Run a worker (`--listen-fd`, `--config-fd`, `--group-fd`) or a zygote (`--zygote-fd`). Returns its status."""
    # Importing argparse would take longer than the rest of the start.
    options = {argv[at]: int(argv[at + 1]) for at in range(0, len(argv) - 1, 2)}
    keyrings.join_new_session()  # once for all workers of a zygote
    if "--zygote-fd" in options:
        _run_zygote(options["--zygote-fd"])
    descriptors = options["--listen-fd"], options["--config-fd"], options.get("--group-fd")
    return _work(*descriptors, _import_and_run_template, _import_and_supervise)


def _work(listen_fd: int, config_fd: int, group_fd: int | None, run_template: RunTemplate, supervise: Supervise) -> int:
    linux.set_dumpable(False)
    linux.set_no_new_privs()
    commands, template_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    template = _fork_into(group_fd)
    if template == 0:
        commands.close()
        try:
            run_template(template_end)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)
    template_end.close()
    return supervise(listen_fd, config_fd, commands, template)


def _fork_into(group_fd: int | None) -> int:
    """Fork into a control group. Without one, or if this process may not, fork as usual."""
    if group_fd is None:
        return fork()
    try:
        pid, pidfd = fork_into(0, group_fd)
    except OSError:  # the freezer then stops the function by signals
        return fork()
    finally:
        os.close(group_fd)
    if pid != 0:
        os.close(pidfd)
    return pid


def _import_and_run_template(commands: socket.socket) -> NoReturn:
    from . import warm

    run_child = warm.import_child()
    from .sandbox import count_alone
    from .template import Template

    counted_alone = count_alone()
    warm.hide_others()
    _freeze_memory()
    Template(commands, run_child, counted_alone=counted_alone).run()


def _import_and_supervise(listen_fd: int, config_fd: int, commands: socket.socket, template: int) -> int:
    from .supervise import supervise  # the template imports its own modules meanwhile

    _freeze_memory()
    return supervise(listen_fd, config_fd, commands, template)


def _run_zygote(control_fd: int) -> NoReturn:
    from . import warm

    run_child = warm.import_child()
    from .sandbox import protect_devices
    from .supervise import supervise
    from .template import Template
    from .zygote import Zygote

    def work(listen_fd: int, config_fd: int, group_fd: int | None) -> int:
        return _work(listen_fd, config_fd, group_fd, lambda commands: Template(commands, run_child).run(), supervise)

    protect_devices()
    zygote = Zygote(socket.socket(fileno=control_fd), work)
    warm.hide_others()  # not in each template: there, each page that this changes would be copied for the worker
    _freeze_memory()
    zygote.run()


def _freeze_memory() -> None:
    """Keep the pages of existing objects shared with forked processes: no new objects there, no garbage collection."""
    gc.collect()
    fill_gaps()
    gc.freeze()
