"""Functions that run too long or end their processes: each call gets a clear answer, and the next call works."""

from __future__ import annotations

import json
import os

import pytest

from tests.runtime.client import OUT_OF_RESOURCES, Worker, wait_until
from tests.runtime.conftest import Harm, MakeWorker, by_isolation
from tests.runtime.hostile import assert_failed

# Time


@by_isolation
@pytest.mark.parametrize(
    "body",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "import signal, time\n[signal.signal(s, signal.SIG_IGN) for s in (1, 2, 15)]\ntime.sleep(60)",
        "'a' * 40 == __import__('re').match('(a+)+b', 'a' * 40)",
        "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
        "import os, time\nif os.fork() == 0:\n    os.setsid()\nwhile True: time.sleep(1)",
        "class Slow(Exception):\n    def __str__(self):\n        while True: pass\nraise Slow",
        "class Slow(dict):\n    def items(self):\n        while True: pass\nreturn Slow(a=1)",
    ],
    ids=["loop", "sleep", "deaf", "in C", "stopped", "forked away", "slow text", "slow result"],
)
def test_a_timeout_ends_it(harm: Harm, body: str) -> None:
    answer = harm(body, timeout_s=0.4)
    assert_failed(answer, "timeout", "Function execution timeout")
    assert answer.duration >= 0.4


@by_isolation
def test_nothing_of_the_tree_is_left_after_a_timeout(worker: Worker, isolation: str) -> None:
    worker.load(
        "import os, subprocess, time\n"
        "def main(do=None):\n"
        "    if do:\n"
        "        for _ in range(3):\n"
        "            subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "            if os.fork() == 0:\n"
        "                os.setsid()\n"
        "                if os.fork() == 0: time.sleep(600)\n"
        "                os._exit(0)\n"
        "        open(os.path.join(do, 'began'), 'w').close()\n"
        "        time.sleep(60)\n"
        "    return os.getpid()\n"
    )
    worker.execute()
    before = worker.processes()
    assert worker.execute(json.dumps({"do": str(worker.scratch)}), timeout_s=1.5).reason == "timeout"
    assert os.listdir(worker.scratch) == []
    assert worker.execute().output not in before
    # The template and the new child. With isolation by call, two: the loaded one, and the one of the next call.
    wait_until(lambda: len(worker.processes()) == (2 if isolation == "warm" else 3))


def test_a_process_that_is_always_another_one_is_ended(worker: Worker) -> None:
    worker.load(
        "import os, time\ndef main(path=None):\n"
        "    if path and os.fork() == 0:\n"
        "        os.setsid()\n"
        "        while not os.path.exists(path + '/end'):\n"
        "            with open(path + '/beats', 'a') as file: file.write('x')\n"
        "            if os.fork(): os._exit(0)\n"
        "        os._exit(0)\n"
        "    while path: time.sleep(1)\n    return 'fine'\n"
    )
    folder = worker.make_open_folder()
    assert worker.execute(str(folder), timeout_s=0.5).reason == "timeout"
    try:
        size = (folder / "beats").stat().st_size
        assert worker.execute().output == "fine"
        assert (folder / "beats").stat().st_size == size
    finally:
        (folder / "end").touch()


# Processes that end


@by_isolation
@pytest.mark.parametrize(
    "body",
    [
        "import os; os._exit(0)",
        "import os; os.kill(os.getpid(), 9)",
        "import os; os.abort()",
        "import ctypes; ctypes.string_at(0)",
        "import os\nif os.fork(): os._exit(0)\nimport time; time.sleep(60)",
        "import os; os.closerange(3, 256)",
        "import os\nfor fd in range(3, 256):\n    try: os.write(fd, b'garbage' * 10)\n    except OSError: pass\n"
        "import time; time.sleep(5)",
    ],
    ids=["exit", "kill", "abort", "segfault", "daemonize", "close channel", "spoil channel"],
)
def test_a_process_that_died_is_reported(harm: Harm, body: str) -> None:
    assert_failed(harm(body), "exited", OUT_OF_RESOURCES)


@pytest.mark.parametrize("name", ["VmHWM:", "VmHWM:z", "VmHWM:\t-1", "VmHWM:\t9999999", "a) Z 1 (b", "x\ny", "Uid:\t0"])
def test_a_process_may_have_any_name(worker: Worker, name: str) -> None:
    worker.load(
        "import ctypes, os, time\ndef main(name, leave=False):\n"
        "    ctypes.CDLL(None).prctl(15, name.encode(), 0, 0, 0)\n"
        "    if leave and os.fork() == 0: time.sleep(60)\n"
        "    time.sleep(0.05)\n    if leave: os._exit(1)\n    return name\n"
    )
    assert worker.execute(json.dumps({"name": name})).output == name
    assert worker.execute(json.dumps({"name": name, "leave": True})).reason == "exited"
    assert len(worker.processes()) <= 2  # the template and the next child
    assert worker.execute(json.dumps({"name": name})).output == name


@by_isolation
def test_what_was_printed_before_the_end_is_kept(harm: Harm) -> None:
    assert harm("import os; print('last words'); os._exit(1)").printed == "last words\n"


@by_isolation
def test_sys_exit_and_interrupts_are_exceptions(harm: Harm) -> None:
    assert_failed(harm("import sys; sys.exit('bye')"), "exception", "bye")
    assert_failed(harm("raise KeyboardInterrupt('stop')"), "exception", "stop")
    assert_failed(harm("raise GeneratorExit"), "exception", "GeneratorExit")
    assert_failed(harm("raise MemoryError('no room')"), "exception", "no room")


@by_isolation
def test_a_fork_bomb_is_gone(harm: Harm, child_uid: int | None) -> None:
    if child_uid is None and os.geteuid() == 0:
        pytest.skip("root itself is not limited: the bomb would take the host's processes")
    body = """
import os
while True:
    try: os.fork()
    except OSError: pass
"""
    answer = harm(body, timeout_s=1)
    assert answer.status == "failed"
    assert answer.reason in ("timeout", "memory")


def test_killing_others_does_not_end_the_worker(make_worker: MakeWorker, child_uid: int | None) -> None:
    if child_uid is None:
        pytest.skip("with one uid the whole worker dies, and its orchestrator replaces it")
    for body in ("os.kill(os.getppid(), 9)", "os.kill(-1, 9)", "os.kill(given, 9)"):
        worker = make_worker()
        worker.load(f"import os\ndef main(given=0):\n    if given:\n        {body}\n    return 'fine'\n")
        worker.execute()
        answer = worker.execute(json.dumps({"given": worker.process.pid}))
        assert answer.status == "success" or (answer.reason, answer.output[:8]) == ("exception", "[Errno 1")
        assert worker.execute().output == "fine"
        assert worker.process.poll() is None


@by_isolation
def test_a_function_that_returns_twice_answers_once(harm: Harm) -> None:
    answer = harm("import os\nos.fork()\nreturn 'returned'")
    assert (answer.status, answer.output) == ("success", "returned")
    answer = harm("import os\nif os.fork() == 0: raise ValueError('copy')\nos.wait()\nreturn 'returned'")
    assert (answer.status, answer.output, answer.printed) == ("success", "returned", "")
    odd = "class Odd(dict):\n    def items(self):\n        if os.fork(): os.wait()\n        return [('a', 1)]\n"
    answer = harm("import os\n" + odd + "return Odd(a=1)")
    assert (answer.status, answer.output) == ("success", {"a": 1})


@by_isolation
def test_a_module_that_forks_at_its_import_is_there_once(worker: Worker, isolation: str) -> None:
    count = "calls = 0\ndef main():\n    global calls\n    calls += 1\n    return calls\n"
    worker.load("import os\nfor _ in range(3): os.fork()\n" + count)
    counts = [1, 2, 3, 4, 5] if isolation == "warm" else [1] * 5
    assert worker.outputs(5) == counts


@by_isolation
def test_a_process_that_ends_after_its_answer_harms_no_call(worker: Worker) -> None:
    runs = worker.make_open_folder() / "runs"
    worker.load(
        "import os, threading\ndef main(delay):\n"
        f"    with open({str(runs)!r}, 'a') as file: file.write('run\\n')\n"
        "    threading.Timer(float(delay), os._exit, [0]).start()\n    return os.getpid()\n"
    )
    calls = successes = 0
    for delay in ("0.1", "0.02", "0.004", "0.002", "0.001", "0"):
        answer = worker.execute(delay)
        assert answer.status == "success" or answer.reason == "exited"
        following = worker.execute("60")
        assert following.status == "success" or following.reason == "exited"
        if answer.status == "success":
            wait_until(lambda pid=answer.output: pid not in worker.processes())
        assert worker.execute("60").status == "success"
        calls += 3
        successes += 1 + (answer.status == "success") + (following.status == "success")
    # A process may end after it has read a call and before it runs it. No call runs twice.
    assert successes <= len(runs.read_text().splitlines()) <= calls


def test_a_call_that_was_sent_to_a_dead_child_runs_in_the_next_one(worker: Worker) -> None:
    worker.load("import os\ndef main(): return os.getpid()\n")
    old = worker.execute().output
    answer = worker.execute_in_killed(old)
    assert answer.status == "success"
    assert answer.output != old


def test_background_processes_live_until_their_child_is_replaced(worker: Worker) -> None:
    worker.load(
        "import subprocess, os\ndef main(do='spawn'):\n    if do == 'die': os._exit(1)\n"
        "    subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
    )
    assert worker.execute().status == "success"
    assert worker.execute().status == "success"
    assert len(worker.processes()) == 4
    assert worker.execute('{"do": "die"}').reason == "exited"
    assert len(worker.processes()) <= 2
