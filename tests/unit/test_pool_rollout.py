"""A rollout: which workers of older images end next."""

from __future__ import annotations

from qinling_falcon.pool.registry import WorkerRecord
from qinling_falcon.pool.rollout import RolloutStep, next_step


def worker(name: str, state: str, image: str = "old", *, granted: int = 0, drains: bool = False) -> WorkerRecord:
    target = "f:0:d" if state in ("idle", "leased") else ""
    return WorkerRecord(name, state, "python3", image, target, drains, granted, has_served=state != "starting")


def step(*workers: WorkerRecord, stock: int = 1, is_crowded: bool = False, is_failing: bool = False) -> RolloutStep:
    return next_step(workers, "new", stock, is_crowded=is_crowded, is_failing=is_failing)


def test_with_a_full_stock_warm_workers_end_first_then_idle_ones_then_leased_ones() -> None:
    warm, idle, leased = worker("w", "warm"), worker("i", "idle"), worker("l", "leased")
    fresh = worker("n", "warm", "new")
    assert step(warm, idle, leased, fresh).drain == ["w"]
    assert step(idle, leased, fresh).drain == ["i"]
    assert step(leased, fresh).drain == ["l"]
    assert step(fresh) == RolloutStep([], [], 0)


def test_the_least_recently_used_idle_worker_ends_first() -> None:
    idle = [worker("b", "idle", granted=1), worker("a", "idle", granted=2)]
    assert step(*idle, worker("n", "warm", "new")).drain == ["b"]


def test_as_many_leased_workers_end_as_warm_ones_stand_in_for_them() -> None:
    leased = [worker(name, "leased", granted=at) for at, name in enumerate("abc")]
    fresh = [worker(f"n{number}", "warm", "new") for number in range(2)]
    assert step(*leased, *fresh, stock=2) == RolloutStep(["a", "b"], [], 1)


def test_one_worker_ends_at_a_time() -> None:
    ending = worker("e", "draining")
    assert step(ending, worker("w", "warm"), worker("n", "warm", "new")).drain == []


def test_while_the_stock_is_short_no_worker_that_serves_ends() -> None:
    assert step(worker("w", "warm"), worker("i", "idle"), stock=2).drain == []


def test_where_there_is_no_room_an_idle_worker_ends_for_a_short_stock_and_a_warm_one_last() -> None:
    warm, idle, leased = worker("w", "warm"), worker("i", "idle"), worker("l", "leased")
    assert step(warm, idle, leased, stock=2, is_crowded=True).drain == ["i"]
    assert step(warm, leased, stock=2, is_crowded=True).drain == ["l"]
    assert step(warm, stock=2, is_crowded=True).drain == ["w"]
    coming = worker("s", "starting", "new")
    assert step(warm, idle, coming, stock=2, is_crowded=True).drain == []


def test_a_worker_that_is_starting_from_an_older_image_never_serves() -> None:
    assert step(worker("s", "starting"), worker("w", "warm"), stock=2).drain == ["s"]


def test_while_starts_from_the_image_fail_no_worker_that_serves_ends() -> None:
    workers = [worker("s", "starting"), worker("w", "warm"), worker("n", "warm", "new")]
    assert step(*workers, is_failing=True) == RolloutStep(["s"], ["w"], 1)


def test_warm_workers_that_stay_are_leased_after_those_of_the_new_image() -> None:
    warm = [worker(name, "warm") for name in "ab"]
    assert step(*warm, worker("n", "warm", "new")) == RolloutStep(["a"], ["b"], 1)


def test_workers_that_get_no_call_any_more_are_not_counted() -> None:
    assert step(worker("l", "leased", drains=True), worker("d", "draining")).left == 0
