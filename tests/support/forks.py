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

# `fork_without_main_thread` returns the pid of a copy of the process whose main thread has ended. `work` then
# runs in another thread of it. The kernel shows such a process as a zombie without memory and command line.
FORK_WITHOUT_MAIN_THREAD = """
import ctypes, os, threading, time

def has_no_main_thread(pid):
    return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] == "Z"

def end_main_thread(work):
    def wait_and_work():
        while not has_no_main_thread(os.getpid()):
            time.sleep(0.001)
        work()
    threading.Thread(target=wait_and_work).start()
    ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)

def fork_without_main_thread(work):
    pid = os.fork()
    if pid == 0:
        end_main_thread(work)
    while not has_no_main_thread(pid):
        time.sleep(0.001)
    return pid
"""
