"""What the process manager asks of the kernel: ends that follow a parent's, adopted orphans, marked processes."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PROC = Path("/proc")


def end_with_parent(signum: signal.Signals) -> None:
    """Have the kernel send `signum` to this process when its parent ends.

    The tie is to the parent's thread that started this process, and is lost when this process changes its uid.
    """
    parent = os.getppid()
    _prctl(_PR_SET_PDEATHSIG, signum)
    if os.getppid() != parent:  # it ended in between
        os.kill(os.getpid(), signum)


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def descendants() -> set[int]:
    """Ids of the live processes below this one (zombies are not alive)."""
    children: dict[int, list[int]] = {}
    for pid, (state, parent) in _table().items():
        if state not in "ZX":
            children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    wanted = [os.getpid()]
    while wanted:
        below = children.get(wanted.pop(), [])
        wanted.extend(below)
        found.update(below)
    return found


def marked(name: str, value: str) -> set[int]:
    """Ids of the live processes that were started with `name=value` in their environment, this one excepted."""
    entry = f"{name}={value}".encode()
    found = set()
    for pid, (state, _) in _table().items():
        if pid == os.getpid() or state in "ZX":
            continue
        try:
            if entry in (_PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                found.add(pid)
        except OSError:
            continue  # ended meanwhile, or another user's
    return found


def kill_all(find: Callable[[], set[int]], timeout_s: float) -> set[int]:
    """SIGKILL what `find` finds until it finds nothing, for some start others while they are killed.

    Returns:
        all that were killed.
    """
    killed: set[int] = set()
    deadline = time.monotonic() + timeout_s
    while (left := find()) and time.monotonic() < deadline:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        killed |= left
        time.sleep(0.01)
    return killed


def reap_adopted(own: Iterable[int]) -> None:
    """Collect ended orphans that were adopted; children in `own` are left to whoever waits for them."""
    for pid, (state, parent) in _table().items():
        if state == "Z" and parent == os.getpid() and pid not in own:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass


def _table() -> dict[int, tuple[str, int]]:
    """Every process: its state's letter and its parent. It is a zombie, Z, only if all of its threads have ended."""
    found = {}
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            has_threads = int(fields[17]) > 1  # the kernel shows the state of the main thread, which may have ended
            found[int(folder.name)] = ("R" if has_threads else fields[0], int(fields[1]))
    return found


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option} failed")
