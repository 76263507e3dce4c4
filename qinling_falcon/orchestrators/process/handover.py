"""What the manager passes to a new worker: descriptors, and a configuration that holds their numbers."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from qinling_falcon.orchestrators import addresses
from qinling_falcon.orchestrators.process.cgroups import Group

_BACKLOG = 64


class Handover(contextlib.ExitStack):
    """The descriptors of one start; leaving the context closes the manager's copies.

    Every descriptor is close-on-exec and passed explicitly, so that workers that start at the same time get none of
    each other's. The manager must close its copies. If it kept the listening socket, calls to a dead worker would hang.

    Args:
        address: the `@name` on which the worker is to listen.
        group: the worker's control groups.
        code_dir: the host's folder of the package, for a worker that sees it read-only; None: for all others.
        first_number: the number of the first descriptor in the worker; the others follow it. None: the worker gets the
            same numbers as the manager's.

    Attributes:
        listen_fd: the worker's number of the listening socket.
        config_fd: the worker's number of the pipe with its configuration.
        group_fd: the worker's number of the group that its template is forked into; None without one.
        descriptors: the manager's numbers of all descriptors to pass, in order.
    """

    def __init__(self, address: str, group: Group, code_dir: Path | None, first_number: int | None):
        super().__init__()
        self._first_number = first_number
        self.descriptors: list[int] = []
        listener = self.enter_context(addresses.listen(address, _BACKLOG))
        config_end, own_end = os.pipe()
        self._writer = self.enter_context(os.fdopen(own_end, "wb"))
        self.callback(os.close, config_end)
        self.listen_fd = self._number(listener.fileno())
        self.config_fd = self._number(config_end)
        self._named: dict[str, Any] = {}
        if code_dir is not None:
            self._named["code_fd"] = self._hold(os.open(code_dir, os.O_RDONLY | os.O_DIRECTORY))
        cpu = group.open_cpu()
        if cpu:
            self._named.update(cpu_shares_fd=self._hold(cpu[0]), cpu_shares_format=cpu[1])
        self._named["memory_fds"] = {use: self._hold(fd) for use, fd in group.child.open_memory().items()}
        self._named["entrances"] = [self._hold(fd) for fd in group.child.open_entrances()]
        freezer, folder = group.child.open_freezer(), group.child.open_folder()
        self._named["freeze_fd"] = None if freezer is None else self._hold(freezer)
        self.group_fd = None if folder is None else self._hold(folder)

    def configure(self, config: dict[str, Any]) -> None:
        """Write the configuration and the numbers of the descriptors into the worker's pipe."""
        with contextlib.suppress(BrokenPipeError):  # the worker has ended
            self._writer.write(json.dumps({**config, **self._named}).encode())
            self._writer.close()

    def _hold(self, descriptor: int) -> int:
        self.callback(os.close, descriptor)
        return self._number(descriptor)

    def _number(self, descriptor: int) -> int:
        self.descriptors.append(descriptor)
        if self._first_number is None:
            return descriptor
        return self._first_number + len(self.descriptors) - 1
