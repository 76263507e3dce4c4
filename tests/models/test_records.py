"""Execution records: the first final state wins, counts are exact, and one bad record harms no other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import peewee
import pytest

from qinling_falcon.models import execution, function
from qinling_falcon.models.database import reading
from qinling_falcon.models.records import begin, record
from qinling_falcon.models.scope import Context, system
from qinling_falcon.settings import Settings
from tests.models.factories import in_one_batch, make_function, make_record, together


def count(owner: Context, function_id: str) -> int:
    return function.get(owner, function_id).count


def test_a_record_is_read_back_as_it_was_written(owner: Context, function_id: str) -> None:
    written = make_record(
        function_id,
        function_alias="live",
        description="Grüße",
        input='{"name": "foo"}',
        status="failed",
        status_reason="exception",
        sync=False,
        cold="assign",
        queued_ms=1.5,
        run_ms=44.25,
        source="webhook",
    )
    assert record(written)
    row = execution.get(owner, written.id)
    shown = {name: getattr(row, name) for name in type(written).__slots__ if name != "log"}
    assert shown == {name: getattr(written, name) for name in shown}
    assert execution.get_log(owner, written.id) == written.log
    assert row.log is None


def test_the_first_final_state_wins(owner: Context, function_id: str) -> None:
    first = make_record(function_id)
    assert record(first)
    assert not record(first._replace(status="failed", result="late"))
    assert not begin(first)
    row = execution.get(owner, first.id)
    assert (row.status, row.result) == ("success", first.result)
    assert count(owner, function_id) == 1


def test_what_has_begun_can_end_once(owner: Context, function_id: str) -> None:
    ended = make_record(function_id, input="large")
    assert begin(ended._replace(result=None, log=None, updated_at=None))
    assert execution.get(owner, ended.id).status == "running"
    assert count(owner, function_id) == 0
    assert record(ended._replace(input=None))
    assert not record(ended._replace(status="error"))
    row = execution.get(owner, ended.id)
    assert (row.status, row.input, row.result) == ("success", "large", ended.result)
    assert count(owner, function_id) == 1


def test_counts_are_exact_with_many_callers(owner: Context, runtime_id: str) -> None:
    ids = [make_function(owner, runtime_id).id for _ in range(3)]
    records = [make_record(ids[number % 3]) for number in range(90)]
    assert together([lambda rec=rec: record(rec) for rec in records]) == [True] * 90
    assert [count(owner, function_id) for function_id in ids] == [30, 30, 30]


def test_one_id_many_times_in_one_batch(owner: Context, function_id: str) -> None:
    rec = make_record(function_id)
    versions = [rec._replace(result=str(number)) for number in range(5)]
    outcomes = in_one_batch([lambda rec=rec: record(rec) for rec in versions])
    assert sorted(outcomes) == [False] * 4 + [True]
    assert execution.get(owner, rec.id).result == str(outcomes.index(True))
    assert count(owner, function_id) == 1


def test_a_record_that_can_not_be_written_harms_no_other(
    owner: Context, function_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [make_record(function_id) for _ in range(5)]
    bad = make_record(None)
    outcomes = in_one_batch([lambda rec=rec: record(rec) for rec in [*good, bad]])
    assert outcomes[:5] == [True] * 5
    assert isinstance(outcomes[5], peewee.IntegrityError)
    assert count(owner, function_id) == 5


def test_records_and_other_writes_share_a_batch(owner: Context, function_id: str) -> None:
    rec = make_record(function_id)
    changed, won = in_one_batch([lambda: function.update(owner, function_id, {"name": "new"}), lambda: record(rec)])
    assert won
    assert changed.function.name == "new"
    row = function.get(owner, function_id)
    assert (row.name, row.count) == ("new", 1)


def test_only_version_0_counts_for_the_function(owner: Context, function_id: str) -> None:
    assert record(make_record(function_id, function_version=1))
    assert count(owner, function_id) == 0


def test_a_record_outlives_its_function(owner: Context, function_id: str) -> None:
    function.delete(owner, function_id)
    rec = make_record(function_id)
    assert record(rec)
    assert execution.get(owner, rec.id).function_id == function_id


def test_text_that_no_database_holds_is_replaced(owner: Context, function_id: str) -> None:
    rec = make_record(function_id, log="a\0b\udcffc", result="ä\ud800", input="\0")
    assert record(rec)
    row = execution.get(owner, rec.id)
    assert (row.input, row.result) == ("\ufffd", "ä?")
    assert execution.get_log(owner, rec.id) == "a\ufffdb?c"


def test_large_records(owner: Context, function_id: str) -> None:
    big = "x" * (1024 * 1024)
    records = [make_record(function_id, input=big, result=big, log=big) for _ in range(8)]
    assert in_one_batch([lambda rec=rec: record(rec) for rec in records]) == [True] * 8
    assert execution.get(owner, records[7].id).input == big


def test_processes_count_together(settings: Settings, owner: Context, runtime_id: str) -> None:
    ids = [make_function(owner, runtime_id).id for _ in range(2)]
    script = f"""
import threading
from pathlib import Path
from qinling_falcon.models import database
from qinling_falcon.models.records import record
from qinling_falcon.settings import Settings
from tests.models.factories import make_record, together
database.connect(Settings(var_dir=Path({str(settings.var_dir)!r}), database_url={settings.database_url!r}))
for _ in range(20):
    outcomes = together([lambda id=id: record(make_record(id)) for id in {ids!r} * 4])
    assert outcomes == [True] * 8, outcomes
database.disconnect()
"""
    root = Path(__file__).parents[2]
    processes = [subprocess.Popen([sys.executable, "-c", script], cwd=root) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert [count(owner, function_id) for function_id in ids] == [240, 240]
    with reading():
        assert system("test").executions().count() == 480
