"""Retention: which executions are deleted and which are kept."""

from __future__ import annotations

import datetime
import random
from dataclasses import replace
from typing import Any

import pytest

from qinling_falcon.models import clock, database, retention
from qinling_falcon.models.records import ExecutionRecord, record
from qinling_falcon.models.retention import FINAL, prune
from qinling_falcon.models.scope import Context, scoped, system
from qinling_falcon.models.states import ExecutionStatus
from qinling_falcon.settings import Settings
from tests.models.factories import make_record, raced

NEVER = {"execution_retention_s": 0.0, "executions_kept": 0}


def ran(count: int, project_id: str = "project-a", **fields: Any) -> list[ExecutionRecord]:
    """Write execution records, the oldest first."""
    made = [make_record("function", project_id, **fields) for _ in range(count)]
    for rec in made:
        assert record(rec)
    return made


def left(project_id: str | None = None) -> set[str]:
    scope = system("a test") if project_id is None else scoped(Context(project_id))
    with database.reading():
        return {row.id for row in scope.executions()}


def ids(records: list[ExecutionRecord]) -> set[str]:
    return {rec.id for rec in records}


def test_nothing_is_deleted_unless_a_setting_says_so(settings: Settings) -> None:
    old = ran(3, created_at=clock.now() - datetime.timedelta(days=4000))
    assert prune(replace(settings, **NEVER)) == 0
    assert left() == ids(old)


def test_executions_of_all_projects_are_deleted_by_age(settings: Settings) -> None:
    now = clock.now()
    for project_id in ("project-a", "project-b"):
        for status in ExecutionStatus:
            ran(1, project_id, status=status.value, created_at=now - datetime.timedelta(seconds=101))
    kept = ran(1, created_at=now - datetime.timedelta(seconds=40))
    with database.reading():
        select = system("a test").executions()
        running = {row.id for row in select if row.status == ExecutionStatus.RUNNING}
    assert len(running) == 2
    assert prune(replace(settings, **NEVER | {"execution_retention_s": 100.0})) == 2 * len(FINAL)
    assert left() == running | ids(kept)


def test_each_project_keeps_its_newest_executions(settings: Settings) -> None:
    mine, its = ran(12), ran(3, "project-b")
    running = ran(2, status="running")
    mine += ran(4, status="failed")
    assert prune(replace(settings, **NEVER | {"executions_kept": 5})) == 11
    assert left("project-a") == ids(mine[-5:]) | ids(running)
    assert left("project-b") == ids(its)
    assert prune(replace(settings, **NEVER | {"executions_kept": 5})) == 0


@pytest.mark.parametrize("seed", range(2))
def test_the_newest_are_kept_whatever_their_status(
    settings: Settings, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_LARGEST_STEP", 7)
    monkeypatch.setattr(retention, "_LARGEST_BATCH", 6)
    chance = random.Random(seed)
    weights = [chance.choice([0, 1, 30]) + 0.1 for _ in FINAL]
    made = [ran(1, status=chance.choices(FINAL, weights)[0])[0] for _ in range(120)]
    for kept in (121, 120, 119, 63, 62, 20, 6, 4, 1):
        prune(replace(settings, **NEVER | {"executions_kept": kept}))
        assert left() == ids(made[-kept:]), kept


def test_two_machines_at_once_delete_no_more_than_one(settings: Settings) -> None:
    keeping = replace(settings, **NEVER | {"executions_kept": 30})
    statement = (
        "from qinling_falcon.models.retention import prune; from dataclasses import replace; "
        "from qinling_falcon.settings import Settings; "
        "prune(Settings(execution_retention_s=0.0, executions_kept=30))"
    )
    kept = ran(30)
    for _ in range(3):
        kept = [*kept, *ran(100)][-30:]
        assert [there for there, _ in raced(settings, statement, ["x"], lambda _: prune(keeping))] == ["done"]
        assert left() == ids(kept)


def test_many_are_deleted_in_many_small_transactions(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    ran(425, log="x" * 5000)
    sizes = []
    delete = retention._delete

    def noted(rows: list[str], *more: Any) -> tuple[int, float]:
        sizes.append(len(rows))
        deleted, _ = delete(rows, *more)
        return deleted, 0.1  # as on a slow disk

    monkeypatch.setattr(retention, "_delete", noted)
    assert prune(replace(settings, **NEVER | {"executions_kept": 400})) == 25
    # It begins with few, and takes fewer and fewer until a transaction is short enough.
    assert sizes[:4] == [20, 2, 1, 1]


def test_a_transaction_takes_more_rows_while_it_is_short(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    ran(1300)
    sizes = []
    delete = retention._delete

    def noted(rows: list[str], *more: Any) -> tuple[int, float]:
        sizes.append(len(rows))
        deleted, _ = delete(rows, *more)
        return deleted, 0.0001

    monkeypatch.setattr(retention, "_delete", noted)
    assert prune(replace(settings, **NEVER | {"executions_kept": 1})) == 1299
    assert sizes == [20, 40, 80, 160, 200, 200, 200, 200, 199]


@pytest.mark.parametrize(
    ("quota", "kept", "is_warned"),
    [(5, 5, True), (5, 6, True), (0, 1, False), (6, 5, False), (-1, 5, False), (5, 0, False)],
)
def test_a_quota_that_refuses_calls_before_anything_is_deleted_is_warned_of(
    caplog: pytest.LogCaptureFixture, quota: int, kept: int, is_warned: bool
) -> None:
    retention.warn_if_useless(Settings(quota_executions=quota, executions_kept=kept))
    assert ["QUOTA_EXECUTIONS" in entry.message for entry in caplog.records] == [True] * is_warned
