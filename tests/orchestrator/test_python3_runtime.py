"""The shipped Python runtime, in each form of sandbox."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qinling_falcon.orchestrators.base import WorkerInfo
from qinling_falcon.orchestrators.process.orchestrator import ProcessOrchestrator
from qinling_falcon.setting_fields import MIB
from qinling_falcon.settings import Settings
from tests.support.executions import request_body

from .conftest import REPOSITORY, left_of, processes_of, request

FUNCTION = """
import os, time

def main(action, **kwargs):
    if action == "look":
        status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines())
        return {"uid": os.getuid(), "capabilities": status["CapEff"], "privileges": status["NoNewPrivs"],
                "environment": sorted(os.environ), "descriptors": sorted(map(int, os.listdir("/proc/self/fd")))}
    if action == "leave":
        if os.fork() == 0:
            os.setsid()
            time.sleep(600)
        return "left"
    if action == "kill":
        try:
            os.kill(-1, 9)  # all but itself that it may
        except ProcessLookupError:
            pass
        os.kill(os.getppid(), 9)
"""


def loaded(worker: WorkerInfo) -> WorkerInfo:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("main.py", FUNCTION)
    target = {"target": "f:0:x", "entry": "main.main", "memory_size": 32 * MIB, "cpu": 100}
    headers = {"X-Worker-Secret": worker.secret, "X-Load": json.dumps(target)}
    assert request(worker.address, "POST", "/load", archive.getvalue(), headers) == (200, {"loaded": True})
    return worker


def execute(worker: WorkerInfo, token: int, action: str) -> dict[str, Any]:
    body = request_body(token, given=json.dumps({"action": action}))
    status, answer = request(worker.address, "POST", "/execute", body, {"X-Worker-Secret": worker.secret})
    assert status == 200, answer
    found: dict[str, Any] = answer
    return found


@pytest.mark.parametrize("sandbox", ["auto", "rlimits"])
def test_a_function_runs_confined(
    settings: Settings, make_orchestrator: Callable[[Settings], ProcessOrchestrator], sandbox: Any
) -> None:
    shipped = REPOSITORY / "config" / "runtimes.toml"
    settings = dataclasses.replace(settings, runtimes_file=shipped, sandbox=sandbox, max_processes=128)
    orchestrator = make_orchestrator(settings)
    worker = loaded(orchestrator.start("w1", "python3"))
    seen = execute(worker, 1, "look")["output"]
    assert seen["uid"] != 0
    assert int(seen["capabilities"], 16) == 0
    assert seen["privileges"] == "1"
    assert set(seen["environment"]) <= {
        "HOME", "USER", "LOGNAME", "PATH", "LANG", "LC_CTYPE", "PYTHONUNBUFFERED", "GFORTRAN_UNBUFFERED_PRECONNECTED",
        "TMPDIR",
    }  # fmt: skip
    assert "not permitted" in execute(worker, 2, "kill")["output"]
    assert execute(worker, 3, "leave")["status"] == "success"
    assert orchestrator.events() == []
    orchestrator.destroy("w1")
    assert left_of(settings) == []


@pytest.mark.parametrize("sandbox", ["auto", "rlimits"])
def test_a_loaded_worker_can_not_write_to_its_code_any_more_and_answers_further_loads(
    settings: Settings, make_orchestrator: Callable[[Settings], ProcessOrchestrator], sandbox: Any
) -> None:
    shipped = REPOSITORY / "config" / "runtimes.toml"
    orchestrator = make_orchestrator(dataclasses.replace(settings, runtimes_file=shipped, sandbox=sandbox))
    worker = loaded(orchestrator.start("w1", "python3"))
    execute(worker, 1, "look")  # the template closes what it has inherited before it makes a child
    # bubblewrap's own processes have the descriptor, too, and never use it.
    pids = [process.pid for process in processes_of(orchestrator, "w1") if not process.words.startswith("bwrap ")]
    assert not [link for pid in pids for link in links_of(pid) if link.endswith("/code")]
    loaded(worker)
    assert execute(worker, 2, "look")["status"] == "success"


def links_of(pid: int) -> set[str]:
    """What the descriptors of a process lead to."""
    found = set()
    with contextlib.suppress(OSError):  # the process may end meanwhile
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(os.readlink(path))
    return found
