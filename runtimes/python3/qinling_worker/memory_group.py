"""The control group of the child's processes: reads their memory use, and sets its limit."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Mapping

_BARE = 16 << 20  # more than a child uses before user code runs in it
# Before each try to shrink the group. Dropped caches count until the kernel has freed them, some milliseconds later.
_PAUSES_S = (0, 0.005, 0.01, 0.02, 0.05)


class MemoryGroup:
    """Reads and limits the memory of a control group by descriptors of its files.

    All memory counts, also that of no process (memfds, pipes), and shared memory counts once. Not counted are the page
    cache of files, and the files in the scratch folders.

    Args:
        files: descriptors of the group's files by name: `usage`, `stat`, `limit`; `peak`, if the kernel has it; and
            `kernel` in version 1.
        scratch_dirs: those that are file systems of their own are in memory.
        scratch_size: the most bytes that these take.
    """

    def __init__(self, files: Mapping[str, int], scratch_dirs: Iterable[str], scratch_size: int) -> None:
        self._usage = files["usage"]
        self._peak = files.get("peak")
        self._stat = files["stat"]
        self._limit = files["limit"]
        self._kernel = files.get("kernel")
        self._scratch_dirs = [folder for folder in scratch_dirs if os.path.ismount(folder)]
        self._scratch_size = scratch_size
        self._bare = 0

    def set_limit(self, memory_size: int) -> None:
        """Let the kernel end processes that take far more than `memory_size`: all scratch folders may be full."""
        with contextlib.suppress(OSError):  # more than the group was made for: that stays its limit
            os.pwrite(self._limit, b"%d" % (memory_size + self._scratch_size + _BARE), 0)

    def set_bare(self) -> None:
        """Remember what is in use before the child runs user code. It does not count."""
        self._bare = self._used()
        if self._peak is not None:
            with contextlib.suppress(OSError):  # not in version 2 before Linux 6.12: the peak is that of all children
                os.pwrite(self._peak, b"0", 0)

    def may_have_used(self, limit: int) -> bool:
        """Whether more than `limit` may have been in use at some time since `set_bare`.

        The caches and scratch files that exist now are subtracted, because those of that time are not known.
        """
        if self._peak is None:
            return True
        return self._number(self._peak) - self._uncounted() - self._bare > limit

    def used(self, limit: int) -> int:
        """Bytes in use, beyond those of a bare child; accurate above `limit`."""
        raw = self._number(self._usage) - self._bare
        if raw <= limit:
            return max(0, raw)
        used = self._used() - self._bare
        if used > limit and self._kernel is not None and used - self._number(self._kernel) <= limit:
            # Version 1 does not tell how much of the kernel's memory is caches of names and files.
            return limit if self._shrinks_by(used - limit) else used
        return used

    def _used(self) -> int:
        before = self._uncounted()
        usage = self._number(self._usage)
        return usage - max(before, self._uncounted())  # a file may come or go meanwhile

    def _uncounted(self) -> int:
        return _cache_in(os.pread(self._stat, 8192, 0)) + sum(map(_bytes_in, self._scratch_dirs))

    def _shrinks_by(self, excess: int) -> bool:
        """Whether the kernel can free `excess` bytes; it tries when the limit is set below what is used."""
        bound = self._number(self._usage) - excess
        most = os.pread(self._limit, 32, 0)
        for pause in _PAUSES_S:
            time.sleep(pause)
            with contextlib.suppress(OSError):  # "busy", perhaps although it has freed enough
                os.pwrite(self._limit, b"%d" % bound, 0)
            os.pwrite(self._limit, most, 0)  # at once: the kernel ends a process that needs more than the bound
            if self._number(self._usage) <= bound:
                return True
        return False

    def _number(self, fd: int) -> int:
        return int(os.pread(fd, 32, 0))


def _cache_in(stat: bytes) -> int:
    """The page cache of files, and caches of the kernel, by a memory.stat file."""
    total = 0
    for line in stat.splitlines():
        name, _, number = line.partition(b" ")
        if name in (b"inactive_file", b"active_file", b"slab_reclaimable"):
            total += int(number)
    return total


def _bytes_in(folder: str) -> int:
    space = os.statvfs(folder)
    return (space.f_blocks - space.f_bfree) * space.f_frsize
