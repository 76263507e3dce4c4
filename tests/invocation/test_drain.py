"""The drain of a `worker` process that stops."""

from __future__ import annotations

import gevent

from qinling_falcon.jobs.drain import Drain
from qinling_falcon.models import execution_queue
from tests.invocation.conftest import MakeHouse, accept


def test_a_stop_while_the_drain_waits_for_ends_claims_nothing_more(make_house: MakeHouse) -> None:
    house = make_house("worker", async_concurrency=8)
    house.engine.start()
    drain = Drain(house.engine, house.pool, house.attempts, house.settings)
    claimed = [accept(house) for _ in range(3)]  # more than a quarter of the places; they wait for a worker
    drain.run(0.2)
    assert sorted(drain._in_flight) == claimed
    late = accept(house)
    taking = gevent.spawn(drain.run, 30)
    gevent.sleep(0)  # until it waits for ends

    drain.stop_taking()

    taking.get(timeout=10)
    assert sorted(drain._in_flight) == claimed
    drain.finish(0)
    assert [execution_queue.attempt_of(execution_id) for execution_id in [*claimed, late]] == [0, 0, 0, 0]
