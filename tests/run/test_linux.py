"""What `make run` asks of the kernel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.integration.service import wait_until
from tests.support.forks import FORK_WITHOUT_MAIN_THREAD
from workers.run import linux


def test_a_process_is_live_until_its_last_thread_has_ended() -> None:
    source = f"{FORK_WITHOUT_MAIN_THREAD}\nend_main_thread(lambda: time.sleep(600))"
    process = subprocess.Popen([sys.executable, "-c", source])
    try:
        wait_until("its main thread has ended", lambda: "State:\tZ" in Path(f"/proc/{process.pid}/status").read_text())
        assert process.pid in linux.descendants()
        assert process.pid in linux.kill_all(lambda: linux.descendants() & {process.pid}, 10)
    finally:
        process.kill()
        process.wait()
