"""The databases that the service runs on: how each connects, and what its errors mean.

A peewee database serves the reads of a process from a pool. The one writer
(`writer.py`) adopts a connection of its own on the same object, so that models
find it wherever they are used.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol
from urllib.parse import quote

import peewee
import psycopg2
import psycopg2.errors
import psycopg2.extensions
from playhouse.pool import PooledPostgresqlDatabase, PooledSqliteDatabase

from qinling_falcon.models.cooperation import cooperative
from qinling_falcon.settings import Settings, SettingsError


class Fate(Enum):
    """What an exception inside a transaction says about it."""

    OWN = "own"  # the statement's own fault: its savepoint goes, the rest stays
    TRANSIENT = "transient"  # a deadlock or the like: the same again may well succeed
    BUSY = "busy"  # another process is writing: try again at once
    LOST = "lost"  # the connection, or what it leads to, can't be used any more


class Engine(Protocol):
    """A peewee database with what the writer needs of it."""

    begin_sql: str
    # A group's statements are complete in themselves (triggers do what follows from them, and a statement that fails
    # changes nothing), so that a group needs no transaction around it.
    complete_statements: bool
    position_function: str  # position_function(text, part): where part begins in text, 0: nowhere

    def open_writer(self) -> None:
        """Connect this thread (or greenlet) for writing."""

    def close_writer(self) -> None:
        """Drop this thread's (or greenlet's) connection, whatever its state."""

    def writing(self) -> bool:
        """Whether this thread (or greenlet) has a connection for writing."""

    def fate(self, error: BaseException) -> Fate:
        """What `error` means for the transaction that it was raised in."""

    def __getattr__(self, name: str) -> Any: ...


def make_engine(settings: Settings) -> Engine:
    """The database of `DATABASE_URL`.

    Raises:
        SettingsError: a URL that names no database we know.
    """
    url = settings.effective_database_url
    if url.startswith("sqlite:///"):
        path = url.removeprefix("sqlite:///")
        if not path or ":memory:" in path:
            raise SettingsError(f"DATABASE_URL={url}: expected `sqlite:///` and the path of a file")
        return Sqlite(path, settings)
    if url.startswith(("postgresql://", "postgres://")):
        return Postgres(url, settings)
    raise SettingsError(f"DATABASE_URL={url.partition(':')[0]}:…: expected `postgresql://…` or `sqlite:///path`")


# A record and what it adds to its function's or version's count, in one statement: what the writer's thread does in
# Python costs more than SQLite's part. They belong to the writer's connection, so that no migration has to know of
# them.
_COUNTING = tuple(
    f"CREATE TEMP TRIGGER {table}_{name} {event} AND NEW.function_version {versions} BEGIN"
    f" UPDATE {table} SET count = count + 1 WHERE {row}; END"
    for name, event in (
        ("began", "AFTER INSERT ON main.executions WHEN NEW.status <> 'running'"),
        ("ended", "AFTER UPDATE ON main.executions WHEN OLD.status = 'running' AND NEW.status <> 'running'"),
    )
    for table, versions, row in (
        ("functions", "= 0", "id = NEW.function_id"),
        ("function_versions", "> 0", "function_id = NEW.function_id AND version_number = NEW.function_version"),
    )
)


class Sqlite(PooledSqliteDatabase):  # type: ignore[misc]
    """SQLite in WAL mode. Connections of the pool can only read."""

    begin_sql = "BEGIN IMMEDIATE"
    complete_statements = True
    position_function = "instr"
    _lost = frozenset(
        (
            sqlite3.SQLITE_IOERR,
            sqlite3.SQLITE_CORRUPT,
            sqlite3.SQLITE_FULL,
            sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_NOTADB,
            sqlite3.SQLITE_NOMEM,
        )
    )

    def __init__(self, path: str, settings: Settings) -> None:
        if sqlite3.sqlite_version_info < (3, 35):
            raise SettingsError(f"DATABASE_URL: SQLite {sqlite3.sqlite_version} is too old: expected 3.35 or newer")
        self.path = path
        # mode=rw: a database that is missing is an error, not an empty new file.
        super().__init__(
            f"file:{quote(path)}?mode=rw",
            uri=True,
            check_same_thread=False,
            max_connections=settings.database_pool_size,
            timeout=settings.database_timeout_s,
            autoconnect=False,
            pragmas={"query_only": 1},
        )
        # A read in WAL mode waits for nobody, but for a moment after a crash. Waiting blocks the hub.
        self.timeout = 0.05

    def open_writer(self) -> None:
        """Connect this thread for writing: durable commits, no waiting inside SQLite."""
        connection = sqlite3.connect(
            self.database, uri=True, timeout=0, isolation_level=None, cached_statements=512, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA journal_mode=wal")
            connection.execute("PRAGMA synchronous=full")
            connection.execute("PRAGMA foreign_keys=1")
            connection.execute("PRAGMA journal_size_limit=67108864")
            # Fewer checkpoints: pages that many commits touch are written back once.
            connection.execute("PRAGMA wal_autocheckpoint=8000")
            for trigger in _COUNTING:
                connection.execute(trigger)
        except BaseException:
            connection.close()
            raise
        self._state.set_connection(connection)

    def close_writer(self) -> None:
        """Drop this thread's connection."""
        connection, _ = self._state.conn, self._state.reset()
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def writing(self) -> bool:
        """Whether this thread has a connection for writing."""
        return not self.is_closed()

    def fate(self, error: BaseException) -> Fate:
        """What `error` means for the transaction that it was raised in."""
        origin = _origin(error)
        code = getattr(origin, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return Fate.BUSY
        # Some errors end the whole transaction, without saying so.
        ended = self.transaction_depth() > 0 and not (self.writing() and self._state.conn.in_transaction)
        return Fate.LOST if ended or code in self._lost else Fate.OWN


class Postgres(PooledPostgresqlDatabase):  # type: ignore[misc]
    """PostgreSQL by psycopg2. Connections of the pool can only read."""

    begin_sql = "BEGIN"
    complete_statements = False
    position_function = "strpos"

    def __init__(self, url: str, settings: Settings) -> None:
        try:
            params = psycopg2.extensions.parse_dsn(url)
        except psycopg2.ProgrammingError as error:
            raise SettingsError(f"DATABASE_URL: expected a PostgreSQL URL: {str(error).strip()}") from None
        timeout_ms = int(settings.database_timeout_s * 1000)
        self._lock_timeout_ms = timeout_ms
        name = params.pop("dbname", None) or params.get("user") or "postgres"
        defaults = {
            "application_name": "qinling-falcon",
            "connect_timeout": max(2, int(settings.database_timeout_s)),
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 2 * timeout_ms,
        }
        super().__init__(
            name,
            max_connections=settings.database_pool_size,
            timeout=settings.database_timeout_s,
            stale_timeout=3600,
            autoconnect=False,
            **(defaults | params),
        )
        if cooperative():
            _patch_psycopg(max(5.0, 2 * settings.database_timeout_s))

    def _connect(self) -> Any:
        connection = super()._connect()
        if not connection.readonly:
            connection.set_session(readonly=True)
        return connection

    def open_writer(self) -> None:
        """Connect this thread (or greenlet) for writing."""
        # Past the pool: its connections are the readers'.
        connection = peewee.PostgresqlDatabase._connect(self)  # type: ignore[attr-defined]
        try:
            with connection.cursor() as cursor:
                cursor.execute(f"SET lock_timeout = {self._lock_timeout_ms}")
        except BaseException:
            connection.close()
            raise
        self._state.set_connection(connection)

    def close_writer(self) -> None:
        """Drop this thread's (or greenlet's) connection."""
        connection, _ = self._state.conn, self._state.reset()
        if connection is not None:
            with contextlib.suppress(psycopg2.Error):
                connection.close()

    def writing(self) -> bool:
        """Whether this thread (or greenlet) has a connection for writing."""
        return not self.is_closed() and not self._state.conn.closed

    def fate(self, error: BaseException) -> Fate:
        """What `error` means for the transaction that it was raised in."""
        origin = _origin(error)
        if not self.writing() or isinstance(origin, psycopg2.InterfaceError):
            return Fate.LOST
        code: str = getattr(origin, "pgcode", None) or ""
        if code in ("40001", "40P01", "55P03"):
            return Fate.TRANSIENT
        # Written through the writer and still refused: a standby, after a failover.
        standby = code == "25006" and self.transaction_depth() > 0
        # 53…: out of disk, memory or connections; 57P…, 58…, XX…: going down, or broken.
        return Fate.LOST if standby or code.startswith(("08", "53", "57P", "58", "XX")) else Fate.OWN


def _origin(error: BaseException) -> BaseException:
    """The driver's exception inside peewee's."""
    origin: BaseException = getattr(error, "orig", error)
    return origin


def _patch_psycopg(silence_s: float) -> None:
    """Let psycopg2 wait cooperatively, and give up a connection that has been silent for too long."""
    from psycogreen.gevent import gevent_wait_callback, patch_psycopg

    patch_psycopg()

    def wait(connection: Any) -> None:
        gevent_wait_callback(connection, timeout=silence_s)

    wait_callback: Callable[[Any], None] = wait
    psycopg2.extensions.set_wait_callback(wait_callback)
