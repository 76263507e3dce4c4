"""`/readyz` names the missing parts, never hangs, and succeeds again when all parts are back. Every part is real."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from qinling_falcon.settings_environment import read_settings
from tests.integration.service import ROOT, Service, free_port, wait_until
from tests.servers.postgres import PostgresServer, running_postgres
from tests.servers.valkey import ValkeyServer, valkey_server
from tests.support.tables import make_tables

pytestmark = [pytest.mark.xdist_group("readiness"), pytest.mark.timeout(180)]

START_TIMEOUT_S = 3
SLOW = "import time\ndef main(seconds):\n    time.sleep(seconds)\n    return 'slept'\n"


@dataclass
class Town:
    """A service with its own Redis and database."""

    service: Service
    redis: ValkeyServer
    database: PostgresServer
    program: Path

    def faults(self) -> dict[str, list[str]]:
        """The failed parts that `/readyz` names; empty if it answers 200."""
        since = time.monotonic()
        answer = self.service.request("GET", "/readyz")
        assert time.monotonic() - since < 10, "its deadline is 2 s"
        if answer.status_code == 200:
            return {}
        assert answer.status_code == 503, answer.text
        return dict(answer.json()["errors"])

    def wait_faults(self, *names: str, within_s: float = 30) -> dict[str, list[str]]:
        """Wait until `/readyz` names at least these parts, or without names until it answers 200."""
        found: dict[str, list[str]] = {}

        def are_they() -> bool:
            nonlocal found
            found = self.faults()
            return set(names) <= set(found) if names else not found

        wait_until(f"/readyz names {names}", are_they, within_s)
        return found


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    with tempfile.TemporaryDirectory(prefix="qf-") as name, valkey_server() as redis, running_postgres() as database:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copytree(ROOT / "runtimes", folder / "runtimes")
        table = folder / "runtimes.toml"
        table.write_text('[runtimes.python3]\nimages = ["python3"]\nprogram = "runtimes/python3/worker.py"\n')
        port = free_port()
        environ = {key: value for key, value in os.environ.items() if not key.startswith("GUNICORN")} | {
            "PORT": str(port),
            "VAR_DIR": str(folder / "var"),
            "REDIS_URL": redis.url,
            "DATABASE_URL": database.create_database(),
            "RUNTIMES_FILE": str(table),
            "WEB_CONCURRENCY": "1",
            "WARM_WORKERS": "1",
            "MAX_WORKERS": "2",
            "WORKER_START_TIMEOUT_S": str(START_TIMEOUT_S),
        }
        (folder / "var").mkdir()
        make_tables(read_settings(environ))
        service = Service(port, folder / "var", environ)
        try:
            service.start_pool()
            service.start_web()
            wait_until("it is ready", lambda: service.request("GET", "/readyz").status_code == 200, 60)
            service.runtime()
            yield Town(service, redis, database, folder / "runtimes" / "python3" / "worker.py")
        finally:
            service.close()


@contextlib.contextmanager
def silent(*processes: psutil.Process) -> Iterator[None]:
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


def test_redis_away_and_back(town: Town) -> None:
    assert town.faults() == {}
    town.redis.kill()
    try:
        assert town.wait_faults("redis") == {"redis": ["Redis can't be reached"]}
    finally:
        town.redis.start()
    town.wait_faults()


def test_redis_that_hangs(town: Town) -> None:
    with silent(psutil.Process(town.redis.pid)):
        town.wait_faults("redis")
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            since = time.monotonic()
            answers = list(pool.map(lambda _: town.faults(), range(20)))
            assert time.monotonic() - since < 10, "they share a run of 2 s"
        assert all("redis" in faults for faults in answers)
        assert town.service.request("GET", "/healthz").status_code == 200
    town.wait_faults()


def test_database_away_and_back(town: Town) -> None:
    town.database.stop()
    try:
        town.wait_faults("database")
    finally:
        town.database.start()
    town.wait_faults()


def test_database_that_hangs(town: Town) -> None:
    first = psutil.Process(town.database.postmaster_pid)
    with silent(first, *first.children()):
        town.wait_faults("database")
        for _ in range(6):  # more than there are idle connections
            assert "database" in town.faults()
    town.wait_faults()


def test_pool_manager_dead_hung_and_back(town: Town) -> None:
    town.service.stop("pool", signal.SIGKILL)
    found = town.wait_faults("pool", within_s=20)
    assert "No pool manager is active" in found["pool"][0]
    town.service.start_pool()
    town.wait_faults()
    with silent(psutil.Process(town.service.processes["pool"].pid)):
        town.wait_faults("pool", within_s=20)
    town.wait_faults()


def test_a_runtime_whose_workers_do_not_start(town: Town) -> None:
    runtime_id = town.service.runtime()
    since = time.monotonic()  # the last worker ends during the stop
    town.service.stop("pool")
    away = town.program.with_name("away.py")
    town.program.rename(away)
    try:
        town.service.start_pool()
        found = town.wait_faults("runtimes")
        assert time.monotonic() - since > START_TIMEOUT_S, "before that a worker may be on its way"
        assert runtime_id in found["runtimes"][0]
    finally:
        away.rename(town.program)
    town.wait_faults(within_s=60)


def test_busy_workers_are_no_reason(town: Town) -> None:
    function_id = town.service.function(SLOW, timeout=30)
    wait_until("both workers can be had", lambda: town.service.capacity(town.service.runtime())["total"] >= 1)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(town.service.call, function_id, {"seconds": 2 * START_TIMEOUT_S}) for _ in range(2)]
        seen: list[Any] = []
        while not all(call.done() for call in calls):
            seen.append(town.faults())
            time.sleep(0.2)
        assert [call.result()["status"] for call in calls] == ["success"] * 2
    assert len(seen) > 5
    assert not any(seen)
