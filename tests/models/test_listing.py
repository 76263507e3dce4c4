"""Lists: the same rows in the same order on every database, page by page, whatever the filter."""

from __future__ import annotations

import datetime
import itertools
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import peewee
import pytest

from qinling_falcon.errors import BadRequest
from qinling_falcon.models import clock, execution, function, job, runtime
from qinling_falcon.models.chunks import CHUNK_SIZE
from qinling_falcon.models.database import engine, reading, transact
from qinling_falcon.models.listing import ListParams, page
from qinling_falcon.models.records import record
from qinling_falcon.models.scope import Context, scoped
from qinling_falcon.models.tables import ALL
from qinling_falcon.settings import Settings
from tests.models.factories import in_one_batch, make_function, make_record

ROOT = Path(__file__).parents[2]
MOMENT = datetime.datetime(2019, 6, 6, 15, 33, 23, tzinfo=datetime.UTC)
SECOND = datetime.timedelta(seconds=1)


def names(context: Context, *filters: tuple[str, str], **params: Any) -> list[str | None]:
    asked = ListParams(limit=params.pop("limit", 100), filters=filters, **params)
    return [row.name for row in page(scoped(context).functions(), function.LISTS, asked).rows]


@pytest.fixture
def fruit(owner: Context, stranger: Context, runtime_id: str) -> None:
    """Functions that differ in everything, and one of somebody else."""
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


def test_the_default_is_the_order_of_creation(owner: Context, runtime_id: str) -> None:
    made = [make_function(owner, runtime_id).id for _ in range(12)]
    rows = page(scoped(owner).functions(), function.LISTS, ListParams(limit=100)).rows
    assert [row.id for row in rows] == made


@pytest.mark.parametrize("sort_dir", ["asc", "desc"])
@pytest.mark.parametrize("sort_key", ["created_at", "name", "updated_at"])
@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_pages_make_the_whole(owner: Context, runtime_id: str, sort_key: str, sort_dir: str, limit: int) -> None:
    """Also with rows made in the same microsecond, equal names, and none."""
    for number, name in enumerate(["b", None, "a", "b", None, "b", "a"]):
        made = make_function(owner, runtime_id, name=name, now=MOMENT + (number // 3) * SECOND)
        if number % 2:
            function.update(owner, made.id, {"description": "d"}, now=MOMENT)
    asked = {"sort_key": sort_key, "sort_dir": sort_dir}
    whole = [row.id for row in page(scoped(owner).functions(), function.LISTS, ListParams(limit=None, **asked)).rows]
    assert len(set(whole)) == 7
    seen: list[str] = []
    marker = None
    while True:
        part = page(scoped(owner).functions(), function.LISTS, ListParams(limit=limit, marker=marker, **asked))
        rows = [row.id for row in part.rows]
        assert len(rows) <= limit
        seen += rows
        marker = part.next_marker
        if marker is None:
            break
        assert marker == rows[-1]
    assert seen == whole


def test_rows_without_a_name_come_first_and_names_are_ordered_by_bytes(owner: Context, fruit: None) -> None:
    assert names(owner, sort_key="name") == [None, "Banana", "apple", "apple", "cherry"]
    assert names(owner, sort_key="name", sort_dir="desc") == ["cherry", "apple", "apple", "Banana", None]


def test_rows_that_come_and_go_disturb_no_page(owner: Context, runtime_id: str) -> None:
    made = [make_function(owner, runtime_id).id for _ in range(5)]
    first = page(scoped(owner).functions(), function.LISTS, ListParams(limit=2))
    assert [row.id for row in first.rows] == made[:2]
    function.delete(owner, made[0])
    made.append(make_function(owner, runtime_id).id)
    second = page(scoped(owner).functions(), function.LISTS, ListParams(limit=2, marker=first.next_marker))
    assert [row.id for row in second.rows] == made[2:4]


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("apple", ["apple", "apple"]),
        ("eq:apple", ["apple", "apple"]),
        ("eq:eq:apple", []),
        ("neq:apple", ["Banana", None, "cherry"]),
        ("in:apple,cherry", ["apple", "cherry", "apple"]),
        ("nin:apple,cherry", ["Banana", None]),
        ("gt:apple", ["cherry"]),
        ("gte:apple", ["apple", "cherry", "apple"]),
        ("lt:apple", ["Banana"]),
        ("lte:apple", ["apple", "Banana", "apple"]),
        ("has:an", ["Banana"]),
        ("has:", ["apple", "Banana", "cherry", "apple"]),
        ("secret", []),
        ("", []),
    ],
)
def test_text_filters(owner: Context, fruit: None, text: str, expected: list[str | None]) -> None:
    assert names(owner, ("name", text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("has:%", ["apple"]),
        ("has:_", ["Banana"]),
        ("has:\\", ["cherry"]),
        ("has:red", ["apple"]),
        ("has:RED", ["cherry"]),
        ("has:ü", ["apple"]),
        ("has:'", []),
    ],
)
def test_has_takes_its_text_literally(owner: Context, fruit: None, text: str, expected: list[str]) -> None:
    assert names(owner, ("description", text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("200", ["Banana"]),
        ("gt:200", [None, "apple"]),
        ("lte:150", ["apple", "cherry"]),
        ("in:100, 150", ["apple", "cherry"]),
        ("neq:100", ["Banana", None, "cherry", "apple"]),
    ],
)
def test_number_filters(owner: Context, fruit: None, text: str, expected: list[str | None]) -> None:
    assert names(owner, ("cpu", text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2019-06-06 15:33:24", ["Banana"]),
        ("eq:2019-06-06T15:33:24Z", ["Banana"]),
        ("2019-06-06T17:33:24+02:00", ["Banana"]),
        ("2019-06-06T17:33:24 02:00", ["Banana"]),
        ("2019-06-06 15:33:24.000007", ["Banana"]),
        ("2019-06-06 15:33:24.5", []),
        ("gt:2019-06-06 15:33:25", ["cherry", "apple"]),
        ("gte:2019-06-06 15:33:26", ["cherry", "apple"]),
        ("lt:2019-06-06 15:33:24", ["apple"]),
        ("lte:2019-06-06 15:33:24", ["apple", "Banana"]),
        ("neq:2019-06-06 15:33:24", ["apple", None, "cherry", "apple"]),
        ("in:2019-06-06 15:33:24,2019-06-06 15:33:26", ["Banana", "cherry"]),
        ("nin:2019-06-06 15:33:24,2019-06-06 15:33:26", ["apple", None, "apple"]),
        ("gte:2019-06-06", ["apple", "Banana", None, "cherry", "apple"]),
        ("lt:2019-06-06 15:33", []),
    ],
)
def test_times_mean_the_second_that_is_shown(owner: Context, fruit: None, text: str, expected: list[Any]) -> None:
    assert names(owner, ("created_at", text)) == expected


def test_neq_of_a_time_keeps_what_was_never_changed(owner: Context, fruit: None) -> None:
    assert len(names(owner, ("updated_at", "neq:2019-06-06 15:33:24"))) == 5
    assert names(owner, ("updated_at", "gt:1970-01-01")) == []


def test_filters_are_all_to_hold(owner: Context, fruit: None) -> None:
    assert names(owner, ("name", "apple"), ("cpu", "gt:100")) == ["apple"]
    assert names(owner, ("cpu", "gt:100"), ("cpu", "lt:200")) == ["cherry"]


def test_boolean_filters(owner: Context, function_id: str) -> None:
    yes, no = make_record(function_id), make_record(function_id, sync=False)
    record(yes)
    record(no)

    def found(text: str) -> list[str]:
        asked = ListParams(limit=9, filters=[("sync", text)])
        return [row.id for row in page(scoped(owner).executions(), execution.LISTS, asked).rows]

    assert found("True") == found("eq:true") == found("neq:0") == found("in:1") == [yes.id]
    assert found("False") == found("no") == [no.id]
    assert found("in:true,false") == [yes.id, no.id]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("colour", "red"),
        ("code", "x"),
        ("digest", "x"),
        ("cpu", "many"),
        ("cpu", "1.5"),
        ("cpu", "has:1"),
        ("cpu", "99999999999999999999"),
        ("cpu", "1" * 5000),
        ("cpu", "in:1,"),
        ("created_at", "yesterday"),
        ("created_at", "2019-02-30"),
        ("created_at", "2019-06-06 25:00"),
        ("created_at", "2019-06-06 15:33:24 +99:00"),
        ("created_at", "0001-01-01T00:00:00+10:00"),
        ("created_at", "has:2019"),
        ("name", "a\0b"),
        ("name", "in:a,\udcff"),
    ],
)
def test_a_wrong_filter_is_named(owner: Context, function_id: str, name: str, text: str) -> None:
    with pytest.raises(BadRequest, match=name) as caught:
        names(owner, (name, text))
    assert caught.value.errors is not None
    assert list(caught.value.errors) == [name]


def test_booleans_have_no_order(owner: Context, function_id: str) -> None:
    for text in ("gt:true", "maybe", "has:t"):
        with pytest.raises(BadRequest, match="sync"):
            page(scoped(owner).executions(), execution.LISTS, ListParams(limit=1, filters=[("sync", text)]))


@pytest.mark.parametrize(
    "params",
    [
        {"limit": 0},
        {"limit": -1},
        {"sort_key": "cpu"},
        {"sort_key": "nonsense"},
        {"sort_dir": "sideways"},
        {"marker": "nonsense"},
        {"marker": "\0"},
        {"marker": "\udcff"},
    ],
)
def test_a_wrong_parameter_is_named(owner: Context, function_id: str, params: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as caught:
        names(owner, **params)
    assert caught.value.errors is not None
    assert set(caught.value.errors) <= set(params)


def test_a_marker_of_another_project_is_unknown(stranger: Context, function_id: str) -> None:
    with pytest.raises(BadRequest, match="marker"):
        names(stranger, marker=function_id)


def make_executions(function_id: str, project_id: str, moments: list[datetime.datetime]) -> list[str]:
    """Executions with ids as calls make them."""
    records = [
        make_record(function_id, project_id, id=clock.new_id(moment), created_at=moment, updated_at=moment)
        for moment in moments
    ]
    in_one_batch([lambda rec=rec: record(rec) for rec in records])
    return [rec.id for rec in records]


@pytest.mark.parametrize("sort_dir", ["asc", "desc"])
@pytest.mark.parametrize("filters", [(), (("status", "success"),), (("created_at", "gt:2019-01-01"),)])
def test_pages_go_on_where_they_were_when_rows_of_the_page_before_are_deleted(
    owner: Context, stranger: Context, function_id: str, sort_dir: str, filters: tuple[tuple[str, str], ...]
) -> None:
    """Also between rows of one millisecond."""
    moments = [MOMENT + number * datetime.timedelta(microseconds=300) for number in range(12)]
    make_executions(function_id, stranger.project_id, moments)
    made = make_executions(function_id, owner.project_id, moments)
    left = made if sort_dir == "asc" else made[::-1]
    marker = None
    while left:
        params = ListParams(limit=3, marker=marker, sort_dir=sort_dir, filters=filters)
        part = page(scoped(owner).executions(), execution.LISTS, params)
        assert [row.id for row in part.rows] == left[:3]
        for gone in left[:3]:
            execution.delete(owner, gone)
        left, marker = left[3:], left[2]
        assert part.next_marker == (marker if left else None)
    part = page(scoped(owner).executions(), execution.LISTS, ListParams(limit=3, marker=marker, sort_dir=sort_dir))
    assert list(part.rows) == []
    assert part.next_marker is None


@pytest.mark.parametrize("sort_key", ["updated_at", "status"])
def test_a_deleted_marker_has_no_place_in_another_order(owner: Context, function_id: str, sort_key: str) -> None:
    gone, _ = make_executions(function_id, owner.project_id, [MOMENT, MOMENT + SECOND])
    execution.delete(owner, gone)
    with pytest.raises(BadRequest, match=f"'marker': no row '{gone}'; if it was deleted, begin again"):
        page(scoped(owner).executions(), execution.LISTS, ListParams(limit=1, marker=gone, sort_key=sort_key))


@pytest.mark.parametrize(
    "marker",
    [
        "00000000-0000-0000-0000-000000000007",
        "5f0c3a52-9d0e-4e0b-8a51-6d1ba9b1c7f4",
        "7",
        "\0",
        "future",
        "upper case",
    ],
)
def test_a_marker_that_no_execution_can_have_had_is_unknown(owner: Context, function_id: str, marker: str) -> None:
    make_executions(function_id, owner.project_id, [MOMENT])
    if marker == "future":
        marker = clock.new_id(clock.now() + 600 * SECOND)
    if marker == "upper case":
        marker = clock.new_id(MOMENT + 54321 * SECOND).upper()
    with pytest.raises(BadRequest, match="marker"):
        page(scoped(owner).executions(), execution.LISTS, ListParams(limit=1, marker=marker))


def test_only_ids_of_executions_have_a_place_without_a_row(owner: Context, function_id: str) -> None:
    with pytest.raises(BadRequest, match="marker"):
        names(owner, marker=clock.new_id(MOMENT))


def test_a_marker_does_not_tell_whether_another_project_has_the_row(
    owner: Context, stranger: Context, function_id: str
) -> None:
    moments = [MOMENT + number * SECOND for number in range(3)]
    mine = make_executions(function_id, stranger.project_id, moments)
    its = make_executions(function_id, owner.project_id, moments)

    def listed(**asked: Any) -> list[str] | str:
        try:
            part = page(scoped(stranger).executions(), execution.LISTS, ListParams(limit=9, marker=its[1], **asked))
            return [row.id for row in part.rows]
        except BadRequest as error:
            return error.message

    for asked, expected in (
        ({}, [row for row in mine if row > its[1]]),
        ({"sort_dir": "desc"}, [row for row in mine[::-1] if row < its[1]]),
        ({"sort_key": "status"}, f"'marker': no row '{its[1]}'; if it was deleted, begin again with the first page."),
    ):
        assert listed(**asked) == expected
    execution.delete(owner, its[1])
    assert listed() == [row for row in mine if row > its[1]]
    assert listed(sort_key="status") == expected


@pytest.mark.parametrize("micros", [0, 1, 999, 1000, 1_559_835_203_000_007, 1_559_835_203_123_999])
def test_an_id_tells_its_moment(micros: int) -> None:
    moment = clock.from_micros(micros)
    made = {clock.new_id(moment) for _ in range(100)}
    assert len(made) == 100
    assert {clock.read_id(text) for text in made} == {moment}
    assert {(uuid.UUID(text).version, uuid.UUID(text).variant) for text in made} == {(7, uuid.RFC_4122)}
    assert max(made) < clock.new_id(clock.from_micros(micros + 1))


def test_every_filter_and_sort_key_of_every_list_works(owner: Context, admin: Context, function_id: str) -> None:
    record(make_record(function_id))
    for select, spec in (
        (scoped(admin).runtimes(), runtime.LISTS),
        (scoped(owner).functions(), function.LISTS),
        (scoped(owner).executions(), execution.LISTS),
    ):
        for name, column in spec.filters.items():
            with reading():
                value = getattr(select.get(), name)
            text = "2030-01-01" if value is None and name == "updated_at" else str(value if value is not None else 7)
            rows = list(page(select, spec, ListParams(limit=9, filters=[(name, text)])).rows)
            assert len(rows) == (value is not None), (name, column, text)
        for name in spec.sort_keys:
            for sort_dir in ("asc", "desc"):
                assert list(page(select, spec, ListParams(limit=9, sort_key=name, sort_dir=sort_dir)).rows)


@pytest.mark.parametrize("sort_dir", ["asc", "desc"])
@pytest.mark.parametrize("sort_key", ["created_at", "updated_at", "status"])
def test_lists_that_are_merged_are_whole_and_in_order(
    owner: Context, admin: Context, function_id: str, sort_key: str, sort_dir: str
) -> None:
    """Pages of few rows make what one query would give, for every status, function and project."""
    rows = scattered(60, [function_id, str(uuid.UUID(int=7))])
    transact(lambda: insert(rows))
    filters: list[list[tuple[str, str]]] = [
        [],
        [("status", "neq:success")],
        [("status", "nin:success,error"), ("status", "neq:failed")],
        [("status", "in:failed,error")],
        [("status", "gt:error")],
        [("function_id", function_id)],
        [("function_id", f"in:{function_id},{uuid.UUID(int=7)}"), ("created_at", "gte:1970-01-01")],
        [("function_id", f"neq:{function_id}")],
        [("project_id", "in:project-a,project-b"), ("status", "success")],
        [("function_id", "in:" + ",".join([function_id, *(str(number) for number in range(70))]))],
        [("status", "nonsense")],
        [("created_at", "in:1970-01-01,1970-01-01 00:00:00.1"), ("created_at", "1970-01-01")],
        [("created_at", "in:" + ",".join(f"1970-01-01 00:00:00.{tenth}" for tenth in (4, 1, 3, 2)))],
    ]
    for context, everything in ((owner, False), (admin, True)):
        select = scoped(context, all_projects=everything).executions()
        for chosen in filters:
            params = ListParams(limit=5, sort_key=sort_key, sort_dir=sort_dir, filters=chosen)
            kept = [row for row in rows if everything or row["project_id"] == owner.project_id]
            expected = sorted(
                (row for row in kept if all(passes(row[name], text) for name, text in chosen)),
                key=lambda row: (row[sort_key] is not None, row[sort_key] or 0, row["created_at"], row["id"]),
                reverse=sort_dir == "desc",
            )
            seen: list[str] = []
            while True:
                part = page(select, execution.LISTS, params)
                seen += [row.id for row in part.rows]
                if part.next_marker is None:
                    break
                params = replace(params, marker=part.next_marker)
            assert seen == [row["id"] for row in expected], (chosen, everything)


def passes(value: Any, text: str) -> bool:
    """What a filter means, said simply."""
    word, colon, rest = text.partition(":")
    if isinstance(value, int):  # a time within the first second of all
        wholly = word == "gte" or any("." not in part for part in rest.split(","))
        return wholly or any(float(part[17:]) * 1_000_000 == value for part in rest.split(","))
    if not colon:
        return bool(value == text)
    if word == "gt":
        return bool(value > rest)
    return (value in rest.split(",")) is (word == "in")


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


@pytest.mark.parametrize("limit", [None, 7, 12, 40])
def test_a_chunk_is_bounded_by_bytes(owner: Context, function_id: str, limit: int | None) -> None:
    """The rows have long texts, short ones that are read with their rows, and one text larger than a chunk."""
    sizes = [200_000] * 11 + [CHUNK_SIZE + 1] + [10] * 3 + [2000] * 1200
    records = [make_record(function_id, result=f"{place:04}" + "x" * size) for place, size in enumerate(sizes)]
    in_one_batch([lambda rec=rec: record(rec) for rec in records])
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


STEPS_OF_A_ROW = 40


def test_a_page_of_executions_costs_the_same_in_a_large_table(
    owner: Context, admin: Context, function_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 3,000 rows, a page of 10 reads few: from an index, in order, the right part."""
    busy, rare = function_id, str(uuid.UUID(int=7))
    transact(lambda: insert(scattered(3000, [busy] * 60 + [rare])))
    if engine().for_update:
        transact(lambda: engine().execute_sql("ANALYZE executions") and None)
    queries: list[tuple[str, Any]] = []
    execute = engine().execute_sql

    def spy(sql: str, params: Any = None) -> Any:
        queries.append((sql, params))
        return execute(sql, params)

    filters = [
        [],
        [("function_id", busy)],
        [("function_id", rare)],
        [("function_id", f"in:{busy},{rare}")],
        [("status", "success")],
        [("status", "error")],
        [("status", "dead")],
        [("status", "neq:success")],
    ]
    values = ("gte:1970-01-01 00:00:29", "lt:1970-01-01 00:00:01", "in:1970-01-01 00:00:20,1970-01-01 00:00:25.5")
    times = [[("created_at", value)] for value in values]
    for context, sort_key, sort_dir in itertools.product(
        (owner, Context("a stranger"), admin), execution.LISTS.sort_keys, ("asc", "desc")
    ):
        select = scoped(context, all_projects=context.is_admin).executions()
        # In order of another time than they are filtered by, rows that don't pass have to be passed over.
        for chosen in filters + (times if sort_key != "updated_at" else []):
            if context.project_id == "a stranger" and chosen != [("function_id", busy)]:
                continue
            params = ListParams(limit=10, sort_key=sort_key, sort_dir=sort_dir, filters=chosen)
            half = sum(1 for _ in page(select, execution.LISTS, replace(params, limit=None)).rows) // 2
            marker = page(select, execution.LISTS, replace(params, limit=half)).next_marker if half else None
            for place in (None, marker):
                del queries[:]
                with monkeypatch.context() as patched:
                    patched.setattr(engine(), "execute_sql", spy)
                    rows = list(page(select, execution.LISTS, replace(params, marker=place)).rows)
                read = sum(rows_read(sql, values) for sql, values in queries if sql.startswith("SELECT"))
                assert read < 150, (read, len(rows), context, params, place, queries[-1])


def scattered(count: int, functions: list[str]) -> list[dict[str, Any]]:
    """Rows of two projects whose times are unlike each other, and whose failures lie close together."""
    rows = []
    for number in range(count):
        status = "failed" if number // 20 % 10 == 3 else "error" if number % 100 == 99 else "success"
        running = number % 50 == 48
        created = number // 2 * 20_000  # two each at the same time
        rows.append(
            {
                "id": str(uuid.UUID(int=number * 7919 % count)),
                "project_id": "project-a" if number % 5 else "project-b",
                "function_id": functions[number % len(functions)],
                "status": "running" if running else status,
                "created_at": created,
                "updated_at": None if running else number * 4001 % count // 2,
            }
        )
    return rows


def insert(rows: list[dict[str, Any]]) -> None:
    model = execution.Execution
    for start in range(0, len(rows), 1000):
        model.insert_many(rows[start : start + 1000]).execute()


def rows_read(sql: str, params: Any) -> int:
    """How many rows and entries of indexes a query looks at, about."""
    with reading():
        if engine().for_update:
            # Reading so small a table as a whole would be as quick; a large one it must not come to.
            engine().execute_sql("SET enable_seqscan = off")
            plan = engine().execute_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", params).fetchone()[0][0]["Plan"]
            engine().execute_sql("SET enable_seqscan = on")
            return scanned(plan)
        steps = itertools.count()
        connection = engine().connection()
        connection.set_progress_handler(lambda: next(steps) < 0, STEPS_OF_A_ROW)
        try:
            engine().execute_sql(sql, params).fetchall()
        finally:
            connection.set_progress_handler(None, 0)
        return next(steps)


def scanned(node: dict[str, Any]) -> int:
    own = 0
    if "Scan" in node["Node Type"] and node["Node Type"] != "Subquery Scan":
        rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        own = rows * node["Actual Loops"]
    return int(own + sum(scanned(child) for child in node.get("Plans", [])))
