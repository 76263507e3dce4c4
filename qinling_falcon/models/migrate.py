"""Bring the database's schema up to date: `python -m qinling_falcon.models.migrate`, the `release` process.

It waits for the database. Only one process at a time migrates. If the schema is
current, it does nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peewee
import psycopg2.extensions
from playhouse.migrations import Runner

from qinling_falcon.models.engines.choice import make_engine
from qinling_falcon.models.engines.sqlite import Sqlite
from qinling_falcon.servers import CONNECT_TIMEOUT_S, SAY_AFTER_S, in_one_line, title, waiting
from qinling_falcon.settings import Settings, SettingsError
from qinling_falcon.settings_environment import get_settings

MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x51494E4C  # any number, the same in all releases
_SAY_EVERY_S = 15.0


class MigrationFailed(Exception):
    """The database could not be migrated; the message says why."""


def migrate(settings: Settings, *, wait_s: float = 60.0, directory: Path = MIGRATIONS) -> list[str]:
    """Apply the migrations that this database has not seen.

    Args:
        settings: names the database.
        wait_s: how long to wait for a database that is away, or for another release that is at it.
        directory: where the migrations are.

    Returns:
        The names of those that were applied.

    Raises:
        MigrationFailed: the database stayed away, or a migration failed (it is undone).
    """
    deadline = time.monotonic() + wait_s
    engine = make_engine(settings)
    with _exclusive_file(engine, deadline) if isinstance(engine, Sqlite) else contextlib.nullcontext():
        # A plain database: no pool, no read-only connections, foreign keys off while tables are rebuilt.
        database = _plain(settings, engine)
        with _said(engine, settings) as wait:
            _connect(database, deadline, wait)
        try:
            if not isinstance(engine, Sqlite):
                _advisory_lock(database, deadline)
            applied: list[str] = Runner(database, str(directory)).up()
        except peewee.PeeweeException as error:
            raise MigrationFailed(f"A migration failed and was undone: {error}") from error
        finally:
            database.close()
    return applied


def _plain(settings: Settings, engine: Any) -> Any:
    if isinstance(engine, Sqlite):
        return peewee.SqliteDatabase(engine.path, timeout=10, pragmas={"journal_mode": "wal", "synchronous": "full"})
    url = settings.effective_database_url
    params = psycopg2.extensions.parse_dsn(url)
    params.setdefault("connect_timeout", str(CONNECT_TIMEOUT_S))
    return peewee.PostgresqlDatabase(params.pop("dbname", None) or params.get("user", "postgres"), **params)


class _Wait:
    """Prints, soon and then at long intervals, that the release step waits for the database.

    Attributes:
        title: the database, without secrets.
        reason: why it does not serve; empty until known.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.reason = ""
        self._over = threading.Event()

    def report(self) -> None:
        """Print until `end`. This runs in a thread, because an attempt to connect blocks."""
        pause_s = SAY_AFTER_S
        while not self._over.wait(pause_s):
            sys.stderr.write(f"{waiting(self.title, self.reason)}\n")
            sys.stderr.flush()
            pause_s = _SAY_EVERY_S

    def end(self) -> None:
        """Stop printing."""
        self._over.set()


@contextlib.contextmanager
def _said(engine: Any, settings: Settings) -> Iterator[_Wait]:
    if isinstance(engine, Sqlite):
        wait = _Wait(f"the database {engine.path}")
    else:
        wait = _Wait(title("the database", "DATABASE_URL", settings.effective_database_url))
    threading.Thread(target=wait.report, daemon=True).start()
    try:
        yield wait
    finally:
        wait.end()


def _connect(database: Any, deadline: float, wait: _Wait) -> None:
    while True:
        try:
            database.connect()
        except (peewee.OperationalError, peewee.InterfaceError) as error:
            wait.reason = in_one_line(error)
            if time.monotonic() > deadline:
                its = wait.title[0].upper() + wait.title[1:]
                raise MigrationFailed(f"{its} can't be reached: {wait.reason}.") from error
            time.sleep(0.25)
        else:
            return


def _advisory_lock(database: Any, deadline: float) -> None:
    """The lock goes with the connection."""
    while not database.execute_sql("SELECT pg_try_advisory_lock(%s)", (_LOCK,)).fetchone()[0]:
        _wait_for_other(deadline)


@contextlib.contextmanager
def _exclusive_file(engine: Sqlite, deadline: float) -> Iterator[None]:
    path = Path(engine.path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(path.name + ".migrating").open("w")
        # What functions are given and return is for this user alone. SQLite's files beside it get the same mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise MigrationFailed(f"The database can't be made: {error}") from error
    with lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _wait_for_other(deadline)
            else:
                break
        yield


def _wait_for_other(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise MigrationFailed("Another release is migrating the database and does not end.")
    time.sleep(0.1)


def main() -> int:
    """Migrate, say what was done."""
    try:
        applied = migrate(get_settings())
    except (MigrationFailed, SettingsError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"database: {', '.join(applied) or 'nothing to migrate'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
