"""Processes that the manager executes, and what it asks of a worker's process, however that was made."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Sequence
from typing import Protocol

from qinling_falcon.orchestrators.process.cgroups import Group
from qinling_falcon.orchestrators.process.sandbox import Command

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Process(Protocol):
    """The first process of a worker: a `subprocess.Popen`, or forked by a zygote."""

    def poll(self) -> int | None:
        """Its exit status (a signal's number below 0) once it has ended, and None until then."""

    def wait(self, timeout: float) -> int:
        """As `poll`, after waiting for its end.

        Raises:
            subprocess.TimeoutExpired: it has not ended in time.
        """

    def kill(self) -> None:
        """Send it SIGKILL, if it has not ended."""


def execute(command: Command, group: Group, descriptors: Sequence[int], stdin: int, output: int) -> Process:
    """Execute the command inside the groups; it ends with this thread.

    Args:
        command: what to execute.
        group: the control groups that it enters first.
        descriptors: passed on beside those of the command.
        stdin: its standard input.
        output: where its standard output and error go.
    """
    entrances = group.open_entrances()
    try:
        return subprocess.Popen(
            command.words,
            executable=command.program,
            env=command.environment,
            pass_fds=[*descriptors, *command.descriptors],
            stdin=stdin,
            stdout=output,
            stderr=output,
            cwd="/",
            start_new_session=True,  # a Ctrl-C for the service is not for its workers
            preexec_fn=_entering(entrances),
        )
    finally:
        for entrance in entrances:
            os.close(entrance)


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
        # At 0 the kernel would still start the host's handler of core dumps.
        core = 0 if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0 else 1
        resource.setrlimit(resource.RLIMIT_CORE, (core, core))

    return enter
