"""Finding the processes of a worker where neither a group nor a namespace holds them together, and ending them."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path

_MARK = "qf_worker="
_MOST_LOOKS = 500  # a bound, because processes may fork faster than they are stopped
_STOP_S = 0.001  # a process on another processor stops a moment after its signal


def mark(install_id: str, worker_id: str = "") -> str:
    """What the command lines of a worker's processes hold; without `worker_id`, those of all workers."""
    return f"{_MARK}{install_id}/{worker_id}/" if worker_id else f"{_MARK}{install_id}/"


def find(marks: Collection[str], uids: Collection[int] = ()) -> set[int]:
    """Live processes whose command line holds a mark or that run under one of `uids`, with their descendants.

    A command line, unlike an environment, can be read whatever the process does to its own `dumpable` flag.
    """
    found: set[int] = set()
    children: dict[int, list[int]] = {}
    needles = [b"\0" + text.encode() for text in marks]  # at the begin of a word
    for entry in os.listdir("/proc"):  # noqa: PTH208 - names, and quickly: this runs in a loop
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            status = _read(f"/proc/{entry}/status")
            # The main thread may have ended, and others go on.
            main_ended = _field(status, b"State")[:1] in (b"Z", b"X")
            if main_ended and int(_field(status, b"Threads")) <= 1:
                continue
            line = b"\0" + _command_line(entry, main_ended=main_ended)
        except OSError:
            continue  # it has just ended
        children.setdefault(int(_field(status, b"PPid")), []).append(int(entry))
        marked = any(needle in line for needle in needles)
        if marked or (uids and not set(uids).isdisjoint(map(int, _field(status, b"Uid").split()))):
            found.add(int(entry))
    waiting = list(found)
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return found


def _read(path: str) -> bytes:
    """The content of a file of /proc, in half the time of `Path.read_bytes`."""
    with io.FileIO(path) as file:
        return file.readall()


def _field(status: bytes, name: bytes) -> bytes:
    """A field of `/proc/PID/status`; reading all of them would take most of the time."""
    # Not in the first line: it holds the name that the process has given itself, which may look like a field.
    begin = status.index(b"\n" + name + b":\t") + len(name) + 3
    return status[begin : status.index(b"\n", begin)]


def _command_line(pid: str, *, main_ended: bool) -> bytes:
    """The command line of a process. When its main thread has ended, the kernel shows it for the other threads only.

    Raises:
        OSError: the process has ended.
    """
    if not main_ended:
        return _read(f"/proc/{pid}/cmdline")
    for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - names, and quickly
        with contextlib.suppress(OSError):
            if text := _read(f"/proc/{pid}/task/{task}/cmdline"):
                return text
    return b""


def kill_found(marks: Collection[str], uids: Collection[int] = ()) -> bool:
    """Kill the processes that `find` finds. Returns whether there were any.

    All processes are stopped before the first one is killed. A process without the mark is found only through its
    parents: if these were killed one by one, a process that one of them has just forked could no longer be found.
    """
    found = find(marks, uids)
    _signal(found, signal.SIGSTOP)
    parents = set(found)
    for _ in range(_MOST_LOOKS):
        if fresh := _stop_children(parents, found):
            found |= fresh
            parents |= fresh
        elif any(map(_is_awake, parents)):  # it may be in the midst of a fork
            time.sleep(_STOP_S)
        else:
            break
    _signal(found, signal.SIGKILL)
    return bool(found)


def end(kill_found: Callable[[], bool], timeout_s: float) -> bool:
    """Call `kill_found`, which kills what it finds, until it has found nothing. Returns whether that came in time."""
    deadline = time.monotonic() + timeout_s
    pause_s = 0.001
    while kill_found():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.02)
    return True


def _stop_children(parents: set[int], known: Collection[int]) -> set[int]:
    """Stop the children of `parents` that are not known yet, also ended ones. Returns them.

    Processes that have ended are removed from `parents`: the kernel has given their children to another one. A chain
    of processes, each of which forks the next one and ends, leaves thousands of them. A look at all of these would
    take so long that the chain goes on meanwhile.
    """
    fresh: set[int] = set()
    for pid in list(parents):
        if not _states(pid) - {b"Z", b"X"}:
            parents.discard(pid)
            continue
        for child in reversed(_children(pid)):  # the newest first, because it is the one of a chain that runs
            if child not in known and child not in fresh:
                _signal([child], signal.SIGSTOP)
                fresh.add(child)
    return fresh


def _is_awake(pid: int) -> bool:
    """Whether a process may still fork. One that waits in the kernel for a child that it has forked does not."""
    states = _states(pid)
    return b"T" not in states and not states <= {b"D", b"t", b"Z", b"X"}


def _states(pid: int) -> set[bytes]:
    """The states of the threads of a process; empty if it has ended."""
    states: set[bytes] = set()
    for task in _tasks(pid):
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{pid}/task/{task}/stat").read_bytes()
            states.add(stat[stat.rfind(b")") + 2 :][:1])
    return states


def _children(pid: int) -> list[int]:
    """The children of a process, in the order in which it got them."""
    found: list[int] = []
    for task in _tasks(pid):
        with contextlib.suppress(OSError):
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_bytes().split())
    return found


def _tasks(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - names, and quickly
    return []


def _signal(pids: Collection[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
