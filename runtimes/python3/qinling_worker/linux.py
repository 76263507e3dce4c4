"""The few Linux calls that Python's standard library does not wrap."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SETPCAP = 5, 6, 7, 8

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 63

_libc = ctypes.CDLL(None, use_errno=True)


def set_dumpable(dumpable: bool) -> None:
    """Let processes of the same uid read this one's memory, environment and descriptors, or not."""
    _prctl(_PR_SET_DUMPABLE, int(dumpable))


def set_no_new_privs() -> None:
    """No program that is executed from here on gains anything by setuid bits or file capabilities."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def set_child_subreaper() -> None:
    """Make orphaned descendants children of this process, so that none can leave its tree."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_parent_death_signal(signum: int) -> None:
    """Be signalled when the parent ends. A change of uid clears this: call it afterwards."""
    _prctl(_PR_SET_PDEATHSIG, signum)


def keep_capabilities(wanted: Iterable[int]) -> None:
    """Drop every capability that is not in `wanted`, for good; those not held anyway stay away."""
    keep = sum(1 << capability for capability in wanted)
    for capability in range(_LAST_CAPABILITY + 1):
        # Fails without CAP_SETPCAP and above the kernel's last one: no_new_privs then does the same.
        if not keep >> capability & 1 and _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    held = (ctypes.c_uint32 * 6)()
    _check(_libc.capget(header, held))
    low, high = held[1] & keep & 0xFFFFFFFF, held[4] & (keep >> 32)
    _check(_libc.capset(header, (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)))


def close_all_but(keep: Iterable[int]) -> None:
    """Close every descriptor of this process that is not named."""
    kept = set(keep)
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:  # the listing's own descriptor
                continue


def return_free_memory() -> None:
    """Give memory that this process has freed back to the system, where the C library can (glibc)."""
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)


def _prctl(option: int, value: int) -> None:
    _check(_libc.prctl(option, value, 0, 0, 0))


def _check(status: int) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
