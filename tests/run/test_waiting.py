"""`make run` says what it waits for, soon, once and without secrets; Ctrl-C ends the wait."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.service import free_port, wait_until
from tests.run.make_run import MakeRun, var_dir
from tests.servers.postgres import running_postgres
from tests.servers.valkey import valkey_server

pytestmark = [pytest.mark.serial, pytest.mark.xdist_group("make-run"), pytest.mark.timeout(180)]

SECRET = "very-s3cret"
# Make and the first imports take a second on a free machine; what is tested is that it is said at all while it waits.
SOON_S = 10


@pytest.fixture
def folder() -> Iterator[Path]:
    with var_dir() as made:
        yield made


@contextlib.contextmanager
def silent_server() -> Iterator[int]:
    """The port of a server that accepts connections and says nothing."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        yield server.getsockname()[1]


@contextlib.contextmanager
def refused_redis() -> Iterator[dict[str, str]]:
    yield {"REDIS_URL": f"redis://:{SECRET}@127.0.0.1:{free_port()}/0"}


@contextlib.contextmanager
def silent_redis() -> Iterator[dict[str, str]]:
    with silent_server() as port:
        yield {"REDIS_URL": f"redis://user:{SECRET}@127.0.0.1:{port}/0"}


@contextlib.contextmanager
def wrong_password_of_redis() -> Iterator[dict[str, str]]:
    with valkey_server("--requirepass", "the right one") as server:
        yield {"REDIS_URL": f"{server.url}?password={SECRET}"}


@contextlib.contextmanager
def refused_database() -> Iterator[dict[str, str]]:
    yield {"DATABASE_URL": f"postgresql://qinling:{SECRET}@127.0.0.1:{free_port()}/qinling"}


@contextlib.contextmanager
def silent_database() -> Iterator[dict[str, str]]:
    with silent_server() as port:
        yield {"DATABASE_URL": f"postgresql://qinling:{SECRET}@127.0.0.1:{port}/qinling"}


@contextlib.contextmanager
def missing_database() -> Iterator[dict[str, str]]:
    with running_postgres() as server:
        yield {"DATABASE_URL": server.url("nowhere")}


@pytest.mark.parametrize(
    ("neighbour", "words"),
    [
        (refused_redis, ("Waiting for Redis at 127.0.0.1:", "(REDIS_URL)", "Connection refused")),
        (silent_redis, ("Waiting for Redis at 127.0.0.1:", "(REDIS_URL)", "no answer yet")),
        (wrong_password_of_redis, ("Waiting for Redis at ", "(REDIS_URL)", "password")),
        (refused_database, ("Waiting for the database at 127.0.0.1:", "(DATABASE_URL)", "Connection refused")),
        (silent_database, ("Waiting for the database at 127.0.0.1:", "(DATABASE_URL)", "no answer yet")),
        (missing_database, ("Waiting for the database at ", "(DATABASE_URL)", "does not exist")),
    ],
)
def test_what_it_waits_for_is_said(folder: Path, neighbour: object, words: tuple[str, ...]) -> None:
    with neighbour() as settings:  # type: ignore[operator]
        running = MakeRun(folder, settings)
        try:
            running.launch()
            wait_until("it says so", lambda: "Waiting for" in running.output, SOON_S)
            time.sleep(1.5)  # in which it might say so again
            (line,) = (line for line in running.lines if "Waiting for" in line)
            for word in words:
                assert word in line
            assert SECRET not in running.output + running.log_tails()
            assert not any(running.pid_of(name) for name in ("supervisor.supervisord", "valkey-server"))

            running.interrupt()

            running.wait_nothing_left(5)
        finally:
            running.close()


def test_it_goes_on_when_what_it_waited_for_is_there(folder: Path) -> None:
    with valkey_server() as server:
        server.kill()
        running = MakeRun(folder, {"REDIS_URL": server.url})
        try:
            running.launch()
            wait_until("it says so", lambda: "Waiting for Redis" in running.output, SOON_S)
            server.start()
            running.wait_ready()
            assert "It answers." in running.output
        finally:
            running.close()
