"""How many workers this host allows, if the setting `MAX_WORKERS` does not say.

Four things bound the number: memory, processes, open files, and pairs of user ids. The size of an idle worker says
nothing of what a function uses while it runs, so only half of the memory and of the processes counts. The limit on the
memory of all workers together (`WORKERS_MEMORY`) protects the host from busy ones.
"""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

from qinling_falcon.orchestrators.process.cgroups import groups_around
from qinling_falcon.orchestrators.process.slots import MOST_SLOTS
from qinling_falcon.setting_fields import MIB
from qinling_falcon.settings import MOST_WORKERS, Settings

# Measured for an assigned worker of Python 3.11 that has run a no-op function and is idle, with shared pages divided
# among the processes that share them (PSS): 8 MB forked from a zygote, 21 MB executed.
_FORKED_SIZE = 8 * MIB
_EXECUTED_SIZE = 21 * MIB
# bubblewrap's two, the supervisor, its template and the function's process. A forked worker has none of bubblewrap's.
_PROCESSES = 5
# The manager holds up to four descriptors for each worker, and a web process one connection. The rest is for others.
_FILES = 8
# Fewer workers than these are of no use, whatever the host says: the stocks of two runtimes, and some for functions.
_LEAST = 8
# Version 1 says so if there is no limit. Larger pages make the number smaller.
_NO_LIMIT = 1 << 62


@dataclass(frozen=True, slots=True)
class Capacity:
    """How many workers a host allows.

    Attributes:
        workers: the number.
        bound: what bounds it, for the operator.
    """

    workers: int
    bound: str


def host_capacity(settings: Settings, open_files: int, proc: Path = Path("/proc"), *, are_forked: bool) -> Capacity:
    """How many workers this host allows.

    Args:
        settings: the service's settings.
        open_files: how many files a process may have open.
        proc: the folder of the kernel's files.
        are_forked: whether workers are forked from zygotes, and so share more memory.
    """
    memory = min(available_memory(proc) // 2, memory_for_workers(settings))
    bounds = [
        Capacity(memory // (_FORKED_SIZE if are_forked else _EXECUTED_SIZE), "memory"),
        Capacity(available_processes(proc) // 2 // _PROCESSES, "pids.max"),
        Capacity(open_files // _FILES, "open files"),
        Capacity(MOST_SLOTS, "user ids"),
        Capacity(MOST_WORKERS, "the most workers of one machine"),
    ]
    least = min(bounds, key=lambda one: one.workers)
    return least if least.workers >= _LEAST else Capacity(_LEAST, least.bound)


def memory_for_workers(settings: Settings) -> int:
    """How many bytes all workers together may use: `WORKERS_MEMORY`, or four fifths of the machine's memory."""
    size: int = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return settings.workers_memory or size * 4 // 5


def allow_open_files() -> int:
    """Raise this process's limit of open files as far as allowed: the manager holds descriptors for each worker.

    Returns:
        The limit.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


def available_memory(proc: Path = Path("/proc")) -> int:
    """How many bytes of memory can still be used, or may be used by the control groups around this process."""
    fields = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines() if ":" in line)
    limits = [int(fields["MemAvailable"].split()[0]) * 1024]
    for folder in _groups(proc):
        limits += _limit(folder / "memory.max") + _limit(folder / "memory.limit_in_bytes")
        # In version 1, this also counts groups that a container does not see.
        for line in _read_lines(folder / "memory.stat"):
            name, _, value = line.partition(" ")
            if name == "hierarchical_memory_limit" and int(value) < _NO_LIMIT:
                limits.append(int(value))
    return min(limits)


def available_processes(proc: Path = Path("/proc")) -> int:
    """How many processes the control groups around this process allow."""
    return min([sys.maxsize, *(limit for folder in _groups(proc) for limit in _limit(folder / "pids.max"))])


def _groups(proc: Path) -> list[Path]:
    try:
        return groups_around(proc / "self")
    except OSError:
        return []


def _limit(path: Path) -> list[int]:
    """The limit in a file; empty if there is no such file, or no limit."""
    return [int(line) for line in _read_lines(path)[:1] if line.isdigit() and int(line) < _NO_LIMIT]


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
