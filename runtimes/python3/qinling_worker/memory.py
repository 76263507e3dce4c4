"""Reads the memory use of processes from /proc, and kills for lack of memory from the control group."""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

_PAGE = os.sysconf("SC_PAGE_SIZE")


class Process(NamedTuple):
    """One line of the process table."""

    pid: int
    parent: int
    state: str
    resident: int


class OomKills:
    """Detects kills by the kernel's OOM killer in the worker's control group.

    Args:
        events: the descriptor of the group's file with the count; None: not available.
    """

    def __init__(self, events: int | None) -> None:
        self._events = events
        self._before = 0

    def forget(self) -> None:
        """Ignore all kills until now."""
        self._before = self._count()

    def happened(self) -> bool:
        """Whether there was a kill since the last `forget`."""
        return self._count() > self._before

    def _count(self) -> int:
        if self._events is not None:
            with contextlib.suppress(OSError):
                for line in os.pread(self._events, 4096, 0).splitlines():
                    if line.startswith(b"oom_kill "):
                        return int(line[9:])
        return 0


def processes() -> list[Process]:
    """Every process that can be seen."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb", buffering=0) as file:
                    stat = file.read(1024)
            except OSError:  # it has ended
                continue
            # The name, in parentheses, may itself hold parentheses, spaces and line breaks.
            after = stat[stat.rfind(b")") + 2 :].split(b" ", 22)
            found.append(Process(int(name), int(after[1]), after[0].decode(), int(after[21]) * _PAGE))
    return found


def descendants(root: int) -> list[Process]:
    """The live processes below `root`. Nothing leaves its tree when `root` is a subreaper."""
    children: dict[int, list[Process]] = {}
    for process in processes():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    waiting = [root]
    while waiting:
        for process in children.get(waiting.pop(), ()):
            waiting.append(process.pid)
            if process.state not in "ZX":
                found.append(process)
    return found


def below(root: int) -> set[int]:
    """The processes below `root`, and those that have ended and are not reaped.

    Quicker than `descendants`, and so sees a process that forks and ends at once.
    """
    found: set[int] = set()
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children", "rb", buffering=0) as file:
                    fresh = set(map(int, file.read().split())) - found
                found |= fresh
                waiting += fresh
    return found


def used_below(root: int, baseline: int) -> int:
    """Resident bytes of the processes below `root`, less `baseline` for each of them."""
    return sum(max(0, process.resident - baseline) for process in descendants(root))


def peak(status: int) -> int:
    """The most resident bytes that a process ever had; 0 when it is gone. `status`: its open /proc file."""
    try:
        return _bytes_in(os.pread(status, 4096, 0), b"VmHWM")
    except OSError:
        return 0


def own_resident() -> int:
    """The resident bytes of this process."""
    return _bytes_in(_own_status(), b"VmRSS")


def own_address_space() -> int:
    """The size of this process's address space."""
    return _bytes_in(_own_status(), b"VmSize")


def _own_status() -> bytes:
    with open("/proc/self/status", "rb", buffering=0) as file:
        return file.read(4096)


def field_of(status: bytes, name: bytes) -> bytes:
    """The value of a field of a /proc/PID/status file; empty if the file does not have it.

    A field begins a line. The first line holds the name that the process has given itself,
    which may look like a field; the kernel writes a line break in it as two characters.
    """
    return status.partition(b"\n" + name + b":\t")[2].partition(b"\n")[0]


def _bytes_in(status: bytes, name: bytes) -> int:
    value = field_of(status, name).split()
    return int(value[0]) * 1024 if value else 0
