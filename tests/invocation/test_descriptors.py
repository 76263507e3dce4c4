"""A process that may open few files, and its connections to workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import gevent
import gevent.socket
import pytest

from qinling_falcon.invocation.worker_client import Execution, WorkerClient
from qinling_falcon.orchestrators import addresses
from qinling_falcon.pool.leases import LeasedWorker
from qinling_falcon.settings import Settings
from tests.integration.service import ROOT
from tests.support.scripted_worker import ScriptedWorker, succeeds

LIMIT = 40
EXECUTION = Execution("e", 5, {"context": {}}, None)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ScriptedWorker]]:
    """More workers than a process with the limit can have open files."""
    monkeypatch.setattr(addresses, "socket", gevent.socket)  # as after `patch_all`
    started = [ScriptedWorker(succeeds()) for _ in range(2 * LIMIT)]
    yield started
    for worker in started:
        worker.close()


def test_without_a_free_descriptor_idle_connections_are_closed_and_no_worker_counts_as_lost(
    workers: list[ScriptedWorker],
) -> None:
    addresses = [worker.address for worker in workers]
    command = [sys.executable, "-m", "tests.invocation.few_descriptors", str(LIMIT), *addresses]
    with gevent.Timeout(60), subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        while process.poll() is None:
            gevent.sleep(0.02)  # the workers serve
        assert process.stdout is not None
        outcomes = json.loads(process.stdout.read())

    assert outcomes == {
        "one idle connection": "success",
        "none": "NoDescriptor",
        "one descriptor": "success",
        "more workers than descriptors": ["success"] * (len(workers) - 3),
    }


def test_there_are_at_most_as_many_connections_as_there_can_be_workers(workers: list[ScriptedWorker]) -> None:
    client = WorkerClient(Settings(max_workers=3))
    before = len(os.listdir("/proc/self/fd"))

    for number, worker in enumerate(workers):
        client.execute(LeasedWorker(f"w{number}", worker.address, "s", 1, needs_load=False), EXECUTION, 10)

    gevent.sleep(0.05)
    # The workers are in this process, too, so each connection has two ends here.
    assert len(os.listdir("/proc/self/fd")) - before <= 2 * 3
