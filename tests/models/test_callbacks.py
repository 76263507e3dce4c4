"""The queue of callbacks: added with the end of an execution, claimed by one process, kept until finished."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from qinling_falcon.models import callbacks, clock, execution, execution_ends, execution_queue, function
from qinling_falcon.models.database import engine, reading, transact
from qinling_falcon.models.internal_tables import Callback, QueuedExecution
from qinling_falcon.models.records import ExecutionRecord, record
from qinling_falcon.models.scope import Context
from qinling_falcon.models.tables import Execution
from tests.models.factories import end_claimed, in_one_batch, make_function, make_record, raced, together

MINUTE = timedelta(minutes=1)
DONE, FAILED = "https://hooks.example/done", "https://hooks.example/failed"


@pytest.fixture
def calling_id(runtime_id: str, owner: Context) -> str:
    """A function of `owner` with both callbacks."""
    return make_function(owner, runtime_id, on_success=DONE, on_failure=FAILED).id


def claimed_execution(function_id: str, **fields: Any) -> ExecutionRecord:
    record = make_record(
        function_id, status="running", sync=False, attempt=0, result=None, log=None, updated_at=None, **fields
    )
    execution_queue.accept(record)
    now = clock.now()
    execution_queue.claim([record.id], now, now + MINUTE)
    return record._replace(attempt=1)


def ended(record: ExecutionRecord, status: str = "success") -> ExecutionRecord:
    return record._replace(status=status, result="{}", log="", updated_at=clock.now())


def run(function_id: str, status: str = "success", **fields: Any) -> ExecutionRecord:
    """An asynchronous execution that has ended."""
    final = ended(claimed_execution(function_id, **fields), status)
    assert end_claimed(final)
    return final


def queue_again(record: ExecutionRecord) -> None:
    """As a retry of an execution that has ended does."""

    def write() -> None:
        Execution.update(status="running").where(Execution.id == record.id).execute()
        row = {"id": record.id, "project_id": record.project_id, "not_before": 0, "attempt": record.attempt}
        QueuedExecution.insert(row).execute()

    transact(write)


def rows() -> list[Callback]:
    with reading():
        return list(Callback.select().order_by(Callback.created_at))


def claim(project_id: str = "project-a", most: int = 100) -> list[callbacks.ClaimedCallback]:
    now = clock.now()
    return callbacks.claim(project_id, now, now + MINUTE, most)


@pytest.mark.parametrize(
    ("status", "url", "event"),
    [
        ("success", DONE, "execution.success"),
        ("failed", FAILED, "execution.failure"),
        ("error", FAILED, "execution.failure"),
        ("dead", FAILED, "execution.failure"),
    ],
)
def test_an_end_adds_the_callback_of_its_outcome(calling_id: str, status: str, url: str, event: str) -> None:
    final = run(calling_id, status)

    [row] = rows()
    assert row.id == f"{final.id}-{clock.to_micros(final.updated_at)}"
    assert (row.execution_id, row.url, row.event, row.project_id) == (final.id, url, event, "project-a")
    assert (row.function_id, row.attempt, row.created_at) == (calling_id, 0, final.updated_at)
    assert 0 <= clock.to_micros(final.updated_at) - row.not_before < 1_000_000


def test_a_callback_is_due_at_once_also_if_the_end_was_written_by_a_process_that_is_an_hour_ahead(
    calling_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after the machine's clock was set back, see `clock.now`."""
    with monkeypatch.context() as patch:
        patch.setattr(clock, "_last", clock.to_micros(clock.wall() + timedelta(hours=1)))
        final = run(calling_id)
    monkeypatch.setattr(clock, "_last", 0)

    assert final.updated_at is not None
    assert final.updated_at > clock.wall() + 59 * MINUTE
    assert [one.execution_id for one in claim()] == [final.id]


def test_a_version_has_the_callbacks_of_its_function(calling_id: str) -> None:
    run(calling_id, function_version=3)

    assert [row.url for row in rows()] == [DONE]


def test_a_cancelled_execution_has_none(calling_id: str) -> None:
    first = claimed_execution(calling_id)

    transact(lambda: Execution.update(status="cancelled").where(Execution.id == first.id).execute())
    run(calling_id, "cancelled")

    assert rows() == []


def test_a_synchronous_execution_has_none(calling_id: str) -> None:
    assert record(make_record(calling_id))
    begun = make_record(calling_id, status="running")
    assert record(begun)
    assert record(ended(begun))

    assert rows() == []


@pytest.mark.parametrize(
    ("urls", "status"), [({}, "success"), ({"on_success": DONE}, "failed"), ({"on_failure": DONE}, "success")]
)
def test_a_function_without_a_url_for_the_outcome_has_none(
    runtime_id: str, owner: Context, urls: dict[str, str], status: str
) -> None:
    run(make_function(owner, runtime_id, **urls).id, status)

    assert rows() == []


def test_a_deleted_function_has_none(calling_id: str, owner: Context) -> None:
    running = claimed_execution(calling_id)
    function.delete(owner, calling_id)

    assert end_claimed(ended(running))

    assert rows() == []


def test_an_end_without_a_claim_adds_a_callback(calling_id: str) -> None:
    """The record of a lost lease, and an execution that ends when it is accepted."""
    lost = claimed_execution(calling_id)
    refused = make_record(calling_id, status="error", sync=False)

    assert record(ended(lost, "error"))
    assert record(refused)

    assert sorted(row.execution_id for row in rows()) == sorted([lost.id, refused.id])


def test_only_the_end_that_counts_adds_one(calling_id: str) -> None:
    running = claimed_execution(calling_id)

    won = together([lambda: end_claimed(ended(running)) for _ in range(3)])
    assert sorted(won) == [False, False, True]
    assert not end_claimed(ended(running, "error"))

    assert [row.event for row in rows()] == ["execution.success"]


def test_an_execution_that_ends_again_has_its_last_callback_only(calling_id: str) -> None:
    first = run(calling_id, "failed")
    [old] = callbacks.claim("project-a", clock.now(), clock.now() + MINUTE, 1)
    assert callbacks.postpone(old.id, old.attempt, clock.now() + MINUTE)
    assert callbacks.claim("project-a", clock.now() + 2 * MINUTE, clock.now() + 3 * MINUTE, 1)
    queue_again(first)
    [again] = execution_queue.claim([first.id], clock.now(), clock.now() + MINUTE)

    last = ended(first._replace(attempt=2))
    assert execution_ends.end(last, again.claim)

    [row] = rows()
    assert (row.url, row.event, row.attempt, row.claimed_until) == (DONE, "execution.success", 0, 0)
    assert row.id == f"{first.id}-{clock.to_micros(last.updated_at)}" != old.id
    assert not callbacks.finish(old.id, 2, is_delivered=True)
    assert callbacks.has_due(clock.now())


def test_a_batch_adds_the_callbacks_of_all_its_functions(calling_id: str, function_id: str, runtime_id: str) -> None:
    other = make_function(Context("project-b"), runtime_id, on_failure=FAILED).id
    running = [claimed_execution(one) for one in (calling_id, function_id, other, calling_id)]
    finals = [ended(one, "failed") for one in running]

    won = in_one_batch([lambda final=final: end_claimed(final) for final in finals])

    assert won == [True] * 4
    assert sorted(row.execution_id for row in rows()) == sorted(finals[place].id for place in (0, 2, 3))


def test_an_end_whose_callback_can_not_be_added_is_not_written(calling_id: str) -> None:
    """Both are one transaction."""
    run(calling_id)
    running = claimed_execution(calling_id)
    transact(lambda: engine().execute_sql("CREATE UNIQUE INDEX in_the_way ON callbacks (url)"))
    try:
        with pytest.raises(Exception, match=r"(?i)unique"):
            end_claimed(ended(running))
    finally:
        transact(lambda: engine().execute_sql("DROP INDEX in_the_way"))

    with reading():
        assert Execution.get(Execution.id == running.id).status == "running"
    assert end_claimed(ended(running))
    assert len(rows()) == 2


def test_a_claim_takes_each_callback_once(calling_id: str) -> None:
    ids = [run(calling_id).id for _ in range(5)]

    claims = together([claim for _ in range(4)])

    assert sorted(one.execution_id for found in claims for one in found) == sorted(ids)
    assert {one.attempt for found in claims for one in found} == {1}
    assert not callbacks.has_due(clock.now())


def test_a_claim_takes_those_that_are_due_for_longest(calling_id: str) -> None:
    ids = [run(calling_id).id for _ in range(3)]

    [first] = claim(most=1)
    assert (first.execution_id, first.url, first.event) == (ids[0], DONE, "execution.success")
    assert {one.execution_id for one in claim()} == {*ids[1:]}


def test_a_callback_is_claimed_in_its_project_only(calling_id: str) -> None:
    run(calling_id)

    assert claim("project-b") == []
    assert callbacks.next_project("", clock.now()) == "project-a"
    assert callbacks.next_project("project-a", clock.now()) is None


def test_a_claim_ends_by_itself_and_the_next_one_counts(calling_id: str) -> None:
    run(calling_id)
    now = clock.now()
    [first] = callbacks.claim("project-a", now, now, 10)

    [second] = claim()

    assert (first.attempt, second.attempt) == (1, 2)
    assert not callbacks.finish(first.id, first.attempt, is_delivered=True)
    assert not callbacks.postpone(first.id, first.attempt, clock.now())
    assert callbacks.finish(second.id, second.attempt, is_delivered=True)
    assert rows() == []


def test_a_postponed_callback_waits(calling_id: str) -> None:
    run(calling_id)
    [first] = claim()

    assert callbacks.postpone(first.id, first.attempt, clock.now() + MINUTE)

    assert not callbacks.has_due(clock.now())
    assert callbacks.next_project("", clock.now()) is None
    assert claim() == []
    [later] = callbacks.claim("project-a", clock.now() + 2 * MINUTE, clock.now() + 3 * MINUTE, 10)
    assert later.attempt == 2


def test_the_subject_is_the_execution_as_it_is_and_the_secret_as_it_is_now(calling_id: str, owner: Context) -> None:
    final = run(calling_id, callback_depth=2)
    [claimed] = claim()

    found = callbacks.subject(claimed)
    assert found.execution is not None
    assert (found.execution.id, found.execution.status, found.execution.callback_depth) == (final.id, "success", 2)
    assert (found.has_function, found.secret) == (True, None)

    function.delete(owner, calling_id)
    assert not callbacks.subject(claimed).has_function


def test_callbacks_of_a_deleted_execution_have_no_subject(calling_id: str, owner: Context) -> None:
    final = run(calling_id)
    [claimed] = claim()
    execution.delete(owner, final.id)

    assert callbacks.subject(claimed).execution is None


def test_two_processes_claim_no_callback_twice(calling_id: str, settings: Any, owner: Context) -> None:
    """In SQLite the writers take turns; in PostgreSQL rows that are locked are skipped."""
    ids = {run(calling_id).id for _ in range(6)}
    statement = (
        "from qinling_falcon.models import callbacks, clock; import datetime; now = clock.now();"
        " assert len(callbacks.claim('project-a', now, now + datetime.timedelta(minutes=1), 1)) <= 1"
    )
    outcomes = raced(settings, statement, ["x"] * 6, lambda _: claim(most=1))

    assert {there for there, _ in outcomes} == {"done"}
    mine = [one.id for _, found in outcomes for one in found]
    assert len(mine) == len(set(mine))
    assert {row.execution_id: row.attempt for row in rows()} == dict.fromkeys(ids, 1)


def test_functions_without_callbacks_cost_no_row(function_id: str) -> None:
    run(function_id)

    assert rows() == []
    assert not callbacks.has_due(clock.now())
