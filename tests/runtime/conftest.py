"""Workers for the tests: as root with a second uid for the child, and without one."""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.client import MIB, Answer, Worker, Zygote
from tests.support.disks import mounted_disk

MakeWorker = Callable[..., Worker]
Harm = Callable[..., Answer]
_UID_BASE = 390_000


by_isolation = pytest.mark.parametrize("isolation", ["warm", "per_call"])

_numbers = itertools.count()


def _second_uid() -> int:
    """A uid that nobody else uses, for all of its processes are killed.

    Nor has anybody used it: what ended with an earlier worker counts as its processes until it is reaped.
    """
    return _UID_BASE + os.getpid() * 1000 + 2 * next(_numbers) % 1000


# As root, workers that share one uid with their supervisor occur only where the kernel can't give them others.
_FORMS = ["forked"] if os.geteuid() == 0 else ["forked", "one uid"]
if os.environ.get("RUNTIME_FORMS") == "all":
    _FORMS = ["forked", "one uid", "second uid"]


@pytest.fixture(params=_FORMS)
def child_uid(request: pytest.FixtureRequest) -> int | None:
    """The uid of a test's first child; None when it has the supervisor's.

    A forked worker has a second uid, as far as this user can make one.
    """
    if request.param == "one uid" or (request.param == "forked" and os.geteuid() != 0):
        return None
    if os.geteuid() != 0:
        pytest.skip("a second uid needs root")
    return _second_uid()


@pytest.fixture(scope="session")
def zygotes() -> Iterator[Callable[[], Zygote]]:
    """Gives the zygote that all tests of this process share; it is made when it is first needed."""
    made: list[Zygote] = []
    with tempfile.TemporaryDirectory(prefix="qf-zygote-") as name:
        Path(name).chmod(0o755)

        def zygote() -> Zygote:
            if not made:
                made.append(Zygote(Path(name)))
            return made[0]

        yield zygote
        for each in made:
            each.close()


@pytest.fixture
def zygote(request: pytest.FixtureRequest, zygotes: Callable[[], Zygote]) -> Iterator[Zygote | None]:
    """The zygote that forks a test's workers; None: the workers are executed."""
    if not hasattr(request.node, "callspec") or request.node.callspec.params.get("child_uid") != "forked":
        yield None
    elif disks := {"small_disk", "few_files"} & set(request.fixturenames):
        for disk in disks:
            request.getfixturevalue(disk)  # mounted before: the zygote has mounts of its own
        with tempfile.TemporaryDirectory(prefix="qf-zygote-") as name:
            Path(name).chmod(0o755)
            own = Zygote(Path(name))
            yield own
            own.close()
    else:
        yield zygotes()


@pytest.fixture
def isolation() -> str:
    """The isolation of what a test's workers load, unless the test names others with `by_isolation`."""
    return "warm"


@pytest.fixture
def make_worker(child_uid: int | None, zygote: Zygote | None, isolation: str) -> Iterator[MakeWorker]:
    """Starts workers; all have ended, with everything in them, when the test is over."""
    workers: list[Worker] = []
    with tempfile.TemporaryDirectory(prefix="qf-runtime-") as name, contextlib.ExitStack() as stops:
        folder = Path(name)
        folder.chmod(0o755)

        def make(**config: Any) -> Worker:
            home = folder / str(len(workers))
            home.mkdir()
            uid = _second_uid() if child_uid is not None and workers else child_uid  # workers never share one
            workers.append(Worker(home, uid, isolation, zygote=zygote, **config))
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
    with mounted_disk("size=4m,mode=1777") as folder:
        yield folder


@pytest.fixture
def harm(make_worker: MakeWorker) -> Harm:
    """Runs a hostile function body once, and then the harmless branch of the same function in the same worker.

    The function runs the body when its input says so, and else returns 'fine'.
    """

    def run(
        body: str, before: str = "", timeout_s: float = 10, memory_size: int = 32 * MIB, **config: object
    ) -> Answer:
        worker = make_worker(**config)
        lines = "\n".join("        " + line for line in body.strip("\n").splitlines())
        source = f"{before}\ndef main(do='nothing', **kwargs):\n    if do == 'harm':\n{lines}\n    return 'fine'\n"
        assert worker.load(source, memory_size=memory_size)[0] == 200
        assert worker.execute().output == "fine"
        answer = worker.execute('{"do": "harm"}', timeout_s=timeout_s)
        for _ in range(2):
            after = worker.execute()
            assert (after.status, after.output, after.printed) == ("success", "fine", "")
        assert worker.process.poll() is None
        return answer

    return run
