"""Lists: the same rows in the same order on every database, page by page."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import pytest

from qinling_falcon.models import execution, function
from qinling_falcon.models.database import transact
from qinling_falcon.models.listing import ListParams, page
from qinling_falcon.models.scope import Context, scoped
from tests.models.factories import make_function
from tests.models.lists import MOMENT, SECOND, insert, names, scattered


def test_the_default_is_the_order_of_creation(owner: Context, runtime_id: str) -> None:
    made = [make_function(owner, runtime_id).id for _ in range(12)]
    rows = page(scoped(owner).functions(), function.LISTS, ListParams(limit=100)).rows
    assert [row.id for row in rows] == made


@pytest.mark.parametrize("sort_dir", ["asc", "desc"])
@pytest.mark.parametrize("sort_key", ["created_at", "name", "updated_at"])
def test_pages_make_the_whole(owner: Context, runtime_id: str, sort_key: str, sort_dir: str) -> None:
    """Also with rows made in the same microsecond, equal names, and none."""
    for number, name in enumerate(["b", None, "a", "b", None, "b", "a"]):
        made = make_function(owner, runtime_id, name=name, now=MOMENT + (number // 3) * SECOND)
        if number % 2:
            function.update(owner, made.id, {"description": "d"}, now=MOMENT)
    asked = {"sort_key": sort_key, "sort_dir": sort_dir}
    whole = [row.id for row in page(scoped(owner).functions(), function.LISTS, ListParams(limit=None, **asked)).rows]
    assert len(set(whole)) == 7
    for limit in (1, 2, 3, 7):
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
        assert seen == whole, limit


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
            params = ListParams(limit=8, sort_key=sort_key, sort_dir=sort_dir, filters=chosen)
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
