"""Scratch folders that fill up over several calls are emptied between calls, before a call fails for lack of space."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtimes.python3.qinling_worker.scratch import ScratchSpace
from tests.runtime.client import MIB, Worker
from tests.runtime.conftest import MakeWorker

CODE = """
import os, tempfile, time
started = time.monotonic_ns()
def main(path, size=0, files=1, keep=True, wait=0, folder=False, left=0):
    if folder:
        path = tempfile.mkdtemp(dir=path)
    for _ in range(files):
        handle, name = tempfile.mkstemp(dir=path)
        with os.fdopen(handle, "wb") as file:
            file.write(bytes(size))
        time.sleep(wait)
        if not keep:
            os.unlink(name)
    if left:
        with os.fdopen(tempfile.mkstemp(dir=path)[0], "wb") as file:
            file.write(bytes(left))
    return started
"""


@pytest.fixture
def few_files() -> Iterator[Path]:
    """A file system of 100 inodes."""
    if os.geteuid() != 0:
        pytest.skip("a mount needs root")
    with tempfile.TemporaryDirectory(prefix="qf-disk-") as name:
        options = "size=4m,mode=1777,nr_inodes=100"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", name], check=True)
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", "-l", name], check=True)


def starts(worker: Worker, path: Path, calls: int, **given: object) -> list[int]:
    """Call the function several times; all calls must succeed. Returns how many calls each child has served."""
    answers = [worker.execute(json.dumps({"path": str(path), **given})) for _ in range(calls)]
    assert [answer.message for answer in answers] == [None] * calls
    return [len(list(group)) for _, group in itertools.groupby(answer.output for answer in answers)]


@pytest.mark.parametrize("size", [100, 1000, 1300, 1500, 1900, 2500, 3500, 3900])
def test_there_is_room_for_each_call_of_a_function_that_removes_nothing(
    make_worker: MakeWorker, small_disk: Path, size: int
) -> None:
    worker = make_worker(scratch_dirs=[str(small_disk)])
    worker.load(CODE)
    served = starts(worker, small_disk, 50 if size < 1000 else 12, size=size << 10)
    assert max(served) == next(n for n in range(50) if 4096 - n * size < max(409.6, size)), served


def test_quick_calls_that_take_something_are_looked_at_each(small_disk: Path) -> None:
    space = ScratchSpace([str(small_disk)])
    assert not space.is_nearly_full(always=True)
    for fills in range(3):
        for number in itertools.count():
            (small_disk / str(number)).write_bytes(bytes(100 << 10))  # raises when the disk is full
            if space.is_nearly_full(always=number == 0):
                break
        assert number > 30
        for path in small_disk.iterdir():
            path.unlink()
        space.note_loaded()
        assert not space.is_nearly_full(always=True), fills


def test_there_are_inodes_for_each_call(make_worker: MakeWorker, few_files: Path) -> None:
    worker = make_worker(scratch_dirs=[str(few_files)])
    worker.load(CODE)
    assert set(starts(worker, few_files, 9, files=30)) == {3}
    assert set(starts(worker, few_files, 4, files=60)) == {1}


def test_what_a_call_takes_for_a_while_counts(make_worker: MakeWorker, small_disk: Path) -> None:
    worker = make_worker(scratch_dirs=[str(small_disk)])
    worker.load(CODE)
    assert starts(worker, small_disk, 9, size=2500 << 10, keep=False, wait=0.1, left=600 << 10) == [3, 3, 3]


def test_what_is_small_or_made_by_the_import_stays(make_worker: MakeWorker, small_disk: Path) -> None:
    worker = make_worker(scratch_dirs=[str(small_disk)])
    worker.load(f"open('{small_disk}/model', 'wb').write(bytes(2500 << 10))\n{CODE}")
    assert starts(worker, small_disk, 10, size=1 << 10) == [10]
    assert (small_disk / "model").exists()


@pytest.mark.parametrize("folder", [False, True])
def test_a_folder_of_the_host_is_emptied_before_more_is_left_than_allowed(
    make_worker: MakeWorker, folder: bool
) -> None:
    worker = make_worker(tmp_size=20 * MIB)
    worker.load(CODE)
    served = starts(worker, worker.scratch, 12, size=6 * MIB, folder=folder, wait=0.05)
    if folder and worker.uid is not None:
        assert len(served) > 1  # only what the disk has less can be seen there, and others use it, too
    else:
        assert max(served) == 3
