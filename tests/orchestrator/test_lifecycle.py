"""Workers come, answer, go, and leave nothing."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from qinling_falcon.orchestrators.base import AlreadyRunning, Happening, StartFailed, UnknownImage, WorkerEvent
from qinling_falcon.orchestrators.process import leftovers
from qinling_falcon.orchestrators.process.orchestrator import ProcessOrchestrator
from qinling_falcon.orchestrators.process.worker import Worker
from qinling_falcon.settings import Settings

from .conftest import Manager, attempt, eventually, groups_of, ids, install_id, left_of, marked, processes_of, request

LEAVE_PROCESSES = """
import os, time
for _ in range(8):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 64)
            time.sleep(600)
        os._exit(0)
    os.wait()
answer = "left"
"""


def supervisor_of(orchestrator: ProcessOrchestrator, worker_id: str) -> int:
    """The host's id of the worker's own process: the first that is not bubblewrap's."""
    return next(p.pid for p in processes_of(orchestrator, worker_id) if not p.words.startswith("bwrap "))


def test_worker_answers_ping(orchestrator: ProcessOrchestrator) -> None:
    worker = orchestrator.start("w1", "probe")
    assert request(worker.address, "GET", "/ping") == (200, {"ready": True})
    assert ids(orchestrator.list()) == ["w1"]


def test_the_list_of_workers_has_what_adoption_needs(orchestrator: ProcessOrchestrator) -> None:
    before = time.time()
    worker = orchestrator.start("w1", "probe", "a-runtime")
    assert orchestrator.list() == [worker]
    assert (worker.runtime_id, worker.image) == ("a-runtime", "probe")
    assert before <= worker.since <= time.time()


def test_a_start_tells_its_cpu_time(orchestrator: ProcessOrchestrator, settings: Settings) -> None:
    worker = orchestrator.start("w1", "probe")
    if groups_of(settings):
        assert 0.1 < worker.cpu_ms < 5_000
    else:
        assert worker.cpu_ms == 0, "without a control group, it is not known"


def test_worker_knows_its_secret_and_limits(orchestrator: ProcessOrchestrator, settings: Settings) -> None:
    worker = orchestrator.start("w1", "probe")
    config = attempt(worker, "answer = config", as_child=False)
    assert config["secret"] == worker.secret
    assert len(worker.secret) >= 32
    for name in ("max_result_size", "max_log_size", "max_processes", "max_open_files", "max_file_size"):
        assert config[name] == getattr(settings, name)


def test_destroy_leaves_nothing(orchestrator: ProcessOrchestrator, settings: Settings) -> None:
    worker = orchestrator.start("w1", "probe")
    assert attempt(worker, LEAVE_PROCESSES) == "left"
    write = "open(f'/proc/self/fd/{config[\"code_fd\"]}/main.py', 'w').close(); answer = 1"
    assert attempt(worker, write, as_child=False) == 1
    assert left_of(settings)
    orchestrator.destroy("w1")
    assert left_of(settings) == []
    assert ids(orchestrator.list()) == []
    with pytest.raises(ConnectionRefusedError):
        request(worker.address, "GET", "/ping")


def test_destroying_an_unknown_worker_is_no_error(orchestrator: ProcessOrchestrator) -> None:
    orchestrator.destroy("nobody")


def test_workers_may_start_while_others_are_looked_at(
    orchestrator: ProcessOrchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under gevent a look lets other greenlets run."""

    def has_exited(worker: Worker) -> bool:
        if worker.worker_id == "w1":
            orchestrator.start("w2", "probe")
        return False

    orchestrator.start("w1", "probe")
    monkeypatch.setattr(Worker, "has_exited", has_exited)
    assert orchestrator.events() == []
    assert sorted(ids(orchestrator.list())) == ["w1", "w2"]


def test_close_ends_all_workers(orchestrator: ProcessOrchestrator, settings: Settings) -> None:
    for worker_id in ("w1", "w2", "w3"):
        orchestrator.start(worker_id, "probe")
    orchestrator.detach()
    assert left_of(settings) == []


def test_a_worker_that_ended_by_itself_is_named_once(orchestrator: ProcessOrchestrator, settings: Settings) -> None:
    dead = orchestrator.start("dead", "probe")
    orchestrator.start("alive", "probe")
    attempt(dead, LEAVE_PROCESSES)
    assert orchestrator.events() == []
    os.kill(supervisor_of(orchestrator, "dead"), signal.SIGKILL)
    events: list[WorkerEvent] = eventually(orchestrator.events)
    assert [(event.worker_id, event.happening) for event in events] == [("dead", Happening.ENDED)]
    assert re.match("ended by SIGKILL|ended with exit status 137", events[0].reason)
    assert orchestrator.events() == []
    assert ids(orchestrator.list()) == ["alive"]
    orchestrator.destroy("alive")
    assert left_of(settings) == []


def test_a_program_that_ends_at_once_fails_with_its_last_words(
    orchestrator: ProcessOrchestrator, settings: Settings
) -> None:
    with pytest.raises(StartFailed, match="exit status 1: this worker has no will to live"):
        orchestrator.start("w1", "dies")
    assert left_of(settings) == []
    assert orchestrator.events() == []


def test_a_program_that_never_answers_fails_in_time(
    settings: Settings, make_orchestrator: Callable[[Settings], ProcessOrchestrator]
) -> None:
    orchestrator = make_orchestrator(dataclasses.replace(settings, worker_start_timeout_s=0.5))
    with pytest.raises(StartFailed, match=r"no answer within 0\.5 s"):
        orchestrator.start("w1", "mute")
    assert left_of(settings) == []
    assert orchestrator.start("w1", "probe").worker_id == "w1"


def test_unknown_image_names_the_known_ones(orchestrator: ProcessOrchestrator) -> None:
    with pytest.raises(UnknownImage, match=r"image nodejs is not a local runtime; .* has: .*probe"):
        orchestrator.check("nodejs")
    with pytest.raises(UnknownImage):
        orchestrator.start("w1", "nodejs")
    orchestrator.check("probe")


def test_user_ids_are_used_again_when_the_worker_is_gone(
    settings: Settings, make_orchestrator: Callable[[Settings], ProcessOrchestrator]
) -> None:
    # Ids that no other test takes or gives back meanwhile.
    orchestrator = make_orchestrator(dataclasses.replace(settings, sandbox_uid_base=300_000 + os.getpid() % 10_000 * 8))
    if not orchestrator._own_uids:
        pytest.skip("workers have no user ids of their own here")

    def uid(worker_id: str) -> int:
        found: int = attempt(orchestrator.start(worker_id, "probe"), "import os; answer = os.getuid()")
        return found

    first, second = uid("w1"), uid("w2")
    assert first != second
    orchestrator.destroy("w1")
    assert uid("w3") == first


def test_starts_at_once_share_nothing(settings: Settings, make_manager: Callable[..., Manager]) -> None:
    workers = make_manager(settings).start("w1", "w2", "w3", "w4")
    list_descriptors = """
import os
kinds = []
for fd in os.listdir("/proc/self/fd"):
    try:
        kinds.append(os.readlink(f"/proc/self/fd/{fd}").split(":")[0])
    except FileNotFoundError:
        pass
answer = {kind: kinds.count(kind) for kind in ("socket", "pipe")}
"""
    for worker in workers:
        # The listening socket and this request's own connection; the configuration's pipe was closed.
        assert attempt(worker, list_descriptors, as_child=False) == {"socket": 2, "pipe": 0}
        assert attempt(worker, "answer = config['secret']", as_child=False) == worker.secret
    assert len({worker.secret for worker in workers}) == 4


def test_manager_killed_takes_everything_along(settings: Settings, make_manager: Callable[..., Manager]) -> None:
    manager = make_manager(settings)
    workers = manager.start("w1", "w2")
    for worker in workers:
        attempt(worker, LEAVE_PROCESSES)
    assert len(marked(settings)) >= 2 * (8 + 2)
    manager.process.kill()
    assert eventually(lambda: not marked(settings))


def test_manager_killed_amid_starts_leaves_no_process(settings: Settings, make_manager: Callable[..., Manager]) -> None:
    for _ in range(3):
        manager = make_manager(settings)
        assert manager.call("ids") == []
        manager.send("start_all", [f"w{number}" for number in range(4)], "probe")
        assert eventually(lambda: marked(settings))  # sandboxes are being made
        manager.process.kill()
        assert eventually(lambda: not marked(settings))


def test_what_the_kernel_spares_when_the_manager_is_killed_is_ended(
    settings: Settings, make_manager: Callable[..., Manager]
) -> None:
    """Bubblewrap's inner process, when the outer one is killed between its birth and its signal at that death."""
    manager = make_manager(settings)
    manager.start("w1")
    stray = subprocess.Popen(
        ["sh", "-c", "sleep 600; :", leftovers.mark(install_id(settings), "w2")], start_new_session=True
    )
    try:
        assert manager.call("ids") == ["w1"]
        assert stray.poll() is None
        manager.process.kill()
        assert stray.wait(5) == -signal.SIGKILL
    finally:
        stray.kill()


def test_manager_stopped_leaves_nothing(settings: Settings, make_manager: Callable[..., Manager]) -> None:
    manager = make_manager(settings)
    manager.start("w1", "w2")
    manager.stop()
    assert manager.process.returncode == 0
    assert left_of(settings) == []


def test_one_manager_at_a_time(
    settings: Settings, make_orchestrator: Callable[[Settings], ProcessOrchestrator]
) -> None:
    settings = dataclasses.replace(settings, shutdown_grace_s=0.0)
    first = make_orchestrator(settings)
    first.start("w1", "probe")
    with pytest.raises(AlreadyRunning):
        make_orchestrator(settings)
    assert first.events() == []
    first.detach()
    make_orchestrator(settings)
