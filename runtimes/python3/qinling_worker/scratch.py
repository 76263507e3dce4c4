"""How full the folders are that a function may write to.

They are emptied between calls when little is left: less than a tenth, or less than the most that a call has taken since
they were empty. So there is always room for another call like those before.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

_LOW = 0.1  # of its space or its entries
_INTERVAL_S = 0.01
_LOOK_SHARE = 20  # at most one part in so many of the time goes into looking through a folder of the host
_MAX_ENTRIES = 10_000  # of a folder of the host


class _Amount(NamedTuple):
    """Bytes, or entries."""

    total: int
    free: int


class ScratchSpace:
    """The scratch folders of one worker.

    Args:
        folders: their paths.
        plain_size: the bytes that may be left in those that are no file systems of their own, as without a sandbox.
            None: these are not watched.
    """

    def __init__(self, folders: Iterable[str], plain_size: int | None = None) -> None:
        self._all = list(folders)
        self._mounts = [folder for folder in self._all if os.path.ismount(folder)]
        self._rooms = [_Room(_measuring(folder)) for folder in self._mounts]
        self._plain: list[_Room] = []
        if plain_size is not None:
            plain = [folder for folder in self._all if folder not in self._mounts]
            self._plain = [_Room(_PlainFolder(folder, plain_size).measure) for folder in plain]
        self._next = self._next_plain = 0.0
        self._empty = self._look()

    def is_nearly_full(self, always: bool) -> bool:
        """Whether one has too little left after a call. Looks `always`, or when the last look is some time ago."""
        now = time.monotonic()
        if not always and now < self._next:
            return False
        low = [room.end_call() for room in self._rooms]  # a list: each one has to look
        # Where a call has taken something, the next one is looked at, too.
        self._next = now if any(room.was_taken_from for room in self._rooms) else now + _INTERVAL_S
        if self._plain and now >= self._next_plain:
            low += [room.end_call() for room in self._plain]
            after = time.monotonic()
            self._next_plain = after + max(_INTERVAL_S, _LOOK_SHARE * (after - now))
        return any(low)

    def observe(self) -> None:
        """Look during a call: what it takes for a while counts as well."""
        for room in self._rooms:
            room.observe()

    def note_loaded(self) -> None:
        """Remember how they look before the first call: what the import has taken, no call will take again."""
        for room in (*self._rooms, *self._plain):
            room.start()

    def note_empty(self) -> None:
        """Remember how they look now, for `is_used`: they have just been emptied."""
        self._empty = self._look()

    def is_used(self) -> bool:
        """Whether anything was made or changed in them since `note_empty`."""
        return self._look() != self._empty

    def _look(self) -> list[tuple[int, ...]]:
        return [_appearance(folder, folder in self._mounts) for folder in self._all]


class _Room:
    """What is free in one folder, and the most that a call has taken of it."""

    def __init__(self, measure: Callable[[], tuple[_Amount, _Amount]]) -> None:
        self._measure = measure
        self.was_taken_from = False
        self.start()

    def start(self) -> None:
        self._space, self._entries = (_Level(amount.free) for amount in self._measure())

    def observe(self) -> None:
        space, entries = self._measure()
        self._space.compare(space.free)
        self._entries.compare(entries.free)

    def end_call(self) -> bool:
        """Whether too little is left for another call."""
        space, entries = self._measure()
        is_low = self._space.end_call(space) | self._entries.end_call(entries)
        self.was_taken_from = self._space.was_taken_from or self._entries.was_taken_from
        return is_low


class _Level:
    """How much of one thing was free after the last call, and the most that a call has taken of it."""

    def __init__(self, free: int) -> None:
        self._free = free
        self._most = 0
        self.was_taken_from = False

    def compare(self, free: int) -> None:
        self._most = max(self._most, self._free - free)

    def end_call(self, amount: _Amount) -> bool:
        self.compare(amount.free)
        self.was_taken_from = amount.free < self._free
        self._free = amount.free
        return amount.free < max(_LOW * amount.total, self._most)


def _measuring(folder: str) -> Callable[[], tuple[_Amount, _Amount]]:
    def measure() -> tuple[_Amount, _Amount]:
        try:
            space = os.statvfs(folder)
        except OSError:
            return _Amount(0, 0), _Amount(0, 0)
        size = space.f_frsize
        return _Amount(space.f_blocks * size, space.f_bavail * size), _Amount(space.f_files, space.f_favail)

    return measure


class _PlainFolder:
    """A folder in a file system of the host, and what is in it, as far as the supervisor may look."""

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
                is_closed = True  # to the supervisor, whose uid is another one
        if entries == 0:
            self._disk_free = self._free_on_disk()
        elif is_closed:
            used = max(used, self._disk_free - self._free_on_disk())  # whoever has taken it
        return _Amount(self._size, max(0, self._size - used)), _Amount(_MAX_ENTRIES, _MAX_ENTRIES - entries)

    def _free_on_disk(self) -> int:
        try:
            space = os.statvfs(self._path)
        except OSError:
            return 0
        return space.f_bavail * space.f_frsize


def _appearance(folder: str, is_tmpfs: bool) -> tuple[int, ...]:
    """Differs after an entry of the folder was made or removed, or its mode or an attribute was changed."""
    try:
        about = os.stat(folder)
        # The time alone is not enough, for it counts in steps of milliseconds. In a tmpfs, the size counts entries.
        entries = about.st_size if is_tmpfs else len(os.listdir(folder))
    except OSError:
        return ()
    return about.st_ctime_ns, entries
