"""The database of this process: connect once, read anywhere, write through the one writer."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

import peewee
import psycopg2

from qinling_falcon.errors import Unavailable
from qinling_falcon.models import base
from qinling_falcon.models.batches import Group
from qinling_falcon.models.engines.base import Engine, Fate
from qinling_falcon.models.engines.choice import make_engine
from qinling_falcon.models.readers import TooManyReads
from qinling_falcon.models.secret_keys import SecretKeys
from qinling_falcon.models.writer import Writer
from qinling_falcon.settings import Settings

T = TypeVar("T")


class _Process:
    """The database objects of this process, made by `connect`."""

    def __init__(self, settings: Settings) -> None:
        self.engine: Engine = make_engine(settings)
        self.quotas = settings.quotas
        self.secret_keys = SecretKeys(settings.secret_key_list)
        self.writer = Writer(
            self.engine, timeout_s=settings.database_timeout_s, queue_size=settings.database_queue_size
        )


_process: _Process | None = None
# Connections and queues of a parent process. SQLite's must be neither used nor closed here.
_inherited: list[_Process] = []


def connect(settings: Settings) -> None:
    """Give this process its database; to be called once, after it was forked.

    Nothing is opened yet: a database that is away shows at the first read or write.

    Raises:
        SettingsError: `DATABASE_URL` names no database that can be used.
    """
    global _process
    if _process is not None:
        raise RuntimeError("connect() was called twice")
    _process = _Process(settings)
    base.database.initialize(_process.engine)


def disconnect() -> None:
    """Finish all queued writes and close all connections. Called at the end of a process and between tests."""
    global _process
    process, _process = _process, None
    if process is not None:
        process.writer.close()
        process.engine.close_readers()


def transact(fn: Callable[[], T]) -> T:
    """Run `fn` in a write transaction and return its result when that is durable.

    It shares a commit with other callers, in a savepoint of its own: what it raises undoes its own
    changes and reaches its own caller. With SQLite it runs in a native thread: it may use models and
    nothing that belongs to greenlets. It may run again after a lost connection or a deadlock, when
    nothing of it was kept, so it should change nothing but rows.

    Raises:
        Unavailable: the database can't be reached, or not in time; the message says when it is unknown
            whether the change was made.
    """
    result: T = _current().writer.submit(fn)
    return result


def transact_grouped(payload: Any, group: Group, *, in_halves: bool = False, size: int = 0) -> Any:
    """Like `transact`, for hot paths: all payloads of a batch go to `group` at once (see `Write`)."""
    return _current().writer.submit(payload, group, in_halves=in_halves, size=size)


def expect_writes(count: int) -> None:
    """Let commits wait for `count` writes, for some milliseconds at most: fewer commits for more latency."""
    _current().writer.expect(count)


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Give this greenlet a connection for reads. Nested blocks share one connection.

    Raises:
        Unavailable: no connection became free in time, or the database went away during the read.
    """
    engine = _current().engine
    if not engine.is_closed():  # nested, or inside a write
        yield
        return
    try:
        engine.open_reader()
    except (peewee.DatabaseError, peewee.InterfaceError, psycopg2.Error, sqlite3.Error, OSError) as error:
        raise Unavailable("The database can't be reached.", retry_after_s=1) from error
    except TooManyReads as error:
        raise Unavailable("Too many reads are waiting for the database.", retry_after_s=1) from error
    try:
        yield
    except (peewee.DatabaseError, peewee.InterfaceError, psycopg2.Error, sqlite3.Error, TimeoutError) as error:
        if engine.fate(error) is Fate.OWN:
            raise
        raise Unavailable("The database went away.", retry_after_s=1) from error
    finally:
        engine.close_reader()


def engine() -> Engine:
    """The peewee database of this process, for statements that models can't express."""
    return _current().engine


def placeholders(values: Collection[object]) -> str:
    """The placeholders of so many values in a statement, such as `?, ?, ?`."""
    return ", ".join([engine().param] * len(values))


def default_quotas() -> Mapping[str, int]:
    """The default limits of projects, by kind."""
    return _current().quotas


def secret_keys() -> SecretKeys:
    """The keys of the secrets in the database."""
    return _current().secret_keys


def _current() -> _Process:
    if _process is None:
        raise RuntimeError("connect() was not called in this process")
    return _process


def _forget() -> None:
    global _process
    if _process is not None:
        _inherited.append(_process)
        _process = None


os.register_at_fork(after_in_child=_forget)
