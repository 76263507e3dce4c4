"""`make run` prints which server it waits for, soon, once and without secrets. Ctrl-C ends the wait."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qinling_falcon.jobs.queues import connect
from qinling_falcon.servers import in_one_line, place
from qinling_falcon.settings import Settings
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
    """The port of a server that accepts connections and never answers."""
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
def no_password_for_redis() -> Iterator[dict[str, str]]:
    with valkey_server("--requirepass", SECRET) as server:
        yield {"REDIS_URL": server.url}


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
        (no_password_for_redis, ("Waiting for Redis at ", "(REDIS_URL)", "needs a password in REDIS_URL")),
        (refused_database, ("Waiting for the database at 127.0.0.1:", "(DATABASE_URL)", "Connection refused")),
        (silent_database, ("Waiting for the database at 127.0.0.1:", "(DATABASE_URL)", "no answer yet")),
        (missing_database, ("Waiting for the database at ", "(DATABASE_URL)", "does not exist")),
    ],
)
def test_the_message_names_what_it_waits_for(folder: Path, neighbour: object, words: tuple[str, ...]) -> None:
    with neighbour() as settings:
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


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:s3cret@cache.example:6379/0", "cache.example:6379/0"),
        ("rediss://:s3cret@[::1]:6379", "[::1]:6379"),
        ("unix:///run/redis.sock?password=s3cret", "/run/redis.sock"),
        ("postgresql://user:s3cret@db/qinling?sslmode=require", "db/qinling"),
        ("redis://:s3c/ret@cache:6379", "?"),
        ("redis://user:123#s3cret@cache:6379", "?"),
        ("redis://:s3cret?@cache", "?"),
        ("redis://user:s3cret/@cache", "?"),
        ("redis://[s3cret", "?"),
    ],
)
def test_a_servers_address_is_shown_without_secrets(url: str, shown: str) -> None:
    assert place(url) == shown


def test_a_url_that_can_not_be_read_is_not_quoted() -> None:
    settings = Settings(redis_url="redis://user:s3cret/@cache:6379")
    with pytest.raises(ValueError, match="s3cret") as caught:
        connect(settings)
    assert "s3cret" not in in_one_line(caught.value)


def test_a_database_url_that_can_not_be_read_is_refused_at_once(folder: Path) -> None:
    running = MakeRun(folder, {"DATABASE_URL": "postgresql://qinling:very-s3cret%@127.0.0.1/qinling"})
    try:
        running.launch()
        assert running.wait_end() != 0
        assert "DATABASE_URL: expected a PostgreSQL URL" in running.output
        assert SECRET not in running.output + running.log_tails()
    finally:
        running.close()


def test_the_start_goes_on_when_redis_is_there(folder: Path) -> None:
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
