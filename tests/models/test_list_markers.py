"""Markers of pages: the place where a list goes on, even after its row was deleted."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

import pytest

from qinling_falcon.errors import BadRequest
from qinling_falcon.models import clock, execution
from qinling_falcon.models.listing import ListParams, page
from qinling_falcon.models.records import record
from qinling_falcon.models.scope import Context, scoped
from tests.models.factories import in_one_batch, make_record
from tests.models.lists import MOMENT, SECOND, names


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
