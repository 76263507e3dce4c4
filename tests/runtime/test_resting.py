"""Functions between their calls, where no control group can be frozen: signals stop their processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path

import pytest

from runtimes.python3.qinling_worker import cleaner, linux, memory
from tests.runtime.client import Worker, wait_until
from tests.runtime.per_call import is_gone
from tests.support.forks import FORK_WITHOUT_MAIN_THREAD

by_form = pytest.mark.parametrize("child_uid", ["one uid", "forked"], indirect=True)

LEAVE = f"""{FORK_WITHOUT_MAIN_THREAD}
def leave():
    pid = os.fork()
    if pid == 0:
        os.setsid()
        time.sleep(600)
    return pid

def main(do="nothing"):
    if do == "end":
        os._exit(1)
    if do == "hang":
        time.sleep(600)
    if do == "leave":
        return [os.getpid(), leave(), fork_without_main_thread(lambda: time.sleep(600))]
    return os.getpid()
"""
# Leaves a process that takes 100 MB when it is told to.
TAKE = """
import os, time
def main(path=None):
    pid = os.fork() if path else 0
    if path and pid == 0:
        while not os.path.exists(path + "/take"):
            time.sleep(0.001)
        data = b"x" * 100_000_000
        open(path + "/taken", "w").close()
        time.sleep(600)
    return [os.getpid(), pid]
"""
# Leaves a chain of processes, each of which forks the next one and ends.
CHAIN = """
import os
def main(path=None):
    if path and os.fork() == 0:
        os.setsid()
        while not os.path.exists(path + "/end"):
            with open(path + "/beats", "a") as file:
                file.write("x")
            if os.fork():
                os._exit(0)
        os._exit(0)
    return "fine"
"""


@by_form
def test_an_idle_function_is_stopped(worker: Worker) -> None:
    worker.load(LEAVE)
    pid = worker.execute().output
    for _ in range(2):
        wait_until(lambda: memory.is_stopped(pid))
        assert worker.execute().output == pid


@by_form
def test_all_that_a_call_leaves_is_stopped_and_goes_on_with_the_next_call(worker: Worker) -> None:
    worker.load(LEAVE)
    pids = worker.execute('{"do": "leave"}').output
    wait_until(lambda: all(map(memory.is_stopped, pids)))
    with worker.executing('{"do": "hang"}', timeout_s=60):
        wait_until(lambda: all(map(memory.is_awake, pids)))
        assert worker.request("POST", "/cancel", json.dumps({"execution_id": "e2"}).encode())[0] == 202
    wait_until(lambda: all(map(is_gone, pids)))


@by_form
@pytest.mark.parametrize("do", ["hang", "end"])
def test_a_process_whose_main_thread_has_ended_is_killed_with_the_others(worker: Worker, do: str) -> None:
    worker.load(LEAVE)
    pids = worker.execute('{"do": "leave"}').output
    assert worker.execute(json.dumps({"do": do}), timeout_s=0.3).status == "failed"
    assert worker.execute().output not in pids
    assert all(map(is_gone, pids))


@by_form
def test_a_process_whose_main_thread_has_ended_does_not_outlive_its_supervisor(worker: Worker) -> None:
    worker.load(LEAVE)
    pids = worker.execute('{"do": "leave"}').output
    worker.process.kill()
    wait_until(lambda: all(map(is_gone, pids)))


@by_form
def test_a_process_that_is_always_another_one_does_not_run_between_calls(worker: Worker) -> None:
    worker.load(CHAIN)
    folder = worker.make_open_folder()
    beats = folder / "beats"
    assert worker.execute(str(folder)).output == "fine"
    try:
        wait_until(lambda: beats.exists() and _is_quiet(beats))
        assert worker.execute().output == "fine"
    finally:
        (folder / "end").touch()


@by_form
def test_a_function_of_which_a_process_runs_again_is_ended(worker: Worker) -> None:
    worker.load(LEAVE)
    pids = worker.execute('{"do": "leave"}').output
    wait_until(lambda: all(map(memory.is_stopped, pids)))

    def are_ended() -> bool:
        # Again each time, because the template may still be stopping the processes.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[1], signal.SIGCONT)
        return all(map(is_gone, pids))

    wait_until(are_ended)
    answer = worker.execute()
    assert answer.output not in pids
    assert "not all could be stopped" in answer.printed


@by_form
def test_memory_that_a_process_takes_before_it_is_stopped_counts(worker: Worker) -> None:
    worker.load(TAKE)
    assert worker.execute().status == "success"  # the template is not needed for the next call
    folder = worker.make_open_folder()
    template = worker.template()
    os.kill(template, signal.SIGSTOP)
    try:
        pids = worker.execute(str(folder)).output
        time.sleep(0.5)  # the supervisor has looked at the memory, and told the template to stop the processes
        (folder / "take").touch()
        wait_until(lambda: (folder / "taken").exists() or is_gone(pids[1]))
    finally:
        os.kill(template, signal.SIGCONT)
    wait_until(lambda: all(map(is_gone, pids)))
    assert worker.execute().status == "success"


def test_a_process_that_the_end_of_another_one_wakes_is_stopped_again() -> None:
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if _wake_and_stop() else 1)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


def _wake_and_stop() -> bool:
    """Whether `stop_descendants` stops a process that the kernel continues because its process group is orphaned."""
    linux.set_child_subreaper()
    pids, end = os.pipe(), os.pipe()
    parent = os.fork()
    if parent == 0:
        os.setsid()
        if os.fork() == 0:
            os.setpgid(0, 0)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            os.write(pids[1], b"%d" % os.getpid())
            time.sleep(600)
        os.read(end[0], 1)
        os._exit(0)
    child = int(os.read(pids[0], 20))
    real = cleaner.signal_all

    def signal_late(_pids: object, number: int) -> None:
        # The parent ends when the child is stopped already, before its own signal comes.
        real([child], number)
        wait_until(lambda: memory.is_stopped(child))
        os.write(end[1], b"x")
        os.waitpid(parent, 0)
        wait_until(lambda: memory.is_awake(child))
        cleaner.signal_all = real

    cleaner.signal_all = signal_late
    try:
        _, all_stopped = cleaner.stop_descendants(os.getpid())
        return all_stopped and memory.is_stopped(child)
    finally:
        os.kill(child, signal.SIGKILL)


def _is_quiet(path: Path) -> bool:
    size = path.stat().st_size
    time.sleep(0.3)
    return path.stat().st_size == size
