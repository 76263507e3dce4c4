"""Isolation by call: the process that has loaded the function, and that calls are forked from."""

from __future__ import annotations

import contextlib
import json
import os
import signal

import pytest

from runtimes.python3.qinling_worker import landlock
from tests.runtime.client import MIB, Worker, wait_until
from tests.runtime.conftest import by_isolation
from tests.runtime.per_call import ASK, Imports, is_gone


@pytest.fixture
def isolation() -> str:
    """All workers of these tests load with it."""
    return "per_call"


# The import


def test_threads_of_the_import_are_refused_with_that_reason(worker: Worker) -> None:
    worker.load(
        "import concurrent.futures\npool = concurrent.futures.ThreadPoolExecutor()\npool.submit(int)\n"
        "def main(): return pool.submit(int).result()\n"
    )
    answer = worker.execute()
    assert (answer.status, answer.reason) == ("failed", "load")
    assert answer.message is not None
    assert answer.message.startswith("Function 'main.main' can't be loaded. Its module has started threads that go on")
    assert "threads that go on" in answer.printed


def test_processes_of_the_import_are_refused_with_that_reason(worker: Worker) -> None:
    worker.load("import subprocess\nsubprocess.Popen(['sleep', '600'])\ndef main(): return 1\n")
    answer = worker.execute()
    assert (answer.status, answer.reason) == ("failed", "load")
    assert "Its module has started processes that go on" in (answer.message or "")
    wait_until(lambda: len(worker.processes()) == 1)


def test_threads_and_processes_that_ended_within_the_import_are_fine(worker: Worker) -> None:
    worker.load(
        "import os, subprocess, threading, warnings\nwarnings.simplefilter('always')\n"
        "for _ in range(20):\n    thread = threading.Thread(target=int)\n    thread.start()\n    thread.join()\n"
        "subprocess.run(['true'])\nif os.fork() == 0: os._exit(0)\ndef main(): return 'fine'\n"
    )
    for _ in range(3):
        answer = worker.execute()
        assert (answer.output, answer.printed) == ("fine", "")


def test_an_ignored_sigchld_of_the_module_costs_no_exit_code(worker: Worker) -> None:
    worker.load(
        "import os, signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\ndef main(do=None):\n"
        "    if do: os._exit(3)\n    return signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN\n"
    )
    assert worker.execute().output is True
    answer = worker.execute('{"do": 1}')
    assert answer.message == "The function's process ended by itself with exit status 3, as by os._exit."
    assert worker.execute().output is True


def test_the_data_of_the_import_counts_once(worker: Worker) -> None:
    worker.load(
        "data = b'x' * 24_000_000\ndef main(size):\n    import time\n    more = b'x' * int(size); time.sleep(0.1)\n"
        "    return len(data) + len(more)\n",
        memory_size=32 * MIB,
    )
    assert worker.execute("1000").output == 24_001_000
    assert worker.execute("40000000").reason == "memory"
    assert worker.execute("1000").output == 24_001_000


@pytest.mark.parametrize("entry", ["main", "thing", "made", "wrapped", "method", "plain"])
def test_asyncio_is_imported_once_for_all_calls_of_an_async_function(worker: Worker, entry: str) -> None:
    worker.load(
        "import functools, os, sys\nimporters = []\nclass Finder:\n"
        "    def find_spec(self, name, *_):\n        if name == 'asyncio': importers.append(os.getpid())\n"
        "sys.meta_path.insert(0, Finder())\n"
        "async def main(): return [importers, os.getppid()]\n"
        "class Thing:\n    async def __call__(self): return await main()\nthing = Thing()\n"
        "made = lambda: main()\n@functools.wraps(main)\ndef wrapped(): return main()\nmethod = thing.__call__\n"
        "def plain(): return thing()\n",
        entry=f"main.{entry}",
    )
    for _ in range(2):
        importers, loaded = worker.execute().output
        assert importers == [loaded]


# The loaded process


def test_a_call_can_not_read_or_write_the_loaded_process(worker: Worker) -> None:
    imports = Imports(worker)
    worker.load(
        f"{imports.source}def main():\n    refused = []\n"
        "    for name, flags in (('mem', os.O_RDWR), ('environ', os.O_RDONLY), ('maps', os.O_RDONLY),\n"
        "                        ('stack', os.O_RDONLY), ('auxv', os.O_RDONLY)):\n"
        "        try: os.read(os.open(f'/proc/{os.getppid()}/{name}', flags), 1)\n"
        "        except PermissionError: refused.append(name)\n"
        "    try: os.readlink(f'/proc/{os.getppid()}/fd/0')\n    except PermissionError: refused.append('fd')\n"
        "    return refused\n"
    )
    assert worker.execute().output == ["mem", "environ", "maps", "stack", "auxv", "fd"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGALRM", "SIGCHLD", "SIGTSTP", "SIGSEGV"])
def test_signals_of_a_call_do_nothing_to_the_loaded_process(worker: Worker, name: str) -> None:
    imports = Imports(worker)
    worker.load(
        f"{imports.source}import signal\ntold = []\nsignal.signal(signal.SIGUSR1, lambda *_: told.append(1))\n"
        "def main(name):\n    seen = len(told)\n"
        "    try: os.kill(os.getppid(), getattr(signal, name))\n    except PermissionError: pass\n"
        "    return [seen, os.getppid()]\n"
    )
    outputs = worker.outputs(3, name)
    assert outputs == [[0, outputs[0][1]]] * 3
    assert imports.count == 1


@pytest.mark.skipif(landlock.VERSION < landlock.SCOPES_VERSION, reason="needs Landlock 6, Linux 6.12")
def test_a_call_can_not_signal_the_loaded_process(worker: Worker) -> None:
    worker.load(
        "import os, signal\ndef main():\n    refused = []\n"
        "    for number in (0, signal.SIGSTOP, signal.SIGKILL, signal.SIGUSR1):\n"
        "        try: os.kill(os.getppid(), number)\n        except PermissionError: refused.append(number)\n"
        "    os.kill(os.getpid(), 0)\n    return [refused, os.getppid()]\n"
    )
    outputs = worker.outputs(2)
    assert outputs == [[[0, signal.SIGSTOP, signal.SIGKILL, signal.SIGUSR1], outputs[0][1]]] * 2


@pytest.mark.skipif(
    os.uname().machine not in ("x86_64", "aarch64"), reason="no filter of system calls for this architecture"
)
def test_a_call_can_not_change_limits_of_the_loaded_process(worker: Worker) -> None:
    worker.load(
        "import os, resource\ndef main():\n    refused = []\n    loaded = os.getppid()\n"
        "    for name, change in {\n"
        "        'limit': lambda: resource.prlimit(loaded, resource.RLIMIT_NOFILE, (8, 8)),\n"
        "        'cores': lambda: os.sched_setaffinity(loaded, os.sched_getaffinity(0)),\n"
        "        'priority': lambda: os.setpriority(os.PRIO_PROCESS, loaded, 19),\n"
        "        'priorities': lambda: os.setpriority(os.PRIO_USER, 0, 19),\n"
        "        'policy': lambda: os.sched_setscheduler(loaded, os.SCHED_IDLE, os.sched_param(0)),\n"
        "    }.items():\n        try: change()\n        except PermissionError: refused.append(name)\n"
        "    return refused\n"
    )
    for _ in range(2):
        assert worker.execute().output == ["limit", "cores", "priority", "priorities", "policy"]


@by_isolation
def test_processes_do_not_share_their_standard_input(worker: Worker, isolation: str) -> None:
    worker.load(
        "import fcntl, os\ndef main(action):\n"
        "    seen = [fcntl.fcntl(0, fcntl.F_GETFL) & os.O_NONBLOCK, fcntl.fcntl(0, 11)]\n"  # F_GETSIG
        "    fcntl.fcntl(0, fcntl.F_SETFL, os.O_NONBLOCK)\n    fcntl.fcntl(0, 10, 37)\n"  # F_SETSIG
        "    if action == 'end': os._exit(1)\n    return seen\n"
    )
    assert worker.execute('{"action": "see"}').output == [0, 0]
    assert worker.execute('{"action": "end"}').status == "failed"
    assert worker.execute('{"action": "see"}').output == [0, 0]
    if isolation == "per_call":
        assert worker.execute('{"action": "see"}').output == [0, 0]


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_loaded_process_that_is_gone_or_stopped_is_replaced(worker: Worker, signum: int) -> None:
    worker.load(ASK)
    _, loaded = worker.execute().output

    def is_replaced() -> bool:
        with contextlib.suppress(ProcessLookupError):
            os.kill(loaded, signum)  # again each time, because the template stops and resumes it as well
        answer = worker.execute()  # of the process that was there already, or of a new one
        if answer.reason == "exited":  # this call's process ended together with its parent
            return False
        assert answer.status == "success", answer
        return bool(answer.output[1] != loaded)

    wait_until(is_replaced)


def test_a_call_whose_process_died_before_it_began_runs_in_the_next_one(worker: Worker) -> None:
    worker.load(ASK)
    pid, loaded = worker.execute().output
    wait_until(lambda: is_gone(pid) and len(worker.processes()) == 3)
    waiting = max(worker.processes(), key=lambda pid: pid not in (loaded, worker.template()))
    answer = worker.execute_in_killed(waiting)
    assert answer.status == "success"
    assert answer.output[0] != waiting


def test_a_call_that_kills_everything_it_can_costs_its_own_answer_at_most(
    worker: Worker, child_uid: int | None
) -> None:
    if child_uid is None:
        pytest.skip("with one uid the whole worker dies, and its orchestrator replaces it")
    worker.load(
        "import os, time\ndef main(pid=1):\n    if pid != 1: os.kill(pid or os.getppid(), 9); time.sleep(0.2)\n"
    )
    for pid in (-1, 0):
        answer = worker.execute(json.dumps({"pid": pid}))
        assert answer.status == "success" or answer.reason in ("exited", "exception")
        assert worker.execute().status == "success"


def test_nothing_is_left_at_the_end_of_the_worker(worker: Worker) -> None:
    worker.load(ASK)
    pids = worker.execute().output
    wait_until(lambda: len(worker.processes()) == 3)
    pids += worker.processes()
    worker.process.kill()
    worker.process.wait()
    wait_until(lambda: all(is_gone(pid) for pid in pids))
