"""Functions whose modules patch libraries, fail to load, or try to read and change what is not theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.client import OUT_OF_RESOURCES, SECRET, Worker, wait_until
from tests.runtime.conftest import Harm, MakeWorker
from tests.runtime.hostile import assert_failed

# Patches


@pytest.mark.parametrize(
    "before",
    [
        "import json; json.dumps = json.loads = json.JSONEncoder = json.JSONDecoder = None",
        "import json.encoder, json.decoder; json.encoder.c_make_encoder = json.decoder.JSONDecoder.decode = None",
        "import builtins\nfor n in ('len', 'isinstance', 'type', 'str', 'dict', 'BaseException', 'max', 'Exception'):"
        " setattr(builtins, n, 0)",
        "import os; os.read = os.write = os.getpid = os._exit = None",
        "import struct, socket, time, traceback, importlib, inspect\n"
        "for m in (struct, socket, time, traceback, importlib, inspect):\n"
        "    for n in list(vars(m)):\n        if n[0] != '_': setattr(m, n, None)",
        "import sys; sys.stdout = sys.stderr = sys.stdin = None",
        "import gc; gc.disable()",
        "import signal; signal.signal(signal.SIGPIPE, signal.SIG_DFL)",
    ],
)
def test_patches_reach_the_loop_as_little_as_may_be(harm: Harm, before: str) -> None:
    answer = harm("return {'a': [1, 'b', None]}", before=before)
    assert (answer.status, answer.output) == ("success", {"a": [1, "b", None]})
    assert_failed(harm("raise ValueError('text')", before="ValueError = ValueError\n" + before), "exception", "text")


# Loading


@pytest.mark.parametrize(
    ("code", "entry", "said"),
    [
        ("def main(:\n", "main.main", "SyntaxError"),
        ("x = 1\n", "main.main", "no function 'main'"),
        ("main = 3\n", "main.main", "is not a function"),
        ("def main(): pass\n", "other.main", "There is no module 'other'"),
        ("def main(): pass\n", "main", "module.function"),
        ("import nothing_of_that_name\n", "main.main", "nothing_of_that_name"),
        ("raise SystemExit('no')\n", "main.main", "SystemExit: no"),
        ("import os; os._exit(0)\n", "main.main", "exit status 0"),
        ("import os\nos.fork()\nraise ValueError('both')\n", "main.main", "both"),
    ],
)
def test_a_function_that_cannot_be_loaded_says_why(worker: Worker, code: str, entry: str, said: str) -> None:
    assert worker.load("print('loading')\n" * ("def main(:" not in code) + code, entry=entry)[0] == 200
    for _ in range(3):
        answer = worker.execute()
        assert (answer.status, answer.reason) == ("failed", "load")
        assert said in answer.output
        if "def main(:" not in code and entry != "other.main" and "." in entry:
            assert answer.printed.startswith("loading\n")


def test_an_import_that_hangs_is_ended(make_worker: MakeWorker) -> None:
    worker = make_worker(load_timeout_s=0.5)
    worker.load("print('loading')\nwhile True: pass\n")
    for _ in range(2):
        answer = worker.execute()
        said = "Function 'main.main' can't be loaded. Its module was not imported within 0.5 s."
        assert_failed(answer, "load", said)
        assert answer.printed == "loading\n"


def test_a_function_that_loads_at_the_second_try_works(worker: Worker) -> None:
    mark = worker.make_open_folder() / "mark"
    check = f"import os\nif not os.path.exists({str(mark)!r}):\n    raise OSError('away')\n"
    worker.load(check + "def main(): return 'fine'\n")
    first = worker.execute()
    assert (first.reason, "away" in first.output) == ("load", True)
    assert "OSError: away" in first.printed
    mark.touch()
    wait_until(lambda: worker.execute().output == "fine")


def test_memory_taken_by_the_import_counts(worker: Worker) -> None:
    worker.load("data = b'x' * 80_000_000\ndef main(): pass\n")
    for _ in range(2):
        assert_failed(worker.execute(), "memory", OUT_OF_RESOURCES)


# Secrets


def test_the_supervisor_cannot_be_read(worker: Worker) -> None:
    worker.load(
        """
import os
def main(pid):
    found = {}
    for who in (pid, str(os.getppid()), 'self'):
        for what in ('environ', 'mem', 'maps', 'cmdline', 'fd', 'cwd'):
            path = f'/proc/{who}/{what}'
            try:
                if what == 'fd': found[path] = repr([os.readlink(f'{path}/{n}') for n in os.listdir(path)])
                elif what == 'mem':
                    with open(path, 'rb', buffering=0) as file: found[path] = 'open'
                elif what == 'cwd': found[path] = os.readlink(path)
                else: found[path] = open(path, 'rb').read().decode('latin-1')
            except OSError as error: pass
    return found
"""
    )
    found = worker.execute(str(worker.process.pid)).output
    for path, content in found.items():
        assert SECRET not in content
        assert "environment-of-the-supervisor" not in content
        assert path.startswith("/proc/self/") or path.endswith("/cmdline"), path
    child = next(pid for pid in worker.processes() if pid != worker.template())
    regions = [line.split()[0] for line in Path(f"/proc/{child}/maps").read_text().splitlines() if " rw-p " in line]
    with open(f"/proc/{child}/mem", "rb", buffering=0) as memory:
        for region in regions:
            start, end = (int(part, 16) for part in region.split("-"))
            memory.seek(start)
            assert SECRET.encode() not in memory.read(end - start)


def test_code_cannot_be_changed(worker: Worker, child_uid: int | None) -> None:
    if child_uid is None:
        pytest.skip("with one uid the code belongs to the function")
    worker.load(
        {
            "main.py": "import os\ndef main():\n    done = []\n"
            "    for act in (lambda: open('main.py', 'a'), lambda: open('new', 'w'), lambda: os.unlink('main.py'),\n"
            "                lambda: os.chmod('main.py', 0o777), lambda: os.rename('sub', 'sup'),\n"
            "                lambda: os.mkdir('sub/x')):\n"
            "        try: act(); done.append(1)\n        except OSError: pass\n    return done\n",
            "sub/data": "x",
        }
    )
    assert worker.execute().output == []
