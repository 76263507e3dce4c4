"""The memory of several processes is counted as what they use together, also while some of them end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from runtimes.python3.qinling_worker import memory
from tests.runtime.client import MIB
from tests.support.forks import FORK_WITHOUT_MAIN_THREAD

SIZE = 32 * MIB


@pytest.fixture
def pids() -> Iterator[list[int]]:
    """Four processes, each of which has SIZE bytes of its own."""
    read, write = os.pipe()
    found = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            data = b"x" * SIZE
            os.write(write, data[:1])
            signal.pause()
            os._exit(0)
        found.append(pid)
        os.read(read, 1)
    yield found
    for pid in found:
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
    os.close(read)
    os.close(write)


def test_processes_that_have_ended_do_not_count(pids: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """They may end after they were listed, before their shares are read."""
    listed = [process for process in memory.processes() if process.pid in pids]
    monkeypatch.setattr(memory, "descendants", lambda _root: listed)
    assert memory.used_below(os.getpid(), 0, 2 * SIZE) >= 4 * SIZE
    for pid in pids[:3]:
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    os.waitpid(pids[0], 0)  # the other two have ended, but are not reaped
    listed_size = max(process.resident for process in listed)
    assert memory.used_below(os.getpid(), 0, 2 * SIZE) <= listed_size


@pytest.mark.parametrize("limit", [SIZE, 1 << 40], ids=["by shares", "by sum"])
def test_processes_whose_main_thread_has_ended_count(limit: int) -> None:
    source = f"{FORK_WITHOUT_MAIN_THREAD}\ndef work():\n    held = b'x' * {SIZE}\n    os.write(1, b'ready\\n')\n"
    source += "    time.sleep(600)\npids = [fork_without_main_thread(work) for _ in range(2)]\n"
    source += "print(*pids, flush=True)\ntime.sleep(600)\n"
    root = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)
    try:
        assert root.stdout is not None
        lines = [root.stdout.readline() for _ in range(3)]
        lines.remove("ready\n")
        lines.remove("ready\n")
        pids = [int(pid) for pid in lines[0].split()]

        assert sorted(process.pid for process in memory.descendants(root.pid)) == sorted(pids)
        assert memory.used_below(root.pid, 0, limit) >= 2 * SIZE
        assert not memory.is_alone(pids[0], root.pid)
    finally:
        for pid in (*memory.below(root.pid), root.pid):
            os.kill(pid, signal.SIGKILL)
        root.wait()
