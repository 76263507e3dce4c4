"""Gives the worker a session keyring of its own, in place of the inherited one of the user who started the service."""

from __future__ import annotations

import contextlib
import os

from .linux import system_call
from .syscalls import NUMBERS

_JOIN_SESSION_KEYRING = 1


def join_new_session() -> None:
    """Join a new, empty session keyring, which the kernel deletes with the last process that has it.

    Call this before anything is forked. The seccomp filter denies functions the use of keyrings; this protects the
    user's keys where the filter can't be loaded. Two errors are ignored: the kernel has no keyrings, or the user's
    quota is full. An ordinary user may have 200 keyrings, and each worker that is started by `exec` takes one.
    """
    numbers = NUMBERS.get(os.uname().machine)
    if numbers is not None:
        with contextlib.suppress(OSError):
            system_call(numbers["keyctl"], _JOIN_SESSION_KEYRING, None)
