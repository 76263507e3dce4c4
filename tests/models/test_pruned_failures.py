"""Failed executions of webhooks that retention has deleted: which of them are remembered, and for how long."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from qinling_falcon.models import clock, database, execution, idempotency, pruned_failures, retention
from qinling_falcon.models.internal_tables import IdempotencyKey
from qinling_falcon.models.records import ExecutionRecord, record
from qinling_falcon.models.retention import FINAL
from qinling_falcon.models.scope import Context
from qinling_falcon.models.tables import Execution
from qinling_falcon.settings import Settings
from tests.models.factories import make_record

WEBHOOK = "0197a1c9-90ab-7cde-8f01-23456789abcd"
FAILED = ["failed", "error", "dead"]


@pytest.fixture
def pruning(settings: Settings) -> Settings:
    """With these settings, retention deletes all executions but the newest one of each project."""
    return replace(settings, execution_retention_s=0.0, executions_kept=1)


def ended(status: str, project_id: str = "project-a", **fields: Any) -> ExecutionRecord:
    made = make_record("function", project_id, status=status, **{"webhook_id": WEBHOOK, "sync": False} | fields)
    assert record(made)
    return made


def is_remembered(one: ExecutionRecord) -> bool:
    return pruned_failures.is_remembered(one.project_id, one.id, clock.now())


def remembered() -> int:
    with database.reading():
        return int(IdempotencyKey.select().count())


@pytest.mark.parametrize("is_sync", [False, True])
def test_pruned_executions_of_webhooks_are_remembered_if_they_have_failed(pruning: Settings, is_sync: bool) -> None:
    made = {status: ended(status, sync=is_sync) for status in FINAL}
    newest = ended("failed")

    assert retention.prune(pruning) == len(made)

    assert [status for status, one in made.items() if is_remembered(one)] == [one for one in FINAL if one in FAILED]
    assert not is_remembered(newest), "it has its row"


def test_an_execution_is_remembered_in_its_project(pruning: Settings) -> None:
    mine, its = ended("failed"), ended("failed", "project-b")
    for project_id in ("project-a", "project-b"):
        ended("success", project_id)

    assert retention.prune(pruning) == 2

    assert is_remembered(mine)
    assert is_remembered(its)
    assert not is_remembered(mine._replace(project_id="project-b"))


def test_executions_that_no_delivery_has_made_are_not_remembered(pruning: Settings) -> None:
    ended("failed", webhook_id=None)
    ended("success")

    assert retention.prune(pruning) == 1

    assert remembered() == 0


def test_executions_that_are_older_than_all_keys_are_not_remembered(pruning: Settings) -> None:
    longest = pruned_failures.longest_key(pruning)
    old = ended("failed", created_at=clock.now() - longest)
    young = ended("failed", created_at=clock.now() - longest + timedelta(minutes=1))
    ended("success")

    assert retention.prune(pruning) == 2

    assert not is_remembered(old)
    assert is_remembered(young)


def test_nothing_is_remembered_if_executions_are_kept_longer_than_keys(
    pruning: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("a statement without need")

    monkeypatch.setattr(pruned_failures, "remember", fail)
    before = clock.now() - pruned_failures.longest_key(pruning) - timedelta(minutes=1)
    for second in range(2):
        ended("failed", created_at=before + timedelta(seconds=second))
    assert retention.prune(pruning) == 1


def test_an_execution_that_was_queued_again_is_neither_deleted_nor_remembered(pruning: Settings) -> None:
    one = ended("running")

    deleted, _ = database.transact(lambda: retention._delete([one.id], timedelta(days=1)))

    assert deleted == 0
    assert not is_remembered(one)
    assert execution.get(Context("project-a"), one.id).status == "running"


def test_an_execution_that_is_deleted_by_its_owner_is_not_remembered(settings: Settings) -> None:
    one, other = ended("failed"), ended("failed")

    execution.delete(Context("project-a"), one.id)
    execution.delete_ended(Context("project-a"), "failed", None, 10)

    assert not is_remembered(one)
    assert not is_remembered(other)


def test_a_row_that_is_written_again_is_deleted_again(pruning: Settings) -> None:
    """The pool manager may record the execution of a lost process a second time."""
    one = ended("error")
    ended("success")
    assert retention.prune(pruning) == 1
    assert record(one)

    assert retention.prune(pruning) == 1

    assert is_remembered(one)


def test_what_is_remembered_expires_after_the_key_of_the_delivery(pruning: Settings) -> None:
    one = ended("failed")
    ended("success")
    retention.prune(pruning)
    longest = pruned_failures.longest_key(pruning)
    last = one.created_at + longest - timedelta(seconds=1)

    assert pruned_failures.is_remembered(one.project_id, one.id, last)
    assert not pruned_failures.is_remembered(one.project_id, one.id, clock.now() + longest)
    assert idempotency.prune(last) == 0
    assert idempotency.prune(clock.now() + longest) == 1


@pytest.mark.parametrize(("ttl_s", "longest_s"), [(60, 48 * 3600), (72 * 3600, 72 * 3600)])
def test_a_key_may_last_as_long_as_the_setting_or_a_timestamp(ttl_s: int, longest_s: int) -> None:
    settings = Settings(idempotency_ttl_s=ttl_s)
    assert pruned_failures.longest_key(settings) == timedelta(seconds=longest_s)


def test_many_are_remembered_in_one_transaction(pruning: Settings) -> None:
    made = [ended("failed") for _ in range(130)]
    ended("success")

    assert retention.prune(pruning) == 130

    assert all(is_remembered(one) for one in made)
    with database.reading():
        assert Execution.select().count() == 1
