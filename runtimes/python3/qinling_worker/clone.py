"""Forks processes without Python's own work around a fork; also into new namespaces and a control group.

`os.fork` makes new locks and calls what `os.register_at_fork` has registered, because another thread may have held a
lock. That writes to more than a hundred pages, which the two processes then share no longer. The processes that fork
here have one thread. So the only thing that they need of it is a new seed for `random`, where user code is to run.
"""

from __future__ import annotations

import ctypes
import errno
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
_CLONE_PIDFD = 0x00001000
_CLONE_CHILD_CLEARTID = 0x00200000
_CLONE_CHILD_SETTID = 0x01000000
_CLONE_INTO_CGROUP = 0x200000000
_SIGCHLD = 17
_SYS_CLONE3 = 435  # on every architecture
_PR_GET_TID_ADDRESS = 40

# PyDLL keeps the interpreter's lock, which the new process could not take.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _Arguments(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls", "set_tid",
            "set_tid_size", "cgroup",
        )
    ]  # fmt: skip


def fork() -> int:
    """`os.fork`, for a process that has one thread. Calls no hooks: the caller seeds `random`, if that is needed.

    Raises:
        OSError: the kernel has refused, so there is no new process.
    """
    pid: int = _libc.fork()
    if pid < 0:
        raise _error("fork")
    return pid


def fork_into(namespaces: int, group: int | None) -> tuple[int, int]:
    """`fork`, into new namespaces and a control group.

    Args:
        namespaces: `CLONE_NEW*` flags.
        group: a descriptor of the folder of a version 2 control group; None: the caller's group.

    Returns:
        (pid, pidfd) in the caller; (0, -1) in the new process.

    Raises:
        OSError: the kernel has refused, so there is no new process.
    """
    if not _thread_id_at:
        raise OSError(errno.ENOSYS, "The kernel does not tell where the thread's id is kept")
    pidfd = ctypes.c_int(-1)
    # The C library keeps the thread's id in memory. The kernel must write the new id there, because another thread of
    # the new process could later get the old id.
    flags = namespaces | _CLONE_PIDFD | _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID
    arguments = _Arguments(pidfd=ctypes.addressof(pidfd), child_tid=_thread_id_at, exit_signal=_SIGCHLD)
    if group is not None:
        flags |= _CLONE_INTO_CGROUP
        arguments.cgroup = group
    arguments.flags = flags
    pid: int = _libc.syscall(_SYS_CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments))
    if pid < 0:
        raise _error("clone3")
    return pid, pidfd.value


def _error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")


def _address_of_thread_id() -> int:
    """Where the C library keeps its thread's id; 0 where the kernel doesn't tell (no CONFIG_CHECKPOINT_RESTORE)."""
    address = ctypes.c_void_p()
    _libc.prctl(_PR_GET_TID_ADDRESS, ctypes.byref(address), 0, 0, 0)
    return address.value or 0


_thread_id_at = _address_of_thread_id()
