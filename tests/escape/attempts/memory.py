"""Memory beyond the function's `memory_size`, where the supervisor does not see it easily."""

from __future__ import annotations

from tests.escape.attempt import Attempt

_MEMFD = """
import os
def attempt():
    file, block = os.memfd_create("x"), b"x" * (1 << 20)
    return sum(os.write(file, block) for _ in range(150)) == 150 << 20
"""
_PIPES = """
import fcntl, os, time
def attempt():
    written, ends = 0, []
    for _ in range(55):
        ends.append(os.pipe())
        fcntl.fcntl(ends[-1][1], 1031, 1 << 20)
        os.set_blocking(ends[-1][1], False)
        try:
            while True:
                written += os.write(ends[-1][1], b"x" * 65536)
        except BlockingIOError:
            continue
    time.sleep(0.1)
    return written > 50 << 20
"""
_NO_MAIN_THREAD = """
import ctypes, os, signal, threading, time
def attempt():
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        def take():
            while open("/proc/self/stat").read().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.001)
            held = b"x" * (60 << 20)
            os.write(write, held[:1])
            time.sleep(60)
        threading.Thread(target=take).start()
        # This ends the main thread alone. The kernel then shows the process as a zombie without memory.
        ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)
    os.close(write)
    if not os.read(read, 1):
        return False
    time.sleep(2)
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[0] == pid
"""
_OOM = """
def attempt():
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("0")
    return open("/proc/self/oom_score_adj").read() == "0\\n"
"""


def _memory(name: str, source: str, *defences: str, size: int = 32 << 20) -> Attempt:
    return Attempt(name, source, ("child's control group", *defences), ("memory",), (("memory_size", size),))


ATTEMPTS = [
    _memory("memory in a file without a name", _MEMFD, "no files in memory"),
    _memory("memory in pipes", _PIPES),
    # Another size, and so another worker: those above leave so much memory that the group of the worker has no room.
    _memory("memory of a process whose main thread has ended", _NO_MAIN_THREAD, "all threads are looked at",
            size=31 << 20),
    Attempt("not to be killed first when memory runs out", _OOM, ("landlock",)),
]
