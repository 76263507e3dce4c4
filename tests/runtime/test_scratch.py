"""Scratch folders that fill up over several calls are emptied between calls, before a call fails for lack of space."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtimes.python3.qinling_worker.scratch import ScratchSpace
from tests.runtime.client import MIB, Worker
from tests.runtime.conftest import MakeWorker
from tests.support.disks import mounted_disk

CODE = """
import os, tempfile, time
started = time.monotonic_ns()
def main(path, size=0, files=1, keep=True, wait=0, folder=False, left=0):
    before = len(os.listdir(path))
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
    return [started, before]
"""


@pytest.fixture
def few_files() -> Iterator[Path]:
    """A file system of 100 inodes."""
    with mounted_disk("size=4m,mode=1777,nr_inodes=100") as folder:
        yield folder


def starts(worker: Worker, path: Path, calls: int, **given: object) -> list[int]:
    """Call the function several times; all calls must succeed. Returns after how many calls the folder was emptied."""
    answers = [worker.execute(json.dumps({"path": str(path), **given})) for _ in range(calls)]
    assert [answer.message for answer in answers] == [None] * calls
    assert len({answer.output[0] for answer in answers}) == 1, "the child was replaced"
    found = [answer.output[1] for answer in answers]
    empty = [number for number in range(1, calls) if found[number] <= found[number - 1]]
    return [end - start for start, end in itertools.pairwise([0, *empty, calls])]


@pytest.mark.parametrize("size", [100, 1000, 1300, 1500, 1900, 3900])
def test_there_is_room_for_each_call_of_a_function_that_removes_nothing(
    make_worker: MakeWorker, small_disk: Path, size: int
) -> None:
    worker = make_worker(scratch_dirs=[str(small_disk)])
    worker.load(CODE)
    served = starts(worker, small_disk, 50 if size < 1000 else 12, size=size << 10)
    assert max(served) == next(n for n in range(50) if 4096 - n * size < max(409.6, size if n > 1 else 0)), served


def test_the_folder_is_checked_after_each_quick_call_that_takes_space(small_disk: Path) -> None:
    space = ScratchSpace([str(small_disk)])
    assert space.shortage(always=True) is None
    for fills in range(3):
        for number in itertools.count():
            (small_disk / str(number)).write_bytes(bytes(100 << 10))  # raises when the disk is full
            if space.shortage(always=number == 0) is not None:
                break
        assert number > 30
        for path in small_disk.iterdir():
            path.unlink()
        space.note_loaded()
        assert space.shortage(always=True) is None, fills


def test_there_are_inodes_for_each_call(make_worker: MakeWorker, few_files: Path) -> None:
    worker = make_worker(scratch_dirs=[str(few_files)])
    worker.load(CODE)
    assert set(starts(worker, few_files, 9, files=30)) == {3}
    assert set(starts(worker, few_files, 4, files=45)) == {2}


def test_what_a_call_takes_for_a_while_counts(make_worker: MakeWorker, small_disk: Path) -> None:
    worker = make_worker(scratch_dirs=[str(small_disk)])
    worker.load(CODE)
    assert starts(worker, small_disk, 9, size=2500 << 10, keep=False, wait=0.1, left=600 << 10) == [3, 3, 3]


def test_a_cache_that_one_call_makes_stays(make_worker: MakeWorker, small_disk: Path) -> None:
    worker = make_worker(scratch_dirs=[str(small_disk)])
    worker.load(CODE)
    assert starts(worker, small_disk, 1, size=2300 << 10) == [1]
    assert starts(worker, small_disk, 10, size=1 << 10) == [10]
    assert max(path.stat().st_size for path in small_disk.iterdir()) == 2300 << 10


def test_a_cache_stays_beside_temporary_files(make_worker: MakeWorker, small_disk: Path) -> None:
    worker = make_worker(scratch_dirs=[str(small_disk)])
    worker.load(CODE)
    assert starts(worker, small_disk, 1, size=1800 << 10, keep=False, wait=0.1, left=1300 << 10) == [1]
    served = starts(worker, small_disk, 5, size=1800 << 10, keep=False, wait=0.1, left=1)
    assert served == [5]
    assert max(path.stat().st_size for path in small_disk.iterdir()) == 1300 << 10


@pytest.mark.parametrize(
    ("left", "is_replaced"),
    [
        ("", False),
        ("subprocess.Popen(['sleep', '600'])", True),
        ("threading.Thread(target=time.sleep, args=[600], daemon=True).start()", True),
        ("kept.append(open(path + '/0'))", True),
    ],
    ids=["nothing", "process", "thread", "open file"],
)
def test_the_child_lives_on_if_nothing_of_it_runs(
    make_worker: MakeWorker, small_disk: Path, left: str, is_replaced: bool
) -> None:
    worker = make_worker(scratch_dirs=[str(small_disk)])
    worker.load(
        "import os, subprocess, threading, time\ncalls, kept = 0, []\n"
        "def main(path):\n    global calls\n    calls += 1\n"
        "    if calls == 1:\n        open(path + '/0', 'wb').write(bytes(3900 << 10))\n"
        f"        {left}\n    return [calls, os.listdir(path)]\n"
    )
    assert worker.execute(str(small_disk)).output == [1, ["0"]]
    answer = worker.execute(str(small_disk))
    assert answer.output == ([1, ["0"]] if is_replaced else [2, []])
    assert f"The worker has emptied {small_disk} before this call: in {small_disk}, " in answer.printed
    assert ("imported anew" in answer.printed) == is_replaced
    worker.execute(str(small_disk))


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
