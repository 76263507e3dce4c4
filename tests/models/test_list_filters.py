"""The filters and parameters of lists."""

from __future__ import annotations

from typing import Any

import pytest

from qinling_falcon.errors import BadRequest
from qinling_falcon.models import execution, function, runtime
from qinling_falcon.models.database import reading
from qinling_falcon.models.listing import ListParams, page
from qinling_falcon.models.records import record
from qinling_falcon.models.scope import Context, scoped
from tests.models.factories import make_record
from tests.models.lists import names


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
