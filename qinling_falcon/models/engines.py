"""The supported databases: how each one connects, and what its errors mean.

All models use one peewee database. A read sets one of the `Readers`' connections on
it for its greenlet; the writer (`writer.py`) sets a connection of its own.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import sqlite3
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, Protocol
from urllib.parse import quote

import peewee
import psycopg2
import psycopg2.errors
import psycopg2.extensions

from qinling_falcon.models.callback_rows import insert_sql, wants_callback
from qinling_falcon.models.cooperation import cooperative, native
from qinling_falcon.models.keyed_rows import STATEMENTS as _KEYED_ROWS
from qinling_falcon.models.readers import Readers, close_quietly
from qinling_falcon.settings import Settings, SettingsError


class Fate(Enum):
    """What an exception inside a transaction says about it."""

    OWN = "own"  # the statement's own fault: its savepoint goes, the rest stays
    TRANSIENT = "transient"  # a deadlock or the like: the same again may well succeed
    BUSY = "busy"  # another process is writing: try again at once
    LOST = "lost"  # the connection, or what it leads to, can't be used any more


class Engine(Protocol):
    """A peewee database with the operations that reads and the writer need."""

    begin_sql: str
    # A group's statements are complete in themselves (triggers do what follows from them, and a statement that fails
    # changes nothing), so that a group needs no transaction around it.
    complete_statements: bool
    position_function: str  # position_function(text, part): where part begins in text, 0: nowhere
    shard: int  # the row of `execution_counters` that this process changes

    def open_reader(self) -> None:
        """Give this thread (or greenlet) a reading connection. Raises `TooManyReads` or the driver's errors."""

    def close_reader(self) -> None:
        """Take the connection back. This never waits, so a greenlet can't be killed inside it."""

    def open_writer(self) -> None:
        """Connect this thread (or greenlet) for writing."""

    def close_writer(self) -> None:
        """Drop this thread's (or greenlet's) connection, whatever its state."""

    def close_readers(self) -> None:
        """Close the idle reading connections."""

    def writing(self) -> bool:
        """Whether this thread (or greenlet) has a connection for writing."""

    def fate(self, error: BaseException) -> Fate:
        """What `error` means for the transaction that it was raised in."""

    def octets(self, text: Any) -> Any:
        """An SQL expression for the length of a text in bytes."""

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


# A record, what it adds to its function's or version's count, its row in the queue of executions, and its callback, in
# one statement: what the writer's thread does in Python costs more than SQLite's part. They belong to the writer's
# connection, so that no migration has to know of them.
_COUNT_TRIGGERS = tuple(
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
# The number of rows of `execution_counters`. A process changes one of them, because one row for all would be hot. It
# draws the row, because process ids are often the same in all containers.
SHARDS = 16
_QUEUE_TRIGGERS = (
    "CREATE TEMP TRIGGER queue_accepted AFTER INSERT ON main.executions WHEN NEW.status = 'running' AND NOT NEW.sync"
    " BEGIN INSERT INTO execution_queue (id, project_id, function_id, not_before)"
    " VALUES (NEW.id, NEW.project_id, NEW.function_id, NEW.created_at);"
    " UPDATE execution_counters SET accepted = accepted + 1 WHERE shard = {shard}; END",
    "CREATE TEMP TRIGGER queue_ended AFTER UPDATE ON main.executions"
    " WHEN OLD.status = 'running' AND NEW.status <> 'running' AND NOT NEW.sync"
    " BEGIN DELETE FROM execution_queue WHERE id = NEW.id;"
    " UPDATE execution_counters SET ended = ended + 1 WHERE shard = {shard}; END",
    "CREATE TEMP TRIGGER count_reopened AFTER UPDATE ON main.executions"
    " WHEN OLD.status <> 'running' AND NEW.status = 'running' AND NOT NEW.sync"
    " BEGIN UPDATE execution_counters SET ended = ended - 1 WHERE shard = {shard}; END",
    "CREATE TEMP TRIGGER count_deleted AFTER DELETE ON main.executions WHEN OLD.status <> 'running' AND NOT OLD.sync"
    " BEGIN UPDATE execution_counters SET deleted = deleted + 1 WHERE shard = {shard}; END",
)
_CALLBACK_TRIGGERS = tuple(
    f"CREATE TEMP TRIGGER callback_{name} {event} AND {wants_callback('NEW')} BEGIN"
    f" {insert_sql('NEW', 'functions f', 'f.id = NEW.function_id')}; END"
    for name, event in (
        ("began", "AFTER INSERT ON main.executions WHEN NEW.status <> 'running'"),
        ("ended", "AFTER UPDATE ON main.executions WHEN OLD.status = 'running'"),
    )
)


# peewee's type stubs lack the protected attributes that its database classes offer to subclasses.
_SqliteDatabase: Any = peewee.SqliteDatabase
_PostgresqlDatabase: Any = peewee.PostgresqlDatabase


class _Reading:
    """A mixin for peewee databases: the reading connections."""

    _state: Any
    _readers: Readers

    def open_reader(self) -> None:
        """Give this thread (or greenlet) one of the reading connections."""
        self._state.set_connection(self._readers.take())

    def close_reader(self) -> None:
        """Take the connection back."""
        connection, _ = self._state.conn, self._state.reset()
        if connection is not None:
            self._readers.give_back(connection)

    def close_writer(self) -> None:
        """Drop this thread's (or greenlet's) connection."""
        connection, _ = self._state.conn, self._state.reset()
        if connection is not None:
            close_quietly(connection)

    def close_readers(self) -> None:
        """Close the idle reading connections."""
        self._readers.close_idle()


class _SqliteConnection(sqlite3.Connection):
    """A connection that remembers its file, so that it is not used after the file was moved away or replaced."""

    file: tuple[int, int] | None = None


class Sqlite(_Reading, _SqliteDatabase):  # type: ignore[misc]  # the base is Any: see above
    """SQLite in WAL mode. Reading connections are read-only."""

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
            factory=_SqliteConnection,
            # In WAL mode reads wait for no lock, except briefly after a crash. Waiting would block the gevent hub.
            timeout=0.05,
            autoconnect=False,
            pragmas={"query_only": 1, "cache_size": -512},
        )
        self.shard = secrets.randbelow(SHARDS)
        self._readers = Readers(
            self._connect,
            lambda connection: not connection.in_transaction and connection.file == self._file(),
            size=settings.database_pool_size,
            timeout_s=settings.database_timeout_s,
        )

    def _connect(self) -> Any:
        connection = super()._connect()
        connection.file = self._file()
        return connection

    def _file(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.path)  # noqa: PTH116 - runs before each transaction; pathlib takes ten times as long
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def open_writer(self) -> None:
        """Connect this thread for writing: durable commits, no waiting inside SQLite."""
        connection = sqlite3.connect(
            self.database,
            uri=True,
            timeout=0,
            isolation_level=None,
            cached_statements=512,
            check_same_thread=False,
            factory=_SqliteConnection,
        )
        connection.file = self._file()
        try:
            connection.execute("PRAGMA journal_mode=wal")
            connection.execute("PRAGMA synchronous=full")
            connection.execute("PRAGMA foreign_keys=1")
            connection.execute("PRAGMA journal_size_limit=67108864")
            # Fewer checkpoints: pages that many commits touch are written back once.
            connection.execute("PRAGMA wal_autocheckpoint=8000")
            for statement in (*_COUNT_TRIGGERS, *_QUEUE_TRIGGERS, *_CALLBACK_TRIGGERS, *_KEYED_ROWS):
                connection.execute(statement.replace("{shard}", str(self.shard)))
        except BaseException:
            connection.close()
            raise
        self._state.set_connection(connection)

    def writing(self) -> bool:
        """Whether this thread has a connection for writing."""
        return not self.is_closed() and self._state.conn.file == self._file()

    def fate(self, error: BaseException) -> Fate:
        """What `error` means for the transaction that it was raised in."""
        origin = _origin(error)
        code = getattr(origin, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return Fate.BUSY
        # Some errors end the whole transaction, without saying so.
        ended = self.transaction_depth() > 0 and not (self.writing() and self._state.conn.in_transaction)
        return Fate.LOST if ended or code in self._lost else Fate.OWN

    def octets(self, text: Any) -> Any:
        """See `Engine`. OCTET_LENGTH needs SQLite 3.43."""
        return peewee.fn.LENGTH(peewee.Cast(text, "BLOB"))


class Postgres(_Reading, _PostgresqlDatabase):  # type: ignore[misc]  # the base is Any: see above
    """PostgreSQL with psycopg2. Reading connections are read-only."""

    begin_sql = "BEGIN"
    complete_statements = False
    position_function = "strpos"

    def __init__(self, url: str, settings: Settings) -> None:
        try:
            params = psycopg2.extensions.parse_dsn(url)
        except psycopg2.ProgrammingError as error:
            why = str(error).split('"')[0].strip(" \n:")  # the quoted part may be a password
            raise SettingsError(f"DATABASE_URL: expected a PostgreSQL URL: {why}") from None
        timeout_ms = int(settings.database_timeout_s * 1000)
        self._timeout_s = settings.database_timeout_s
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
            autoconnect=False,
            **(defaults | params),
        )
        self.shard = secrets.randbelow(SHARDS)
        self._readers = Readers(
            self._connect_reader,
            _is_quiet,
            size=settings.database_pool_size,
            timeout_s=settings.database_timeout_s,
        )
        if cooperative():
            _patch_psycopg(max(5.0, 2 * settings.database_timeout_s))

    def _connect_reader(self) -> Any:
        with _at_most(self._timeout_s):
            connection = self._connect()
            try:
                connection.set_session(readonly=True)
            except BaseException:
                close_quietly(connection)
                raise
        return connection

    def _connect(self) -> Any:
        connection = super()._connect()
        if self.server_version is None:
            self._set_server_version(connection)
        return connection

    def open_writer(self) -> None:
        """Connect this thread (or greenlet) for writing.

        The server ends its transaction if the process hangs in it for twice the timeout.
        """
        connection = self._connect()
        try:
            with connection.cursor() as cursor:
                ms = int(self._timeout_s * 1000)
                cursor.execute(f"SET lock_timeout = {ms}; SET idle_in_transaction_session_timeout = {2 * ms}")
        except BaseException:
            connection.close()
            raise
        self._state.set_connection(connection)

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

    def octets(self, text: Any) -> Any:
        """See `Engine`. Unlike LENGTH, OCTET_LENGTH does not read texts that are stored out of line."""
        return peewee.fn.OCTET_LENGTH(text)


@contextlib.contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Limit the time of the `with` block, where gevent can interrupt it. Elsewhere the driver's timeouts apply."""
    if not cooperative():
        yield
        return
    import gevent

    with gevent.Timeout(seconds, TimeoutError("the database did not answer in time")):
        yield


def _is_quiet(connection: Any) -> bool:
    """Whether an idle connection is usable: no statement is running, and the server has sent nothing unread.

    A server that has closed the connection, or has stopped, has sent something. The check needs no round trip.
    """
    if connection.closed or connection.get_transaction_status() != psycopg2.extensions.TRANSACTION_STATUS_IDLE:
        return False
    poll = native("select", "poll")()  # gevent's version would switch greenlets
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)


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
