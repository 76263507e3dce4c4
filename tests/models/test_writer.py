"""The one writer: many callers, one commit, each with a fate of its own; no neighbour's trouble becomes a hang."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import peewee
import psycopg2
import pytest

from qinling_falcon.errors import NotFound, Unavailable
from qinling_falcon.models import database, lanes, runtime
from qinling_falcon.models.database import expect_writes, reading, transact, transact_grouped
from qinling_falcon.models.runtime import Runtime
from qinling_falcon.models.scope import Context, system
from qinling_falcon.settings import Settings
from tests.models.connections import ROOT, connected, run_patched, starts_patched_process
from tests.models.factories import in_one_batch, make_runtime, together
from tests.servers.postgres import PostgresServer


def images() -> list[str]:
    with reading():
        return sorted(row.image for row in system("test").runtimes())


def insert(image: str, row_id: str | None = None) -> Callable[[], str]:
    def write() -> str:
        Runtime.create(id=row_id or str(uuid.uuid4()), project_id="p", image=image)
        return image

    return write


@contextmanager
def write_lock(settings: Settings) -> Iterator[None]:
    """Another process that writes and does not end."""
    if settings.database_url is None:
        connection = sqlite3.connect(settings.var_dir / "qinling.db", isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            connection.close()
    else:
        locking = psycopg2.connect(settings.database_url)
        locking.cursor().execute("LOCK TABLE runtimes IN SHARE MODE")
        try:
            yield
        finally:
            locking.close()


def test_each_caller_gets_its_own_result(settings: Settings) -> None:
    names = [f"image-{number:02}" for number in range(40)]
    outcomes = together([lambda name=name: transact(insert(name)) for name in names])
    assert outcomes == names
    assert images() == names


def test_what_one_write_raises_is_its_own_alone(settings: Settings) -> None:
    def fail(number: int) -> Callable[[], None]:
        def write() -> None:
            insert(f"bad-{number}")()
            raise NotFound(f"no {number}")

        return write

    calls = [transact_later(insert(f"good-{number}") if number % 2 else fail(number)) for number in range(10)]
    outcomes = in_one_batch(calls)
    assert outcomes[1::2] == [f"good-{number}" for number in range(1, 10, 2)]
    assert [str(error) for error in outcomes[::2]] == [f"no {number}" for number in range(0, 10, 2)]
    assert images() == [f"good-{number}" for number in range(1, 10, 2)]


def test_large_writes_are_committed_a_few_at_a_time(settings: Settings) -> None:
    """A statement with all of them would hold all their texts again."""
    groups: list[int] = []

    def write(payloads: list[str]) -> list[str]:
        groups.append(len(payloads))
        return payloads

    def later(number: int) -> Callable[[], str]:
        return lambda: transact_grouped(str(number), write, size=1_500_000)

    assert in_one_batch([later(number) for number in range(8)]) == [str(number) for number in range(8)]
    assert groups == [3, 3, 2]


def transact_later(fn: Callable[[], object]) -> Callable[[], object]:
    return lambda: transact(fn)


def test_a_broken_constraint_fails_one_write_alone(settings: Settings) -> None:
    same = str(uuid.uuid4())
    outcomes = in_one_batch([transact_later(insert(f"image-{number}", same)) for number in range(3)])
    assert [type(outcome) for outcome in outcomes].count(peewee.IntegrityError) == 2
    assert len(images()) == 1
    with pytest.raises(peewee.IntegrityError):
        transact(insert("again", same))
    assert transact(insert("other")) == "other"


def test_a_write_inside_a_write_is_refused(settings: Settings) -> None:
    with pytest.raises(RuntimeError, match="inside another write"):
        transact(lambda: transact(insert("inner")))
    assert images() == []


def test_a_savepoint_inside_a_write(settings: Settings) -> None:
    def write() -> None:
        insert("outer")()
        with pytest.raises(ZeroDivisionError), database.engine().atomic():
            insert("inner")()
            _ = 1 // 0

    transact(write)
    assert images() == ["outer"]


def test_a_write_reads_what_it_wrote(settings: Settings) -> None:
    def write() -> list[str]:
        insert("mine")()
        return images()

    assert transact(write) == ["mine"]


def test_reads_can_not_write(settings: Settings) -> None:
    with pytest.raises(peewee.PeeweeException), reading():
        insert("by a reader")()
    assert images() == []


def test_no_query_without_a_connection(settings: Settings) -> None:
    with pytest.raises(peewee.InterfaceError):
        list(system("test").runtimes())


def test_a_database_that_is_busy_refuses_in_time_and_changes_nothing(impatient: Settings) -> None:
    with write_lock(impatient):
        outcomes = together([transact_later(insert(f"image-{number}")) for number in range(3)])
        assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3
        assert images() == []  # readers go on
    assert transact(insert("after")) == "after"
    assert images() == ["after"]


def test_more_waiting_writes_than_allowed_are_refused_at_once(migrated: Settings) -> None:
    database.connect(replace(migrated, database_queue_size=2))
    try:
        release, begun = threading.Event(), threading.Event()
        lane = database._current().writer._lane

        def hold() -> None:
            begun.set()
            while not release.is_set():
                lane.pause(0.001)

        def fill() -> list[object]:
            begun.wait()
            return together([transact_later(insert(f"image-{number}")) for number in range(3)])

        def refuse() -> str:
            begun.wait()
            while lane.waiting() < 2:
                time.sleep(0.001)
            with pytest.raises(Unavailable, match="Too many"):
                transact(insert("late"))
            release.set()
            return "refused"

        _, filled, refused = together([lambda: transact(hold), fill, refuse])
        assert refused == "refused"
        assert len(images()) == sum(isinstance(outcome, str) for outcome in filled)
    finally:
        database.disconnect()


def test_a_commit_waits_for_as_many_writes_as_are_expected(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_GATHER_S", "_LONGEST_GATHER_S", "_BREAK_S"):
        monkeypatch.setattr(lanes, name, 1e9)
    sizes: list[int] = []

    def group(payloads: list[int]) -> list[int]:
        sizes.append(len(payloads))
        return payloads

    def write_later(number: int) -> int:
        time.sleep(number / 20)
        return int(transact_grouped(number, group))

    transact_grouped(0, group)
    expect_writes(3)
    assert together([lambda number=number: write_later(number) for number in range(3)]) == [0, 1, 2]
    assert sizes == [1, 3]


def test_half_a_batch_of_writes_in_halves_follows_a_commit_at_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only in the lane of a hub: `test_all_this_holds_under_gevent_too` runs it there."""
    lane = database._current().writer._lane
    if not isinstance(lane, lanes.HubLane):
        pytest.skip("no lane of a hub")
    for name in ("_GATHER_S", "_LONGEST_GATHER_S", "_BREAK_S"):
        monkeypatch.setattr(lanes, name, 1e9)
    batches: list[list[int]] = []

    def group(payloads: list[int]) -> list[int]:
        batches.append(payloads)
        while len(batches) == 1 and lane.waiting() < 2:
            lane.pause(0.001)
        return payloads

    def write(number: int) -> None:
        transact_grouped(number, group, in_halves=True)

    expect_writes(4)
    first = [lambda number=number: write(number) for number in range(4)]
    later = [lambda number=number: time.sleep(0.1) or write(number) for number in (4, 5)]
    together([*first, *later])
    assert batches == [[0, 1, 2, 3], [4, 5]]


def test_what_waits_is_written_before_the_end(settings: Settings) -> None:
    together([transact_later(insert(f"image-{number}")) for number in range(5)])
    database.disconnect()
    with pytest.raises(RuntimeError, match="connect"):
        transact(insert("too late"))
    database.connect(settings)
    assert len(images()) == 5


def test_a_missing_database_is_unavailable(tmp_path: Path) -> None:
    database.connect(Settings(var_dir=tmp_path, database_timeout_s=0.2))
    try:
        with pytest.raises(Unavailable), reading():
            pass
        with pytest.raises(Unavailable):
            transact(insert("nowhere"))
        assert list(tmp_path.iterdir()) == []  # and none is made
    finally:
        database.disconnect()


def test_lost_connections_are_made_again(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.create_database()
    with connected(Settings(var_dir=tmp_path, database_url=url)):
        transact(insert("one"))
        assert images() == ["one"]
        postgres.cut_connections(url)
        transact(insert("two"))
        assert images() == ["one", "two"]


def test_a_server_that_is_away_and_comes_back(tmp_path: Path) -> None:
    from tests.servers.postgres import running_postgres

    with running_postgres() as server:
        settings = Settings(var_dir=tmp_path, database_url=server.create_database(), database_timeout_s=0.3)
        with connected(settings):
            transact(insert("before"))
            server.stop()
            with pytest.raises(Unavailable):
                transact(insert("meanwhile"))
            with pytest.raises(Unavailable):
                images()
            server.start()
            transact(insert("after"))
            assert images() == ["after", "before"]


def test_a_connection_lost_before_the_commit_costs_nothing(postgres: PostgresServer, tmp_path: Path) -> None:
    with connected(Settings(var_dir=tmp_path, database_url=postgres.create_database())):
        runs = []

        def write() -> None:
            insert("once")()
            runs.append(1)
            if len(runs) == 1:
                database.engine().execute_sql("SELECT pg_terminate_backend(pg_backend_pid())")

        outcomes = in_one_batch([transact_later(write), transact_later(insert("neighbour"))])
        assert outcomes == [None, "neighbour"]
        assert images() == ["neighbour", "once"]


def test_a_connection_lost_during_the_commit_says_that_nobody_knows(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(Settings(var_dir=tmp_path, database_url=postgres.create_database())):
        engine = database.engine()
        execute = engine.execute_sql

        def cut_at_commit(sql: str, params: object = None) -> object:
            if sql == "COMMIT":
                monkeypatch.undo()
                execute("SELECT pg_terminate_backend(pg_backend_pid())")
            return execute(sql, params)

        monkeypatch.setattr(engine, "execute_sql", cut_at_commit)
        with pytest.raises(Unavailable, match="unknown"):
            transact(insert("perhaps"))
        assert transact(insert("after")) == "after"


def test_a_deadlock_is_tried_again(postgres: PostgresServer, tmp_path: Path) -> None:
    with connected(Settings(var_dir=tmp_path, database_url=postgres.create_database())):
        runs = []

        def write() -> str:
            runs.append(1)
            insert("patient")()
            if len(runs) < 3:
                database.engine().execute_sql("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40P01'; END $$")
            return "written"

        assert in_one_batch([transact_later(write), transact_later(insert("neighbour"))]) == ["written", "neighbour"]
        assert images() == ["neighbour", "patient"]


def test_a_forked_process_must_connect_itself(settings: Settings) -> None:
    make_runtime(Context("p"), image="parent")
    script = f"""
import os, sys
from pathlib import Path
from qinling_falcon.models import database, runtime
from qinling_falcon.models.scope import Context
from qinling_falcon.settings import Settings
settings = Settings(var_dir=Path({str(settings.var_dir)!r}), database_url={settings.database_url!r})
database.connect(settings)
runtime.create(Context("p"), image="before")
child = os.fork()
if child == 0:
    try:
        runtime.create(Context("p"), image="unconnected")
    except RuntimeError:
        database.connect(settings)
        runtime.create(Context("p"), image="child")
        database.disconnect()
        os._exit(0)
    os._exit(1)
assert os.waitpid(child, 0)[1] == 0
runtime.create(Context("p"), image="after")
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, timeout=30)
    assert images() == ["after", "before", "child", "parent"]


def test_what_was_acknowledged_survives_a_kill(settings: Settings) -> None:
    script = f"""
import sys, uuid
from pathlib import Path
from qinling_falcon.models import database, runtime
from qinling_falcon.models.scope import Context
from qinling_falcon.settings import Settings
database.connect(Settings(var_dir=Path({str(settings.var_dir)!r}), database_url={settings.database_url!r}))
while True:
    print(runtime.create(Context("p"), image="x").id, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = [process.stdout.readline().strip() for _ in range(50)]
    process.kill()
    acknowledged += [line.strip() for line in process.stdout.read().splitlines() if len(line) == 36]
    process.wait()
    with reading():
        kept = {row.id for row in system("test").runtimes()}
    assert set(acknowledged) <= kept


def test_the_hub_goes_on_while_another_process_writes(migrated: Settings) -> None:
    """The lock is released only after other greenlets have run many times: a blocked hub would never get there."""
    script = f"""
from gevent import monkey
monkey.patch_all()
import json, sys, gevent
from pathlib import Path
from qinling_falcon.models import database, runtime
from qinling_falcon.models.scope import Context
from qinling_falcon.settings import Settings
settings = Settings(var_dir=Path({str(migrated.var_dir)!r}), database_url={migrated.database_url!r},
                    database_timeout_s=20)
database.connect(settings)
writers = [gevent.spawn(runtime.create, Context("p"), image="x") for _ in range(5)]
for _ in range(100):
    gevent.sleep(0.001)
done = sum(writer.ready() for writer in writers)
print("progress", flush=True)
gevent.joinall(writers, raise_error=True)
print(json.dumps([done, len(writers)]))
"""
    with write_lock(migrated):
        process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "progress\n"
    assert json.loads(process.stdout.readline()) == [0, 5]
    assert process.wait() == 0
    process.stdout.close()


@starts_patched_process
def test_all_this_holds_under_gevent_too(postgres: PostgresServer) -> None:
    run_patched(postgres, "tests/models/test_writer.py", "tests/models/test_records.py")


def test_rows_of_one_process_never_share_an_instant(settings: Settings, owner: Context) -> None:
    made = [runtime.create(owner, image="x") for _ in range(20)]
    assert len({row.created_at for row in made}) == 20
