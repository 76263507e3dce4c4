"""Attempts on the process that later calls are forked from, with isolation by call. It has the uid of the calls."""

from __future__ import annotations

from tests.escape.attempt import Attempt


def _parent(name: str, what: str, *defences: str) -> Attempt:
    source = f"import errno, os, resource, signal\nparent = os.getppid\ndef attempt():\n    {what}\n    return True"
    return Attempt(f"{name} of later calls", source, defences, load=(("isolation", "per_call"),))


ATTEMPTS = [
    _parent("a signal to the process", "os.kill(parent(), 0)", "landlock of a call"),
    _parent("a signal by pidfd to the process", "signal.pidfd_send_signal(os.pidfd_open(parent()), 0)",
            "landlock of a call"),
    _parent("the memory of the process", "open(f'/proc/{parent()}/mem', 'r+b').close()",
            "landlock of a call", "landlock", "loaded process not dumpable"),
    _parent("the descriptors of the process", "os.readlink(f'/proc/{parent()}/fd/0')",
            "landlock of a call", "loaded process not dumpable"),
    _parent("the limits of the process",
            "resource.prlimit(parent(), resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE))",
            "seccomp"),
    _parent("the processors of the process", "os.sched_setaffinity(parent(), os.sched_getaffinity(0))", "seccomp"),
    _parent("the priority of the process", "os.setpriority(os.PRIO_PROCESS, parent(), 1)", "seccomp"),
    # EACCES shows that some process of this user has less priority already, and that the kernel changes all others.
    _parent("the priority of all processes",
            "try: os.setpriority(os.PRIO_USER, 0, 1)\n    except OSError as error: return error.errno == errno.EACCES",
            "seccomp"),
]  # fmt: skip
