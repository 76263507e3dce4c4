"""Reads the memory use of processes from /proc, and kills for lack of memory from the control group."""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

_PAGE = os.sysconf("SC_PAGE_SIZE")
# Positions in a `stat` file, from the state on.
_STATE, _PARENT, _THREADS, _RESIDENT = 0, 1, 17, 21
_ENDED = (b"Z", b"X")


class Process(NamedTuple):
    """One line of the process table.

    When the main thread of a process has ended and others go on, the kernel shows the main thread as a zombie without
    memory. `task`, `state` and `resident` are then those of another thread.
    """

    pid: int
    parent: int
    task: int
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
            pid = task = int(name)
            try:
                fields = _read_stat(f"/proc/{pid}/stat")
                if fields[_STATE] in _ENDED and int(fields[_THREADS]) > 1:
                    task, fields = _find_live_task(pid)
            except OSError:  # it has ended
                continue
            resident = int(fields[_RESIDENT]) * _PAGE
            found.append(Process(pid, int(fields[_PARENT]), task, fields[_STATE].decode(), resident))
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


def is_live(pid: int) -> bool:
    """Whether a thread of the process is left. Its main thread may have ended before the others."""
    try:
        fields = _read_stat(f"/proc/{pid}/stat")
    except OSError:
        return False
    return fields[_STATE] not in _ENDED or int(fields[_THREADS]) > 1


def is_stopped(pid: int) -> bool:
    """Whether the process is stopped by a signal."""
    return b"T" in _states(pid)


def is_awake(pid: int) -> bool:
    """Whether a thread of the process may run: the process is not stopped, and not all of its threads have ended.

    A thread that waits in the kernel and can't be interrupted stops before it returns from there. One that has called
    `vfork` stays there for as long as its child is stopped. A process that a debugger has stopped (t) does not run.
    """
    states = _states(pid)
    return b"T" not in states and not states <= {b"D", b"t", *_ENDED}


def _states(pid: int) -> set[bytes]:
    """The states of the threads of a process; empty if it has ended."""
    states: set[bytes] = set()
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                states.add(_read_stat(f"/proc/{pid}/task/{task}/stat")[_STATE])
    return states


def _find_live_task(pid: int) -> tuple[int, list[bytes]]:
    """A thread that has not ended, and the fields of its `stat` file.

    Raises:
        OSError: there is none any more.
    """
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError):
            fields = _read_stat(f"/proc/{pid}/task/{task}/stat")
            if fields[_STATE] not in _ENDED:
                return int(task), fields
    raise ProcessLookupError(pid)


def _read_stat(path: str) -> list[bytes]:
    """The fields of a `stat` file, from the state on.

    Raises:
        OSError: the process or thread has ended.
    """
    with open(path, "rb", buffering=0) as file:
        stat = file.read(1024)
    # The name, in parentheses, may itself hold parentheses, spaces and line breaks.
    return stat[stat.rfind(b")") + 2 :].split(b" ", 22)


def is_alone(pid: int, root: int) -> bool:
    """Whether `pid` is the only live process below `root`, and has one thread."""
    try:
        return [process.pid for process in descendants(root)] == [pid] and len(os.listdir(f"/proc/{pid}/task")) == 1
    except OSError:
        return False


def below(root: int) -> set[int]:
    """The processes below `root`, including ended ones that are not reaped yet.

    This is faster than `descendants`, so it also finds a process that forks and ends at once.
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


def threads_below(root: int) -> int:
    """How many threads the processes below `root` have in all."""
    count = 0
    for pid in below(root):
        with contextlib.suppress(OSError):
            count += int(_read_stat(f"/proc/{pid}/stat")[_THREADS])
    return count


def used_below(root: int, baseline: int, limit: int) -> int:
    """Bytes that the processes below `root` use. A page that several of them share counts once.

    How pages are shared is read only if the sum of resident bytes exceeds `limit`, because the kernel
    walks all pages for it (0.5 ms for 30 MB).

    Args:
        root: the pid above all of these processes.
        baseline: the bytes that a process forked from `root` uses before it runs anything. They do not count.
        limit: bytes. A result above it is accurate; a lower one may be too large.
    """
    found = descendants(root)
    resident = sum(process.resident for process in found) - baseline
    if resident <= limit or not found:
        return max(0, resident)
    shares = others = 0
    for process in found:
        share = _share_of(process)
        if share is None:
            others += max(0, process.resident - baseline)
        else:
            shares += share
    largest = max(process.resident for process in found) - baseline
    return max(largest, max(0, shares - baseline) + others)


def _share_of(process: Process) -> int | None:
    """The proportional set size of a process: each of its pages divided by the number of processes that share it.

    0 if the process has ended. None if this can't be read: the process has another user id, or is not dumpable.
    """
    try:
        with open(f"/proc/{process.pid}/task/{process.task}/smaps_rollup", "rb", buffering=0) as file:
            return _bytes_in(file.read(4096), b"Pss")
    except (FileNotFoundError, ProcessLookupError):
        return 0  # what it shared is now in the shares of the others
    except OSError:
        return None


def peak(status: int) -> int:
    """The most resident bytes that a process ever had; 0 when it is gone. `status`: its open /proc file."""
    try:
        return _bytes_in(os.pread(status, 4096, 0), b"VmHWM")
    except OSError:
        return 0


def mapped(status: int) -> int:
    """The resident bytes of files that a process has mapped; 0 when it is gone. `status`: its open /proc file."""
    try:
        text = os.pread(status, 4096, 0)
    except OSError:
        return 0
    return _bytes_in(text, b"RssFile") + _bytes_in(text, b"RssShmem")


def anonymous(pid: int) -> int:
    """The resident bytes of a process that belong to no file.

    Raises:
        OSError: the process has ended.
    """
    with open(f"/proc/{pid}/status", "rb", buffering=0) as file:
        return _bytes_in(file.read(4096), b"RssAnon")


def own_resident() -> int:
    """The resident bytes of this process."""
    with open("/proc/self/status", "rb", buffering=0) as file:
        return _bytes_in(file.read(4096), b"VmRSS")


def field_of(status: bytes, name: bytes) -> bytes:
    """The value of a field of a /proc/PID/status file; empty if the file does not have it.

    A field begins a line. The first line holds the name that the process has given itself,
    which may look like a field; the kernel writes a line break in it as two characters.
    """
    return status.partition(b"\n" + name + b":")[2].partition(b"\n")[0].strip()


def _bytes_in(status: bytes, name: bytes) -> int:
    value = field_of(status, name).split()
    return int(value[0]) * 1024 if value else 0
