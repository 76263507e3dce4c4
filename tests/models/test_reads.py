"""The reading connections of a process with gevent's patches: no read loses one, however it ends.

The tests run in one such process, which `test_under_gevent` starts.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from qinling_falcon.errors import Unavailable
from qinling_falcon.models import database
from qinling_falcon.settings import Settings
from tests.models.connections import connected, in_patched_process, run_patched, starts_patched_process
from tests.servers.postgres import PostgresServer, running_postgres

PLACES = 4
TIMEOUT_S = 3.0


@starts_patched_process
def test_under_gevent(postgres: PostgresServer) -> None:
    run_patched(postgres, "tests/models/test_reads.py")


def few(tmp_path: Path, url: str | None) -> Settings:
    return Settings(
        var_dir=tmp_path, database_url=url, database_pool_size=PLACES, database_timeout_s=TIMEOUT_S
    )


def read(statement: str = "SELECT 1") -> int:
    with database.reading():
        return int(database.engine().execute_sql(statement).fetchone()[0])


def read_slowly() -> int:
    return read("SELECT 1 FROM pg_sleep(0.3)")


def all_places_are_there(read_one: Callable[[], int]) -> bool:
    """Whether the largest allowed number of reads can hold a connection at the same time."""
    import gevent

    began: list[int] = []

    def hold() -> int:
        with database.reading():
            found = read_one()
            began.append(1)
            with gevent.Timeout(10):
                while len(began) < PLACES:
                    gevent.sleep(0.005)
            return found

    holders = [gevent.spawn(hold) for _ in range(PLACES)]
    gevent.joinall(holders, raise_error=True)
    return [holder.value for holder in holders] == [1] * PLACES


@in_patched_process
def test_reads_killed_at_any_moment_cost_no_connection(postgres: PostgresServer, tmp_path: Path) -> None:
    import gevent

    chance = random.Random(1)
    with connected(few(tmp_path, postgres.create_database())):
        for _ in range(60):
            victims = [gevent.spawn(read_slowly) for _ in range(PLACES)]
            gevent.sleep(chance.random() * 0.012)  # connecting takes about 5 ms
            gevent.killall(victims)
        assert all_places_are_there(read)


@in_patched_process
def test_reads_that_run_out_of_time_cost_no_connection(postgres: PostgresServer, tmp_path: Path) -> None:
    import gevent

    chance = random.Random(2)
    with connected(few(tmp_path, postgres.create_database())):
        for _ in range(120):
            with gevent.Timeout(chance.random() * 0.012, False):
                read_slowly()
        assert all_places_are_there(read)


@in_patched_process
def test_more_reads_than_connections_wait_and_then_are_refused(postgres: PostgresServer, tmp_path: Path) -> None:
    import gevent

    with connected(few(tmp_path, postgres.create_database())):
        waiting = [gevent.spawn(read_slowly) for _ in range(2 * PLACES)]
        gevent.joinall(waiting, raise_error=True)
        holding = [gevent.spawn(read, "SELECT 1 FROM pg_sleep(4.5)") for _ in range(PLACES)]
        gevent.sleep(0.2)
        with pytest.raises(Unavailable, match="Too many reads"):
            read()
        gevent.joinall(holding, raise_error=True)
        assert all_places_are_there(read)


@in_patched_process
def test_connections_cut_fifty_times(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.create_database()
    with connected(few(tmp_path, url)):
        for _ in range(50):
            assert all_places_are_there(read)
            postgres.cut_connections(url)
            while postgres.connections(url):
                time.sleep(0.001)
        assert all_places_are_there(read)


@in_patched_process
def test_a_server_restarted_more_often_than_there_are_places(tmp_path: Path) -> None:
    with running_postgres() as server, connected(few(tmp_path, server.create_database())):
        for _ in range(PLACES + 1):
            assert all_places_are_there(read)
            server.kill()
            with pytest.raises(Unavailable):
                read()
            server.start()
        assert all_places_are_there(read)


@in_patched_process
def test_a_server_that_falls_silent_is_waited_for_once_by_each_read(tmp_path: Path) -> None:
    """A read does not wait for each idle connection in turn."""
    with running_postgres() as server, connected(few(tmp_path, server.create_database())):
        assert all_places_are_there(read)  # so that there are idle connections
        silent = psutil.Process(server.postmaster_pid)
        silent = [silent, *silent.children()]
        for process in silent:
            process.suspend()
        try:
            since = time.monotonic()
            with pytest.raises(Unavailable):
                read()
            assert time.monotonic() - since < 15, "its time is 6 s"
        finally:
            for process in silent:
                process.resume()
        assert all_places_are_there(read)


@in_patched_process
def test_a_sqlite_file_that_goes_and_comes_back(tmp_path: Path) -> None:
    settings = few(tmp_path, None)
    path, away = tmp_path / "qinling.db", tmp_path / "away.db"
    with connected(settings):
        assert all_places_are_there(read)
        database.transact(lambda: None)
        path.rename(away)
        for _ in range(300):
            with pytest.raises(Unavailable):
                read()
        with pytest.raises(Unavailable):
            database.transact(lambda: None)
        away.rename(path)
        database.transact(lambda: None)
        assert all_places_are_there(read)


@in_patched_process
def test_killed_reads_of_sqlite_cost_no_connection(tmp_path: Path) -> None:
    import gevent

    def hold() -> None:
        with database.reading():
            gevent.sleep(10)

    with connected(few(tmp_path, None)):
        for _ in range(100):
            victims = [gevent.spawn(hold) for _ in range(2 * PLACES)]
            gevent.sleep(0)
            gevent.killall(victims)
        assert all_places_are_there(read)
