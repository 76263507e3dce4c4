"""Whose turn it is: no process, version or function of a project keeps others out."""

from __future__ import annotations

import time

import gevent

from qinling_falcon.pool.leases import Lease
from tests.pool.side import LIMITS, Side, end, wait_until


def test_an_older_call_of_another_process_gets_the_worker_at_the_next_renewal(side: Side, other: Side) -> None:
    side.start()
    lease = side.lease()
    theirs = other.waiting()
    time.sleep(0.01)  # calls that came within 5 ms are taken as having come together
    ours = side.waiting()

    end(lease)

    second = theirs.get(timeout=10)
    assert not ours.ready()
    end(second)
    end(ours.get(timeout=10))


def gets_the_next_worker(side: Side, crowd: list[gevent.Greenlet], alone: gevent.Greenlet, lease: Lease) -> None:
    """The crowd, whose target has `lease`, gets the next worker before the call that waits alone."""
    side.start()

    first = crowd[0].get(timeout=10)
    assert not alone.ready()
    end(lease)
    end(first)
    for caller in crowd[1:]:
        end(caller.get(timeout=10))
    side.start()
    end(alone.get(timeout=10))


def test_a_queue_in_which_many_calls_wait_grows_before_a_call_that_has_waited_somewhat_longer_gets_a_worker(
    side: Side,
) -> None:
    side.start()
    lease = side.lease("f")
    alone = side.waiting(function="g")
    time.sleep(0.02)
    crowd = [side.waiting(function="f") for _ in range(20)]
    entries = side.pool._local_queues.entries
    entries.escalate(side.pool._local_queues.queue_of(side.request("f")))

    gets_the_next_worker(side, crowd, alone, lease)


def test_calls_that_join_an_escalated_queue_count_for_its_rank(side: Side) -> None:
    side.start()
    lease = side.lease("f")
    alone = side.waiting(function="g")
    time.sleep(0.02)
    crowd = [side.waiting(function="f")]
    side.pool._local_queues.entries.escalate(side.pool._local_queues.queue_of(side.request("f")))
    crowd += [side.waiting(function="f") for _ in range(20)]

    gets_the_next_worker(side, crowd, alone, lease)


def test_after_its_oldest_call_was_served_an_escalated_queue_counts_from_its_next_one(side: Side) -> None:
    """Otherwise a queue that waited long once would be before all others as long as it is escalated."""
    side.start()
    lease = side.lease("f")
    now = time.monotonic()
    served = side.waiting(function="f", arrived=now - 30)
    following = side.waiting(function="f", arrived=now - 10)  # long ago, so that the queue stays escalated
    side.pool._local_queues.entries.escalate(side.pool._local_queues.queue_of(side.request("f")))
    other = side.waiting(function="g", arrived=now - 20)
    end(lease)
    second = served.get(timeout=10)
    assert side.request("f").queue in side.registry.snapshot()["escalated:python3"]

    side.start()

    end(other.get(timeout=10))
    assert not following.ready()
    end(second)
    end(following.get(timeout=10))


def test_however_many_calls_wait_elsewhere_a_call_that_has_waited_for_seconds_longer_is_first(side: Side) -> None:
    side.start()
    lease = side.lease("f")
    alone = side.waiting(function="g", arrived=time.monotonic() - 3)
    crowd = [side.waiting(function="f") for _ in range(20)]
    queues = side.pool._local_queues
    for function in ("f", "g"):
        queues.entries.escalate(queues.queue_of(side.request(function)))

    side.start()

    end(alone.get(timeout=10))
    for ended in (lease, *crowd):
        end(ended if isinstance(ended, Lease) else ended.get(timeout=10))


def test_a_call_that_arrived_earlier_and_asks_later_gets_the_worker_first(side: Side, other: Side) -> None:
    """Its process may have read the function from the database meanwhile."""
    side.start()
    lease = side.lease()
    ours = side.waiting()
    # Much earlier, because Redis counts the time that a message takes as if the call had come later.
    theirs = other.waiting(arrived=time.monotonic() - 10)

    end(lease)

    second = theirs.get(timeout=10)
    assert not ours.ready()
    end(second)
    end(ours.get(timeout=10))


def test_no_process_starves_another_one(side: Side, other: Side) -> None:
    """Twenty callers of one process share one worker all the time; each call of another process is served soon."""
    side.start()
    order: list[str] = []

    def call(process: Side, count: int) -> None:
        for _ in range(count):
            with process.lease(wait_s=30) as lease:
                order.append(process.pool.holder)
                gevent.sleep(0.001)
                end(lease)

    crowd = [gevent.spawn(call, side, 1000) for _ in range(20)]
    wait_until(lambda: len(order) > 50)
    alone = gevent.spawn(call, other, 10)
    alone.get(timeout=30)
    gevent.killall(crowd)

    first = order.index("web-2")
    last = len(order) - 1 - order[::-1].index("web-2")
    assert (last - first) / 9 <= 60, "a call is passed by at most some turns of the crowd"


def test_an_older_queue_of_the_project_goes_on_at_the_next_renewal(side: Side) -> None:
    """At the project's limit, a busy function's renewals do not keep another function of the project out."""
    for _ in range(LIMITS.max_workers):
        side.start()
    leases = [side.lease("f", version=version) for version in range(4)] + [side.lease("g")]
    assert len(leases) == LIMITS.project_concurrency
    theirs = side.waiting(function="h")
    time.sleep(0.01)
    ours = side.waiting(function="f", version=0)

    end(leases[0])

    assert theirs.get(timeout=10).queue == side.request("h").queue
    assert not ours.ready()


def test_an_older_call_of_another_version_goes_on_at_the_next_renewal(side: Side) -> None:
    """At the function's limit, renewals of one version do not keep another version out."""
    for _ in range(LIMITS.max_workers):
        side.start()
    leases = [side.lease("f") for _ in range(LIMITS.function_concurrency)]
    theirs = side.waiting(function="f", version=1)
    time.sleep(0.01)
    ours = side.waiting(function="f")

    end(leases[0])

    assert theirs.get(timeout=10).queue == side.request("f", version=1).queue
    assert not ours.ready()


def test_a_burst_in_two_processes_keeps_the_concurrency_and_the_order_of_arrival(side: Side, other: Side) -> None:
    for _ in range(LIMITS.max_workers):
        side.start()
    answered: dict[str, list[int]] = {"web-1": [], "web-2": []}
    most = []

    def call(process: Side, number: int) -> None:
        with process.lease(wait_s=30, concurrency=4) as lease:
            answered[process.pool.holder].append(number)
            seen = side.registry.snapshot()
            most.append((len(seen["leases"]), len(seen.get("assigned:f", ()))))
            gevent.sleep(0.001)
            end(lease)

    callers = []
    for number in range(18):
        callers += [gevent.spawn(call, process, number) for process in (side, other)]
        gevent.sleep(0.0005)
    gevent.joinall(callers, timeout=30, raise_error=True)

    assert max(most) <= (4, 4) and len(most) == 36
    for numbers in answered.values():
        assert max(abs(number - index) for index, number in enumerate(numbers)) <= 4  # the number that runs at once
