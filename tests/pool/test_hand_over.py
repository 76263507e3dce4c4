"""Renewals: when a worker goes from one call of a process to the next, and when the lease ends instead."""

from __future__ import annotations

import json
import re

import gevent
import pytest

from qinling_falcon.errors import Unavailable
from qinling_falcon.pool import keys
from qinling_falcon.pool.leases import StaleTarget
from qinling_falcon.pool.runner import ScriptRunner
from qinling_falcon.pool.wire import PoolUnavailable
from tests.pool.side import START_MS, Side, detail_of, end, reap_until, wait_until
from tests.servers.valkey import valkey_server


def test_the_next_call_gets_the_worker_before_the_first_is_committed(side: Side) -> None:
    side.start()
    first = side.lease()
    waiting = side.waiting()

    first.used()
    first.released()

    second = waiting.get(timeout=10)
    assert second.worker.worker_id == first.worker.worker_id and second.worker.token > first.worker.token
    journal = {
        lease.execution_id: f"{lease.worker.worker_id} {lease.worker.token} {detail_of(lease)}"
        for lease in (first, second)
    }
    assert side.registry.snapshot()["journal:web-1"] == journal
    first.committed()
    end(second)
    side.run()  # both acknowledgements travel with its scripts
    assert side.pool.find(first.execution_id) is None and side.pool.find(second.execution_id) is None


def test_a_call_that_waits_in_its_process_does_not_ask_redis(side: Side) -> None:
    side.start()
    lease, request = side.lease(), side.request()
    queue = side.pool._local_queues.queue_of(request)
    queue.note_busy(0.0015)  # so the call expects its turn within its patience
    before = notifications(side)

    waiting = gevent.spawn(side.pool.lease, request, 5)
    gevent.sleep(0)
    assert queue.waiters and not queue.asking
    end(lease)

    second = waiting.get(timeout=10)
    assert second.worker.worker_id == lease.worker.worker_id
    assert notifications(side) == before, "Redis has offered the worker"
    end(second)


def test_a_call_that_may_not_wait_gets_a_spare_worker(side: Side) -> None:
    side.start()
    for _ in range(8):
        side.run()
    assert side.pool._local_queues.queue_of(side.request()).spares

    end(side.lease(wait_s=0))


def test_a_process_that_stops_gives_its_spare_workers_back_and_acknowledges_its_executions(side: Side) -> None:
    worker = side.start()
    stopping = Side(side.connection.url, holder="web-2")
    for _ in range(8):
        stopping.run()
    assert stopping.pool._local_queues.queue_of(stopping.request()).spares

    stopping.close()

    assert not side.leased() and side.registry.draining() == []
    assert not side.registry.snapshot().get("journal:web-2")
    assert side.lease(wait_s=0).worker.worker_id == worker


def test_workers_are_handed_over_whatever_the_project_is_called(side: Side) -> None:
    side.start()
    lease = side.lease(project="a|any|b", kind="warm", detail="")
    lease.used()
    lease.released()
    side.sync()
    assert not side.leased()
    calls = [side.lease(project="a|warm|b")]
    waiting = side.waiting(project="a|warm|b")
    end(calls[0])
    assert waiting.get(timeout=10).worker.worker_id == "w0"


def test_a_failure_in_one_queue_ends_the_waits_of_others_all_the_same(side: Side) -> None:
    side.start()
    lease = side.lease("f")
    broken = side.pool._local_queues.queue_named("python3|g:0:digest|any|p")
    broken.is_unsure, broken.waiters = True, None

    with pytest.raises(Unavailable):
        side.lease("f", wait_s=0.3)

    del side.pool._local_queues._queues[broken.name]
    end(lease)


def test_no_old_code_runs_after_a_change(side: Side) -> None:
    side.start()
    lease = side.lease()
    waiting = [side.waiting() for _ in range(3)]

    with side.pool.changing("function:f"):
        pass
    end(lease)

    for caller in waiting:
        with pytest.raises(StaleTarget):
            caller.get(timeout=10)
    wait_until(lambda: not side.leased())


def test_a_worker_that_is_to_drain_is_not_handed_over(side: Side) -> None:
    side.start()
    lease = side.lease()
    waiting = side.waiting()
    side.registry.drain([lease.worker.worker_id])

    end(lease)

    wait_until(lambda: side.registry.draining() == [lease.worker.worker_id])
    assert not waiting.ready()
    side.registry.remove(lease.worker.worker_id)
    side.start()
    assert waiting.get(timeout=10).worker.worker_id == "w1"


def test_a_recalled_worker_is_given_up_at_the_next_renewal_or_release(side: Side) -> None:
    side.start()
    lease = side.lease()
    waiting = side.waiting()
    assert side.registry.recall(lease.worker.worker_id, 10_000)
    end(lease)
    wait_until(lambda: side.registry.draining() == ["w0"])
    side.start()
    second = waiting.get(timeout=10)

    assert side.registry.recall(second.worker.worker_id, 10_000)
    end(second)

    wait_until(lambda: side.registry.draining() == ["w0", "w1"])


def test_a_recall_expires_and_can_be_taken_back(side: Side) -> None:
    side.start()
    lease = side.lease()
    side.registry.recall("w0", 1)
    gevent.sleep(0.005)
    end(lease)
    lease = side.lease()
    side.registry.recall("w0", 10_000)
    side.registry.recall("w0", 0)
    end(lease)
    wait_until(lambda: not side.leased())
    assert side.registry.draining() == []
    assert not side.registry.recall("w0", 10_000)  # it is not leased


def test_a_recalled_worker_that_is_returned_drains_if_it_was_loaded_and_else_is_warm(side: Side) -> None:
    side.start()
    with side.lease("f"):
        side.registry.recall("w0", 10_000)
    side.run("f")  # the recall was of the assignment that is over
    side.sync()
    assert side.registry.draining() == []
    with side.lease("f"):
        side.registry.recall("w0", 10_000)
    side.sync()
    assert side.registry.draining() == ["w0"]


@pytest.mark.parametrize("how", ["drains", "is recalled"])
def test_an_offered_worker_that_drains_or_is_recalled_meanwhile_gets_no_call(side: Side, how: str) -> None:
    """The offer is to a process that only runs scripts, so that the worker can be told to drain before its answer."""
    side.start()
    lease, request = side.lease(), side.request()
    [(key, generation)] = request.generations
    scripts = ScriptRunner(side.connection)
    asked = scripts.run(
        "lease", "web-3", "any", "python3", request.target, "p", "", "e", 1000, "detail", 1, 0, "", key, generation
    )  # fmt: skip
    assert asked[0] == b"queued"
    end(lease)
    _queue, word, worker, _, _, token, *_ = json.loads(side.connection.call("LPOP", keys.grants("web-3")))
    assert (word, worker) == ("lease", "w0")

    if how == "drains":
        side.registry.drain(["w0"])
    else:
        side.registry.recall("w0", 10_000)
    answer = scripts.run("renew", "w0", token, "web-3", "e", 1000, "detail", 0, "", "", 0, "", "", key, generation)

    assert answer == [b"ended"] and not side.leased()
    assert side.registry.draining() == ["w0"]
    assert not side.registry.snapshot().get("journal:web-3")


def test_after_a_limit_was_lowered_leases_end_at_their_next_renewal(side: Side) -> None:
    for _ in range(3):
        side.start()
    leases = [side.lease(), side.waiting().get(timeout=10)]
    waiting = side.waiting()  # only the reserve is left
    ScriptRunner(side.connection).run("set_limits", 1, 5, 6, 6, str(START_MS), 9, 9, 9, 6)

    end(leases[0])

    wait_until(lambda: side.leased() == {leases[1].worker.worker_id} and side.all_waiting() == 1)
    assert not waiting.ready()
    end(leases[1])
    assert waiting.get(timeout=10).worker.worker_id == leases[1].worker.worker_id


def test_a_lost_lease_is_not_handed_over(side: Side) -> None:
    side.start()
    lease = side.lease()
    waiting = side.waiting()
    side.registry.remove("w0")

    end(lease)

    side.start()
    second = waiting.get(timeout=10)
    assert second.worker.worker_id == "w1"
    end(second)


def test_without_redis_nothing_is_handed_over_and_the_worker_is_given_up() -> None:
    with valkey_server() as mortal:
        side = Side(mortal.url)
        side.configure()
        side.start()
        lease = side.lease()
        waiting = side.waiting()
        mortal.kill()

        end(lease)

        with pytest.raises(PoolUnavailable):
            waiting.get(timeout=10)
        assert not side.pool._local_queues.held
        mortal.start()
        side.close()


def test_a_call_that_is_killed_while_its_renewal_is_on_its_way_leaves_nothing(side: Side) -> None:
    side.start()
    lease = side.lease()
    waiting = side.waiting()

    end(lease)
    waiting.kill()

    wait_until(lambda: not side.leased() and not side.all_waiting())
    side.run()
    reap_until(side, lambda: not side.registry.snapshot()["journal:web-1"])
    assert side.registry.lost() == {} and side.registry.draining() == []


def test_a_call_that_left_before_its_offer_came_is_counted_off_once(side: Side) -> None:
    side.start()
    lease = side.lease()
    caller = side.waiting()
    queue = side.pool._local_queues.queue_of(side.request())

    caller.kill()
    side.pool._local_queues._handle(queue.name, "lease", "w9", "127.0.0.1:9", "secret", "1", "none", "0")

    assert queue.entry_count == 0 and not side.all_waiting()
    waiting = [side.waiting() for _ in range(2)]
    assert side.all_waiting() == 2
    end(lease)
    for call in waiting:
        end(call.get(timeout=10))
    wait_until(lambda: not side.all_waiting())


def test_a_call_that_came_too_late_is_told_so(side: Side) -> None:
    side.start()
    lease = side.lease()
    with pytest.raises(Unavailable):
        side.lease(wait_s=0.1)
    end(lease)
    side.run()


def notifications(side: Side) -> int:
    """How many notes have been written to lists, for processes and for the manager."""
    stats = side.connection.call("INFO", "commandstats")
    return sum(int(calls) for calls in re.findall(rb"cmdstat_rpush:calls=(\d+)", stats))
