"""The counters of asynchronous executions: none is lost, and none is counted twice."""

from __future__ import annotations

from dataclasses import replace

from qinling_falcon.models import execution, execution_counters, execution_queue, execution_retries, retention
from qinling_falcon.models.records import record
from qinling_falcon.models.scope import Context
from qinling_falcon.settings import Settings
from tests.models.factories import end_claimed, in_one_batch, make_record
from tests.models.test_execution_queue import accepted, claim, ended


def counters() -> tuple[int, int, int, int]:
    """Accepted, final, in flight and deleted."""
    found = execution_counters.read()
    assert found.accepted == found.final + found.in_flight + found.deleted
    return found


def test_each_execution_is_counted_where_it_is(function_id: str, owner: Context) -> None:
    assert counters() == (0, 0, 0, 0)
    records = [accepted(function_id) for _ in range(4)]
    assert counters() == (4, 0, 4, 0)

    claim(*(one.id for one in records))
    assert all(in_one_batch([lambda one=one: end_claimed(ended(one, 1)) for one in records[:2]]))
    assert counters() == (4, 2, 2, 0)

    assert execution_queue.cancel(execution.get(owner, records[2].id), "by the caller")
    assert counters() == (4, 3, 1, 0)

    execution.delete(owner, records[0].id)
    assert counters() == (4, 2, 1, 1)


def test_an_end_that_is_written_again_is_counted_once(function_id: str) -> None:
    one = accepted(function_id)
    claim(one.id)
    final = ended(one, 1)

    assert end_claimed(final)
    assert end_claimed(final)  # as after a commit whose outcome was unknown

    assert counters() == (1, 1, 0, 0)


def test_a_retried_execution_is_in_flight_again(function_id: str, owner: Context) -> None:
    one = accepted(function_id)
    claim(one.id)
    end_claimed(ended(one, 1, status="failed"))

    execution_retries.retry(owner, one.id, "again")

    assert counters() == (1, 0, 1, 0)


def test_purged_and_pruned_executions_are_deleted(function_id: str, owner: Context, settings: Settings) -> None:
    records = [accepted(function_id) for _ in range(3)]
    claim(*(one.id for one in records))
    for one in records:
        end_claimed(ended(one, 1, status="failed"))

    assert len(execution.delete_ended(owner, "failed", None, 2)) == 2
    assert counters() == (3, 1, 0, 2)
    retention.prune(replace(settings, executions_kept=1, execution_retention_s=0.000001))
    assert counters() == (3, 0, 0, 3)


def test_synchronous_executions_are_not_counted(function_id: str, owner: Context) -> None:
    final = make_record(function_id)
    record(final)
    running = make_record(function_id, status="running", updated_at=None)
    record(running)
    assert execution_queue.cancel(execution.get(owner, running.id), "by the caller")
    execution.delete(owner, final.id)

    assert counters() == (0, 0, 0, 0)
