"""The pool's policy: which runtimes get a worker, and which workers make room. Times are multiples of S = 20 ms."""

from __future__ import annotations

from typing import Any

import pytest

from qinling_falcon.pool.policy import Decision, Policy
from qinling_falcon.pool.view import Growing, IdleWorker, RuntimeView, TargetView, View

S = 20.0
NOW = 1_000_000.0
MOST = 8


def view(**parts: Any) -> View:
    """A full pool of one runtime, in which nothing waits and nothing is idle."""
    return View(**{"now": NOW, "workers": MOST, "draining": 0, "targets": 2, "runtimes": [runtime()], **parts})


def runtime(name: str = "A", **parts: Any) -> RuntimeView:
    return RuntimeView(**{"id": name, "stock": 2, "warm": 2, "starting": 0, "first_calls": 0, "escalated": 0, **parts})


def growing(target: str = "f", *, waited: float = 0, **parts: Any) -> Growing:
    """A queue whose oldest call has waited for so many S."""
    arrival = NOW - waited * S
    held = parts.get("held", 0)
    values = {
        "runtime": "A", "kind": "any", "held": held, "rank": arrival + 2 * S * held, "waiting": 1, "room": 100,
        "target": target, "arrival": arrival, "busy_ms": 60_000.0,
    }  # fmt: skip
    return Growing(**{**values, **parts})


def idle(name: str, *, unused: float, target: str = "g", held: int = 2) -> IdleWorker:
    return IdleWorker(name, NOW - unused * S, target, held)


def target(name: str = "g", **parts: Any) -> TargetView:
    """A target with a busy worker, which has not grown for long."""
    values = {"target": name, "held": 1, "recalled": 0, "worker": "w", "state": "leased", "since": NOW - 100 * S}
    return TargetView(**{**values, **parts})


class Time:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.passed_ms = 0.0

    def __call__(self) -> float:
        return self.passed_ms / 1000


def decide(pool: View, slots: int = 4, unable: frozenset[str] = frozenset()) -> Decision:
    return Policy(MOST, 4, S).decide(pool, slots, unable)


def evicted(decision: Decision) -> list[str]:
    return [eviction.worker for eviction in decision.evictions]


class TestStarts:
    def test_the_queue_that_has_waited_longest_is_first_and_each_worker_that_it_has_counts_as_two_starts(self) -> None:
        first, second = growing("f", waited=3), growing("g", waited=4, held=1)
        for name, one in (("A", first), ("B", second)):
            object.__setattr__(one, "runtime", name)
        pool = view(workers=0, growing=[second, first], runtimes=[runtime("A"), runtime("B")])
        assert decide(pool, slots=1).starts == ["A"]
        assert decide(pool, slots=2).starts == ["A", "B"]

    def test_at_max_workers_targets_that_have_their_share_come_last(self) -> None:
        rich, poor = growing("f", waited=100, held=4), growing("g", waited=1)
        unused = [idle("of g", unused=30, target="g"), idle("of f", unused=25, target="f")]
        assert evicted(decide(view(growing=[rich, poor], idle=unused))) == ["of f", "of g"]

    def test_while_there_is_room_targets_that_have_their_share_do_not_come_last(self) -> None:
        rich = growing("f", waited=100, held=4, runtime="B")
        pool = view(workers=7, growing=[growing("g"), rich], runtimes=[runtime("A"), runtime("B")])
        assert decide(pool).starts == ["B"]

    def test_a_target_without_a_worker_gets_one_and_others_as_many_as_wait_and_their_limits_allow(self) -> None:
        assert decide(view(workers=0, growing=[growing(waiting=5)])).starts == ["A"]
        assert decide(view(workers=0, growing=[growing(waiting=3, held=1)])).starts == ["A"] * 3
        assert decide(view(workers=0, growing=[growing(waiting=3, held=1, room=2)])).starts == ["A"] * 2
        assert decide(view(workers=0, growing=[growing(waiting=3, kind="warm")])).starts == ["A"] * 3

    def test_calls_that_their_workers_will_have_served_soon_need_no_further_one(self) -> None:
        def starts(**parts: Any) -> int:
            return len(decide(view(workers=0, growing=[growing(**parts)]), slots=100).starts)

        assert starts(waiting=200, held=1, busy_ms=S) == 3  # four workers serve 200 calls of S within 50 S
        assert starts(waiting=200, held=3, busy_ms=S) == 1
        assert starts(waiting=200, held=9, busy_ms=S) == 1  # a process has asked for one

    def test_while_it_is_not_known_how_long_calls_take_a_target_has_at_most_twice_as_many_workers(self) -> None:
        pool = view(workers=0, growing=[growing(waiting=20, held=3, busy_ms=None)])
        assert decide(pool, slots=100).starts == ["A"] * 3

    def test_workers_that_are_starting_already_count(self) -> None:
        pool = view(workers=2, growing=[growing(waiting=3, held=1)], runtimes=[runtime(starting=2)])
        assert decide(pool).starts == ["A"]

    def test_no_more_than_the_free_slots_are_started(self) -> None:
        assert decide(view(workers=0, growing=[growing(waiting=9, held=1)]), slots=3).starts == ["A"] * 3
        assert decide(view(workers=0, growing=[growing()]), slots=0) == Decision()

    def test_a_runtime_that_can_t_start_holds_no_slot_and_evicts_nothing(self) -> None:
        failing = growing("f", waited=100, runtime="B", waiting=9, held=1)
        pool = view(workers=7, growing=[failing, growing("g")], runtimes=[runtime("A"), runtime("B")])
        assert decide(pool, slots=1, unable=frozenset("B")).starts == ["A"]
        full = view(growing=[failing], idle=[idle("w", unused=99)], runtimes=[runtime("A"), runtime("B")])
        assert decide(full, unable=frozenset("B")) == Decision()


class TestStock:
    def test_it_is_filled_only_when_no_queue_wants_a_worker(self) -> None:
        assert decide(view(workers=0, runtimes=[runtime(warm=0)])).starts == ["A", "A"]
        pool = view(workers=0, growing=[growing()], runtimes=[runtime(warm=0)])
        assert decide(pool).starts == ["A"]

    def test_runtimes_are_filled_in_turn_and_get_a_quarter_of_all_workers_together(self) -> None:
        pool = view(workers=0, runtimes=[runtime(name, warm=0) for name in "ABC"])
        assert decide(pool).starts == ["A", "B"]

    def test_it_follows_the_rate_of_first_calls(self) -> None:
        time = Time()
        policy = Policy(100, 4, S, time)

        def stocks(first_calls: int) -> dict[str, int]:
            time.passed_ms += 1000
            policy.decide(view(now=NOW - time.passed_ms, runtimes=[runtime(first_calls=first_calls)]), 0)
            return policy.stocks

        stocks(0)
        assert stocks(20) == {"A": 6}  # two, and 0.4 s of half of 20 a second
        assert stocks(1000) == {"A": 8}
        assert [stocks(1000) for _ in range(100)][-1] == {"A": 2}

    def test_a_runtime_without_a_stock_keeps_none(self) -> None:
        assert decide(view(workers=0, runtimes=[runtime(stock=0, warm=0, first_calls=100)])).starts == []

    def test_only_workers_that_were_unused_for_long_are_evicted_for_it(self) -> None:
        pool = view(runtimes=[runtime(warm=0)], idle=[idle("w", unused=50)])
        assert decide(pool) == Decision()  # 1 s; a cheap start makes no worker old
        assert evicted(decide(view(runtimes=[runtime(warm=0)], idle=[idle("w", unused=10_000)]))) == ["w"]


class TestEviction:
    def test_a_worker_that_was_unused_for_20_starts_goes_at_once(self) -> None:
        assert evicted(decide(view(growing=[growing()], idle=[idle("w", unused=21)]))) == ["w"]
        assert decide(view(growing=[growing()], idle=[idle("w", unused=19)])) == Decision()

    def test_a_worker_of_the_queue_s_own_target_is_not_evicted_for_it(self) -> None:
        own = [idle("w", unused=99, target="f")]
        assert decide(view(growing=[growing("f", waited=99, held=1)], idle=own)) == Decision()

    def test_a_queue_that_has_waited_for_5_starts_gets_a_worker_that_was_unused_for_one(self) -> None:
        used = [idle("w", unused=2)]
        assert decide(view(growing=[growing(waited=4)], idle=used)) == Decision()
        assert evicted(decide(view(growing=[growing(waited=6)], idle=used))) == ["w"]
        assert decide(view(growing=[growing(waited=6)], idle=[idle("w", unused=0.5)])) == Decision()
        assert decide(view(growing=[growing(waited=6, held=1)], idle=used)) == Decision()  # its worker counts

    def test_that_happens_once_in_two_starts(self) -> None:
        time = Time()
        policy = Policy(MOST, 4, S, time)
        pool = view(growing=[growing(waited=50)], idle=[idle("w", unused=10)])
        assert evicted(policy.decide(pool, 4)) == ["w"]
        time.passed_ms = S
        assert policy.decide(pool, 4) == Decision()
        time.passed_ms = 2 * S
        assert evicted(policy.decide(pool, 4)) == ["w"]

    def test_the_time_between_two_does_not_depend_on_redis_s_clock(self) -> None:
        time = Time()
        policy = Policy(MOST, 4, S, time)
        hour_ms = 3_600_000
        policy.decide(view(growing=[growing(waited=50)], idle=[idle("w", unused=10)]), 4)
        time.passed_ms = 2 * S
        early = [IdleWorker("w", NOW - hour_ms - 10 * S, "g", 2)]
        waits = [growing(arrival=NOW - hour_ms - 50 * S)]
        assert evicted(policy.decide(view(now=NOW - hour_ms, growing=waits, idle=early), 4)) == ["w"]

    def test_a_surplus_warm_worker_of_another_runtime_goes_first(self) -> None:
        pool = {"growing": [growing(waited=6)], "idle": [idle("w", unused=10)]}
        other = runtime("B", warm=2, oldest_warm="b")
        assert evicted(decide(view(runtimes=[runtime(), other], **pool))) == ["b"]
        last = runtime("B", warm=1, oldest_warm="b")
        wanted = runtime("B", warm=2, oldest_warm="b", escalated=1)
        for one in (last, wanted):
            assert evicted(decide(view(runtimes=[runtime(), one], **pool))) == ["w"]

    def test_the_only_worker_of_a_function_is_not_evicted_for_one_that_has_its_share(self) -> None:
        rich = growing("f", waited=50, held=4)
        only = [idle("w", unused=10, held=1)]
        assert decide(view(growing=[rich], idle=only)) == Decision()
        assert evicted(decide(view(growing=[growing("f", waited=50)], idle=only))) == ["w"]

    @pytest.mark.parametrize("state", ["idle", "leased"])
    def test_a_target_with_two_workers_more_gives_one_up(self, state: str) -> None:
        largest = [target(held=3, state=state)]
        decision = decide(view(growing=[growing(waited=20, held=1)], largest=largest))
        assert (evicted(decision), [recall.worker for recall in decision.recalls]) == (
            (["w"], []) if state == "idle" else ([], ["w"])
        )
        assert decide(view(growing=[growing(waited=20, held=2)], largest=largest)) == Decision()

    def test_recalled_workers_are_not_counted_twice(self) -> None:
        largest = [target(held=4, recalled=2)]
        assert decide(view(growing=[growing(waited=20, held=1)], largest=largest)) == Decision()

    def test_a_target_without_a_worker_gets_one_of_the_target_that_got_its_last_one_longest_ago(self) -> None:
        longest = [target(since=NOW - 11 * S)]
        [recall] = decide(view(growing=[growing(waited=6)], longest_without_growth=longest)).recalls
        assert recall.worker == "w"
        assert decide(view(growing=[growing(waited=6, held=1)], longest_without_growth=longest)) == Decision()
        young = [target(since=NOW - 9 * S)]
        assert decide(view(growing=[growing(waited=6)], longest_without_growth=young)) == Decision()

    def test_workers_are_evicted_ahead_for_two_rounds_of_starts_less_one(self) -> None:
        unused = [idle(f"w{number}", unused=99) for number in range(8)]
        pool = {"growing": [growing(waiting=20, held=1)], "idle": unused}
        assert len(decide(view(**pool)).evictions) == 7
        assert len(decide(view(draining=5, **pool)).evictions) == 2

    def test_a_draining_worker_is_one_that_need_not_be_evicted(self) -> None:
        unused = [idle("w", unused=99)]
        assert decide(view(growing=[growing()], idle=unused, draining=1)) == Decision()
        two = [growing("f"), growing("h")]
        assert evicted(decide(view(growing=two, idle=unused, draining=1))) == ["w"]

    def test_no_worker_is_evicted_twice(self) -> None:
        unused = [idle("w0", unused=30), idle("w1", unused=10)]
        decision = decide(view(growing=[growing(waited=50, waiting=2, held=1)], idle=unused))
        assert evicted(decision) == ["w0", "w1"]


class TestRecalls:
    def test_no_more_workers_are_recalled_than_are_wanted(self) -> None:
        time = Time()
        policy = Policy(MOST, 4, S, time)
        pool = {"growing": [growing(waited=50)], "largest": [target(held=8)]}
        assert len(policy.decide(view(**pool), 4).recalls) == 1
        time.passed_ms = 10 * S
        assert policy.decide(view(recalled=["v"], **pool), 4).recalls == []
        two = [growing("f", waited=50), growing("h", waited=50)]
        assert len(policy.decide(view(recalled=["v"], growing=two, largest=[target(held=8)]), 4).recalls) == 1

    def test_another_worker_is_recalled_if_the_call_of_the_recalled_one_is_long(self) -> None:
        time = Time()
        policy = Policy(MOST, 4, S, time)
        pool = {"growing": [growing(waited=50)], "largest": [target(held=8)]}
        assert policy.decide(view(**pool), 4).look_again_ms <= 250
        time.passed_ms = 250
        assert len(policy.decide(view(recalled=["v"], **pool), 4).recalls) == 1

    def test_an_idle_worker_is_evicted_also_while_a_recall_is_pending(self) -> None:
        pool = view(growing=[growing(waited=50)], recalled=["v"], idle=[idle("w", unused=10)])
        assert evicted(decide(pool)) == ["w"]

    def test_they_are_taken_back_when_no_queue_needs_them(self) -> None:
        assert decide(view(recalled=["v", "w"])).taken_back == ["v", "w"]
        waits = [growing()]
        assert decide(view(recalled=["v", "w"], growing=waits)).taken_back == []
        assert decide(view(recalled=["v"], growing=waits, draining=1)).taken_back == ["v"]
        starting = [runtime(starting=1)]
        assert decide(view(recalled=["v"], growing=waits, runtimes=starting)).taken_back == ["v"]

    def test_they_are_bounded(self) -> None:
        many = [f"w{number}" for number in range(64)]
        waits = [growing(waited=200, held=1, waiting=100)]
        assert len(decide(view(recalled=many[1:], growing=waits, largest=[target(held=90)])).recalls) == 1
        assert decide(view(recalled=many, growing=waits, largest=[target(held=90)])).recalls == []


class TestLookingAgain:
    def test_it_is_when_the_queue_has_waited_for_5_starts(self) -> None:
        pool = view(growing=[growing(waited=1)], idle=[idle("w", unused=2)])
        assert decide(pool).look_again_ms == pytest.approx(4 * S)
        held = view(growing=[growing(waited=1, held=1)], idle=[idle("w", unused=2)])
        assert decide(held).look_again_ms == pytest.approx(6 * S)

    def test_it_is_earlier_if_a_worker_was_unused_for_20_starts_earlier(self) -> None:
        assert decide(view(growing=[growing()], idle=[idle("w", unused=18)])).look_again_ms == pytest.approx(2 * S)
        assert decide(view(growing=[growing()], idle=[idle("w", unused=19.9)])).look_again_ms == pytest.approx(S)

    def test_it_is_soon_if_only_workers_are_missing_that_may_be_taken(self) -> None:
        assert decide(view(growing=[growing(waited=50)])).look_again_ms == 100

    def test_it_is_not_necessary_if_no_worker_is_missing(self) -> None:
        assert decide(view()).look_again_ms == float("inf")
        assert decide(view(workers=0, growing=[growing()])).look_again_ms == float("inf")


def test_the_cost_of_a_start_is_a_moving_mean_of_at_least_5_ms() -> None:
    policy = Policy(MOST, 4, S)
    policy.note_start(120)
    assert policy.start_ms == pytest.approx(40)
    for _ in range(100):
        policy.note_start(1)
    assert policy.start_ms == 5


def test_an_empty_list_of_the_script_is_an_empty_object() -> None:
    lists = ("runtimes", "growing", "recalled", "idle", "largest", "longest_without_growth")
    empty: dict[str, Any] = {name: {} for name in lists}
    assert View.of({"now": 1, "workers": 2, "draining": 3, "targets": 4, **empty}) == View(1, 2, 3, 4)
