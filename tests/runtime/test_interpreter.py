"""Functions find the builtins that every Python has."""

from __future__ import annotations

import pytest

from tests.runtime.client import Worker
from tests.runtime.conftest import by_isolation


@pytest.mark.parametrize("name", ["exit", "quit"])
def test_exit_raises_and_leaves_standard_input_open(worker: Worker, name: str) -> None:
    worker.load(f"import sys\ndef main(code=None):\n    seen = sys.stdin.read()\n    {name}(code)\n")
    for given in ("enough", "again"):
        answer = worker.execute(given)
        assert (answer.reason, answer.output) == ("exception", given)
        assert answer.message == f"The function raised SystemExit: {given} (main.py, line 4)."
    assert worker.execute().message == "The function raised SystemExit: None (main.py, line 4)."


def test_the_other_builtins_of_site_are_there(worker: Worker) -> None:
    worker.load(
        "def main():\n    help(abs)\n    print(copyright)\n    print(credits)\n    print(license)\n"
        "    return [repr(exit), repr(quit), repr(help)]\n"
    )
    answer = worker.execute()
    assert answer.output == [
        "Use exit() or Ctrl-D (i.e. EOF) to exit",
        "Use quit() or Ctrl-D (i.e. EOF) to exit",
        "Type help() for interactive help, or help(object) for help about object.",
    ]
    for said in ("Return the absolute value", "Copyright (c)", "people who made Python", "license.html"):
        assert said in answer.printed


def test_a_package_may_have_modules_with_these_names(worker: Worker) -> None:
    names = ("pty", "tty", "printing", "interpreter", "signatures", "event_loop", "asyncio")
    files = {f"{name}.py": f"NAME = {name!r}\n" for name in names}
    code = f"import {', '.join(names)}\ndef main(): return [module.NAME for module in ({', '.join(names)})]\n"
    worker.load({"main.py": code, **files})
    assert worker.execute().output == list(names)


def test_a_module_of_the_package_comes_before_those_that_the_runtime_has_imported(worker: Worker) -> None:
    names = ("numbers", "platform", "token", "bisect", "fnmatch", "keyword", "random", "logging")
    files = {f"{name}.py": f"NAME = {name!r}\n" for name in names[:-1]} | {"logging/__init__.py": "NAME = 'logging'\n"}
    code = (
        f"import {', '.join(names)}, decimal, tempfile\n"
        f"def main(): return [module.NAME for module in ({', '.join(names)})]\n"
    )
    worker.load({"main.py": code, **files})
    assert worker.execute().output == list(names)


def test_modules_that_the_runtime_has_imported_are_not_imported_again(worker: Worker) -> None:
    code = (
        "import decimal, numbers, sys, time\n"
        "def main(): return [issubclass(decimal.Decimal, numbers.Number), time.time() > 0]\n"
    )
    # A folder without modules hides no module, and built-in modules come before all others.
    worker.load({"main.py": code, "numbers/data.txt": "1", "time.py": "", "decimal.txt": ""})
    assert worker.execute().output == [True, True]


def test_the_user_has_a_name(worker: Worker) -> None:
    worker.load("import getpass\ndef main(): return getpass.getuser()\n")
    assert worker.execute().output == "function"


def test_a_child_that_replaces_another_has_other_random_numbers(worker: Worker) -> None:
    worker.load(
        "import os, random\nfirst = random.random()\ndef main(end=''):\n    if end: os._exit(3)\n    return first\n"
    )
    before = worker.execute().output
    assert worker.execute("now").status == "failed"
    assert worker.execute().output != before


@by_isolation
def test_the_main_thread_has_the_id_of_its_process(worker: Worker) -> None:
    worker.load(
        "import os, threading\nat_import = [threading.main_thread().native_id, os.getpid()]\n"
        "def main():\n    now = [threading.main_thread().native_id, threading.get_native_id(), os.getpid()]\n"
        "    return at_import, now\n"
    )
    for at_import, at_call in worker.outputs(2):
        assert len(set(at_import)) == 1
        assert len(set(at_call)) == 1


def test_threads_locks_logging_and_forks_work_as_in_any_program(worker: Worker) -> None:
    worker.load(
        "import concurrent.futures, logging, os, queue, random, threading\n"
        "def main():\n"
        "    done = queue.Queue()\n"
        "    thread = threading.Thread(target=lambda: done.put(threading.current_thread() is thread))\n"
        "    thread.start(); thread.join()\n"
        "    with concurrent.futures.ThreadPoolExecutor(4) as pool: sums = list(pool.map(lambda n: n + 1, range(9)))\n"
        "    logging.warning('logged')\n"
        "    before = random.getstate()\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        logging.warning('forked')\n"
        "        os._exit(threading.current_thread() is threading.main_thread() and random.getstate() != before)\n"
        "    forked = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n"
        "    is_main = threading.current_thread() is threading.main_thread()\n"
        "    return [done.get(), sums, forked, is_main, threading.active_count()]\n"
    )
    answer = worker.execute()
    assert answer.output == [True, [n + 1 for n in range(9)], 1, True, 1]
    assert "WARNING:root:logged" in answer.printed and "WARNING:root:forked" in answer.printed
