"""Executions whose process was lost end in a final state, with the known values of their record."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest

from qinling_falcon.invocation.attempts import Attempts
from qinling_falcon.invocation.calls import commit_record, detail, record_overdue
from qinling_falcon.invocation.losses import record_lost
from qinling_falcon.models import clock, database, execution, function
from qinling_falcon.models.records import begin, record
from qinling_falcon.models.scope import Context
from qinling_falcon.pool.ended import Ended
from qinling_falcon.settings import Settings
from tests.models.factories import make_function, make_record, make_runtime
from tests.support.tables import make_tables

OWNER = Context("project-a")


class Reported(Ended):
    """Keeps what is reported, instead of telling Redis."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def notify(self, execution_ids: Iterable[str]) -> None:
        self.ids += execution_ids


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    made = Settings(var_dir=tmp_path)
    make_tables(made)
    database.connect(made)
    yield made
    database.disconnect()


@pytest.fixture
def function_id(settings: Settings) -> str:
    return make_function(OWNER, make_runtime(OWNER).id).id


def test_execution_that_runs_longer_than_any_can_is_ended_and_a_younger_one_is_not(
    settings: Settings, function_id: str
) -> None:
    old = make_record(
        function_id, status="running", result=None, log=None, input="large", created_at=clock.now() - timedelta(days=1)
    )
    young = make_record(function_id, status="running", result=None, log=None)
    begin(old)
    begin(young)

    ended = Reported()
    assert record_overdue(settings, ended) == [old.id]
    assert ended.ids == [old.id]

    row = execution.get(OWNER, old.id)
    assert (row.status, row.input) == ("error", "large")
    assert json.loads(row.result or "")["output"] == "Function execution failed."
    assert row.status_reason
    assert execution.get(OWNER, young.id).status == "running"
    assert record_overdue(settings, ended) == []


def test_lost_lease_is_recorded_once_and_leaves_what_its_holder_recorded(settings: Settings, function_id: str) -> None:
    def short_detail(execution_id: str) -> str:
        members = {"id": execution_id, "project_id": "project-a", "function_id": function_id, "input": '{"a": 1}'}
        return json.dumps(members | {"created_at": clock.to_micros(clock.now())})

    ended, lost = make_record(function_id), make_record(function_id)
    record(ended)

    reported = Reported()
    for _ in range(2):
        record_lost({rec.id: short_detail(rec.id) for rec in (ended, lost)}, cast(Attempts, None), reported)
    assert reported.ids == [ended.id, lost.id] * 2

    assert execution.get(OWNER, ended.id).status == "success"
    row = execution.get(OWNER, lost.id)
    assert (row.status, row.input, row.source) == ("error", '{"a": 1}', "api")
    assert function.get(OWNER, function_id).count == 2


@pytest.mark.parametrize("source", ["webhook", "job"])
def test_a_lost_execution_still_names_what_has_called_its_function(
    settings: Settings, function_id: str, source: str
) -> None:
    caller = {"source": source, f"{source}_id": "0197a1c9-90ab-7cde-8f01-23456789abcd", "request_id": "r-1"}
    lost = make_record(function_id)._replace(**caller)

    record_lost({lost.id: detail(lost)}, cast(Attempts, None), Reported())

    row = execution.get(OWNER, lost.id)
    assert {name: getattr(row, name) for name in caller} == caller


def test_a_detail_of_a_later_release_is_recorded_and_one_that_can_not_be_read_holds_up_no_other(
    settings: Settings, function_id: str
) -> None:
    later = make_record(function_id)
    known = {"id": later.id, "project_id": "project-a", "function_id": function_id, "created_at": 1}
    details = {"odd": "[]", "old": "{}", "cut": '{"id', later.id: json.dumps(known | {"a_new_member": 1})}

    assert record_lost(details, cast(Attempts, None), Reported()) == [later.id]

    assert execution.get(OWNER, later.id).status == "error"


def test_a_detail_that_can_not_be_read_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    details = {clock.new_id(clock.now()): "[]"}
    for _ in range(3):
        assert record_lost(details, cast(Attempts, None), Reported()) == []

    assert caplog.messages == ["a lost execution can't be read"]


def test_a_holder_that_comes_too_late_tells_what_is_recorded(settings: Settings, function_id: str) -> None:
    in_time, late = make_record(function_id), make_record(function_id)
    record(late._replace(status="error", result="lost"))
    assert commit_record(in_time) == in_time
    told = commit_record(late)
    assert (told.id, told.status, told.result) == (late.id, "error", "lost")
    assert execution.get(OWNER, late.id).status == "error"
