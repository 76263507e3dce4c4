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
        self._folders = [folder for folder in folders if os.path.ismount(folder)]
        self._next = 0.0

    def is_nearly_full(self, always: bool) -> bool:
        """Whether one has little left; looked at `always`, or when the last look is some time ago."""
        now = time.monotonic()
        if not always and now < self._next:
            return False
        self._next = now + _INTERVAL_S
        return any(_is_low(folder) for folder in self._folders)


def _is_low(folder: str) -> bool:
    try:
        space = os.statvfs(folder)
    except OSError:
        return False
    return space.f_bavail < _LOW * space.f_blocks or space.f_favail < _LOW * space.f_files
