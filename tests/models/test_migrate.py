"""Migrations: from nothing, from data, twice, and by two releases at once."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from qinling_falcon.models import clock, database, due_jobs, execution, function, job
from qinling_falcon.models.listing import ListParams, page
from qinling_falcon.models.migrate import MIGRATIONS, MigrationFailed, migrate
from qinling_falcon.models.records import record
from qinling_falcon.models.scope import Context, scoped
from qinling_falcon.models.tables import ALL
from qinling_falcon.settings import Settings
from tests.models.factories import make_function, make_record, make_runtime, record_as_before

ROOT = Path(__file__).parents[2]
ALL_NAMES = sorted(path.stem for path in MIGRATIONS.glob("[0-9]*.py"))


def test_from_nothing_and_again(empty_database: Settings) -> None:
    assert migrate(empty_database) == ALL_NAMES
    assert migrate(empty_database) == []


def test_tables_have_the_columns_that_the_models_name(settings: Settings) -> None:
    with database.reading():
        for table in ALL:
            columns = {column.name: column.null for column in database.engine().get_columns(table._meta.table_name)}
            assert columns == {field.column_name: field.null for field in table._meta.sorted_fields}


def test_data_stays_through_the_next_migration(empty_database: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "migrations"
    folder.mkdir()
    for name in ALL_NAMES:
        (folder / f"{name}.py").write_text((MIGRATIONS / f"{name}.py").read_text())
    migrate(empty_database, directory=folder)
    database.connect(empty_database)
    owner = Context("p")
    function_id = make_function(owner, make_runtime(owner).id).id
    record(make_record(function_id, "p"))
    database.disconnect()
    (folder / "9000_next.py").write_text(
        "from peewee import CharField\n"
        "def up(migrator, db):\n"
        "    migrator.migrate(migrator.add_column('functions', 'colour', CharField(default='red')))\n"
    )
    assert migrate(empty_database, directory=folder) == ["9000_next"]
    database.connect(empty_database)
    try:
        row = function.get(owner, function_id)
        assert (row.name, row.count) == ("hello", 1)
        with database.reading():
            assert database.engine().execute_sql("SELECT colour FROM functions").fetchall() == [("red",)]
    finally:
        database.disconnect()


def test_executions_are_listed_after_their_indexes_and_columns_have_changed(
    empty_database: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "migrations"
    folder.mkdir()
    for name in ALL_NAMES[:2]:
        (folder / f"{name}.py").write_text((MIGRATIONS / f"{name}.py").read_text())
    migrate(empty_database, directory=folder)
    database.connect(empty_database)
    try:
        owner = Context("p")
        function_id = clock.new_id(clock.now())  # its table has not all of its columns yet
        records = [make_record(function_id, "p", status=status) for status in ("success", "failed", "success")]
        for rec in records:
            record_as_before(empty_database, rec)

        assert migrate(empty_database) == ALL_NAMES[2:]

        listed = page(scoped(owner).executions(), execution.LISTS, ListParams(limit=9)).rows
        assert [(row.id, row.status, row.attempt) for row in listed] == [(rec.id, rec.status, 1) for rec in records]
    finally:
        database.disconnect()


def test_jobs_of_an_earlier_release_fire_as_before(empty_database: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "migrations"
    folder.mkdir()
    for name in ALL_NAMES[: ALL_NAMES.index("0016_due_jobs")]:
        (folder / f"{name}.py").write_text((MIGRATIONS / f"{name}.py").read_text())
    migrate(empty_database, directory=folder)
    database.connect(empty_database)
    try:
        owner, now = Context("p"), clock.to_micros(clock.now())
        function_id = make_function(owner, make_runtime(owner).id).id
        columns = "id, project_id, created_at, function_id, function_version, pattern, status"
        times = "first_execution_time, next_execution_time, function_input"
        values = ", ".join(
            f"('{name}', 'p', {now}, '{function_id}', 0, {pattern}, 'running', {at}, {at}, 'ä')"
            for name, pattern, at in (("j", "'0 0 * * *'", now), ("once", "NULL", now), ("ahead", "NULL", now + 10**9))
        )
        database.transact(
            lambda: database.engine().execute_sql(f"INSERT INTO jobs ({columns}, {times}) VALUES {values}")
        )

        migrate(empty_database)

        row = job.get(owner, "j")
        assert (row.misfire, row.overlap, row.timezone, row.last_execution_id) == ("run_once", "allow", "UTC", None)
        assert row.input_size == 2
        assert [due.id for due in due_jobs.find(clock.now(), 9)] == ["j"]
        assert [job.get(owner, name).status for name in ("once", "ahead")] == ["done", "running"]
    finally:
        database.disconnect()


def test_sqlite_is_told_what_to_expect_of_every_index_of_executions(tmp_path: Path) -> None:
    """An index that is not among these would look better to it than any other."""
    migrate(Settings(var_dir=tmp_path))
    with contextlib.closing(sqlite3.connect(tmp_path / "qinling.db")) as connection:
        indexes = connection.execute("SELECT name FROM pragma_index_list('executions')").fetchall()
        expected = connection.execute("SELECT idx FROM sqlite_stat1 WHERE tbl = 'executions'").fetchall()
    assert sorted(indexes) == sorted(expected)


def test_a_failed_migration_leaves_no_trace(empty_database: Settings, tmp_path: Path) -> None:
    (tmp_path / "0001_good.py").write_text("def up(migrator, db):\n    db.execute_sql('CREATE TABLE a (x INTEGER)')\n")
    broken = tmp_path / "0002_broken.py"
    broken.write_text(
        "def up(migrator, db):\n    db.execute_sql('CREATE TABLE b (x INTEGER)')\n    db.execute_sql('NONSENSE')\n"
    )
    with pytest.raises(MigrationFailed, match="undone"):
        migrate(empty_database, directory=tmp_path)
    broken.write_text("def up(migrator, db):\n    db.execute_sql('CREATE TABLE b (x INTEGER)')\n")
    assert migrate(empty_database, directory=tmp_path) == ["0002_broken"]


def test_two_releases_at_once(empty_database: Settings) -> None:
    environment = os.environ | {
        "VAR_DIR": str(empty_database.var_dir),
        "DATABASE_URL": empty_database.database_url or "",
    }
    command = [sys.executable, "-m", "qinling_falcon.models.migrate"]
    processes = [
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    outputs = sorted(process.communicate(timeout=60)[0] for process in processes)
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert outputs == sorted([f"database: {', '.join(ALL_NAMES)}\n", *["database: nothing to migrate\n"] * 2])


def test_a_database_that_stays_away(tmp_path: Path) -> None:
    settings = Settings(var_dir=tmp_path, database_url=f"postgresql:///x?host={tmp_path}")
    with pytest.raises(MigrationFailed, match="can't be reached"):
        migrate(settings, wait_s=0)
    (tmp_path / "file").touch()
    with pytest.raises(MigrationFailed):
        migrate(replace(settings, database_url=f"sqlite:///{tmp_path}/file/qinling.db"), wait_s=0)


def test_a_database_that_accepts_and_never_answers_is_named_soon_and_given_up(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        settings = Settings(var_dir=tmp_path, database_url=f"postgresql://qinling:s3cret@127.0.0.1:{port}/qinling")
        since = time.monotonic()
        with pytest.raises(MigrationFailed) as caught:
            migrate(settings, wait_s=3)
        assert time.monotonic() - since < 30
    said = capfd.readouterr().err
    assert said == f"Waiting for the database at 127.0.0.1:{port}/qinling (DATABASE_URL): no answer yet.\n"
    assert f"The database at 127.0.0.1:{port}/qinling (DATABASE_URL) can't be reached: " in str(caught.value)
    assert "s3cret" not in said + str(caught.value)


def test_a_new_sqlite_database_is_its_users_alone(tmp_path: Path) -> None:
    settings = Settings(var_dir=tmp_path)
    before = os.umask(0)
    try:
        migrate(settings)
        database.connect(settings)
        make_runtime(Context("p"))
        found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("qinling.db*")}
    finally:
        os.umask(before)
        database.disconnect()
    assert found.keys() >= {"qinling.db", "qinling.db-wal", "qinling.db-shm"}
    assert {mode for name, mode in found.items() if not name.endswith(".migrating")} == {0o600}


def test_the_folder_of_the_database_is_made(tmp_path: Path) -> None:
    assert migrate(Settings(var_dir=tmp_path / "new" / "a?b %20#c"))
    database.connect(Settings(var_dir=tmp_path / "new" / "a?b %20#c"))
    try:
        assert make_runtime(Context("p")).status == "available"
    finally:
        database.disconnect()
