"""Source code for functions of tests that fork. It is inserted before the function's own code."""

from __future__ import annotations

# `fork_and_wait` returns the exit statuses of copies of the process that exist at the same time. Each runs `act`.
FORK_AND_WAIT = """
import os, time

def fork_and_wait(count, act=lambda: time.sleep(0.2)):
    pids = []
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            act()
            os._exit(0)
        pids.append(pid)
    return [os.waitpid(pid, 0)[1] for pid in pids]
"""
