"""Zygotes: what forked workers share and do not share, and what happens when a zygote ends."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from qinling_falcon.orchestrators.base import StartFailed, WorkerInfo
from qinling_falcon.orchestrators.process import orchestrator as orchestrator_module
from qinling_falcon.orchestrators.process import zygotes as zygotes_module
from qinling_falcon.orchestrators.process.cgroups import Hierarchy
from qinling_falcon.orchestrators.process.handover import Handover
from qinling_falcon.orchestrators.process.images import LocalRuntime
from qinling_falcon.orchestrators.process.isolation import examine
from qinling_falcon.orchestrators.process.launcher import Launcher
from qinling_falcon.orchestrators.process.orchestrator import ProcessOrchestrator
from qinling_falcon.orchestrators.process.sandbox import Form
from qinling_falcon.orchestrators.process.worker import Worker
from qinling_falcon.setting_fields import MIB
from qinling_falcon.settings import Settings, SettingsError
from tests.support.executions import request_body

from .conftest import (
    REPOSITORY,
    Manager,
    eventually,
    groups_of,
    ids,
    left_of,
    make_settings,
    make_table,
    marked,
    processes,
    processes_of,
    request,
    zygotes_of,
)  # fmt: skip

MakeOrchestrator = Callable[[Settings], ProcessOrchestrator]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings that insist on forking, with the shipped table of runtimes."""
    settings = make_settings(tmp_path, worker_start="fork", runtimes_file=REPOSITORY / "config" / "runtimes.toml")
    if examine(settings).form is Form.RLIMITS:
        pytest.skip("no bubblewrap here")
    return settings


def load(worker: WorkerInfo, source: str | dict[str, str], entry: str = "main.main") -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, text in ({"main.py": source} if isinstance(source, str) else source).items():
            file.writestr(name, text)
    target = {"target": "f:0:x", "entry": entry, "memory_size": 64 * MIB, "cpu": 100}
    headers = {"X-Worker-Secret": worker.secret, "X-Load": json.dumps(target)}
    assert request(worker.address, "POST", "/load", archive.getvalue(), headers) == (200, {"loaded": True})


def execute(worker: WorkerInfo) -> tuple[int, Any]:
    return request(worker.address, "POST", "/execute", request_body(), {"X-Worker-Secret": worker.secret})


def run(worker: WorkerInfo, source: str | dict[str, str], entry: str = "main.main") -> Any:
    """What a function returns that was just loaded."""
    load(worker, source, entry)
    status, answer = execute(worker)
    assert (status, answer["status"]) == (200, "success"), answer
    return answer["output"]


@pytest.mark.parametrize("victim", [0, 1, 2], ids=["outer bubblewrap", "inner bubblewrap", "zygote"])
def test_a_zygote_that_is_killed_takes_its_workers_along_and_is_replaced(
    settings: Settings, make_orchestrator: MakeOrchestrator, victim: int
) -> None:
    orchestrator = make_orchestrator(settings)
    load(orchestrator.start("w1", "python3"), "def main(): return 1")
    orchestrator.start("w2", "python3")
    os.kill(zygotes_of(settings)[victim].pid, signal.SIGKILL)
    ended: list[str] = []
    assert eventually(lambda: ended.extend(ids(orchestrator.events())) or len(ended) == 2)
    assert sorted(ended) == ["w1", "w2"]
    assert run(orchestrator.start("w3", "python3"), "def main(): return 3") == 3
    assert ids(orchestrator.list()) == ["w3"]
    orchestrator.destroy("w3")
    assert left_of(settings) == []
    orchestrator.detach()
    assert marked(settings) == groups_of(settings) == []


def test_a_supervisor_that_is_killed_ends_alone(settings: Settings, make_orchestrator: MakeOrchestrator) -> None:
    orchestrator = make_orchestrator(settings)
    load(orchestrator.start("w1", "python3"), "def main(): return 1")
    load(orchestrator.start("w2", "python3"), "def main(): return 2")
    of_first = processes_of(orchestrator, "w1")
    os.kill(of_first[0].pid, signal.SIGKILL)
    assert eventually(lambda: ids(orchestrator.events())) == ["w1"]
    assert not {process.pid for process in of_first} & {process.pid for process in processes()}
    assert ids(orchestrator.list()) == ["w2"]


@pytest.mark.parametrize("attempt", range(5))
def test_a_manager_that_is_killed_amid_starts_leaves_no_process(
    settings: Settings, make_manager: Callable[..., Manager], attempt: int
) -> None:
    manager = make_manager(settings)
    assert manager.call("ids") == []
    manager.send("start_all", [f"w{number}" for number in range(20)], "python3")
    assert eventually(lambda: len(marked(settings)) > 3)  # workers are being forked
    manager.process.kill()
    assert eventually(lambda: not marked(settings))


def test_starts_at_once_all_answer(settings: Settings, make_manager: Callable[..., Manager]) -> None:
    workers = make_manager(settings).start(*(f"w{number}" for number in range(30)), image="python3")
    assert len({worker.address for worker in workers}) == 30
    for number, worker in enumerate(workers):
        assert run(worker, f"def main(): return {number}") == number


def test_workers_do_not_reach_each_other(settings: Settings, make_orchestrator: MakeOrchestrator) -> None:
    orchestrator = make_orchestrator(settings)
    first, second = (orchestrator.start(name, "python3") for name in ("w1", "w2"))
    listening = """
import socket
abstract = socket.socket(socket.AF_UNIX); abstract.bind("\\0left"); abstract.listen()
server = socket.create_server(("127.0.0.1", 5555))
open("/tmp/left", "w").close(); open("/dev/shm/left", "w").close()
def main(): return "listens"
"""
    looking = """
import os, socket
def tried(work):
    try:
        return bool(work()) or True
    except OSError:
        return False
def main():
    return {
        "abstract": tried(lambda: socket.socket(socket.AF_UNIX).connect("\\0left")),
        "loopback": tried(lambda: socket.create_connection(("127.0.0.1", 5555), 2)),
        "files": [path for path in ("/tmp/left", "/dev/shm/left") if os.path.exists(path)],
        "processes": len([name for name in os.listdir("/proc") if name.isdigit()]),
        "workers": os.listdir("/workers"),
    }
"""
    assert run(first, listening) == "listens"
    found = run(second, looking)
    assert found == {"abstract": False, "loopback": False, "files": [], "processes": 3, "workers": []}


def test_a_function_has_a_loopback_of_its_own(settings: Settings, make_orchestrator: MakeOrchestrator) -> None:
    source = """
import socket
def main():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
    return "connected"
"""
    assert run(make_orchestrator(settings).start("w1", "python3"), source) == "connected"


def test_a_function_gets_no_descriptor_of_the_zygote(settings: Settings, make_orchestrator: MakeOrchestrator) -> None:
    orchestrator = make_orchestrator(settings)
    orchestrator.start("w1", "python3")
    source = """
import os
def main():
    found = []
    for fd in range(256):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}").split(":")[0])
        except FileNotFoundError:
            pass
    return sorted(found)
"""
    found = run(orchestrator.start("w2", "python3"), source)
    # Input; output, errors and a copy of them for tracebacks; the channel to the supervisor.
    assert found == ["/dev/null", "pipe", "pipe", "pipe", "socket"]


@pytest.mark.parametrize(
    "name", ["zipfile", "hmac", "zlib_", "template", "config", "supervisor", "sandbox", "qinling_worker"]
)
def test_a_module_of_the_package_is_not_hidden_by_one_of_the_zygote(
    settings: Settings, make_orchestrator: MakeOrchestrator, name: str
) -> None:
    worker = make_orchestrator(settings).start("w1", "python3")
    assert run(worker, {f"{name}.py": "def main(): return __name__"}, f"{name}.main") == name


def test_forked_workers_differ_in_what_is_random(settings: Settings, make_orchestrator: MakeOrchestrator) -> None:
    orchestrator = make_orchestrator(settings)
    source = """
import random, tempfile, uuid
def main():
    return [random.random(), uuid.uuid4().hex, tempfile.mktemp(), random.SystemRandom().random()]
"""
    first, second = (run(orchestrator.start(name, "python3"), source) for name in ("w1", "w2"))
    assert not set(first) & set(second)


def test_nothing_is_imported_after_the_fork(
    settings: Settings, make_orchestrator: MakeOrchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python writes a line for each statement that imports to its standard error, in a child the function's log."""
    from qinling_falcon.orchestrators.process import sandbox

    words = sandbox.zygote_words
    monkeypatch.setattr(
        sandbox, "zygote_words", lambda *given: [(all_ := words(*given))[0], "-X", "importtime", *all_[1:]]
    )
    orchestrator = make_orchestrator(settings)
    worker = orchestrator.start("w1", "python3")
    load(worker, "def main(): return 1")
    _, answer = execute(worker)
    imported = [line.rpartition("|")[2].strip() for line in answer["log"].splitlines() if "import time:" in line]
    assert imported == []
    assert "import time:" not in orchestrator._workers["w1"].messages.tail()


def test_the_files_of_the_interpreter_are_those_that_the_zygote_has_imported(
    settings: Settings, make_orchestrator: MakeOrchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qinling_falcon.orchestrators.process import zygotes

    orchestrator = make_orchestrator(settings)
    load(orchestrator.start("w1", "python3"), "def main(): return 1")
    (before,) = {process.pid for process in zygotes_of(settings) if not process.words.startswith("bwrap ")}
    files = zygotes._identity
    monkeypatch.setattr(zygotes, "_identity", lambda interpreter: (*files(interpreter), 1))  # an upgrade
    load(orchestrator.start("w2", "python3"), "def main(): return 2")
    assert len(zygotes_of(settings)) == 6  # the old zygote lives as long as its workers do
    assert sorted(ids(orchestrator.list())) == ["w1", "w2"]
    orchestrator.destroy("w1")
    orchestrator.start("w3", "python3")
    assert len(zygotes_of(settings)) == 3
    assert before not in {process.pid for process in zygotes_of(settings)}


def test_a_program_that_is_no_zygote_is_executed_instead(
    settings: Settings, make_orchestrator: MakeOrchestrator, tmp_path: Path
) -> None:
    program = make_table(tmp_path).parent / "programs" / "dies.py"
    table = tmp_path / "wrong.toml"
    table.write_text(f'[runtimes.dies]\nimages = ["dies"]\nprogram = "{program}"\nzygote = true\n')
    wrong = dataclasses.replace(settings, runtimes_file=table)
    with pytest.raises(SettingsError, match=r"WORKER_START=fork: .* this worker has no will to live"):
        make_orchestrator(wrong)
    orchestrator = make_orchestrator(dataclasses.replace(wrong, worker_start="auto"))
    assert not orchestrator.zygote.available
    with pytest.raises(StartFailed, match="exit status 1: this worker has no will to live"):
        orchestrator.start("w1", "dies")


def test_the_mark_of_an_install_is_in_every_command_line(
    settings: Settings, make_orchestrator: MakeOrchestrator
) -> None:
    orchestrator = make_orchestrator(settings)
    load(orchestrator.start("w1", "python3"), "def main(): return 1")
    assert eventually(lambda: len(processes_of(orchestrator, "w1")) == 3)
    of_worker = {process.pid for process in processes_of(orchestrator, "w1")}
    assert of_worker <= {process.pid for process in marked(settings)}


def test_a_zygote_that_did_not_work_is_tried_again_after_a_while(
    settings: Settings, make_orchestrator: MakeOrchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    fork = Launcher.fork

    def fork_late(self: Launcher, worker: Worker, runtime: LocalRuntime, handover: Handover) -> None:
        tried.append(worker.worker_id)
        if len(tried) < 3:
            raise StartFailed("the host is too busy")
        fork(self, worker, runtime, handover)

    monkeypatch.setattr(Launcher, "fork", fork_late)
    monkeypatch.setattr(orchestrator_module, "_TRIAL_INTERVAL_S", 3600)
    orchestrator = make_orchestrator(dataclasses.replace(settings, worker_start="auto"))
    orchestrator.start("w1", "python3")
    assert len(tried) == 1  # too early for another trial
    monkeypatch.setattr(orchestrator_module, "_TRIAL_INTERVAL_S", 0)
    orchestrator._next_trials = dict.fromkeys(orchestrator._next_trials, 0.0)
    orchestrator.start("w2", "python3")
    assert not orchestrator.zygote.available
    orchestrator.start("w3", "python3")
    assert orchestrator.zygote.available
    assert [len(processes_of(orchestrator, name)) for name in ("w1", "w2", "w3")] == [4, 4, 2]
    orchestrator.start("w4", "python3")
    assert len(tried) == 5  # the trial that has succeeded is the last one


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make groups there")
def test_a_worker_is_forked_into_groups_of_version_2(
    settings: Settings, make_orchestrator: MakeOrchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    mount = next((Path(words[1]) for words in mounts if words[2] == "cgroup2"), None)
    if mount is None or not os.access(mount, os.W_OK):
        pytest.skip("no control groups of version 2 that this user may make")
    # Without controllers: this is about how a process enters its group.
    monkeypatch.setattr(orchestrator_module, "hierarchies", lambda: [Hierarchy(mount, 2, frozenset())])
    orchestrator = make_orchestrator(settings)
    source = "def main(): return open('/proc/self/cgroup').read().splitlines()"
    found = run(orchestrator.start("w1", "python3"), source)
    assert "0::/child" in found  # in its own namespace of groups
    assert len(processes_of(orchestrator, "w1")) == 3


def stop_zygote(settings: Settings) -> int:
    """Stop the zygote, so that it does not answer. Returns its pid."""
    (zygote,) = [process for process in zygotes_of(settings) if not process.words.startswith("bwrap ")]
    os.kill(zygote.pid, signal.SIGSTOP)
    return zygote.pid


def test_a_zygote_that_answers_late_loses_no_worker_and_gets_no_more_requests(
    settings: Settings, make_orchestrator: MakeOrchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zygotes_module, "_ANSWER_TIMEOUT_S", 0.3)
    orchestrator = make_orchestrator(settings)
    load(orchestrator.start("w1", "python3"), "def main(): return 1")
    slow = stop_zygote(settings)
    ((_, zygote),) = orchestrator._launcher._zygotes._current.values()
    with ThreadPoolExecutor(1) as thread:
        late = thread.submit(orchestrator.start, "w2", "python3")
        assert eventually(lambda: not zygote.is_usable())
        # While it hangs, another one forks. This thread must start that one: zygotes end with their thread.
        assert run(orchestrator.start("w3", "python3"), "def main(): return 3") == 3
        assert len(zygotes_of(settings)) == 6
        assert not late.done()
        os.kill(slow, signal.SIGCONT)
        assert run(late.result(), "def main(): return 2") == 2
    assert orchestrator.events() == []
    assert sorted(ids(orchestrator.list())) == ["w1", "w2", "w3"]
    for name in ("w1", "w2", "w3"):
        orchestrator.destroy(name)
    orchestrator.start("w4", "python3")
    assert len(zygotes_of(settings)) == 3  # the slow one has ended with the last of its workers
    assert slow not in {process.pid for process in zygotes_of(settings)}


def test_a_zygote_that_does_not_answer_is_replaced(
    settings: Settings, make_orchestrator: MakeOrchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zygotes_module, "_ANSWER_TIMEOUT_S", 0.3)
    orchestrator = make_orchestrator(dataclasses.replace(settings, worker_start_timeout_s=2))
    orchestrator.start("w1", "python3")
    stop_zygote(settings)
    with pytest.raises(StartFailed, match="the zygote does not answer"):
        orchestrator.start("w2", "python3")
    assert run(orchestrator.start("w3", "python3"), "def main(): return 3") == 3
    assert eventually(lambda: ids(orchestrator.events())) == ["w1"]
    # The new zygote, two of bubblewrap, and of one worker the supervisor, its template and the child.
    assert eventually(lambda: len(marked(settings)) == 6)
    assert ids(orchestrator.list()) == ["w3"]


def test_workers_come_and_go_without_a_trace(settings: Settings, make_orchestrator: MakeOrchestrator) -> None:
    orchestrator = make_orchestrator(settings)

    def held() -> list[int]:
        (zygote,) = [process for process in zygotes_of(settings) if not process.words.startswith("bwrap ")]
        mounts = Path(f"/proc/{zygote.pid}/mounts").read_text()
        return [
            len(list(Path(f"/proc/{zygote.pid}/fd").iterdir())), len(list(Path("/proc/self/fd").iterdir())),
            mounts.count("\n"), len(groups_of(settings)), len(marked(settings)),
        ]  # fmt: skip

    orchestrator.destroy(orchestrator.start("first", "python3").worker_id)
    before = held()
    for number in range(30):
        worker = orchestrator.start(f"w{number}", "python3")
        if number % 3 == 0:
            load(worker, "def main(): return 1")
        orchestrator.destroy(worker.worker_id)
    assert held() == before
    assert left_of(settings) == []
