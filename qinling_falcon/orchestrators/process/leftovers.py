"""Finding the processes of a worker where neither a group nor a namespace holds them together, and ending them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path

_MARK = "qf_worker="


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
            status = Path(f"/proc/{entry}/status").read_text(errors="replace")
            words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it has just ended
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        if fields["State"][0] in "ZX":
            continue
        children.setdefault(int(fields["PPid"]), []).append(int(entry))
        marked = any(word.startswith(needle) for word in words for needle in needles)
        if marked or (uids and not set(uids).isdisjoint(map(int, fields["Uid"].split()))):
            found.add(int(entry))
    waiting = list(found)
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return found


def kill(pids: Collection[int]) -> None:
    """Send SIGKILL to each."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def end(strike: Callable[[], bool], timeout_s: float) -> bool:
    """Call `strike` (kill what is found, say whether anything was) until nothing is left; whether that was reached."""
    deadline = time.monotonic() + timeout_s
    pause_s = 0.001
    while strike():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.02)
    return True
