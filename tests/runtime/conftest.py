"""Workers for the tests: as root with a second uid for the child, and without one."""

from __future__ import annotations

import contextlib
import itertools
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


by_isolation = pytest.mark.parametrize("isolation", ["warm", "per_call"])

_numbers = itertools.count()


def _second_uid() -> int:
    """A uid that nobody else uses, for all of its processes are killed.

    Nor has anybody used it: what ended with an earlier worker counts as its processes until it is reaped.
    """
    return _UID_BASE + os.getpid() * 1000 + 2 * next(_numbers) % 1000


@pytest.fixture(params=["second uid", "one uid", "forked"])
def child_uid(request: pytest.FixtureRequest) -> int | None:
    """The uid of a test's first child; None when it has the supervisor's."""
    if request.param == "one uid" or (request.param == "forked" and os.geteuid() != 0):
        return None
    if os.geteuid() != 0:
        pytest.skip("a second uid needs root")
    return _second_uid()


@pytest.fixture
def forked(request: pytest.FixtureRequest) -> bool:
    """Whether a test's workers are forked from a zygote."""
    return hasattr(request.node, "callspec") and request.node.callspec.params.get("child_uid") == "forked"


@pytest.fixture
def isolation() -> str:
    """The isolation of what a test's workers load, unless the test names others with `by_isolation`."""
    return "warm"


@pytest.fixture
def make_worker(child_uid: int | None, forked: bool, isolation: str) -> Iterator[MakeWorker]:
    """Starts workers; all have ended, with everything in them, when the test is over."""
    workers: list[Worker] = []
    with tempfile.TemporaryDirectory(prefix="qf-runtime-") as name, contextlib.ExitStack() as stops:
        folder = Path(name)
        folder.chmod(0o755)

        def make(**config: Any) -> Worker:
            home = folder / str(len(workers))
            home.mkdir()
            uid = _second_uid() if child_uid is not None and workers else child_uid  # workers never share one
            workers.append(Worker(home, uid, isolation, forked=forked, **config))
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
