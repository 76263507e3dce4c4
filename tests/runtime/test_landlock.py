"""Landlock around a function: files, signals, memory, abstract sockets; what goes on under it is in test_seccomp.py."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtimes.python3.qinling_worker import landlock
from tests.runtime.client import Worker
from tests.runtime.conftest import MakeWorker

pytestmark = pytest.mark.skipif(landlock.VERSION < landlock.FILES_VERSION, reason="needs Landlock 2, Linux 5.19")
scoped = pytest.mark.skipif(landlock.VERSION < landlock.SCOPES_VERSION, reason="needs Landlock 6, Linux 6.12")

TRY = """
import os, signal, socket, sys

def main(code):
    names = {}
    try:
        exec(code, names)
    except OSError as error:
        return {"errno": error.errno}
    return names.get("answer")
"""


def attempt(worker: Worker, code: str) -> Any:
    answer = worker.execute(json.dumps({"code": code}))
    assert answer.status == "success", answer
    return answer.output


@pytest.fixture
def worker(make_worker: MakeWorker) -> Worker:
    worker = make_worker()
    worker.load(TRY)
    return worker


@pytest.fixture
def outside() -> Iterator[Path]:
    """A folder outside of `/tmp` that every user may write to."""
    with tempfile.TemporaryDirectory(prefix="qf-landlock-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "file").write_text("kept")
        (folder / "file").chmod(0o666)
        yield folder


def test_scratch_folders_can_be_written_and_nothing_else(worker: Worker, outside: Path) -> None:
    for code in (
        f"open('{outside}/new', 'w')",
        f"open('{outside}/file', 'a')",
        f"import os; os.truncate('{outside}/file', 0)",
        f"import os; os.unlink('{outside}/file')",
        f"import os; os.mkdir('{outside}/folder')",
        f"import os; os.symlink('x', '{outside}/link')",
        f"import os; os.rename('{outside}/file', '{worker.scratch}/file')",
    ):
        assert attempt(worker, code) in ({"errno": 1}, {"errno": 13}, {"errno": 18}), code
    assert (outside / "file").read_text() == "kept"
    scratch = f"""
import os, socket
os.chdir('{worker.scratch}')
os.makedirs('a/b'); open('a/file', 'w').write('x'); os.rename('a/file', 'a/b/file'); os.truncate('a/b/file', 0)
os.symlink('a', 'link'); os.link('a/b/file', 'hard'); os.mkfifo('fifo'); socket.socket(socket.AF_UNIX).bind('socket')
os.unlink('a/b/file'); os.rmdir('a/b'); answer = sorted(os.listdir())
"""
    assert attempt(worker, scratch) == ["a", "fifo", "hard", "link", "socket"]
    assert attempt(worker, "open('/dev/null', 'w').write('x'); answer = 'used'") == "used"


def test_a_function_stays_the_first_that_the_kernel_kills_when_memory_runs_out(worker: Worker) -> None:
    assert attempt(worker, "open('/proc/self/oom_score_adj', 'w')") == {"errno": 13}
    assert attempt(worker, "answer = int(open('/proc/self/oom_score_adj').read())") == 1000


def test_only_named_files_can_be_read(make_worker: MakeWorker, outside: Path) -> None:
    worker = make_worker(readable=["/usr", "/lib", "/lib64", "/bin", sys.base_prefix])
    worker.load(TRY)
    assert attempt(worker, f"open('{outside}/file')") == {"errno": 13}
    assert attempt(worker, "open('/etc/passwd')") == {"errno": 13}
    assert attempt(worker, "import os; os.listdir('/')") == {"errno": 13}
    run = "import subprocess; answer = subprocess.getoutput('/usr/bin/env printf ran')"
    assert attempt(worker, run) == "ran"
    assert attempt(worker, f"import os; answer = os.listdir('{worker.code_dir}')") == ["main.py"]


@scoped
@pytest.mark.parametrize("child_uid", [None])
def test_a_function_with_its_supervisors_uid_can_not_touch_it(worker: Worker) -> None:
    template, supervisor = worker.template(), worker.process.pid
    for pid in (template, supervisor):
        for code in (
            f"import os; os.kill({pid}, 0)",
            f"import signal, os; signal.pidfd_send_signal(os.pidfd_open({pid}), 0)",
            f"open('/proc/{pid}/mem', 'r+b')",
            f"open('/proc/{pid}/environ')",
            f"import os; os.readlink('/proc/{pid}/fd/0')",
        ):
            assert attempt(worker, code) in ({"errno": 1}, {"errno": 13}), code
    own = "import os, signal\npid = os.fork()\nif pid == 0: signal.pause()\n"
    assert attempt(worker, own + "os.kill(pid, 9); answer = os.waitpid(pid, 0)[1]") == 9


@scoped
def test_two_functions_share_no_abstract_sockets(make_worker: MakeWorker) -> None:
    one, other = make_worker(), make_worker()
    name = f"\\0qf-{other.port}"
    serve = "import socket\nserver = socket.socket(socket.AF_UNIX); server.bind('{0}'); server.listen()\n"
    for worker in (one, other):
        worker.load(TRY)
    assert attempt(other, serve.format(name) + "import main; main.server = server; answer = 'bound'") == "bound"
    connect = f"import socket; socket.socket(socket.AF_UNIX).connect('{name}'); answer = 'connected'"
    assert attempt(other, connect) == "connected"
    assert attempt(one, connect) == {"errno": 1}
