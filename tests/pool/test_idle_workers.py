"""Idle workers of a target, and calls that have not asked for them because they waited in their process."""

from __future__ import annotations

from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.lua import ANCHOR
from qinling_falcon.pool.runner import ScriptRunner
from tests.pool.side import Side

HOLDER = "web-2"  # no process reads its notifications


def test_calls_get_idle_workers_of_their_target_before_a_warm_one(connection: PipelinedConnection, side: Side) -> None:
    side.registry.set_limits(6, 20.0)
    for _ in range(5):
        side.start()
    request = side.request()
    for lease in [side.pool.lease(side.request(kind="warm"), 1) for _ in range(3)]:
        lease.used()
        lease.released()
        lease.committed()
    ScriptRunner(connection).run("escalate", HOLDER, request.queue, 3, 10, "")
    assert connection.call("LLEN", f"{ANCHOR}:grants:{HOLDER}") == 3
    assert connection.call("ZCARD", f"{ANCHOR}:idle:{request.target}") == 0
    assert connection.call("ZCARD", f"{ANCHOR}:warm:{request.runtime_id}") == 2
    assert connection.call("ZCARD", f"{ANCHOR}:escalated:{request.runtime_id}") == 0
