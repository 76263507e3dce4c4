"""Ending everything that a child has started, and emptying the folders that it could write to."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import NoReturn

from . import memory
from .config import ChildConfig
from .confine import drop_privileges

_KILL_TIMEOUT_S = 4.0
_STOP_TIMEOUT_S = 0.5
_LONGEST_PAUSE_S = 0.02
_WALK_TIMEOUT_S = 10.0  # without a uid of its own, a tree is ended process by process


def clean_as_child(config: ChildConfig) -> NoReturn:
    """Kill every other process of the child's uid, empty the scratch folders, and exit: 0 if no process is left.

    `kill(-1)` under that uid reaches all of its processes at once and no
    other: neither a fork bomb nor a changed session escapes it.
    """
    assert config.child_uid is not None
    os.chdir("/")
    drop_privileges(config)
    if not _is_harmless_to_others(config.child_uid):
        os._exit(1)
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while True:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(-1, signal.SIGKILL)
        if not processes_of(config.child_uid):
            break
        if time.monotonic() > deadline:
            os._exit(1)
        time.sleep(0.001)
    sweep_scratch(config)
    os._exit(0)


def sweep_as_child(config: ChildConfig) -> NoReturn:
    """Empty the scratch folders under the child's uid, and exit 0."""
    drop_privileges(config)
    sweep_scratch(config)
    os._exit(0)


def _is_harmless_to_others(uid: int) -> bool:
    """Whether this process can signal only processes of its own uid. Otherwise `kill(-1)` would kill the whole host."""
    try:
        os.kill(os.getppid(), 0)  # the parent has the supervisor's uid
    except PermissionError:
        return os.geteuid() == uid
    return False


def processes_of(uid: int) -> list[int]:
    """The live processes of a uid, except the caller."""
    me, found = os.getpid(), []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != me:
            try:
                with open(f"/proc/{name}/status", "rb", buffering=0) as file:
                    status = file.read(1024)
            except OSError:
                continue
            uids = memory.field_of(status, b"Uid").split()
            if uids and int(uids[0]) == uid and memory.is_live(int(name)):
                found.append(int(name))
    return found


def kill_descendants(root: int) -> bool:
    """Kill every process below `root`, which must be the caller and a subreaper. Returns False if some are left.

    All are stopped before one is killed, because a stopped process does not fork.
    """
    deadline = time.monotonic() + _WALK_TIMEOUT_S
    stopped: set[int] = set()
    while time.monotonic() < deadline:
        if _stop_new(root, stopped):
            continue
        live = list(filter(memory.is_live, _all_below(root)))
        if not live:
            return True
        signal_all(live, signal.SIGKILL)
        time.sleep(0.001)
    return not any(map(memory.is_live, _all_below(root)))


def kill_namespace(reap: Callable[[], None]) -> bool:
    """Kill every process of this PID namespace but the first one and the caller. Returns False if some are left.

    The first one, the supervisor, is safe from signals of its own namespace that it does not handle. Like this, a fork
    bomb is killed at once, also if it takes most of the CPU time.

    Args:
        reap: reaps the processes that have ended, all of which are children of the caller.
    """
    deadline = time.monotonic() + _WALK_TIMEOUT_S
    pause_s = 0.001
    while time.monotonic() < deadline:
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            return True
        reap()
        time.sleep(pause_s)  # many processes need CPU time to end
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    return False


def stop_descendants(root: int) -> tuple[set[int], bool]:
    """Stop every process below `root`, which must be the caller and a subreaper.

    The end of a process may wake others that are stopped already: when a process group is left without a parent in
    its session, the kernel sends it SIGCONT. Therefore they are stopped until none is awake.

    Returns:
        The processes that were not stopped before, and whether all are stopped now.
    """
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    before = set(filter(memory.is_stopped, _all_below(root)))
    seen: set[int] = set()
    all_stopped = False
    while not all_stopped and time.monotonic() < deadline:
        if _stop_new(root, seen):
            continue
        awake = list(filter(memory.is_awake, seen))
        all_stopped = not awake
        if awake:
            signal_all(awake, signal.SIGSTOP)
            time.sleep(0.001)  # a process on another processor stops a moment after its signal
    return set(filter(memory.is_live, seen - before)), all_stopped


def _stop_new(root: int, seen: set[int]) -> bool:
    """Stop the processes below `root` that are not in `seen`, and add them there. Returns whether there were any.

    A process that has ended counts, too, because it may have forked before.
    """
    new = _all_below(root) - seen
    signal_all(new, signal.SIGSTOP)
    seen |= new
    return bool(new)


def _all_below(root: int) -> set[int]:
    """The processes below `root`, also where the kernel does not list the children of a process."""
    return memory.below(root) or {process.pid for process in memory.descendants(root)}


def fork_patiently(uid: int) -> int:
    """`os.fork`. While the processes of `uid` leave no room for another one, kill them and try again.

    Raises:
        OSError: it did not succeed in time.
    """
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while True:
        try:
            return os.fork()
        except OSError:
            if time.monotonic() > deadline:
                raise
            signal_all(processes_of(uid), signal.SIGKILL)


def sweep_scratch(config: ChildConfig) -> None:
    """Empty the scratch folders. If the child's user owns them, also undo changes of their modes and attributes."""
    for folder in config.scratch_dirs:
        with contextlib.suppress(OSError):
            _reset(folder)
    sweep(config.scratch_dirs)


def _reset(folder: str) -> None:
    """Reset what its owner can change of a folder: the mode, which could lock it, and extended attributes."""
    if os.stat(folder).st_uid != os.geteuid():
        return
    os.chmod(folder, 0o1777)
    for name in os.listxattr(folder):
        os.removexattr(folder, name)


def sweep(folders: Iterable[str]) -> None:
    """Empty the folders, even if their contents were locked by their modes. Files of other users stay."""
    for folder in folders:
        try:
            os.chdir(folder)
        except OSError:
            continue
        _sweep_here()
    os.chdir("/")


def _sweep_here() -> None:
    """Empty the current folder. Descends by `chdir`, because folders may be too deep for a path."""
    trail: list[tuple[str, set[str]]] = []
    spared: set[str] = set()  # what can't be removed from the folder that we are in
    while True:
        below = _remove_files(spared)
        if below is not None:
            os.chmod(below, 0o700)
            os.chdir(below)
            trail.append((below, spared))
            spared = set()
        elif trail:
            os.chdir("..")
            name, spared = trail.pop()
            try:
                os.rmdir(name)
            except OSError:
                spared.add(name)
        else:
            return


def _remove_files(spared: set[str]) -> str | None:
    """Remove files and empty folders here. Returns the name of a folder that must be emptied first, if there is one."""
    with os.scandir(".") as entries:
        for entry in entries:
            if entry.name in spared:
                continue
            try:
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.name)
                    continue
                os.rmdir(entry.name)
            except OSError as error:
                full = error.errno in (errno.ENOTEMPTY, errno.EEXIST)
                if full and entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                    return entry.name
                spared.add(entry.name)
    return None


def signal_all(pids: Iterable[int], signum: int) -> None:
    """Send a signal to each process that is there and may be signalled."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signum)
