"""Executes programs in control groups, and declares what the manager needs of a worker's process.

A worker's process is executed here or forked by a zygote (`zygotes.py`); both kinds are a `Process`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from qinling_falcon.orchestrators.process.cgroups import Group
from qinling_falcon.orchestrators.process.sandbox import Command

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Process(Protocol):
    """The first process of a worker: a `subprocess.Popen`, or forked by a zygote."""

    def poll(self) -> int | None:
        """Its exit status once it has ended (a negative signal number if a signal ended it); None until then."""

    def wait(self, timeout: float) -> int:
        """Wait for its end, and return its exit status as `poll` does.

        Args:
            timeout: seconds to wait at most.

        Raises:
            subprocess.TimeoutExpired: it has not ended in time.
        """

    def kill(self) -> None:
        """Send it SIGKILL, if it has not ended."""


def cpu_ms(pids: Iterable[int]) -> float:
    """The CPU time that the first threads of these processes have used so far, without processes that have ended.

    This reads one short file a process. The CPU times in `stat` have a resolution of 10 ms, as long as a start.
    """
    used_ns = 0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended, or the kernel does not count this
            used_ns += int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
    return used_ns / 1e6


def execute(command: Command, group: Group, descriptors: Sequence[int], stdin: int, output: int) -> Process:
    """Execute the command inside the groups. The kernel kills the process when the calling thread ends.

    Args:
        command: what to execute.
        group: the control groups that the process enters before it executes the command.
        descriptors: descriptors to pass, besides those of the command.
        stdin: the descriptor of its standard input.
        output: the descriptor of its standard output and error.

    Raises:
        OSError: the program can't be executed.
    """
    entrances = group.open_entrances()
    freezer = group.open_freezer_entrance()
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
            start_new_session=True,  # a Ctrl-C in the service's terminal must not reach its workers
            preexec_fn=_entering(entrances, freezer),
        )
    finally:
        for entrance in [*entrances, *([] if freezer is None else [freezer])]:
            os.close(entrance)


def _entering(entrances: Sequence[int], freezer: int | None) -> Callable[[], None]:
    """A function for the forked process to call before it executes the command."""
    manager = os.getpid()

    def enter() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != manager:  # the manager ended before prctl was called
            os._exit(1)
        for entrance in entrances:
            os.write(entrance, b"0")
        if freezer is not None:
            with contextlib.suppress(OSError):  # the function is then stopped by signals
                os.write(freezer, b"0")
        os.umask(0o022)
        # With the limit 0 the kernel would still start the host's handler of core dumps; with 1 it does not.
        core = 0 if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0 else 1
        resource.setrlimit(resource.RLIMIT_CORE, (core, core))

    return enter
