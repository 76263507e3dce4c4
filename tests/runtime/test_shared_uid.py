"""What the supervisor limits itself in a pod: processes, where other workers have the same uid, and scratch folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.client import MIB
from tests.runtime.conftest import MakeWorker, by_isolation

FORKS = """
import os, threading, time
def main(processes=0, threads=0):
    for _ in range(processes):
        if os.fork() == 0:
            time.sleep(600)
    for _ in range(threads):
        threading.Thread(target=time.sleep, args=[600], daemon=True).start()
    time.sleep(600 if processes + threads > 15 else 0)
    return 'fine'
"""


@by_isolation
@pytest.mark.parametrize("what", ["processes", "threads"])
def test_more_processes_and_threads_than_allowed_end_the_execution(make_worker: MakeWorker, what: str) -> None:
    worker = make_worker(shares_uid=True, max_processes=16)
    worker.load(FORKS, memory_size=64 * MIB)

    ended = worker.execute(f'{{"{what}": 20}}', timeout_s=60)

    assert (ended.status, ended.reason) == ("failed", "limit")
    assert ended.message == "The function had more than 16 processes and threads."
    assert worker.execute(f'{{"{what}": 10}}').output == "fine"


def test_the_kernel_limits_no_processes_of_a_uid_that_other_workers_share(make_worker: MakeWorker) -> None:
    worker = make_worker(shares_uid=True, max_processes=16)
    worker.load(
        "import os, resource\ndef main():\n    return [resource.getrlimit(resource.RLIMIT_NPROC)[0], os.nice(0)]\n"
    )

    limit, priority = worker.execute().output

    assert limit != 16
    assert priority == 19, "the supervisor comes first"


def test_files_beyond_the_size_of_a_scratch_folder_end_the_execution(make_worker: MakeWorker, small_disk: Path) -> None:
    worker = make_worker(scratch_dirs=[str(small_disk)], scratch_sizes={str(small_disk): MIB})
    worker.load(
        "import time\n"
        "def main(path, size):\n"
        "    open(path + '/file', 'wb').write(bytes(size))\n"
        "    time.sleep(600 if size > 1 << 20 else 0)\n"
        "    return 'fine'\n"
    )

    ended = worker.execute(f'{{"path": "{small_disk}", "size": {2 * MIB}}}', timeout_s=60)

    assert (ended.status, ended.reason) == ("failed", "limit")
    assert ended.message == f"The function's files in {small_disk} took more than its size of 1048576 bytes."
    assert list(small_disk.iterdir()) == []
    assert worker.execute(f'{{"path": "{small_disk}", "size": 1000}}').output == "fine"


def test_a_folder_with_a_size_is_emptied_before_a_call_finds_too_little_of_it(
    make_worker: MakeWorker, small_disk: Path
) -> None:
    worker = make_worker(scratch_dirs=[str(small_disk)], scratch_sizes={str(small_disk): MIB})
    worker.load(
        "import os\ndef main(path):\n"
        "    open(path + f'/{len(os.listdir(path))}', 'wb').write(bytes(300 << 10))\n"
    )

    answers = [worker.execute(f'{{"path": "{small_disk}"}}') for _ in range(8)]

    assert [answer.message for answer in answers] == [None] * 8
