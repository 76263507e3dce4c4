"""Ending the processes of a worker that has no PID namespace and no control groups."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from qinling_falcon.orchestrators.process import leftovers
from tests.support.forks import FORK_WITHOUT_MAIN_THREAD

from .conftest import eventually

# A subreaper, which adopts orphaned descendants, as a worker's template does.
_ADOPT = (
    "import ctypes, subprocess, sys, time; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); "
    "subprocess.Popen(sys.argv[1:]); time.sleep(60)"
)


@pytest.mark.parametrize("attempt", range(3))
def test_a_process_that_is_always_another_one_is_ended(tmp_path: Path, attempt: int) -> None:
    name = uuid.uuid4().hex
    script = tmp_path / f"{name}.sh"
    beats = tmp_path / "beats"
    # A chain of processes without the mark, each of which forks the next one and ends.
    script.write_text(f'echo >> {beats}\n/bin/sh "$0" &\nexit\n')
    mark = leftovers.mark("install", name)
    root = subprocess.Popen([sys.executable, "-X", mark, "-c", _ADOPT, "/bin/sh", str(script)])
    try:
        assert eventually(beats.exists)
        assert leftovers.end(lambda: leftovers.kill_found([mark]) | (root.poll() is None), 60)
        size = beats.stat().st_size
        assert not eventually(lambda: beats.stat().st_size > size, within_s=0.3)
    finally:
        root.kill()
        root.wait()
        script.unlink(missing_ok=True)  # upon which the chain ends


@pytest.mark.parametrize("name", ["a\nState:\tZ", "State:\tZ", "x\x0bUid:\t0", "\x85PPid:\t1", "PPid:", "a) Z"])
def test_a_process_may_have_any_name(name: str) -> None:
    mark = leftovers.mark("install", uuid.uuid4().hex)
    rename = f"import ctypes; ctypes.CDLL(None).prctl(15, {name.encode()!r}, 0, 0, 0)"
    rename += "; print(flush=True); import time; time.sleep(60)"
    named = subprocess.Popen([sys.executable, "-X", mark, "-c", rename], stdout=subprocess.PIPE)
    try:
        assert named.stdout is not None
        named.stdout.readline()
        assert leftovers.find([mark]) == {named.pid}
        assert leftovers.find([], [os.getuid()]) >= {named.pid}
        assert leftovers.end(lambda: leftovers.kill_found([mark]) | (named.poll() is None), 10)
    finally:
        named.kill()
        named.wait()


def test_a_process_whose_main_thread_has_ended_is_ended() -> None:
    mark = leftovers.mark("install", uuid.uuid4().hex)
    source = f"{FORK_WITHOUT_MAIN_THREAD}\nend_main_thread(lambda: time.sleep(600))"
    process = subprocess.Popen([sys.executable, "-X", mark, "-c", source])
    try:
        assert eventually(lambda: "State:\tZ" in Path(f"/proc/{process.pid}/status").read_text())
        assert leftovers.find([mark]) == {process.pid}
        assert leftovers.find([], [os.getuid()]) >= {process.pid}
        assert leftovers.end(lambda: leftovers.kill_found([mark]) | (process.poll() is None), 10)
    finally:
        process.kill()
        process.wait()
