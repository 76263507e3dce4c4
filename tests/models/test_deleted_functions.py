"""The queued executions of a deleted function are cancelled in batches, and those who wait for them hear of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from qinling_falcon.jobs import deleted_functions as jobs
from qinling_falcon.jobs.deleted_functions import DeletedFunctions
from qinling_falcon.models import clock, execution, execution_queue, function
from qinling_falcon.models import deleted_functions as models
from qinling_falcon.models.deleted_functions import page
from qinling_falcon.models.scope import Context
from tests.models.factories import end_claimed, make_function
from tests.models.test_execution_counters import counters
from tests.models.test_execution_queue import accepted, claim, ended, unclaimed


class Ended:
    """Notes of whose ends it is notified, and what it is to remove from the ready sets."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.dropped: list[str] = []

    def drop(self, project_id: str, function_id: str, execution_ids: Iterable[str]) -> None:
        self.dropped += execution_ids

    def notify(self, execution_ids: Iterable[str]) -> None:
        self.ids += execution_ids


@pytest.fixture
def heard() -> Ended:
    return Ended()


@pytest.fixture
def deletions(settings: Any, heard: Any, monkeypatch: pytest.MonkeyPatch) -> DeletedFunctions:
    monkeypatch.setattr(jobs, "_BATCH", 3)
    return DeletedFunctions(heard, heard)


def remembered() -> list[str]:
    return [found.id for found in page("", 100)]


def test_queued_executions_are_cancelled_in_batches(
    function_id: str, runtime_id: str, owner: Context, deletions: DeletedFunctions, heard: Ended
) -> None:
    ids = [accepted(function_id).id for _ in range(7)]
    other = accepted(make_function(owner, runtime_id).id).id
    function.delete(owner, function_id)

    assert deletions.step() == 7

    rows = [execution.get(owner, execution_id) for execution_id in ids]
    assert {(row.status, row.attempt, row.result) for row in rows} == {("cancelled", 0, None)}
    assert all("it was deleted" in (row.status_reason or "") for row in rows)
    assert unclaimed() == [other]
    assert counters() == (8, 7, 1, 0)
    assert sorted(heard.ids) == sorted(heard.dropped) == sorted(ids)
    assert remembered() == []


def test_an_execution_that_runs_goes_on_also_if_this_process_is_an_hour_ahead(
    function_id: str, owner: Context, deletions: DeletedFunctions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after the machine's clock was set back, see `clock.now`."""
    record = accepted(function_id)
    claim(record.id)
    function.delete(owner, function_id)
    monkeypatch.setattr(clock, "_last", clock.to_micros(clock.wall()) + 3_600_000_000)

    assert not models.has_work(page("", 1)[0])
    assert deletions.step() == 0
    assert models.cancel_queued(page("", 1)[0], 10) == []
    assert execution.get(owner, record.id).status == "running"


def test_an_execution_that_runs_goes_on_and_is_cancelled_when_it_is_queued_again(
    function_id: str, owner: Context, deletions: DeletedFunctions
) -> None:
    one, other = accepted(function_id), accepted(function_id)
    claim(one.id, other.id)
    function.delete(owner, function_id)

    assert deletions.step() == 0
    assert remembered() == [function_id]
    assert end_claimed(ended(one, 1))
    assert execution.get(owner, one.id).status == "success"

    later = clock.from_micros(clock.to_micros(clock.now()) + 60_000_000)
    shown = other._replace(attempt=1, status_reason="It raised.", updated_at=clock.now())
    assert execution_queue.postpone(shown, 1, later, 1)
    assert deletions.step() == 1
    row = execution.get(owner, other.id)
    assert (row.status, row.attempt) == ("cancelled", 1)
    assert remembered() == []
    assert counters() == (2, 2, 0, 0)


def test_nothing_is_written_while_all_executions_run(
    function_id: str, owner: Context, deletions: DeletedFunctions, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim(accepted(function_id).id)
    function.delete(owner, function_id)
    monkeypatch.setattr(models, "transact", lambda write: pytest.fail("a write"))

    assert deletions.step() == 0

    assert remembered() == [function_id]


def test_a_step_ends_in_time_and_the_next_one_goes_on(
    function_id: str, runtime_id: str, owner: Context, deletions: DeletedFunctions
) -> None:
    second = make_function(owner, runtime_id).id
    for deleted in (function_id, second):
        for _ in range(4):
            accepted(deleted)
        function.delete(owner, deleted)

    assert deletions.step(longest_s=0) == 0
    assert deletions.step() == 8
    assert remembered() == []


def test_a_function_whose_executions_run_does_not_keep_others_waiting(
    function_id: str, runtime_id: str, owner: Context, deletions: DeletedFunctions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_PAGE", 1)
    ids = sorted((function_id, make_function(owner, runtime_id).id))
    first, second = (accepted(deleted) for deleted in ids)
    claim(first.id)
    for deleted in ids:
        function.delete(owner, deleted)

    assert [deletions.step() for _ in range(2)] == [0, 1]

    assert execution.get(owner, second.id).status == "cancelled"
    assert remembered() == [ids[0]]


def test_a_function_without_executions_is_forgotten(
    function_id: str, owner: Context, deletions: DeletedFunctions
) -> None:
    end = accepted(function_id)
    claim(end.id)
    end_claimed(ended(end, 1))
    function.delete(owner, function_id)

    assert deletions.step() == 0

    assert remembered() == []
    assert execution.get(owner, end.id).status == "success"
