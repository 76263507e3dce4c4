"""Tries which kernel features can confine functions on this host.

The service runs this in a process of its own (`orchestrators/process/kernel.py`), when it starts and for `make doctor`.
"""

from __future__ import annotations

import json
import os
import sys

from . import landlock, linux, seccomp
from .sandbox import count_alone


def main() -> None:
    """Print a JSON object: for each feature, why it does not work here, or an empty text."""
    linux.set_no_new_privs()
    found = {
        "process count": _try_count(),
        "seccomp": _try_seccomp(),
        "landlock": _try_landlock(landlock.FILES_VERSION),
        "landlock scopes": _try_landlock(landlock.SCOPES_VERSION),
    }
    sys.stdout.write(json.dumps(found))


def _try_count() -> str:
    """Why RLIMIT_NPROC does not count the processes of each worker by themselves, where all have this user's id."""
    if os.geteuid() == 0:
        return "the processes of root are not limited"
    trial = os.fork()  # in a process of its own, because it enters a user namespace
    if trial == 0:
        try:
            os._exit(0 if count_alone() else 1)
        finally:
            os._exit(1)
    return "" if os.waitpid(trial, 0)[1] == 0 else "this user can make no user namespaces"


def _try_landlock(needed: int) -> str:
    if needed > landlock.VERSION:
        return f"the kernel's Landlock has version {landlock.VERSION}, and {needed} is needed"
    rules = landlock.make_rules(["/"], [])
    assert rules is not None
    try:
        landlock.enter(rules)
    except OSError as error:
        return str(error.strerror)
    return ""


def _try_seccomp() -> str:
    try:
        seccomp.load()
        seccomp.load_for_child(seccomp.ChangeRule((0,), allowed=True), has_memory_group=False)
    except OSError as error:
        return str(error.strerror)
    try:
        os.sched_setaffinity(os.getppid(), os.sched_getaffinity(0))
    except PermissionError:
        return ""
    return "the filter was loaded, but denies nothing"
