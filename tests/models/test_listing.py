"""Lists: the same rows in the same order on every database, page by page, whatever the filter."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from qinling_falcon.errors import BadRequest
from qinling_falcon.models import execution, function, runtime
from qinling_falcon.models.database import engine, reading, transact
from qinling_falcon.models.listing import ListParams, page
from qinling_falcon.models.records import record
from qinling_falcon.models.scope import Context, scoped, system
from tests.models.factories import in_one_batch, make_function, make_record

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
        part = page(scoped(owner).executions(), execution.LISTS, ListParams(limit=limit))
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


def test_lists_of_executions_use_an_index(owner: Context, function_id: str) -> None:
    """No list of a project's, a function's or the running executions sorts or scans the table."""
    transact(lambda: fill(owner, function_id))
    own = scoped(owner).executions()
    model = own.model
    after = (model.created_at >= 5) & ((model.created_at > 5) | (model.id > "x"))
    newest = [model.created_at.desc(), model.id.desc()]
    by_status = [model.status, model.created_at, model.id]
    running = system("test").executions().where(model.status == "running")
    for query in (
        own.order_by(model.created_at, model.id),
        own.order_by(*newest),
        own.where(after).order_by(model.created_at, model.id),
        own.where(model.status == "failed").order_by(model.created_at, model.id),
        own.order_by(*by_status),
        own.order_by(model.updated_at.asc(nulls="first"), model.created_at, model.id),
        own.where(model.function_id == function_id).order_by(*newest),
        running.order_by(model.created_at, model.id),
        system("test").executions().order_by(model.created_at, model.id),
    ):
        plan = explain(query.limit(10))
        assert "Sort" not in plan and "B-TREE" not in plan, plan
        assert "Seq Scan" not in plan and "SCAN executions\n" not in plan, plan


def fill(owner: Context, function_id: str) -> None:
    """A table large enough that a database prefers its indexes."""
    model = scoped(owner).executions().model
    rows = [
        {
            "id": f"{number:036}",
            "project_id": owner.project_id if number % 2 else "p",
            "function_id": function_id if number % 50 == 1 else str(number % 50),
            "status": "failed" if number % 50 == 1 else "success",
            "created_at": number,
            "updated_at": number,
        }
        for number in range(5000)
    ]
    for start in range(0, len(rows), 1000):
        model.insert_many(rows[start : start + 1000]).execute()
    engine().execute_sql("ANALYZE executions")


def explain(query: Any) -> str:
    sql, params = query.sql()
    sqlite = engine().position_function == "instr"
    with reading():
        rows = engine().execute_sql(f"EXPLAIN {'QUERY PLAN ' if sqlite else ''}{sql}", params).fetchall()
    return "".join(f"{row[-1]}\n" for row in rows)
