"""`make run`: what it prints works, it ends without a trace, and it says why when it can't start."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import socket
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.service import ROOT, free_port, wait_until
from tests.run import processes
from tests.run.make_run import MakeRun, make_run, var_dir
from tests.support.secrets import SECRET

pytestmark = [pytest.mark.serial, pytest.mark.xdist_group("make-run"), pytest.mark.timeout(180)]

_SLEEP = "import subprocess\ndef main(seconds):\n    subprocess.run(['sleep', seconds])\n    return 'slept'\n"


@pytest.fixture
def folder() -> Iterator[Path]:
    with var_dir() as made:
        yield made


def starts_in_vain(folder: Path, **settings: object) -> str:
    """What `make run` prints before it gives up; nothing of it is left."""
    running = MakeRun(folder, settings)
    try:
        running.launch()
        assert running.wait_end() != 0
        running.wait_nothing_left(5)
        return running.output
    finally:
        running.close()


def sleeps(running: MakeRun, seconds: str) -> concurrent.futures.Future[dict[str, object]]:
    """Begin a call of a function that sleeps, and return when it does."""
    function_id = running.function(_SLEEP, timeout=60)
    pool = concurrent.futures.ThreadPoolExecutor(1)
    call = pool.submit(running.call, function_id, {"seconds": seconds})
    pool.shutdown(wait=False)
    wait_until("the function sleeps", lambda: processes.sandboxed_with(running.install_id, seconds))
    return call


# Each start of the whole service takes several seconds of processor time, so these tests share some.


def test_printed_calls_work_ctrl_c_leaves_nothing_data_stays_and_a_stop_lets_calls_end(folder: Path) -> None:
    # Too long for a Unix socket, and with characters that mean something to shell, curl, URLs and ini files.
    odd = folder / ("long name, 100% with signs; " + "x" * 80)
    with make_run(odd, SECRET_KEYS="") as first:
        script = "set -e\n" + "\n".join(first.calls)
        printed = subprocess.run(["bash", "-c", script], cwd=ROOT, text=True, capture_output=True, timeout=60)
        assert printed.returncode == 0, printed.stderr
        assert "Hello, Ada!" in printed.stdout
        assert "faultstring" not in printed.stdout
        with_secret = first.function("def main(): pass", callback_secret=SECRET)
        functions = first.request("GET", "/v1/functions").json()
        key = (odd / "secret.key").read_text()
        lines = len(first.lines)

        first.interrupt()

        first.wait_nothing_left(2)
        assert not any("make:" not in line for line in first.lines[lines:])
    with make_run(odd, PORT=first.port, SECRET_KEYS="") as again:
        assert again.request("GET", "/v1/functions").json() == functions
        assert again.request("GET", f"/v1/functions/{with_secret}").json()["has_callback_secret"] is True
        assert (odd / "secret.key").read_text() == key
        assert "Hello, Bob!" in again.call(functions[0]["id"], {"name": "Bob"})["result"]
        assert len(again.request("GET", "/v1/runtimes").json()) == 1
        call = sleeps(again, "4.0001")

        again.terminate()

        assert call.result()["status"] == "success"
        again.wait_nothing_left(2)


def test_a_new_folder_of_logs_is_its_users_alone(folder: Path) -> None:
    starts_in_vain(folder, DATABASE_URL="sqlite:////dev/null/qinling.db")
    assert (folder / "log" / "run.log").exists()
    assert stat.S_IMODE((folder / "log").stat().st_mode) == 0o700


def test_a_var_dir_that_can_not_be_used_is_named(folder: Path) -> None:
    (folder / "file").write_text("")
    assert f"VAR_DIR={folder / 'file'}: expected a folder" in starts_in_vain(folder / "file")


def was_lost(call: concurrent.futures.Future[dict[str, object]]) -> bool:
    """Whether a call got no result; the web process may still have told it of the worker's end before it went too."""
    return call.exception() is not None or call.result()["status"] == "error"


def _interrupt_again(running: MakeRun) -> bool:
    if running.process.poll() is None:
        os.killpg(running.process.pid, signal.SIGINT)
    return running.process.poll() is not None


def test_two_run_side_by_side_but_not_in_one_folder_and_end_with_the_make_that_started_them(folder: Path) -> None:
    with make_run(folder) as one:
        again = subprocess.run(["make", "run"], cwd=ROOT, env=one.environ, text=True, capture_output=True, timeout=30)
        assert f"is in use by process {one.manager()}" in again.stderr
        with var_dir() as other_folder, make_run(other_folder) as other:
            other.process.kill()
            other.wait_nothing_left(15)
        assert one.request("GET", "/readyz").status_code == 200
        assert one.strays() == {}
        name = f"PORT={one.port}: can't listen"
        with var_dir() as other_folder:
            assert name in starts_in_vain(other_folder, PORT=one.port)


def test_nothing_outlives_a_killed_process_manager_and_a_second_ctrl_c_waits_for_nothing(folder: Path) -> None:
    port = free_port()
    for victim in ("manager", "supervisord"):
        with make_run(folder, PORT=port) as killed:
            wait_until("what was begun has ended", lambda service=killed: nothing_runs(service))
            call = sleeps(killed, "30.0001")

            os.kill(getattr(killed, victim)(), signal.SIGKILL)

            killed.wait_nothing_left(5)
            killed.wait_end()
            assert was_lost(call)
    with make_run(folder, PORT=port, SHUTDOWN_GRACE_S=60) as running:
        wait_until("what was begun has ended", lambda: nothing_runs(running))
        assert running.strays() == {}
        call = sleeps(running, "50.0001")
        log = folder / "log" / "run.log"
        stops = log.read_text().count("stopping")
        os.killpg(running.process.pid, signal.SIGINT)
        wait_until("it stops", lambda: log.read_text().count("stopping") > stops)
        wait_until("a second signal counts", lambda: _interrupt_again(running))

        running.wait_end()

        running.wait_nothing_left(2)
        assert was_lost(call)


def nothing_runs(running: MakeRun) -> bool:
    """Whether no execution is recorded as running."""
    return not running.request("GET", "/v1/executions?status=running").json()


def queue(folder: Path) -> list[tuple[int, bool]]:
    """The attempt of each queued execution, and whether it is claimed, in the order in which they were accepted."""
    with contextlib.closing(sqlite3.connect(folder / "qinling.db")) as database:
        return database.execute("SELECT attempt, claimed_until > 0 FROM execution_queue ORDER BY id").fetchall()


def test_a_stop_queues_executions_again_that_do_not_end_in_time(folder: Path) -> None:
    # One execution runs, and the other one is claimed and waits for a worker.
    settings = {"PORT": free_port(), "SHUTDOWN_GRACE_S": 2, "ASYNC_WORKERS": 1}
    with make_run(folder, **settings) as first:
        function_id = first.function(_SLEEP, timeout=60)
        started = first.accept(function_id, {"seconds": "50.0002"})
        wait_until("the function sleeps", lambda: processes.sandboxed_with(first.install_id, "50.0002"))
        first.accept(function_id, {"seconds": "0"})
        wait_until("the other one is claimed", lambda: queue(folder) == [(1, True), (1, True)])

        first.interrupt()

        first.wait_nothing_left(2)
        assert queue(folder) == [(1, False), (0, False)]
    with make_run(folder, **settings) as again:
        wait_until("the function sleeps again", lambda: processes.sandboxed_with(again.install_id, "50.0002"))
        row = again.execution(started)
        assert (row["status"], row["attempt"], row["status_reason"]) == ("running", 2, None)


def test_what_an_earlier_run_left_is_ended_first(folder: Path) -> None:
    (folder / "run.id").write_text("the earlier one")
    left, other = (
        subprocess.Popen(["sleep", "1000"], env=os.environ | {"QINLING_RUN_ID": run_id}, start_new_session=True)
        for run_id in ("the earlier one", "somebody else's")
    )
    try:
        # It need not come further than that.
        starts_in_vain(folder, DATABASE_URL="sqlite:////dev/null/qinling.db")
        assert left.wait(10) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        for process in (left, other):
            process.kill()
            process.wait()


def test_a_wrong_setting_is_named(folder: Path) -> None:
    assert "WARM_WORKERS=many: expected a whole number" in starts_in_vain(folder, WARM_WORKERS="many")


def test_a_failing_migration_is_shown_with_its_log(folder: Path) -> None:
    printed = starts_in_vain(folder, DATABASE_URL="sqlite:////dev/null/qinling.db")

    assert "the database can't be prepared" in printed
    assert "release.log" in printed


def test_a_valkey_that_dies_is_shown_with_its_log(folder: Path) -> None:
    (folder / "valkey").mkdir()
    (folder / "valkey" / "appendonlydir").write_text("in the way")

    printed = starts_in_vain(folder)

    assert "`valkey` does not start" in printed
    assert "appendonlydir" in printed


def test_redis_of_ones_own_is_used(folder: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        running = MakeRun(folder, {"REDIS_URL": f"redis://127.0.0.1:{nobody.getsockname()[1]}"})
        try:
            running.launch()
            wait_until("the worker waits for it", lambda: "waiting for Redis" in running.log_tails())
            assert running.pid_of("valkey-server") == 0
        finally:
            running.close()
