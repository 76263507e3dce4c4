"""Finding the processes of a worker where neither a group nor a namespace holds them together, and ending them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path

_MARK = "qf_worker="
_MOST_LOOKS = 500  # a bound, because processes may fork faster than they are stopped


def mark(install_id: str, worker_id: str = "") -> str:
    """What the command lines of a worker's processes hold; without `worker_id`, those of all workers."""
    return f"{_MARK}{install_id}/{worker_id}/" if worker_id else f"{_MARK}{install_id}/"


def find(marks: Collection[str], uids: Collection[int] = ()) -> set[int]:
    """Live processes whose command line holds a mark or that run under one of `uids`, with their descendants.

    A command line, unlike an environment, can be read whatever the process does to its own `dumpable` flag.
    """
    found: set[int] = set()
    children: dict[int, list[int]] = {}
    needles = [text.encode() for text in marks]
    for entry in os.listdir("/proc"):  # noqa: PTH208 - names, and quickly: this runs in a loop
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            status = Path(f"/proc/{entry}/status").read_bytes()
            # The first line holds the name that the process has given itself, which may look like a field.
            fields = dict(line.split(b":\t", 1) for line in status.split(b"\n")[1:] if b":\t" in line)
            # The main thread may have ended, and others go on.
            main_ended = fields[b"State"][:1] in (b"Z", b"X")
            if main_ended and int(fields[b"Threads"]) <= 1:
                continue
            words = _command_line(entry, main_ended=main_ended).split(b"\0")
        except OSError:
            continue  # it has just ended
        children.setdefault(int(fields[b"PPid"]), []).append(int(entry))
        marked = any(word.startswith(needle) for word in words for needle in needles)
        if marked or (uids and not set(uids).isdisjoint(map(int, fields[b"Uid"].split()))):
            found.add(int(entry))
    waiting = list(found)
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return found


def _command_line(pid: str, *, main_ended: bool) -> bytes:
    """The command line of a process. When its main thread has ended, the kernel shows it for the other threads only.

    Raises:
        OSError: the process has ended.
    """
    if not main_ended:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - names, and quickly
        with contextlib.suppress(OSError):
            if text := Path(f"/proc/{pid}/task/{task}/cmdline").read_bytes():
                return text
    return b""


def kill_found(marks: Collection[str], uids: Collection[int] = ()) -> bool:
    """Kill the processes that `find` finds. Returns whether there were any.

    All processes are stopped before the first one is killed. A process without the mark is found only through its
    parents: if these were killed one by one, a process that one of them has just forked could no longer be found.
    """
    stopped: set[int] = set()
    fresh = find(marks, uids)
    for _ in range(_MOST_LOOKS):
        if not fresh:
            break
        _signal(fresh, signal.SIGSTOP)
        stopped |= fresh
        fresh = _below(stopped) - stopped
    _signal(stopped, signal.SIGKILL)
    return bool(stopped)


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


def _below(pids: Collection[int]) -> set[int]:
    """The processes below `pids`, also ended ones: such a process may have forked another one before it ended.

    Reading all of /proc would be too slow to see a process that forks and ends at once.
    """
    found: set[int] = set()
    waiting = list(pids)
    while waiting:
        pid = waiting.pop()
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - names, and quickly
                fresh = set(map(int, Path(f"/proc/{pid}/task/{task}/children").read_bytes().split())) - found
                found |= fresh
                waiting += fresh
    return found


def _signal(pids: Collection[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
