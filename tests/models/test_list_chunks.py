"""How a list is read: in chunks that are bounded by rows and bytes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import peewee
import pytest

from qinling_falcon.models import execution, job
from qinling_falcon.models.chunks import CHUNK_SIZE
from qinling_falcon.models.database import engine, transact
from qinling_falcon.models.listing import ListParams, page
from qinling_falcon.models.records import record
from qinling_falcon.models.scope import Context, scoped
from qinling_falcon.models.tables import ALL
from qinling_falcon.settings import Settings
from tests.models.factories import in_one_batch, make_record
from tests.models.lists import insert, scattered

ROOT = Path(__file__).parents[2]


def test_long_lists_are_read_in_parts(owner: Context, function_id: str) -> None:
    """More rows than are held at a time; the connection is free in between."""
    records = [make_record(function_id) for _ in range(130)]
    in_one_batch([lambda rec=rec: record(rec) for rec in records])
    expected = [rec.id for rec in records]
    for limit, length in ((None, 130), (130, 130), (129, 129), (50, 50), (49, 49), (51, 51), (100, 100)):
        part = page(scoped(owner).executions(), replace(execution.LISTS, chunk=50), ListParams(limit=limit))
        assert engine().is_closed()
        assert [row.id for row in part.rows] == expected[:length]
        assert part.next_marker == (expected[length - 1] if length < 130 else None)


def test_others_are_served_while_a_long_list_is_read(settings: Settings, owner: Context, function_id: str) -> None:
    """A greenlet that waits for I/O runs in between, although reading the list never waits."""
    transact(lambda: insert(scattered(1500, [function_id])))
    script = f"""
from gevent import monkey
monkey.patch_all()
import socket, gevent
from pathlib import Path
from qinling_falcon.models import database, execution
from qinling_falcon.models.listing import ListParams, page
from qinling_falcon.models.scope import Context, scoped
from qinling_falcon.models.tables import ALL
from qinling_falcon.settings import Settings
database.connect(Settings(var_dir=Path({str(settings.var_dir)!r}), database_url={settings.database_url!r}))
near, far = socket.socketpair()
served = []
def serve():
    while far.recv(1):
        served.append(1)
        far.sendall(b"x")
def ask():
    while True:
        near.sendall(b"x")
        near.recv(1)
gevent.spawn(serve)
gevent.spawn(ask)
rows = page(scoped(Context("project-a")).executions(), execution.LISTS, ListParams(limit=None)).rows
before = len(served)
count = sum(1 for _ in rows)
print(count, len(served) - before, flush=True)
"""
    process = subprocess.run([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=60)
    count, served = map(int, process.stdout.split())
    assert count == 1200
    assert served >= 8


def test_long_texts_are_read_as_they_are(owner: Context, function_id: str) -> None:
    records = [
        make_record(function_id, input="x"),
        make_record(function_id, input="\u00fc" * 10_000, result="y" * 20_000),
        make_record(function_id, input=None, result="", status_reason="z" * 5000),
    ]
    for rec in records:
        record(rec)
    part = page(scoped(owner).executions(), execution.LISTS, ListParams(limit=None))
    assert [(row.id, row.input, row.result, row.status_reason) for row in part.rows] == [
        (rec.id, rec.input, rec.result, rec.status_reason) for rec in records
    ]


def render(row: Any) -> bytes:
    return f"{row.id} {row.function_input if isinstance(row, job.Job) else row.result}".encode()


def test_a_chunk_is_bounded_by_bytes(owner: Context, function_id: str) -> None:
    """The rows have long texts, short ones that are read with their rows, and one text larger than a chunk."""
    sizes = [200_000] * 11 + [CHUNK_SIZE + 1] + [10] * 3 + [2000] * 1200
    records = [make_record(function_id, result=f"{place:04}" + "x" * size) for place, size in enumerate(sizes)]
    in_one_batch([lambda rec=rec: record(rec) for rec in records])
    for limit in (None, 7, 12, 40):
        part = page(scoped(owner).executions(), execution.LISTS, ListParams(limit=limit))
        chunks = []
        while not chunks or not chunks[-1].last:
            chunks.append(part.read(render))
            assert engine().is_closed()
        items = [item for chunk in chunks for item in chunk.items]
        assert [item[37:41] for item in items] == [f"{place:04}".encode() for place in range(limit or len(sizes))]
        for chunk in chunks:
            assert len(chunk.items) == 1 or sum(map(len, chunk.items)) < CHUNK_SIZE + 2100
        assert part.next_marker == (None if limit is None else records[limit - 1].id)


def test_the_inputs_of_jobs_are_long_texts_too(owner: Context, function_id: str) -> None:
    for _ in range(12):
        job.create(owner, function_id=function_id, pattern="0 0 * * *", function_input="x" * 200_000)
    part = page(scoped(owner).jobs(), job.LISTS, ListParams(limit=None))
    assert [len(part.read(render).items) for _ in range(3)] == [5, 5, 2]


def test_rows_that_are_deleted_while_their_list_is_read_are_left_out(owner: Context, function_id: str) -> None:
    records = [make_record(function_id, result="x" * 600_000) for _ in range(3)]
    for rec in records:
        record(rec)
    part = page(scoped(owner).executions(), execution.LISTS, ListParams(limit=None))
    assert next(part.rows).id == records[0].id
    execution.delete(owner, records[1].id)
    assert [row.id for row in part.rows] == [records[2].id]


def test_few_rows_are_asked_for_where_few_fit_into_a_chunk(
    owner: Context, function_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [make_record(function_id, result="x" * 100_000) for _ in range(100)]
    in_one_batch([lambda rec=rec: record(rec) for rec in rows])
    asked: list[int] = []
    execute = engine().execute_sql

    def spy(sql: str, params: Any = None) -> Any:
        if "LIMIT" in sql:
            asked.append(params[-1])
        return execute(sql, params)

    monkeypatch.setattr(engine(), "execute_sql", spy)
    assert len(list(page(scoped(owner).executions(), execution.LISTS, ListParams(limit=None)).rows)) == 100
    assert asked[0] == execution.LISTS.chunk
    assert max(asked[1:]) <= 32


def test_no_column_holds_more_than_a_list_may_read_with_its_row() -> None:
    """Every unlimited column is a TextField, because lists check the length of these first."""
    for model in ALL:
        for column in model._meta.sorted_fields:
            if isinstance(column, peewee.CharField):
                assert column.max_length <= 255, column
