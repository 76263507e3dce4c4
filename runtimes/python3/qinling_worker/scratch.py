"""How full the folders are that a function may write to."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

_LOW = 0.1  # of its space or its inodes free
_INTERVAL_S = 0.05


class ScratchSpace:
    """Watches those scratch folders that are file systems of their own, as they are in a sandbox."""

    def __init__(self, folders: Iterable[str]) -> None:
        self._all = list(folders)
        self._folders = [folder for folder in self._all if os.path.ismount(folder)]
        self._next = 0.0
        self._empty = self._look()

    def is_nearly_full(self, always: bool) -> bool:
        """Whether one has little left; looked at `always`, or when the last look is some time ago."""
        now = time.monotonic()
        if not always and now < self._next:
            return False
        self._next = now + _INTERVAL_S
        return any(_is_low(folder) for folder in self._folders)

    def note_empty(self) -> None:
        """Remember how they look now, for `is_used`: they have just been emptied."""
        self._empty = self._look()

    def is_used(self) -> bool:
        """Whether anything was made or changed in them since `note_empty`."""
        return self._look() != self._empty

    def _look(self) -> list[tuple[int, ...]]:
        return [_appearance(folder, folder in self._folders) for folder in self._all]


def _appearance(folder: str, is_tmpfs: bool) -> tuple[int, ...]:
    """Differs after an entry of the folder was made or removed, or its mode or an attribute was changed."""
    try:
        about = os.stat(folder)
        # The time alone is not enough, for it counts in steps of milliseconds. In a tmpfs, the size counts entries.
        entries = about.st_size if is_tmpfs else len(os.listdir(folder))
    except OSError:
        return ()
    return about.st_ctime_ns, entries


def _is_low(folder: str) -> bool:
    try:
        space = os.statvfs(folder)
    except OSError:
        return False
    return space.f_bavail < _LOW * space.f_blocks or space.f_favail < _LOW * space.f_files
