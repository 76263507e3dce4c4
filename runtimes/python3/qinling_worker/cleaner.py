"""Ending everything that a child has started, and emptying the folders that it could write to."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Iterable
from typing import NoReturn

from . import memory
from .config import ChildConfig
from .confine import drop_privileges

_KILL_TIMEOUT_S = 4.0
_STOP_TIMEOUT_S = 0.5
_WALK_TIMEOUT_S = 10.0  # without a uid of its own, a tree is ended process by process


def clean_as_child(config: ChildConfig) -> NoReturn:
    """Kill every other process of the child's uid, sweep its folders; exit 0 when nothing is left.

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
    """Whether this process can signal its own uid alone: where it could do more, `kill(-1)` would end the host."""
    try:
        os.kill(os.getppid(), 0)  # of the supervisor's uid
    except PermissionError:
        return os.geteuid() == uid
    return False


def processes_of(uid: int) -> list[int]:
    """The live processes of a uid, but for the caller."""
    me, found = os.getpid(), []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != me:
            try:
                with open(f"/proc/{name}/status", "rb", buffering=0) as file:
                    status = file.read(1024)
            except OSError:
                continue
            uids = memory.field_of(status, b"Uid").split()
            if uids and int(uids[0]) == uid and memory.field_of(status, b"State")[:1] not in (b"Z", b"X"):
                found.append(int(name))
    return found


def kill_descendants(root: int) -> bool:
    """Kill every process below `root`, which is the caller and a subreaper; False when some are left.

    They are all stopped first: what is stopped does not fork. An ended process counts as one to be
    stopped, too, because it may have forked at its end.
    """
    deadline = time.monotonic() + _WALK_TIMEOUT_S
    stopped: set[int] = set()
    while time.monotonic() < deadline:
        fresh = memory.below(root) - stopped
        signal_all(fresh, signal.SIGSTOP)
        stopped |= fresh
        if fresh:
            continue
        live = memory.descendants(root)
        if not live:
            return True
        signal_all((process.pid for process in live), signal.SIGKILL)
        time.sleep(0.001)
    return not memory.descendants(root)


def stop_descendants(root: int) -> set[int]:
    """Stop every process below `root`; those that were not stopped before."""
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    stopped: set[int] = set()
    while time.monotonic() < deadline:
        fresh = {process.pid for process in memory.descendants(root) if process.state != "T"} - stopped
        if not fresh:
            break
        signal_all(fresh, signal.SIGSTOP)
        stopped |= fresh
    return stopped


def fork_patiently(uid: int) -> int:
    """`os.fork`, also when the processes of `uid` have left no room for another one."""
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while True:
        try:
            return os.fork()
        except OSError:
            if time.monotonic() > deadline:
                raise
            signal_all(processes_of(uid), signal.SIGKILL)


def sweep_scratch(config: ChildConfig) -> None:
    """Empty the scratch folders. Where they are the child's own, undo changes of the folders themselves as well."""
    for folder in config.scratch_dirs:
        with contextlib.suppress(OSError):
            _reset(folder)
    sweep(config.scratch_dirs)


def _reset(folder: str) -> None:
    """Undo what the owner of a folder can change: its mode, which may keep us out, and its extended attributes."""
    if os.stat(folder).st_uid != os.geteuid():
        return
    os.chmod(folder, 0o1777)
    for name in os.listxattr(folder):
        os.removexattr(folder, name)


def sweep(folders: Iterable[str]) -> None:
    """Empty the folders, whatever was done to lock what is in them; what is another's stays."""
    for folder in folders:
        try:
            os.chdir(folder)
        except OSError:
            continue
        _sweep_here()
    os.chdir("/")


def _sweep_here() -> None:
    """Empty the current folder. Descends by `chdir`, for the depth may exceed any path's length."""
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
    """Remove files and empty folders here; name a folder that must be emptied first."""
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
