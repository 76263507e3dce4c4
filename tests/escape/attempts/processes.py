"""Attempts on the processes around a function: its supervisor and its template; and on other uids."""

from __future__ import annotations

from tests.escape.attempt import Attempt

_AROUND = """
import os, resource, signal
from calls import call
def around():
    # The template, and its supervisor, both seen from the child.
    template = os.getppid()
    with open(f"/proc/{template}/stat") as file:
        supervisor = int(file.read().rpartition(")")[2].split()[1])
    return [template, supervisor]
def any_of(act):
    for pid in around():
        try:
            act(pid)
            return True
        except OSError:
            continue
    return False
"""


def _around(name: str, act: str, *defences: str) -> Attempt:
    return Attempt(name, f"{_AROUND}\ndef act(pid):\n    {act}\ndef attempt():\n    return any_of(act)", defences)


_OTHER_UID = ("no capabilities", "no second uid to become")
_BY_PTRACE = ("second uid", "landlock", "not dumpable", "own user namespace")
_CHANGED = ("second uid", "seccomp")
_BY_UID = ("second uid", "landlock scopes")

ATTEMPTS = [
    _around("a signal to the supervisor", "os.kill(pid, 0)", *_BY_UID),
    _around("a signal by pidfd", "signal.pidfd_send_signal(os.pidfd_open(pid), 0)", *_BY_UID),
    _around("the supervisor's memory", "open(f'/proc/{pid}/mem', 'rb').close()",
            *_BY_PTRACE),
    _around("the supervisor's environment", "open(f'/proc/{pid}/environ', 'rb').read()",
            *_BY_PTRACE),
    _around("the supervisor's files", "os.readlink(f'/proc/{pid}/fd/0')", *_BY_PTRACE),
    _around("the supervisor's limits",
            "resource.prlimit(pid, resource.RLIMIT_NOFILE, resource.prlimit(pid, resource.RLIMIT_NOFILE))", *_CHANGED),
    _around("the supervisor's processors", "os.sched_setaffinity(pid, os.sched_getaffinity(pid))", *_CHANGED),
    _around("the supervisor's priority", "os.setpriority(os.PRIO_PROCESS, pid, 1)", *_CHANGED),
    _around("the supervisor's I/O priority", "call('ioprio_set', 1, pid, 0x4001)", *_CHANGED),
    Attempt("the uid of root", "import os\ndef attempt():\n    os.setuid(0)\n    return True", _OTHER_UID),
    Attempt("another worker's uid", "import os\ndef attempt():\n    os.setuid(os.getuid() + 2)\n    return True",
            _OTHER_UID),
]  # fmt: skip
