"""Fixtures that make orchestrators with the runtimes of these tests, and functions that list workers' processes."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from qinling_falcon.orchestrators.addresses import connect
from qinling_falcon.orchestrators.base import AlreadyRunning, WorkerEvent, WorkerInfo
from qinling_falcon.orchestrators.process.orchestrator import ProcessOrchestrator
from qinling_falcon.orchestrators.process.zygotes import Forked
from qinling_falcon.setting_fields import MIB
from qinling_falcon.settings import Settings
from tests.support.executions import read_answer_body

REPOSITORY = Path(__file__).parents[2]
WORKER = REPOSITORY / "runtimes" / "python3" / "qinling_worker"
PROGRAMS = Path(__file__).parent / "programs"
_STATUS_FIELDS = re.compile(r"^(State|Threads|Uid|PPid):\t(\w+)", re.MULTILINE)


def make_table(folder: Path) -> Path:
    """Make a table of runtimes in `folder`, with copies of the programs of these tests and the modules they need."""
    shutil.copytree(PROGRAMS, folder / "programs")
    (folder / "programs" / "qinling_worker").mkdir()
    for module in ("__init__", "clone", "linux", "memory", "sandbox", "zygote"):
        shutil.copy(WORKER / f"{module}.py", folder / "programs" / "qinling_worker")
    table = folder / "runtimes.toml"
    for program in PROGRAMS.glob("*.py"):
        name, forks = program.stem, str(program.stem == "probe").lower()
        with table.open("a") as file:
            file.write(f'[runtimes.{name}]\nimages = ["{name}"]\nprogram = "programs/{name}.py"\nzygote = {forks}\n')
    return table


def make_settings(folder: Path, **given: Any) -> Settings:
    return Settings(
        var_dir=folder / "var", tmp_size=4 * MIB, shm_size=MIB, max_memory_size=32 * MIB, max_processes=24, **given
    )


@pytest.fixture(params=["fork", "exec"])
def settings(tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    """Settings for forked and for executed workers. `fork` stands for `auto`, which no form of isolation refuses."""
    worker_start = "exec" if request.param == "exec" else "auto"
    return make_settings(tmp_path, runtimes_file=make_table(tmp_path), worker_start=worker_start)


@pytest.fixture
def make_orchestrator() -> Iterator[Callable[[Settings], ProcessOrchestrator]]:
    made: list[ProcessOrchestrator] = []

    def make(settings: Settings) -> ProcessOrchestrator:
        made.append(ProcessOrchestrator(settings))
        return made[-1]

    yield make
    for orchestrator in made:
        orchestrator.detach()


@pytest.fixture
def orchestrator(
    settings: Settings, make_orchestrator: Callable[[Settings], ProcessOrchestrator]
) -> ProcessOrchestrator:
    return make_orchestrator(settings)


@contextlib.contextmanager
def shared_orchestrator(settings: Settings) -> Iterator[ProcessOrchestrator]:
    """An orchestrator for all tests of a module. Its start takes much longer than the start of a worker.

    Each test gets it by `for_one_test`.
    """
    orchestrator = ProcessOrchestrator(settings)
    try:
        yield orchestrator
    finally:
        orchestrator.detach()


@contextlib.contextmanager
def for_one_test(orchestrator: ProcessOrchestrator) -> Iterator[ProcessOrchestrator]:
    """A shared orchestrator without workers. Those that the test starts end with it."""
    assert ids(orchestrator.list()) == []
    yield orchestrator
    for worker in orchestrator.list():
        orchestrator.destroy(worker.worker_id)
    orchestrator.events()  # of workers that have ended by themselves
    assert ids(orchestrator.list()) == []


class Manager:
    """A manager in a process of its own (`manager.py`)."""

    def __init__(self, settings: Settings, **environment: str):
        given = {
            name.upper(): str(getattr(settings, name))
            for name in (
                "var_dir",
                "runtimes_file",
                "tmp_size",
                "shm_size",
                "max_memory_size",
                "max_processes",
                "sandbox",
                "worker_start",
            )
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.orchestrator.manager"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY,
            env={"PATH": os.environ["PATH"], "TMPDIR": tempfile.gettempdir(), **given, **environment},
        )  # fmt: skip

    def send(self, method: str, *arguments: Any) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps([method, *arguments]) + "\n")
        self.process.stdin.flush()

    def call(self, method: str, *arguments: Any) -> Any:
        self.send(method, *arguments)
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, f"the manager ended with {self.process.wait()}"
        return json.loads(line)

    def start(self, *worker_ids: str, image: str = "probe") -> list[WorkerInfo]:
        return [WorkerInfo(**found) for found in self.call("start_all", worker_ids, image)]

    def stop(self) -> None:
        if self.process.poll() is None:
            assert self.process.stdin
            self.process.stdin.close()
            self.process.wait(20)
        self.process.kill()
        self.process.wait()


@pytest.fixture
def make_manager() -> Iterator[Callable[..., Manager]]:
    made: list[tuple[Manager, Settings]] = []

    def make(settings: Settings, **environment: str) -> Manager:
        made.append((Manager(settings, **environment), settings))
        return made[-1][0]

    yield make
    for manager, settings in made:
        manager.stop()
        with contextlib.suppress(AlreadyRunning):
            # A new orchestrator sweeps what a killed manager has left, unless the test has already started one.
            ProcessOrchestrator(dataclasses.replace(settings, shutdown_grace_s=0)).detach()


def attempt(worker: WorkerInfo, code: str, *, as_child: bool = True) -> Any:
    """Run code inside the worker, as user code or as its supervisor. Returns the value of its variable `answer`."""
    headers = {"X-Worker-Secret": worker.secret, "X-As": "child" if as_child else "supervisor"}
    status, answer = request(worker.address, "POST", "/try", code.encode(), headers)
    assert status == 200, answer
    return answer


def request(
    address: str, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    """One request to a worker."""
    connection = http.client.HTTPConnection("worker")
    connection.sock = connect(address, 30)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, read_answer_body(response.read())
    finally:
        connection.close()


@dataclass(frozen=True)
class Seen:
    """A live process, as the host sees it."""

    pid: int
    uid: int
    words: str
    parent: int = 0


def processes() -> list[Seen]:
    """Every live process of this machine."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = dict(_STATUS_FIELDS.findall((entry / "status").read_text()))
                main_ended = fields["State"] in "ZX"  # and other threads may go on
                if main_ended and int(fields["Threads"]) <= 1:
                    continue
                tasks = (entry / "task").iterdir() if main_ended else [entry]
                lines = [(task / "cmdline").read_bytes() for task in tasks]
            except OSError:
                continue
            words = max(lines, default=b"").replace(b"\0", b" ").decode(errors="replace")
            found.append(Seen(int(entry.name), int(fields["Uid"]), words, int(fields["PPid"])))
    return found


def install_id(settings: Settings) -> str:
    return (settings.var_dir / "install-id").read_text().split()[0]


def marked(settings: Settings) -> list[Seen]:
    """The processes of this install's workers, by the mark in their command lines, which forked processes inherit."""
    name = install_id(settings)
    return [process for process in processes() if f"qf_worker={name}/" in process.words]


def groups_of(settings: Settings) -> list[Path]:
    """The control groups of this install's workers."""
    name = f"qinling-falcon-{install_id(settings)}"
    # os.walk, unlike a glob, does not fail when groups of other tests are removed meanwhile.
    subtrees = [Path(path) for path, _, _ in os.walk("/sys/fs/cgroup") if path.endswith(name)]
    return [group for subtree in subtrees for group in subtree.iterdir() if group.is_dir()]


def zygotes_of(settings: Settings) -> list[Seen]:
    """The processes of an install's zygotes: for each, the two of bubblewrap, and the zygote itself."""
    return _zygotes_among(marked(settings))


def _zygotes_among(workers: list[Seen]) -> list[Seen]:
    marks = {process.pid: process for process in workers if "/zygote-" in process.words}
    wrappers = {pid for pid, process in marks.items() if process.words.startswith("bwrap ")}
    found = [process for pid, process in marks.items() if pid in wrappers or process.parent in wrappers]
    return from_the_top(found)


def processes_of(orchestrator: ProcessOrchestrator, worker_id: str) -> list[Seen]:
    """The processes of one worker, parents first. They are found by their parents, not by their command lines."""
    worker = orchestrator._workers.get(worker_id)
    if worker is None or worker.process is None:
        return []
    if isinstance(worker.process, Forked):
        info = Path(f"/proc/self/fdinfo/{worker.process._pidfd}").read_text()
        first = int(info.partition("Pid:")[2].split()[0])
    else:
        first = worker.process.pid
    found, everyone = {first}, processes()
    while more := {process.pid for process in everyone if process.parent in found} - found:
        found |= more
    return from_the_top([process for process in everyone if process.pid in found])


def from_the_top(tree: list[Seen]) -> list[Seen]:
    """Parents before their children; the numbers of processes start again at some time, and tell nothing."""
    parents = {process.pid: process.parent for process in tree}

    def depth(pid: int) -> int:
        return 1 + depth(parents[pid]) if pid in parents else 0

    return sorted(tree, key=lambda process: depth(process.pid))


def left_of(settings: Settings) -> list[Any]:
    """Everything that workers of this install have on the machine: processes, groups, folders; zygotes are none."""
    groups = [group for group in groups_of(settings) if not group.name.startswith("zygote-")]
    workers = marked(settings)
    own = _zygotes_among(workers)
    left = [process for process in workers if process not in own]
    # The folders of workers that were never loaded are used again.
    folders = [path for path in (settings.var_dir / "workers").iterdir() if len(list(path.rglob("*"))) > 1]
    spare = list(Path(tempfile.gettempdir()).glob(f"qinling-falcon-{install_id(settings)}/*"))
    return [*groups, *left, *folders, *spare]


def ids(workers: Iterable[WorkerInfo | WorkerEvent]) -> list[str]:
    """The ids of workers, or of those that something happened to."""
    return [worker.worker_id for worker in workers]


def eventually(condition: Callable[[], Any], within_s: float = 30.0) -> Any:
    """The condition's value as soon as it is true, or its last one."""
    deadline = time.monotonic() + within_s
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return value
