"""Workers for the tests: as root with a second uid for the child, and without one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.client import Worker

MakeWorker = Callable[..., Worker]
_UID_BASE = 390_000


def _second_uid(worker_id: str) -> int:
    """A uid that nobody else uses, for all of its processes are killed."""
    number = int(worker_id.removeprefix("gw")) if worker_id.startswith("gw") else 99
    return _UID_BASE + os.getpid() % 1000 * 100 + number


@pytest.fixture(params=["second uid", "one uid"])
def child_uid(request: pytest.FixtureRequest) -> int | None:
    """The uid of the child; None when it has the supervisor's."""
    if request.param == "one uid":
        return None
    if os.geteuid() != 0:
        pytest.skip("a second uid needs root")
    return _second_uid(os.environ.get("PYTEST_XDIST_WORKER", "main"))


@pytest.fixture
def make_worker(child_uid: int | None) -> Iterator[MakeWorker]:
    """Starts workers; all have ended, with everything in them, when the test is over."""
    workers: list[Worker] = []
    with tempfile.TemporaryDirectory(prefix="qf-runtime-") as name, contextlib.ExitStack() as stops:
        folder = Path(name)
        folder.chmod(0o755)

        def make(**config: Any) -> Worker:
            home = folder / str(len(workers))
            home.mkdir()
            uid = None if child_uid is None else child_uid + 100_000 * len(workers)  # workers never share one
            workers.append(Worker(home, uid, **config))
            stops.callback(workers[-1].stop)
            return workers[-1]

        yield make


@pytest.fixture
def worker(make_worker: MakeWorker) -> Worker:
    """One worker that has loaded nothing."""
    return make_worker()


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 4 MiB."""
    if os.geteuid() != 0:
        pytest.skip("a mount needs root")
    with tempfile.TemporaryDirectory(prefix="qf-disk-") as name:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=1777", "tmpfs", name], check=True)
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", "-l", name], check=True)
