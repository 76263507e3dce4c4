"""A session keyring of the worker's own, in place of the one that it inherits from whoever started the service."""

from __future__ import annotations

import contextlib
import os

from .linux import system_call
from .syscalls import NUMBERS

_JOIN_SESSION_KEYRING = 1


def join_new_session() -> None:
    """Join a new, empty session keyring, which ends with the last process that has it.

    Call this before anything is forked. Where the filter of system calls is loaded, functions can't use keyrings at
    all; this is the second wall. A kernel without keyrings is no error. Neither is a user's full quota: an ordinary
    user may have 200 keyrings, and each worker that is started by `exec` takes one.
    """
    numbers = NUMBERS.get(os.uname().machine)
    if numbers is not None:
        with contextlib.suppress(OSError):
            system_call(numbers["keyctl"], _JOIN_SESSION_KEYRING, None)
