"""Isolation by call: each call runs in a fresh fork of a process that has loaded the function and served nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest

from runtimes.python3.qinling_worker import landlock
from tests.runtime.client import MIB, Worker, wait_until
from tests.runtime.conftest import MakeWorker, by_isolation

# Counts the imports, in a folder that is not emptied.
_COUNT = "import os\nwith open({path!r}, 'a') as file: file.write('imported\\n')\n"
_ASK = "import os\ndef main(): return [os.getpid(), os.getppid()]\n"


@pytest.fixture
def isolation() -> str:
    """All workers of these tests load with it."""
    return "per_call"


class Imports:
    """Counts how often a worker has imported its function."""

    def __init__(self, worker: Worker) -> None:
        self.path = worker.make_open_folder() / "imports"
        self.source = _COUNT.format(path=str(self.path))

    @property
    def count(self) -> int:
        return len(self.path.read_text().splitlines())


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


# State


def test_state_does_not_live_on_and_the_import_happens_once(worker: Worker) -> None:
    imports = Imports(worker)
    worker.load(
        f"{imports.source}calls = 0\ndef main():\n    global calls\n    calls += 1\n    os.environ['NOTE'] = 'left'\n"
        "    os.umask(0)\n    os.chdir('/')\n    return [calls, os.getpid(), os.getppid()]\n"
    )
    outputs = worker.outputs(5)
    assert [calls for calls, _, _ in outputs] == [1] * 5
    assert len({pid for _, pid, _ in outputs}) == 5
    assert len({parent for _, _, parent in outputs}) == 1
    assert imports.count == 1


def test_the_world_of_each_call_is_the_same(worker: Worker) -> None:
    worker.load(
        "import os\ndef main():\n"
        "    seen = [dict(os.environ), os.getcwd(), os.umask(0), sorted(os.listdir('/proc/self/fd')),\n"
        "            os.getsid(0) == os.getpid(), os.get_blocking(1), open('/proc/self/coredump_filter').read()]\n"
        "    os.environ['NOTE'] = 'left'; os.chdir('/'); os.dup(1)\n    for fd in (0, 1): os.set_blocking(fd, False)\n"
        "    for fd in range(3, 256):\n        try: os.set_blocking(fd, False)\n        except OSError: pass\n"
        "    return seen\n"
    )
    first, *others = worker.outputs(3)
    assert others == [first] * 2
    assert first[4:6] == [True, True]


def test_random_numbers_differ_from_call_to_call(worker: Worker) -> None:
    worker.load(
        "import os, random, tempfile, uuid\n"
        "try: from ssl import RAND_bytes\nexcept ImportError: RAND_bytes = os.urandom\n"
        "random.random(); RAND_bytes(8)\ndef main():\n    name = next(tempfile._get_candidate_names())\n"
        "    return [random.random(), str(uuid.uuid4()), RAND_bytes(8).hex(), name]\n"
    )
    for values in zip(*worker.outputs(4), strict=True):
        assert len(set(values)) == 4


def test_the_process_of_the_next_call_is_there_before_it(worker: Worker) -> None:
    worker.load(_ASK)
    pid = worker.execute().output[0]
    for _ in range(3):
        wait_until(lambda pid=pid: _is_gone(pid) and len(worker.processes()) == 3)  # the template, the loaded, the next
        before = worker.processes()
        pid = worker.execute().output[0]
        assert pid in before


# What a call leaves


@pytest.mark.parametrize(
    "harm",
    [
        "subprocess.Popen(['sleep', '600'])",
        "subprocess.Popen(['sleep', '600'], start_new_session=True)",
        "if os.fork() == 0:\n        if os.fork() == 0: time.sleep(600)\n        os._exit(0)\n    os.wait()",
        "if os.fork() == 0: time.sleep(600)",
        "libc.prctl(36, 1, 0, 0, 0)\n    if os.fork() == 0:\n        if os.fork() == 0: time.sleep(600)\n"
        "        os._exit(0)",
    ],
    ids=["child", "session", "orphan", "copy", "own subreaper"],
)
def test_what_a_call_leaves_is_ended_and_the_module_is_loaded_anew(worker: Worker, harm: str) -> None:
    imports = Imports(worker)
    worker.load(
        f"{imports.source}import ctypes, subprocess, time\nlibc = ctypes.CDLL(None)\ndef main(do=None):\n"
        f"    if do is None: return os.getppid()\n    {harm}\n    return os.getppid()\n"
    )
    assert worker.execute('{"do": 1}').status == "success"
    loaded = worker.execute().output
    assert imports.count == 2
    wait_until(lambda: len(worker.processes()) == 3)
    assert worker.execute().output == loaded
    assert imports.count == 2


def test_a_call_that_leaves_nothing_is_followed_by_another_fork(worker: Worker) -> None:
    imports = Imports(worker)
    worker.load(
        f"{imports.source}import subprocess, threading, time\ndef main():\n"
        "    threading.Thread(target=time.sleep, args=[600], daemon=True).start()\n"
        "    subprocess.run(['true'])\n    return os.getppid()\n"
    )
    assert len(set(worker.outputs(4))) == 1
    assert imports.count == 1


_FORGE = (
    "import os, struct\ndef forge():\n    for fd in range(3, 64):\n"
    "        try: name = os.readlink(f'/proc/self/fd/{fd}')\n"
    "        except OSError: continue\n"
    "        if name.startswith('socket:'): os.write(fd, struct.pack('!IBd', 8, 3, 0.0) + b'\"forged\"')\n"
)


@pytest.mark.parametrize("then", ["time.sleep(1)", "os.kill(os.getpid(), signal.SIGSTOP)"], ids=["goes on", "stopped"])
def test_a_call_that_goes_on_after_its_answer_is_ended_soon(worker: Worker, then: str) -> None:
    imports = Imports(worker)
    worker.load(
        f"{_FORGE}{imports.source}import signal, time\ndef main(path=None):\n"
        "    if path is None: return 'fine'\n    pid = os.getpid()\n"
        "    if os.fork() == 0:\n        time.sleep(1); open(path, 'w').close()\n"
        "        os.kill(pid, signal.SIGCONT); os._exit(0)\n"
        f"    forge()\n    {then}\n    open(path, 'w').close()\n    time.sleep(60)\n"
    )
    survived = imports.path.parent / "survived"
    assert worker.execute(str(survived)).output == "forged"
    assert worker.execute().output == "fine"
    assert not survived.exists()
    assert imports.count == 2


def test_a_call_that_has_closed_its_channel_is_told(worker: Worker) -> None:
    worker.load("import os\ndef main(do=None):\n    if do: os.closerange(3, 256)\n    return os.getppid()\n")
    loaded = worker.execute().output
    assert "has closed or corrupted its connection" in (worker.execute("x").message or "")
    assert worker.execute().output != loaded


def test_processes_that_multiprocessing_ends_itself_are_not_left(worker: Worker) -> None:
    imports = Imports(worker)
    worker.load(
        f"{imports.source}import multiprocessing\ndef main():\n"
        "    with multiprocessing.Pool(2) as pool: return pool.map(abs, [1, -2])\n",
        memory_size=128 * MIB,
    )
    assert worker.outputs(3) == [[1, 2]] * 3
    assert imports.count == 1


def test_what_a_thread_prints_after_its_call_is_in_no_log(worker: Worker) -> None:
    worker.load(
        "import threading\ndef chatter():\n    while True: print('late')\n"
        "def main(do=None):\n    if do: threading.Thread(target=chatter, daemon=True).start()\n"
    )
    for _ in range(5):
        worker.execute('{"do": 1}')
        assert worker.execute().printed == ""


def test_a_call_harms_no_log_and_no_channel_of_another(worker: Worker) -> None:
    worker.load(
        "import fcntl, os, sys\ndef main(do=None):\n    if do:\n        for fd in range(1, 256):\n"
        "            try: os.set_blocking(fd, False); fcntl.fcntl(fd, 1031, 4096)\n            except OSError: pass\n"
        "    else:\n        sys.stdout.write('x' * 50_000)\n"
    )
    worker.execute('{"do": 1}')
    assert len(worker.execute().printed) == 50_001


def test_a_call_can_be_cancelled_while_it_runs(worker: Worker) -> None:
    began = worker.make_open_folder() / "began"
    worker.load(
        "import os, time\ndef main(path=None):\n    if path is None: return 'fine'\n"
        "    open(path, 'w').close()\n    time.sleep(60)\n"
    )
    with worker.executing(str(began), execution_id="me", timeout_s=60) as answer:
        wait_until(began.exists)
        assert worker.request("POST", "/cancel", b'{"execution_id": "me"}')[0] == 202
        assert answer().reason == "cancelled"
    assert worker.execute().output == "fine"


# Scratch folders


def test_scratch_folders_are_empty_for_each_call(make_worker: MakeWorker, small_disk: Path) -> None:
    worker = make_worker()
    worker = make_worker(scratch_dirs=[str(worker.scratch), str(small_disk)])
    folders = [worker.config["scratch_dirs"][0], str(small_disk)]
    write = "    for folder in FOLDERS:\n        os.mkdir(folder + '/d'); open(folder + '/d/x', 'w').close()\n"
    worker.load(
        f"import os\nFOLDERS = {folders!r}\ndef write():\n{write}write()\n"
        "def main():\n    seen = [os.listdir(folder) for folder in FOLDERS]\n    write()\n    return seen\n"
    )
    assert worker.outputs(4) == [[[], []]] * 4


def test_a_scratch_folder_that_a_call_has_locked_is_empty_and_open_for_the_next(
    make_worker: MakeWorker, child_uid: int | None
) -> None:
    if child_uid is not None:
        pytest.skip("there the folder is not the function's own")
    worker = make_worker()
    worker.load(
        "import os\npath = os.environ['HOME']\ndef main():\n    seen = os.listdir(path), oct(os.stat(path).st_mode)\n"
        "    open(path + '/x', 'w').close()\n    os.chmod(path, 0)\n    return seen\n"
    )
    assert worker.outputs(3) == [[[], "0o41777"]] * 3


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
    worker.load(_ASK)
    _, loaded = worker.execute().output

    def is_replaced() -> bool:
        with contextlib.suppress(ProcessLookupError):
            os.kill(loaded, signum)  # again each time, for the template stops and resumes it as well
        answer = worker.execute()  # of the process that was there already, or of a new one
        assert answer.status == "success"
        return bool(answer.output[1] != loaded)

    wait_until(is_replaced)


def test_a_call_whose_process_died_before_it_began_runs_in_the_next_one(worker: Worker) -> None:
    worker.load(_ASK)
    pid, loaded = worker.execute().output
    for _ in range(10):
        wait_until(lambda pid=pid: _is_gone(pid) and len(worker.processes()) == 3)
        waiting = max(worker.processes(), key=lambda pid: pid not in (loaded, worker.template()))
        answer = worker.execute_in_killed(waiting)
        assert answer.status == "success"
        pid, loaded = answer.output
        if pid != waiting:
            return
        # It ran before it died: the supervisor had it stopped too, as idle, and let it go on for the call.
    raise AssertionError("each call began in the process that was to die before")


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
    worker.load(_ASK)
    pids = worker.execute().output
    wait_until(lambda: len(worker.processes()) == 3)
    pids += worker.processes()
    worker.process.kill()
    worker.process.wait()
    wait_until(lambda: all(_is_gone(pid) for pid in pids))
