"""Control groups, version 1 and 2. They limit a worker, and show all of its processes, so that all can be killed.

An install has one subtree per hierarchy, made below the group that the manager itself is in (so that the limits around
the service hold for its workers too), and in it one group per worker. The function's processes have a group of their
own (`child_group.py`). In version 1 it lies inside the worker's group. In version 2 it lies beside it, because there a
group with processes can't pass controllers on to groups inside it. A host may mount version 2 without controllers
beside version 1. Such a hierarchy can still freeze processes, and the function's group in it lies inside the worker's,
too.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qinling_falcon.orchestrators.process.child_group import (
    ChildGroup,
    Limits,
    make_child,
    make_freezer,
    open_entrance,
    set_limits,
    set_memory,
    try_write,
    write,
)

CONTROLLERS = ("memory", "pids", "cpu")
ROOT_NAME = "qinling-falcon"
_SHARES = 1024  # cpu.shares of an ordinary group, as weight 100 is in version 2


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A mounted hierarchy: `parent` is the group below which an install's subtree is made.

    A hierarchy of version 2 without controllers can freeze processes.
    """

    parent: Path
    version: Literal[1, 2]
    controllers: frozenset[str]


def hierarchies(process: Path = Path("/proc/self")) -> list[Hierarchy]:
    """The hierarchies that serve memory, pids and cpu to a process: version 1 where it has them, else 2.

    A mounted hierarchy of version 2 is always in the list, because it can freeze processes.
    """
    own = dict(_own_groups(process))
    found: dict[Path, Hierarchy] = {}
    rest = set(CONTROLLERS)
    unified: tuple[Path, str] | None = None
    for kind, root, mount, options in _mounts(process):
        if kind == "cgroup2":
            unified = unified or (mount, root)
            continue
        served = rest & set(options)
        if served:
            rest -= served
            parent = _below(mount, root, next(path for names, path in own.items() if served & set(names.split(","))))
            found[mount] = Hierarchy(parent, 1, frozenset(served))
    if unified and "" in own:
        mount, root = unified
        folder = _below(mount, root, own[""])
        found[mount] = (rest and _delegating(mount, folder, rest)) or Hierarchy(folder, 2, frozenset())
    return list(found.values())


def groups_around(process: Path = Path("/proc/self")) -> list[Path]:
    """The folders of the groups that a process is in, and of all groups around them that can be seen from here."""
    own = dict(_own_groups(process))
    found: list[Path] = []
    for kind, root, mount, options in _mounts(process):
        for names, path in own.items():
            if names == "" if kind == "cgroup2" else set(names.split(",")) & set(options):
                folder = _below(mount, root, path)
                found += [folder, *(outer for outer in folder.parents if outer.is_relative_to(mount))]
    return found


class Group:
    """The groups of one worker: a folder in each hierarchy, and the child's groups.

    Args:
        folders: the folders of the groups with limits.
        freezer: the folder in the hierarchy of version 2 without controllers.
    """

    def __init__(self, folders: Iterable[Path], freezer: Path | None = None):
        self._folders = [folder for folder in folders if folder.is_dir()]
        self._freezer = freezer if freezer and freezer.is_dir() else None
        outer = [*self._folders, *([self._freezer] if self._freezer else [])]
        self.child = ChildGroup(outer)
        self._all = [*self.child.folders, *outer]

    def __bool__(self) -> bool:
        return bool(self._folders)

    def open_entrances(self, *, version_1_only: bool = False) -> list[int]:
        """Descriptors to which a single-threaded process writes `0` to enter the groups.

        In version 1 these are of `tasks`, because a write to `cgroup.procs` waits 20 ms for an RCU grace period.
        """
        entrances: list[int] = []
        try:
            for folder in self._folders:
                if version_1_only and not (folder / "tasks").exists():
                    continue
                entrances.append(open_entrance(folder))
        except OSError:
            for entrance in entrances:
                os.close(entrance)
            raise
        return entrances

    def open_freezer_entrance(self) -> int | None:
        """A descriptor like those of `open_entrances`, of the group without controllers; None if this user can't."""
        try:
            return open_entrance(self._freezer) if self._freezer else None
        except OSError:
            return None

    def open_folder(self) -> tuple[int, bool] | None:
        """A descriptor of the version 2 group that a process can be forked into, and whether the group has limits."""
        for folder in self._folders:
            if not (folder / "tasks").exists():
                return os.open(folder, os.O_RDONLY | os.O_DIRECTORY), True
        return (os.open(self._freezer, os.O_RDONLY | os.O_DIRECTORY), False) if self._freezer else None

    def open_cpu(self) -> tuple[int, Literal["shares", "weight"]] | None:
        """A descriptor to which the worker writes its share of the processors, and the format of that file."""
        for folder in self._folders:
            if (folder / "cpu.shares").exists():
                return os.open(folder / "cpu.shares", os.O_WRONLY), "shares"
        for folder in [*self.child.folders, *self._folders]:
            if (folder / "cpu.weight").exists():
                return os.open(folder / "cpu.weight", os.O_WRONLY), "weight"
        return None

    def processes(self) -> set[int]:
        """Ids of the processes in the groups."""
        found: set[int] = set()
        for folder in self._all:
            try:
                found.update(map(int, (folder / "cgroup.procs").read_text().split()))
            except OSError:
                continue  # removed meanwhile: nothing is in it
        return found

    def kill(self) -> None:
        """Send SIGKILL to all processes in the groups. None escapes by forking: new processes are killed or refused."""
        for folder in self._all:
            try_write(folder / "cgroup.kill", "1")
            try_write(folder / "pids.max", "0")
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def remove(self) -> bool:
        """Remove the groups, which must be empty. Returns whether none is left."""
        for folder in self._all:
            try:
                folder.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                return False
        return True


def await_removed(group: Group, timeout_s: float = 1.0) -> bool:
    """Remove a worker's groups. The kernel may keep them a moment longer than the processes. False: some are left."""
    deadline = time.monotonic() + timeout_s
    while not group.remove():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


class Subtree:
    """The groups of one install (or of one trial, for the doctor).

    Args:
        name: distinguishes this install's groups from those of others.
        found: the hierarchies to make them in.

    Attributes:
        controllers: those of memory, pids and cpu that work here.
        problems: for each other controller, why it does not work.
        folders: the subtree's folder in each hierarchy.
        version: which version limits the workers, for the operator to read.
    """

    def __init__(self, name: str, found: Sequence[Hierarchy]):
        self.controllers: set[str] = set()
        self.problems: dict[str, str] = dict.fromkeys(CONTROLLERS, "no hierarchy with this controller is mounted")
        self.folders: list[Path] = []
        self._freezer: Path | None = None
        versions = sorted({f"v{hierarchy.version}" for hierarchy in found if hierarchy.controllers})
        self.version = "/".join(versions) or "none"
        for hierarchy in found:
            folder = hierarchy.parent / f"{ROOT_NAME}-{name}"
            try:
                self._make(folder, hierarchy)
            except OSError as error:
                self.problems.update(dict.fromkeys(hierarchy.controllers, f"{error.filename}: {error.strerror}"))

    def _make(self, folder: Path, hierarchy: Hierarchy) -> None:
        folder.mkdir(exist_ok=True)
        self.folders.append(folder)
        if not hierarchy.controllers:
            self._freezer = folder
            return
        if hierarchy.version == 2:
            write(folder / "cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(hierarchy.controllers)))
        # The workers together get the weight of one process per core; by default they would get that of one process.
        cores = os.cpu_count() or 1
        try_write(folder / "cpu.shares", str(_SHARES * cores))
        try_write(folder / "cpu.weight", str(min(10_000, 100 * cores)))
        self.controllers |= hierarchy.controllers
        for name in hierarchy.controllers:
            self.problems.pop(name)

    def limit_memory(self, size: int) -> None:
        """Limit the memory of all workers together.

        Raises:
            OSError: more is in use already, or the limit can't be set.
        """
        for folder in self.folders:
            set_memory(folder, size)

    def group(self, name: str) -> Group:
        """The group of worker `name`; without folders if it does not exist."""
        folders = [folder / name for folder in self.folders if folder != self._freezer]
        return Group(folders, self._freezer / name if self._freezer else None)

    def make_group(
        self, name: str, limits: Limits | None, child: Limits | None = None, owner: int | None = None
    ) -> Group:
        """Make the group of worker `name`, or of a zygote, which has no limits.

        Args:
            name: the worker's id.
            limits: limits of the worker's own processes; in version 1, also of the child's.
            child: limits of the child's group; None: there is none.
            owner: the user id that may fork a process into the group for freezing; None: this process's.

        Raises:
            OSError: a limit could not be set; nothing is left.
        """
        try:
            for folder in self.folders:
                if folder == self._freezer and child is None:
                    continue
                (folder / name).mkdir()
                if folder == self._freezer:
                    make_freezer(folder / name, owner)
                    continue
                if limits is not None:
                    set_limits(folder / name, limits)
                if child is not None:
                    make_child(folder / name, child)
        except OSError:
            self.group(name).remove()
            raise
        return self.group(name)

    def remove(self) -> None:
        """Remove the install's folders, if no worker is in them."""
        for folder in self.folders:
            try:
                folder.rmdir()
            except OSError:
                continue


def groups_below(folders: Iterable[Path]) -> list[Group]:
    """Every worker's group in an install's folders, also those that an earlier manager made."""
    names: dict[str, list[Path]] = {}
    for folder in folders:
        if folder.is_dir():
            for inner in folder.iterdir():
                if inner.is_dir():
                    names.setdefault(inner.name, []).append(inner)
    return [Group(inner) for inner in names.values()]


def _mounts(process: Path) -> list[tuple[str, str, Path, list[str]]]:
    """(file system, root inside it, mount point, its own options) of the mounted hierarchies."""
    found = []
    for line in (process / "mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            fields = before.split(" ")
            found.append((kind, fields[3], Path(fields[4]), options.split(",")))
    return found


def _own_groups(process: Path) -> list[tuple[str, str]]:
    """(controllers, path) of a process in each hierarchy; version 2 has no controllers' names."""
    lines = (process / "cgroup").read_text().splitlines()
    return [(names, path) for _, names, path in (line.split(":", 2) for line in lines)]


def _below(mount: Path, root: str, path: str) -> Path:
    """Where the group `path` is seen; the mount point itself when this namespace does not show it."""
    shown = mount / os.path.relpath(path, root)
    return shown if os.path.commonpath([path, root]) == root and shown.is_dir() else mount


def _delegating(mount: Path, own: Path, wanted: set[str]) -> Hierarchy | None:
    """The nearest group around `own` that passes controllers on to the groups inside it.

    Only the root group and groups without processes may do so. So `own` itself, which has this process, usually can't.
    """
    best: Hierarchy | None = None
    for folder in [own, *own.parents]:
        if not folder.is_relative_to(mount):
            break
        control = folder / "cgroup.subtree_control"
        lacking = wanted - set(_read_words(control))
        if lacking and folder == mount:
            try_write(control, " ".join(f"+{name}" for name in sorted(lacking)))
        enabled = wanted & set(_read_words(control))
        if enabled and os.access(folder, os.W_OK) and (best is None or len(enabled) > len(best.controllers)):
            best = Hierarchy(folder, 2, frozenset(enabled))
    return best


def _read_words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
