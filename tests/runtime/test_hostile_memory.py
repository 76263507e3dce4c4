"""Functions that take much memory, many processes or much disk."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import uuid
from pathlib import Path

import pytest

from tests.runtime.client import MIB, OUT_OF_RESOURCES, Worker, Zygote
from tests.runtime.conftest import Harm, MakeWorker, by_isolation
from tests.runtime.hostile import assert_failed
from tests.support.forks import FORK_AND_WAIT, FORK_WITHOUT_MAIN_THREAD


@by_isolation
@pytest.mark.parametrize(
    "body",
    [
        "data = bytearray(200_000_000)\nimport time; time.sleep(20)",
        "data = bytearray(60_000_000)\nfor i in range(0, len(data), 4096): data[i] = 1",
        "data = []\nwhile True: data.append(' ' * 1000000)",
        "import os, time\nfor _ in range(4):\n    if os.fork() == 0:\n        data = b'x' * 15_000_000\n"
        "        time.sleep(20)\n"
        "time.sleep(20)",
    ],
    ids=["at once", "briefly", "step by step", "by many"],
)
def test_more_memory_than_allowed_is_a_failure(harm: Harm, body: str) -> None:
    assert_failed(harm(body), "memory", OUT_OF_RESOURCES)


@by_isolation
@pytest.mark.parametrize("pause_s", [0, 1.5], ids=["before the report", "after it"])
def test_memory_is_watched_if_the_template_reports_a_process_late(
    isolation: str, child_uid: int | None, pause_s: float
) -> None:
    """On a busy host, a process may have imported its function before the template reports its pid."""
    with contextlib.ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qf-late-"))) for _ in range(2)]
        for folder in folders:
            folder.chmod(0o755)
        zygote = Zygote(folders[0], "1")
        stack.callback(zygote.close)
        worker = Worker(folders[1], child_uid, isolation, zygote=zygote)
        stack.callback(worker.stop)
        source = "import time\ndef main(size, pause_s=0):\n    time.sleep(pause_s)\n    return len(b'x' * size)\n"
        worker.load(source)
        assert worker.execute('{"size": 0}').output == 0

        answer = worker.execute(json.dumps({"size": 60_000_000, "pause_s": pause_s}))

        assert_failed(answer, "memory", OUT_OF_RESOURCES)
        assert worker.execute('{"size": 0}').output == 0


@by_isolation
def test_memory_of_a_process_whose_main_thread_has_ended_counts(harm: Harm) -> None:
    take = "lambda: [b'x' * 60_000_000, time.sleep(20)]"
    answer = harm(f"fork_without_main_thread({take})\ntime.sleep(20)", FORK_WITHOUT_MAIN_THREAD)
    assert_failed(answer, "memory", OUT_OF_RESOURCES)


@by_isolation
def test_memory_within_the_limit_is_fine(harm: Harm) -> None:
    assert harm("data = b'x' * 20_000_000\nreturn len(data)").output == 20_000_000
    assert harm("data = b'x' * 90_000_000\nreturn len(data)", memory_size=128 * MIB).output == 90_000_000


def test_address_space_that_is_not_touched_is_no_memory(harm: Harm) -> None:
    assert harm("data = bytes(3_000_000_000)\nreturn len(data)").output == 3_000_000_000
    many = """
import threading
gate = threading.Barrier(13)
threads = [threading.Thread(target=gate.wait) for _ in range(12)]
for thread in threads: thread.start()
gate.wait()
for thread in threads: thread.join()
"""
    assert harm(many).status == "success"


def test_pages_that_processes_share_count_once(harm: Harm, child_uid: int | None) -> None:
    if child_uid is not None:
        pytest.skip("another uid's shares can't be read")
    before = f"{FORK_AND_WAIT}data = b'x' * 20_000_000"
    assert harm("return fork_and_wait(6)", before).output == [0] * 6


def test_pages_that_processes_do_not_share_count_each(harm: Harm) -> None:
    before = (
        f"{FORK_AND_WAIT}data = b'x' * 10_000_000\ndef take_more():\n    more = b'y' * 10_000_000\n    time.sleep(5)\n"
    )
    assert_failed(harm("return fork_and_wait(6, take_more)", before), "memory", OUT_OF_RESOURCES)


def test_a_large_file_is_an_exception(harm: Harm) -> None:
    path = Path(f"/tmp/qf-too-large-{uuid.uuid4()}")
    answer = harm(f"with open('{path}', 'wb') as file:\n    for _ in range(20): file.write(b'x' * 1000000)")
    path.unlink()
    assert answer.reason == "exception"
    assert "File too large" in answer.output


@by_isolation
def test_many_processes_are_an_exception(harm: Harm, child_uid: int | None) -> None:
    if child_uid is None and os.geteuid() == 0:
        pytest.skip("root itself is not limited")
    answer = harm("import subprocess\nreturn len([subprocess.Popen(['sleep', '60']) for _ in range(200)])")
    assert answer.reason == "exception"
    assert "unavailable" in answer.output


def test_a_full_scratch_folder_is_empty_for_the_next_call(make_worker: MakeWorker, small_disk: Path) -> None:
    worker = make_worker(scratch_dirs=[str(small_disk)])
    worker.load(
        "import os\ndef main(path, size='0'):\n    seen = os.listdir(path)\n"
        "    with open(path + '/' + str(len(seen)), 'wb') as file: file.write(b'x' * int(size))\n    return seen\n"
    )
    fill = {"path": str(small_disk), "size": str(6 * MIB)}
    answer = worker.execute(json.dumps(fill))
    assert answer.reason == "exception"
    assert "No space left" in answer.output
    assert worker.execute(json.dumps(fill | {"size": str(3900 << 10)})).output == []
    assert worker.execute(str(small_disk)).output == []
    assert worker.execute(str(small_disk)).output == ["0"]  # what is small stays, as module state does


@by_isolation
def test_locked_and_deep_folders_are_emptied(worker: Worker) -> None:
    worker.load(
        "import os\ndef main(path=None):\n    if path:\n        os.chdir(path)\n"
        "        os.symlink('/etc', 'link'); os.mkfifo('fifo'); open('file', 'w').close(); os.chmod('file', 0)\n"
        "        os.makedirs('locked/inner'); os.chmod('locked/inner', 0); os.chmod('locked', 0)\n"
        "        for _ in range(30):\n            os.mkdir('d' * 200); os.chdir('d' * 200)\n"
        "        open('x', 'w').close(); os._exit(1)\n    return 'fine'\n"
    )
    assert worker.execute(str(worker.scratch)).reason == "exited"
    assert os.listdir(worker.scratch) == []
    assert Path("/etc/passwd").exists()
    assert worker.execute().output == "fine"
