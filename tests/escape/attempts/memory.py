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
    time.sleep(8)  # looks at the memory are rare on a busy host; one that sees it ends the call
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[0] == pid
"""
_SHARED = """
import mmap, time
def attempt():
    memory = mmap.mmap(-1, 100 << 20)
    for _ in range(100):
        memory.write(b"x" * (1 << 20))
    time.sleep(0.2)
    return True
"""
# The process takes the memory after the call, and shows in the next one whether it was ended.
_LEFT = """
import os, time
def earlier():
    pid = os.fork()
    if pid == 0:
        time.sleep(0.02)
        held = b"x" * (100 << 20)
        time.sleep(60)
    return pid
def resident(pid):
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
def attempt(pid):
    until = time.monotonic() + 5
    while resident(pid) < 80 << 20 and time.monotonic() < until:
        time.sleep(0.01)
    # Looks at the memory take at most a twentieth of the time, so they are rare on a busy host.
    until = time.monotonic() + 5
    while resident(pid) > 80 << 20 and time.monotonic() < until:
        time.sleep(0.01)
    return resident(pid) > 80 << 20
"""
# The kernel shows the name in the first line of /proc/PID/status. What is above the limit is freed so soon that only
# the peak shows it.
_NAMED = """
import ctypes
def attempt():
    ctypes.CDLL(None).prctl(15, b"VmHWM:\\t1 kB", 0, 0, 0)
    held = b"x" * (32 << 20)
    return bool(b"x" * (4 << 20))
"""
_OOM = """
def attempt():
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("0")
    return open("/proc/self/oom_score_adj").read() == "0\\n"
"""


def _memory(name: str, source: str, *defences: str, size_mib: int = 32) -> Attempt:
    """An attempt that takes more memory than `size_mib`. Without defences, what it took may stay in its worker."""
    load = (("memory_size", size_mib << 20),)
    return Attempt(name, source, ("child's control group", *defences), ("memory",), load=load)


ATTEMPTS = [
    _memory("memory in a file without a name", _MEMFD, "no files in memory"),
    _memory("memory in pipes", _PIPES),
    # Another size, and so another worker: those above leave so much memory that the group of the worker has no room.
    _memory("memory of a process whose main thread has ended", _NO_MAIN_THREAD, "all threads are looked at",
            size_mib=31),
    _memory("memory in a shared mapping", _SHARED, "watched memory", size_mib=33),
    _memory("memory of a process that an earlier call has left", _LEFT, "watched memory", size_mib=34),
    _memory("memory for a moment, of a process with the name of a field", _NAMED, "fields of /proc by line",
            size_mib=35),
    Attempt("not to be killed first when memory runs out", _OOM, ("landlock",)),
]
