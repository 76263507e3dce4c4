"""Tries which kernel features can confine functions on this host.

The service runs this in a process of its own (`orchestrators/process/kernel.py`), when it starts and for `make doctor`.
"""

from __future__ import annotations

import json
import os
import sys

from . import landlock, linux, seccomp


def main() -> None:
    """Print a JSON object: for each feature, why it does not work here, or an empty text."""
    linux.set_no_new_privs()
    found = {
        "seccomp": _try_seccomp(),
        "landlock": _try_landlock(landlock.FILES_VERSION),
        "landlock scopes": _try_landlock(landlock.SCOPES_VERSION),
    }
    sys.stdout.write(json.dumps(found))


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
        seccomp.load_for_child(seccomp.Changeable((0,), only=True), has_memory_group=False)
    except OSError as error:
        return str(error.strerror)
    try:
        os.sched_setaffinity(os.getppid(), os.sched_getaffinity(0))
    except PermissionError:
        return ""
    return "the filter was loaded, but denies nothing"
