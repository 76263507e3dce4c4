"""The models on both databases: every test that uses `settings` runs once on each."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from qinling_falcon.models import database, internal_tables, tables
from qinling_falcon.models.migrate import migrate
from qinling_falcon.models.scope import Context
from qinling_falcon.settings import Settings
from tests.models.factories import make_function, make_runtime
from tests.models.lists import MOMENT, SECOND
from tests.servers.postgres import PostgresServer
from tests.support.tables import make_tables

_FURTHER = (
    internal_tables.DoomedTrust,
    internal_tables.ProjectQuota,
    internal_tables.QueuedExecution,
    internal_tables.IdempotencyKey,
    internal_tables.Callback,
    internal_tables.DeletedFunction,
)
_ALL = [table._meta.table_name for table in (*tables.ALL, *_FURTHER)]
_LARGE = 2 << 20


@pytest.fixture(scope="session")
def postgres_tables(postgres: PostgresServer) -> str:
    """The URL of a database with tables; making one for each test takes half a second and 8 MB."""
    url = postgres.create_database()
    migrate(Settings(database_url=url))
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def empty_database(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings that name a database with nothing in it."""
    if backend == "sqlite":
        return Settings(var_dir=tmp_path)
    server: PostgresServer = request.getfixturevalue("postgres")
    return Settings(var_dir=tmp_path, database_url=server.create_database())


@pytest.fixture
def migrated(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings that name a database with empty tables."""
    if backend == "sqlite":
        settings = Settings(var_dir=tmp_path)
        make_tables(settings)
        return settings
    url: str = request.getfixturevalue("postgres_tables")
    connection = psycopg2.connect(url)
    try:
        _empty(connection.cursor())
        counters = ("accepted", "ended", "deleted", "callbacks_delivered", "callbacks_retried", "callbacks_dropped")
        zeros = ", ".join(f"{name} = 0" for name in counters)
        connection.cursor().execute(f"UPDATE execution_counters SET {zeros}")
        connection.commit()
    finally:
        connection.close()
    return Settings(var_dir=tmp_path, database_url=url)


def _empty(cursor: Any) -> None:
    """Delete all rows. For few of them this takes a quarter of the time of TRUNCATE, which makes new files."""
    cursor.execute(f"SELECT sum(pg_total_relation_size(name)) FROM unnest(ARRAY{_ALL}::regclass[]) AS name")
    if cursor.fetchone()[0] > _LARGE:
        cursor.execute(f"TRUNCATE {', '.join(_ALL)}")
    else:
        cursor.execute("SET LOCAL session_replication_role = replica")  # foreign keys forbid most orders
        cursor.execute(";".join(f"DELETE FROM {name}" for name in _ALL))


@pytest.fixture
def settings(migrated: Settings) -> Iterator[Settings]:
    """The same, and this process is connected to it."""
    database.connect(migrated)
    yield migrated
    database.disconnect()


@pytest.fixture
def impatient(migrated: Settings) -> Iterator[Settings]:
    """The same, with a short timeout."""
    settings = replace(migrated, database_timeout_s=0.3)
    database.connect(settings)
    yield settings
    database.disconnect()


@pytest.fixture
def owner() -> Context:
    return Context("project-a")


@pytest.fixture
def stranger() -> Context:
    return Context("project-b")


@pytest.fixture
def admin() -> Context:
    return Context("admins", is_admin=True)


@pytest.fixture
def runtime_id(settings: Settings, admin: Context) -> str:
    """A public runtime that is available."""
    return make_runtime(admin).id


@pytest.fixture
def function_id(runtime_id: str, owner: Context) -> str:
    """A function of `owner`."""
    return make_function(owner, runtime_id).id


@pytest.fixture
def fruit(owner: Context, stranger: Context, runtime_id: str) -> None:
    """Functions that differ in every field, and one of another project."""
    rows: list[dict[str, Any]] = [
        {"name": "apple", "cpu": 100, "description": "100% red"},
        {"name": "Banana", "cpu": 200, "description": "yellow_ripe"},
        {"name": None, "cpu": 300, "description": None},
        {"name": "cherry", "cpu": 150, "description": "RED\\dark"},
        {"name": "apple", "cpu": 250, "description": "grün"},
    ]
    for second, row in enumerate(rows):
        make_function(owner, runtime_id, now=MOMENT + second * SECOND + datetime.timedelta(microseconds=7), **row)
    make_function(stranger, runtime_id, name="secret")
