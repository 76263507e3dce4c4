"""What a function uses, counted and limited by its control group; and what it does while no call runs."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import os
import signal
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qinling_falcon.orchestrators.base import WorkerInfo
from qinling_falcon.orchestrators.process.cgroups import Subtree, hierarchies
from qinling_falcon.orchestrators.process.isolation import examine
from qinling_falcon.orchestrators.process.orchestrator import ProcessOrchestrator
from qinling_falcon.orchestrators.process.sandbox import Form
from qinling_falcon.setting_fields import MIB
from qinling_falcon.settings import Settings
from tests.support.executions import request_body
from tests.support.forks import FORK_AND_WAIT

from .conftest import (
    REPOSITORY,
    eventually,
    for_one_test,
    groups_of,
    ids,
    left_of,
    make_settings,
    processes_of,
    request,
    shared_orchestrator,
)

MakeOrchestrator = Callable[[Settings], ProcessOrchestrator]

FUNCTION = """
import fcntl, mmap, os, threading, time

held = []
ticks = 0

def memfd(mib):
    held.append(os.memfd_create("x"))
    return sum(os.write(held[-1], b"x" * (1 << 20)) for _ in range(mib)) >> 20

def pipes(mib):
    written = 0
    for _ in range(mib):
        ends = os.pipe()
        held.append(ends)
        fcntl.fcntl(ends[1], 1031, 1 << 20)
        os.set_blocking(ends[1], False)
        try:
            while True:
                written += os.write(ends[1], b"x" * 65536)
        except BlockingIOError:
            continue
    return written >> 20

def segment(mib):
    held.append(mmap.mmap(-1, mib << 20))
    for _ in range(mib):
        held[-1].write(b"x" * (1 << 20))
    return mib

def private(mib):
    return len(b"x" * (mib << 20)) >> 20

def file(mib):
    with open(os.environ["TMPDIR"] + "/file", "wb") as out:
        return sum(out.write(b"x" * (1 << 20)) for _ in range(mib)) >> 20

def mapped_file(mib):
    with open("/tmp/file", "w+b") as out:
        out.truncate(mib << 20)
        with mmap.mmap(out.fileno(), mib << 20) as mapped:
            for _ in range(mib):
                mapped.write(b"x" * (1 << 20))
            time.sleep(0.1)
    os.unlink("/tmp/file")
    return mib

def share(mib):
    held.append(b"x" * (mib << 20))
    return fork_and_wait(4).count(0)

def names(count):
    # The kernel remembers names that it has not found, too.
    return sum(not os.path.exists(f"/usr/lib/{time.time()}-{number}") for number in range(count))

def leave(mib):
    if os.fork() == 0:
        held.append(b"x" * (mib << 20))
        time.sleep(600)
    return os.getpid()

def late(mib):
    time.sleep(1)
    held.append(b"x" * (mib << 20))
    time.sleep(5)
    held.clear()
    time.sleep(600)

def start(_):
    def tick():
        global ticks
        while True:
            ticks += 1
            time.sleep(0.001)
    threading.Thread(target=tick, daemon=True).start()

def count(_):
    return ticks

def pid(_):
    return os.getpid()

def main(do, mib=0):
    return globals()[do](mib)
"""


class Function:
    """A function in a worker."""

    def __init__(self, worker: WorkerInfo, **load: Any):
        self._worker = worker
        self._tokens = itertools.count(1)
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("main.py", FORK_AND_WAIT + FUNCTION)
        target = {"target": "f:0:x", "entry": "main.main", "memory_size": 32 * MIB, "cpu": 100} | load
        headers = {"X-Worker-Secret": worker.secret, "X-Load": json.dumps(target)}
        assert request(worker.address, "POST", "/load", archive.getvalue(), headers) == (200, {"loaded": True})

    def call(self, do: str, mib: int = 0) -> Any:
        """What it returns, or the reason of its failure as a text."""
        given = json.dumps({"do": do, "mib": mib})
        body = request_body(next(self._tokens), timeout_s=20, given=given)
        headers = {"X-Worker-Secret": self._worker.secret}
        status, answer = request(self._worker.address, "POST", "/execute", body, headers)
        assert status == 200, answer
        return answer["reason"] or answer["output"]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.xdist_group(f"child-group-{name}")) for name in ("fork", "exec", "rlimits")
    ],
)
def settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The settings of the orchestrator that these tests share."""
    start, sandbox = ("exec", "rlimits") if request.param == "rlimits" else (request.param, "auto")
    runtimes = REPOSITORY / "config" / "runtimes.toml"
    settings = make_settings(
        tmp_path_factory.mktemp("child-group"), worker_start=start, sandbox=sandbox, runtimes_file=runtimes
    )
    settings = dataclasses.replace(settings, max_memory_size=128 * MIB, tmp_size=64 * MIB)
    if sandbox == "auto" and examine(settings).form is Form.RLIMITS:
        pytest.skip("no bubblewrap here")
    return settings


@pytest.fixture(scope="module")
def shared(settings: Settings) -> Iterator[ProcessOrchestrator]:
    with shared_orchestrator(settings) as orchestrator:
        yield orchestrator


@pytest.fixture
def orchestrator(shared: ProcessOrchestrator) -> Iterator[ProcessOrchestrator]:
    with for_one_test(shared) as orchestrator:
        yield orchestrator


@pytest.fixture
def function(orchestrator: ProcessOrchestrator) -> Iterator[Function]:
    yield Function(orchestrator.start("w1", "python3"))
    assert orchestrator.events() == []


@pytest.fixture
def counted() -> None:
    subtree = Subtree(f"test-{os.getpid()}", hierarchies())
    subtree.remove()
    if "memory" not in subtree.controllers:
        pytest.skip("no control groups that count memory")


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize("kind", ["memfd", "pipes", "segment", "private"])
def test_memory_of_each_kind_counts(function: Function, kind: str) -> None:
    assert function.call(kind, 15) == 15
    assert function.call(kind, 45) == "memory"
    assert function.call(kind, 15) == 15


@pytest.mark.usefixtures("counted")
def test_a_call_that_has_run_for_long_is_still_watched(function: Function) -> None:
    """The call exceeds its limit for 5 s, and stays below the limit that the kernel enforces."""
    assert function.call("late", 40) == "memory"


@pytest.mark.usefixtures("counted")
def test_what_does_not_count(function: Function, settings: Settings) -> None:
    assert function.call("file", 50) == 50
    assert function.call("private", 25) == 25  # beside the file
    assert function.call("memfd", 200) == "memory"  # upon which the folder is emptied
    if settings.sandbox == "auto":
        assert function.call("mapped_file", 50) == 50
    assert function.call("names", 300_000) == 300_000  # the kernel's caches of names
    assert function.call("private", 25) == 25


@pytest.mark.usefixtures("counted")
def test_shared_pages_count_once(function: Function) -> None:
    assert [function.call("share", 5) for _ in range(3)] == [4, 4, 4]


@pytest.mark.usefixtures("counted")
def test_the_kernel_ends_what_grows_too_fast_and_the_supervisor_survives(
    function: Function, settings: Settings
) -> None:
    limits = [group / "child" / "memory.limit_in_bytes" for group in groups_of(settings) if group.name == "w1"]
    found = [int(path.read_text()) for path in limits if path.exists()]
    scratch = settings.tmp_size + settings.shm_size if settings.sandbox == "auto" else 0
    if found:  # else version 2
        assert found == [(32 + 16) * MIB + scratch]
    for _ in range(3):
        assert function.call("memfd", 1000) == "memory"
    assert function.call("private", 15) == 15


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize("size", [0, 3 << 30])
def test_all_workers_together_have_a_limit(
    settings: Settings, make_orchestrator: MakeOrchestrator, tmp_path: Path, size: int
) -> None:
    own = dataclasses.replace(settings, var_dir=tmp_path / "var", workers_memory=size)
    make_orchestrator(own).start("w1", "python3")
    subtrees = {group.parent for group in groups_of(own)}
    files = [tree / name for tree in subtrees for name in ("memory.limit_in_bytes", "memory.max")]
    limits = [int(file.read_text()) for file in files if file.exists()]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert limits == [(size or memory * 4 // 5) // 4096 * 4096]


def test_what_a_call_has_left_counts_before_the_next_one(function: Function, orchestrator: ProcessOrchestrator) -> None:
    for _ in range(20):
        function.call("leave", 100)
        # It may have been ended already, and then there may be no process of the function for a moment.
        assert eventually(lambda: all(_rests(pid) and _resident(pid) < 64 * MIB for pid in _of_function(orchestrator)))
        if function.call("private", 15) == 15:
            return
        # On a busy host it may be stopped before it has taken its memory. It goes on with the next call.
    raise AssertionError("each call was charged for what the call before it had left")


def _resident(pid: int) -> int:
    """The resident bytes of a process; 0 if it has ended. An idle function has up to 20 MiB beside its own memory."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        return 0


def test_a_function_rests_between_its_calls(function: Function, orchestrator: ProcessOrchestrator) -> None:
    function.call("start")
    child = function.call("pid")
    assert eventually(lambda: all(map(_rests, _children(orchestrator)))), child
    before = function.call("count")
    assert eventually(lambda: all(map(_rests, _children(orchestrator))))
    seen = [_time_of(pid) for pid in _children(orchestrator)]
    assert not eventually(lambda: [_time_of(pid) for pid in _children(orchestrator)] != seen, within_s=0.3)
    assert function.call("count") >= before
    assert function.call("pid") == child


def test_a_resting_function_is_frozen_in_each_form(function: Function, orchestrator: ProcessOrchestrator) -> None:
    subtree = Subtree(f"test-{os.getpid()}", hierarchies())
    can_freeze = any((folder / "cgroup.freeze").exists() for folder in subtree.folders)
    subtree.remove()
    if not can_freeze:
        pytest.skip("no control groups of version 2")
    function.call("start")
    assert eventually(lambda: all(map(_is_frozen, _children(orchestrator))))
    assert function.call("pid")


def test_a_resting_worker_is_ended(orchestrator: ProcessOrchestrator, settings: Settings) -> None:
    Function(orchestrator.start("w1", "python3")).call("leave")
    assert eventually(lambda: all(map(_rests, _children(orchestrator))))
    orchestrator.destroy("w1")
    assert left_of(settings) == []


def test_a_resting_worker_whose_supervisor_is_killed_is_ended(
    orchestrator: ProcessOrchestrator, settings: Settings
) -> None:
    Function(orchestrator.start("w1", "python3")).call("leave")
    assert eventually(lambda: all(map(_rests, _children(orchestrator))))
    template = _parent(min(_children(orchestrator)))
    os.kill(_parent(template), signal.SIGKILL)
    assert eventually(lambda: ids(orchestrator.events())) == ["w1"]
    assert left_of(settings) == []


def _children(orchestrator: ProcessOrchestrator) -> list[int]:
    """The processes of the function, which must have some."""
    found = _of_function(orchestrator)
    assert found
    return found


def _of_function(orchestrator: ProcessOrchestrator) -> list[int]:
    """The processes of the function: those with the least priority when memory runs out."""
    found = []
    for process in processes_of(orchestrator, "w1"):
        try:
            if int(Path(f"/proc/{process.pid}/oom_score_adj").read_text()) == 1000:
                found.append(process.pid)
        except OSError:
            continue
    return found


def _rests(pid: int) -> bool:
    """Whether the process is stopped, or in a group that is frozen. One that has ended meanwhile is neither."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T" or _is_frozen(pid)
    except (FileNotFoundError, ProcessLookupError):
        return False


def _is_frozen(pid: int) -> bool:
    group = next(line[3:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if line.startswith("0::"))
    mount = next(line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if " cgroup2 " in line)
    events = Path(mount, group.lstrip("/"), "cgroup.events")
    return events.exists() and "frozen 1" in events.read_text()


def _time_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
