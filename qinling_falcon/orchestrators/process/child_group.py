"""The control groups of the function's processes.

They are separate from the groups of the supervisor and the template. So all memory that a function takes counts, also
memory that belongs to no process (memfds, pipes), and a function that exceeds its limit does not end its supervisor.
`cgroups.py` makes them with the worker's groups; the worker gets descriptors of their files.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_NESTED = "child"  # the name inside a worker's group
_BESIDE = ".child"  # the ending of the name beside a worker's group
# Files that the worker reads and writes, by their use: the names in version 1 and in version 2.
_MEMORY = {
    "usage": ("memory.usage_in_bytes", "memory.current"),
    "peak": ("memory.max_usage_in_bytes", "memory.peak"),
    "stat": ("memory.stat", "memory.stat"),
    "events": ("memory.oom_control", "memory.events"),
    "limit": ("memory.limit_in_bytes", "memory.max"),
    "kernel": ("memory.kmem.usage_in_bytes", None),
}
_WRITTEN = ("limit", "peak")


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a group: `memory` in bytes; `processes` counts processes and threads."""

    memory: int
    processes: int


class ChildGroup:
    """The child's groups inside or beside those of a worker.

    Args:
        outer: the folders of the worker's groups.
    """

    def __init__(self, outer: Iterable[Path]):
        # Texts, for this is done at each start of a worker, and paths are slow.
        places = [place for folder in outer for place in (f"{folder}/{_NESTED}", f"{folder}{_BESIDE}")]
        self._folders = [place for place in places if os.access(place, os.F_OK)]
        self._counting = next((each for each in self._folders if os.access(f"{each}/memory.stat", os.F_OK)), None)
        self._freezing = next((each for each in self._folders if os.access(f"{each}/cgroup.freeze", os.F_OK)), None)

    @property
    def folders(self) -> list[Path]:
        """The groups' folders."""
        return [Path(folder) for folder in self._folders]

    def open_entrances(self) -> list[int]:
        """Descriptors to which the child writes `0` to enter the groups with limits."""
        return [] if self._counting is None else [open_entrance(Path(self._counting))]

    def open_memory(self) -> dict[str, int]:
        """Descriptors of the files that count and limit memory, by their use (the keys of `_MEMORY`)."""
        opened: dict[str, int] = {}
        if self._counting is not None:
            version = 0 if os.access(f"{self._counting}/tasks", os.F_OK) else 1
            for use, names in _MEMORY.items():
                with contextlib.suppress(FileNotFoundError):
                    flags = os.O_RDWR if use in _WRITTEN else os.O_RDONLY
                    if names[version] is not None:
                        opened[use] = os.open(f"{self._counting}/{names[version]}", flags)
        return opened

    def open_freezer(self) -> int | None:
        """A descriptor of the file that freezes all processes forked into the version 2 group; None without one."""
        return None if self._freezing is None else os.open(f"{self._freezing}/cgroup.freeze", os.O_WRONLY)

    def open_folder(self) -> int | None:
        """A descriptor of the group without controllers that the template is forked into; None without one."""
        if self._freezing is None or self._freezing == self._counting:
            return None
        return os.open(self._freezing, os.O_RDONLY | os.O_DIRECTORY)


def make_child(outer: Path, limits: Limits) -> None:
    """Make the child's group for a worker's group, in a hierarchy that limits memory.

    Raises:
        OSError: it can't be made.
    """
    if (outer / "memory.limit_in_bytes").exists():
        folder = outer / _NESTED
    elif (outer / "memory.max").exists():
        folder = outer.with_name(outer.name + _BESIDE)
    else:
        return
    folder.mkdir()
    set_limits(folder, limits)


def make_freezer(outer: Path, owner: int | None) -> None:
    """Make the group in which the child can be frozen, in a hierarchy of version 2 without controllers.

    To fork a process into a group, a user must be able to write the `cgroup.procs` of the group and of its parent.

    Args:
        outer: the worker's group.
        owner: the user id that may fork into the group; None: the caller's.

    Raises:
        OSError: it can't be made.
    """
    folder = outer / _NESTED
    folder.mkdir()
    if owner is not None:
        for group in (outer, folder):
            os.chown(group / "cgroup.procs", owner, -1)


def set_limits(folder: Path, limits: Limits) -> None:
    """Set those limits of a group that its hierarchy supports.

    Raises:
        OSError: a limit can't be set.
    """
    set_memory(folder, limits.memory)
    if (folder / "pids.max").exists():
        write(folder / "pids.max", str(limits.processes))


def set_memory(folder: Path, size: int) -> None:
    """Limit the memory of a group to `size` bytes, if its hierarchy has the memory controller.

    Raises:
        OSError: the limit can't be set.
    """
    memory = str(size)
    if (folder / "memory.limit_in_bytes").exists():
        write(folder / "memory.limit_in_bytes", memory)
        # Absent or refused on kernels that do not account swap.
        try_write(folder / "memory.memsw.limit_in_bytes", memory)
    elif (folder / "memory.max").exists():
        write(folder / "memory.max", memory)
        try_write(folder / "memory.swap.max", "0")


def open_entrance(folder: Path) -> int:
    """Open the file to which a process writes `0` to enter a group."""
    tasks = folder / "tasks"
    return os.open(tasks if tasks.exists() else folder / "cgroup.procs", os.O_WRONLY)


def write(path: Path, text: str) -> None:
    """Write to a control file.

    Raises:
        OSError: the file does not take the text; the error names the file.
    """
    # Not Path.write_text: control files take neither O_CREAT nor O_TRUNC everywhere.
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(descriptor)


def try_write(path: Path, text: str) -> bool:
    """Write to a control file, if it exists and takes the text. Returns whether it did."""
    try:
        write(path, text)
    except OSError:
        return False
    return True
