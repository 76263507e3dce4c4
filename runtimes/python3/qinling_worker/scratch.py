"""Measures how full the folders are that a function may write to.

The supervisor empties them between calls when little is free: less than a tenth, or less than a call usually uses: what
calls have taken and freed again, and what more than one call has taken and left. What a single call has left may be a
cache, which later calls use.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

_LOW = 0.1  # the part of the space, or of the entries, below which a folder is nearly full
_INTERVAL_S = 0.01
_LOOK_SHARE = 20  # measuring a folder of the host takes at most one twentieth of a processor's time
_MAX_ENTRIES = 10_000  # the most entries in a folder of the host


class _Amount(NamedTuple):
    """How many bytes, or entries, a folder has in all, and how many are free."""

    total: int
    free: int


class ScratchSpace:
    """The scratch folders of one worker.

    Args:
        folders: the paths of the folders.
        plain_size: the bytes that calls may leave in folders that are not mount points, as without a sandbox. None:
            such folders are not measured.
        sizes: the most bytes in folders that are mount points, where the kernel may not limit them.
    """

    def __init__(
        self, folders: Iterable[str], plain_size: int | None = None, sizes: Mapping[str, int] | None = None
    ) -> None:
        self._all = list(folders)
        self._mounts = [folder for folder in self._all if os.path.ismount(folder)]
        self._sizes = {folder: size for folder, size in (sizes or {}).items() if folder in self._mounts}
        self._mount_levels = [
            _FolderLevels(folder, _measuring(folder, self._sizes.get(folder))) for folder in self._mounts
        ]
        self._plain_levels: list[_FolderLevels] = []
        if plain_size is not None:
            plain = [folder for folder in self._all if folder not in self._mounts]
            self._plain_levels = [_FolderLevels(folder, _PlainFolder(folder, plain_size).measure) for folder in plain]
        self._next = self._next_plain = 0.0
        self._empty = self._look()

    def __str__(self) -> str:
        return " and ".join(self._all)

    def shortage(self, always: bool) -> str | None:
        """Why too little is free in one of the folders after a call; None: enough is free.

        Args:
            always: measure the folders. Otherwise they are measured only if the last time is some time ago.
        """
        now = time.monotonic()
        if not always and now < self._next:
            return None
        low = [levels.end_call() for levels in self._mount_levels]  # a list, because each folder must be measured
        # If a call has taken something, measure after the next call, too.
        self._next = now if any(levels.was_taken_from for levels in self._mount_levels) else now + _INTERVAL_S
        if self._plain_levels and now >= self._next_plain:
            used = time.process_time()  # not the time that passes, which on a busy host is mostly that of others
            low += [levels.end_call() for levels in self._plain_levels]
            used = time.process_time() - used
            self._next_plain = time.monotonic() + max(_INTERVAL_S, _LOOK_SHARE * used)
        return next((reason for reason in low if reason is not None), None)

    def observe(self) -> None:
        """Measure during a call: space that the call takes and frees again counts, too."""
        for levels in self._mount_levels:
            levels.observe()

    def excess(self) -> str | None:
        """Which folder has more bytes than its size; None: none has. The kernel may not limit mounts of a pod."""
        for folder, size in self._sizes.items():
            if _used_in(folder) > size:
                return f"The function's files in {folder} took more than its size of {size} bytes."
        return None

    def note_loaded(self) -> None:
        """Measure after the import, because no call takes again what the import has taken."""
        for levels in (*self._mount_levels, *self._plain_levels):
            levels.start()
        self._next = self._next_plain = 0.0

    def start_again(self) -> bool:
        """Forget what earlier calls have used, because the folders were emptied. Returns whether enough is free."""
        is_enough = self.shortage(always=True) is None
        self.note_loaded()
        return is_enough

    def note_empty(self) -> None:
        """Remember the state of the folders, for `is_used`. They must have just been emptied."""
        self._empty = self._look()

    def is_used(self) -> bool:
        """Whether anything was made or changed in the folders since `note_empty`."""
        return self._look() != self._empty

    def _look(self) -> list[tuple[int, ...]]:
        return [_appearance(folder, folder in self._mounts) for folder in self._all]


class _FolderLevels:
    """The levels of one folder: of its bytes, and of its entries."""

    def __init__(self, folder: str, measure: Callable[[], tuple[_Amount, _Amount]]) -> None:
        self._folder = folder
        self._measure = measure
        self.was_taken_from = False
        self.start()

    def start(self) -> None:
        self._space, self._entries = (_Level(amount.free) for amount in self._measure())

    def observe(self) -> None:
        space, entries = self._measure()
        self._space.observe(space.free)
        self._entries.observe(entries.free)

    def end_call(self) -> str | None:
        """Why too little is left for another call; None: enough is left."""
        space, entries = self._measure()
        needed, needed_entries = self._space.end_call(space), self._entries.end_call(entries)
        self.was_taken_from = self._space.was_taken_from or self._entries.was_taken_from
        for amount, need, unit in ((space, needed, "bytes"), (entries, needed_entries, "files")):
            if amount.free < need:
                return f"in {self._folder}, {amount.free} of {amount.total} {unit} were free; a call may need {need}"
        return None


class _Level:
    """How many bytes or entries were free after the last call, and how many a call usually uses."""

    def __init__(self, free: int) -> None:
        self._free = self._least = free
        self._temporary = 0  # the most that one call has taken and freed again
        self._most_left = self._often_left = 0  # the most that one call has left, and the most that two have
        self.was_taken_from = False

    def observe(self, free: int) -> None:
        self._least = min(self._least, free)

    def end_call(self, amount: _Amount) -> int:
        """How many must be free for the next call."""
        free = amount.free
        self.observe(free)
        self._temporary = max(self._temporary, min(free, self._free) - self._least)
        left = max(0, self._free - free)
        self._often_left = max(self._often_left, min(left, self._most_left))
        self._most_left = max(self._most_left, left)
        self.was_taken_from = left > 0
        self._free = self._least = free
        return max(int(_LOW * amount.total), self._temporary + self._often_left)


def _measuring(folder: str, most: int | None) -> Callable[[], tuple[_Amount, _Amount]]:
    def measure() -> tuple[_Amount, _Amount]:
        try:
            space = os.statvfs(folder)
        except OSError:
            return _Amount(0, 0), _Amount(0, 0)
        total, free = space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize
        if most is not None and most < total:
            free = min(free, max(0, most - (space.f_blocks - space.f_bfree) * space.f_frsize))
            total = most
        return _Amount(total, free), _Amount(space.f_files, space.f_favail)

    return measure


def _used_in(folder: str) -> int:
    try:
        space = os.statvfs(folder)
    except OSError:
        return 0
    return (space.f_blocks - space.f_bfree) * space.f_frsize


class _PlainFolder:
    """A folder in a file system of the host. It is measured by its entries, as far as the supervisor may read it."""

    def __init__(self, path: str, size: int) -> None:
        self._path = path
        self._size = size
        self._disk_free = self._free_on_disk()

    def measure(self) -> tuple[_Amount, _Amount]:
        used = entries = 0
        is_closed = False
        waiting = [self._path]
        while waiting and entries < _MAX_ENTRIES:
            try:
                with os.scandir(waiting.pop()) as found:
                    for entry in found:
                        entries += 1
                        used += entry.stat(follow_symlinks=False).st_blocks * 512
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
                        if entries >= _MAX_ENTRIES:
                            break
            except FileNotFoundError:
                continue
            except OSError:
                is_closed = True  # the supervisor has another uid, and may not read this folder
        if entries == 0:
            self._disk_free = self._free_on_disk()
        elif is_closed:
            used = max(used, self._disk_free - self._free_on_disk())  # maybe taken by other processes of the host
        return _Amount(self._size, max(0, self._size - used)), _Amount(_MAX_ENTRIES, _MAX_ENTRIES - entries)

    def _free_on_disk(self) -> int:
        try:
            space = os.statvfs(self._path)
        except OSError:
            return 0
        return space.f_bavail * space.f_frsize


def _appearance(folder: str, is_tmpfs: bool) -> tuple[int, ...]:
    """Numbers that change when an entry of the folder is made or removed, or its mode or an attribute is changed."""
    try:
        about = os.stat(folder)
        # The time alone is not enough, because it has steps of milliseconds. In a tmpfs, the size counts the entries.
        entries = about.st_size if is_tmpfs else len(os.listdir(folder))
    except OSError:
        return ()
    return about.st_ctime_ns, entries
