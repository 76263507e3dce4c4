"""Workers without bubblewrap: weaker, and said so."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from qinling_falcon.orchestrators.process.orchestrator import ProcessOrchestrator
from qinling_falcon.settings import Settings

from .conftest import attempt, left_of, request


@pytest.fixture
def orchestrator(
    settings: Settings, make_orchestrator: Callable[[Settings], ProcessOrchestrator]
) -> ProcessOrchestrator:
    return make_orchestrator(dataclasses.replace(settings, sandbox="rlimits"))


def test_worker_answers_and_leaves_nothing(orchestrator: ProcessOrchestrator, settings: Settings) -> None:
    worker = orchestrator.start("w1", "probe")
    assert request(worker.address, "GET", "/ping") == (200, {"ready": True})
    leave = "import os, time\nif os.fork() == 0:\n    os.setsid(); os.closerange(0, 64); time.sleep(600)\nanswer = 1"
    assert attempt(worker, leave) == 1
    deep = (
        "import os\nos.chdir(config['scratch_dirs'][0])\nfor _ in range(2000): os.mkdir('d'); os.chdir('d')\nanswer = 1"
    )
    assert attempt(worker, deep) == 1
    orchestrator.destroy("w1")
    assert left_of(settings) == []


def test_scratch_is_the_workers_own_and_never_the_hosts(orchestrator: ProcessOrchestrator) -> None:
    worker = orchestrator.start("w1", "probe")
    (scratch,) = attempt(worker, "answer = config['scratch_dirs']", as_child=False)
    assert scratch not in ("/tmp", "/dev/shm")
    path = str(Path(scratch) / "x")
    assert attempt(worker, f"open({path!r}, 'w').write('mine'); answer = 'written'") == "written"
    assert Path(path).read_text() == "mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives out user ids")
def test_workers_are_closed_to_each_other(orchestrator: ProcessOrchestrator) -> None:
    one, other = (orchestrator.start(worker_id, "probe") for worker_id in ("w1", "w2"))
    uid = "import os; answer = os.getuid()"
    assert len({attempt(worker, uid, as_child=as_child) for worker in (one, other) for as_child in (True, False)}) == 4
    config = attempt(other, "answer = config", as_child=False)
    assert attempt(other, "open(config['code_dir'] + '/main.py', 'w').close(); answer = 1", as_child=False) == 1
    for folder in (config["code_dir"], *config["scratch_dirs"]):
        assert attempt(one, f"import os; answer = os.listdir({folder!r})")["errno"] == 13
    assert attempt(one, "answer = open('/etc/shadow').read()")["errno"] == 13
    assert attempt(one, "import os; answer = dict(os.environ)").keys() <= {"HOME", "PATH", "PWD", "LANG", "LC_CTYPE"}
