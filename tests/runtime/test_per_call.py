"""Isolation by call: each call runs in a fresh fork of a process that has loaded the function and served nothing."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.runtime import client
from tests.runtime.client import MIB, Worker, wait_until
from tests.runtime.conftest import MakeWorker
from tests.runtime.per_call import ASK, Imports, is_gone


@pytest.fixture
def isolation() -> str:
    """All workers of these tests load with it."""
    return "per_call"


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
    worker.load(ASK)
    pid = worker.execute().output[0]
    for _ in range(3):
        wait_until(lambda pid=pid: is_gone(pid) and len(worker.processes()) == 3)  # the template, the loaded, the next
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


@pytest.mark.parametrize("then", ["time.sleep(600)", "os.kill(os.getpid(), 19)"], ids=["goes on", "stopped"])
def test_a_call_that_goes_on_alone_after_its_answer_costs_no_import(worker: Worker, then: str) -> None:
    imports = Imports(worker)
    worker.load(
        f"{_FORGE}{imports.source}import time\ndef main(do=None):\n"
        f"    if do is None: return 'fine'\n    forge()\n    {then}\n    time.sleep(600)\n"
    )
    for _ in range(2):
        assert worker.execute("x").output == "forged"
        assert worker.execute().output == "fine"
    assert imports.count == 1


def test_a_process_of_a_call_that_takes_long_to_end_costs_no_import(worker: Worker) -> None:
    imports = Imports(worker)
    worker.load(
        f"{imports.source}import time\ndef main():\n    if os.fork() == 0:\n        began = time.monotonic()\n"
        "        while time.monotonic() < began + 0.3: pass\n        os._exit(0)\n    return os.getppid()\n"
    )
    assert len(set(worker.outputs(2))) == 1
    assert imports.count == 1


@pytest.mark.parametrize("child_uid", [None])
def test_a_call_that_takes_memory_after_its_answer_is_ended(
    make_worker: MakeWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program"
    shutil.copytree(client.PROGRAM.parent, program)
    # A copy of the program without the deadlines, which would end the call, too.
    for module, names in {"supervisor": ("END", "FORK"), "per_call": ("ANSWERED",)}.items():
        path = program / "qinling_worker" / f"{module}.py"
        text, count = re.subn(rf"(?m)^(_(?:{'|'.join(names)})_TIMEOUT_S) = [0-9.]+", r"\1 = 600", path.read_text())
        assert count == len(names)
        path.write_text(text)
    monkeypatch.setattr(client, "PROGRAM", program / client.PROGRAM.name)
    worker = make_worker()
    imports = Imports(worker)
    worker.load(
        f"{_FORGE}{imports.source}import time\ndef main(mib=None):\n    if mib is None: return 'fine'\n"
        "    forge()\n    for fd in range(3, 64):\n"
        "        try:\n            while os.read(fd, 1): pass\n"  # until the supervisor closes the channel
        "        except OSError: continue\n"
        "    held = b'x' * (int(mib) << 20)\n    time.sleep(600)\n"
    )
    assert worker.execute("100").output == "forged"
    wait_until(lambda: imports.count == 2)
    assert worker.execute().output == "fine"


def test_a_call_that_has_closed_its_channel_gets_a_message(worker: Worker) -> None:
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
        pytest.skip("a function with a uid of its own can't change the mode of this folder")
    worker = make_worker()
    worker.load(
        "import os\npath = os.environ['HOME']\ndef main():\n    seen = os.listdir(path), oct(os.stat(path).st_mode)\n"
        "    open(path + '/x', 'w').close()\n    os.chmod(path, 0)\n    return seen\n"
    )
    assert worker.outputs(3) == [[[], "0o41777"]] * 3
