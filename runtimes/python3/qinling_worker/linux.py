"""The few Linux calls that Python's standard library does not wrap."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from typing import Any

CAP_DAC_READ_SEARCH, CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SETPCAP, CAP_NET_ADMIN, CAP_SYS_ADMIN = 2, 5, 6, 7, 8, 12, 21
SUPERVISOR_CAPABILITIES = (CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SETPCAP)
# In the order in which they are dropped: the last one is needed for that.
ZYGOTE_CAPABILITIES = (
    CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_DAC_READ_SEARCH, CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SETPCAP,
)  # fmt: skip
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096

# A child that has lost its channel ends by this signal, because an exit status would look like the function's own.
LOST_CHANNEL = 60

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 63
_MNT_DETACH = 2
_CLOSE_RANGE = 436  # on every architecture

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def system_call(number: int, *arguments: Any) -> int:
    """Make a system call that the C library does not wrap. Returns its result.

    Args:
        number: the call's number on this architecture.
        arguments: integers, pointers and None.

    Raises:
        OSError: the call has failed.
    """
    words = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in (number, *arguments)]
    result: int = _libc.syscall(*words)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def set_dumpable(dumpable: bool) -> None:
    """Let processes of the same uid read this one's memory, environment and descriptors, or not."""
    _prctl(_PR_SET_DUMPABLE, int(dumpable))


def set_no_new_privs() -> None:
    """Prevent programs that are executed from now on from gaining privileges by setuid bits or file capabilities."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def set_child_subreaper() -> None:
    """Make orphaned descendants children of this process, so that none can leave its tree."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_parent_death_signal(signum: int) -> None:
    """Be signalled when the parent ends. A change of uid clears this: call it afterwards."""
    _prctl(_PR_SET_PDEATHSIG, signum)


def keep_capabilities(wanted: Iterable[int]) -> None:
    """Drop every capability that is not in `wanted`, for good. This adds none that the process does not hold.

    From the bounding set, only capabilities that a zygote or an executed worker starts with are dropped.
    """
    keep = sum(1 << capability for capability in wanted)
    for capability in ZYGOTE_CAPABILITIES:
        # This fails without CAP_SETPCAP; then no_new_privs has the same effect.
        if not keep >> capability & 1 and _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    held = (ctypes.c_uint32 * 6)()
    _check(_libc.capget(header, held))
    low, high = held[1] & keep & 0xFFFFFFFF, held[4] & (keep >> 32)
    _check(_libc.capset(header, (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)))


def limit_bounding_set(wanted: Iterable[int]) -> None:
    """Drop all capabilities but `wanted` from the bounding set, as far as this process may."""
    kept = set(wanted)
    for capability in range(_LAST_CAPABILITY + 1):
        if capability not in kept:
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def keep_permitted_capabilities() -> None:
    """Keep the permitted capabilities when the uid changes from 0. `keep_capabilities` can then select some of them."""
    _prctl(_PR_SET_KEEPCAPS, 1)


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """`mount(2)`."""
    words = [word.encode() or None for word in (source, target, kind)]
    _check(_libc.mount(*words, ctypes.c_ulong(flags), data.encode() or None), target)


def detach(target: str) -> None:
    """Unmount a mount, without waiting for files in use on it."""
    _check(_libc.umount2(target.encode(), _MNT_DETACH), target)


def unshare(namespaces: int) -> None:
    """Move this process into new namespaces: `clone.CLONE_NEW*` flags."""
    _check(_libc.unshare(namespaces))


def close_all_but(keep: Iterable[int]) -> None:
    """Close every descriptor of this process that is not named."""
    first = 0
    for fd in [*sorted(keep), 0x7FFFFFFF]:
        if first < fd and _libc.syscall(_CLOSE_RANGE, first, fd - 1, 0) != 0:
            _close_listed(first, fd)  # a kernel before 5.9
        first = fd + 1


def _close_listed(first: int, end: int) -> None:
    for name in os.listdir("/proc/self/fd"):
        if first <= int(name) < end:
            try:
                os.close(int(name))
            except OSError:  # the listing's own descriptor
                continue


def exit_code(status: int) -> int:
    """As `os.waitstatus_to_exitcode`, which Python 3.8 lacks: the exit status, or a negative signal number."""
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def return_free_memory() -> None:
    """Give memory that this process has freed back to the system, where the C library can (glibc)."""
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)


def _prctl(option: int, value: int) -> None:
    _check(_libc.prctl(option, value, 0, 0, 0))


def _check(status: int, subject: str | None = None) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), subject)
