"""The numbers of callbacks, which an operator sees."""

from __future__ import annotations

from qinling_falcon.jobs.callbacks import Callbacks
from qinling_falcon.models import callbacks, execution_counters
from tests.webhooks.deliveries import deliver, deliver_all, rows, run
from tests.webhooks.receiver import Receiver


def test_each_delivery_is_counted_by_its_outcome(
    calling_id: str, receiving: Receiver, delivering: Callbacks
) -> None:
    assert execution_counters.read_callbacks() == (0, 0, 0, 0)
    receiving.statuses = [500, 204]
    run(calling_id)
    assert execution_counters.read_callbacks() == (0, 0, 0, 1)
    deliver_all(delivering)
    assert execution_counters.read_callbacks() == (1, 1, 0, 0)

    receiving.statuses = [500, 500, 500]  # the last attempt
    run(calling_id, "failed")
    deliver_all(delivering)
    assert execution_counters.read_callbacks() == (1, 3, 1, 0)

    receiving.statuses = [410]
    run(calling_id)
    deliver(delivering)
    assert execution_counters.read_callbacks() == (1, 3, 2, 0)


def test_a_callback_that_has_no_message_any_more_is_dropped(calling_id: str, delivering: Callbacks) -> None:
    run(calling_id, callback_depth=3)

    deliver(delivering)

    assert execution_counters.read_callbacks() == (0, 0, 1, 0)


def test_what_a_later_claim_decides_is_counted_once(calling_id: str) -> None:
    run(calling_id)
    [row] = rows()

    assert not callbacks.finish(row.id, 7, is_delivered=True)
    assert not callbacks.postpone(row.id, 7, row.created_at)

    assert execution_counters.read_callbacks() == (0, 0, 0, 1)
