"""The pool manager replaces a runtime's workers when its image was changed: real Valkey and SQLite, fake workers."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from gevent.event import Event

from qinling_falcon.errors import NotFound
from qinling_falcon.models import database, rollout, runtime
from qinling_falcon.orchestrators.base import NoRoom, StartFailed, UnknownImage, WorkerInfo
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.registry import WorkerRecord
from qinling_falcon.pool.rollout import next_step
from qinling_falcon.settings import Settings
from tests.pool.house import ADMIN, MOST, STOCK, House
from tests.pool.side import wait_until
from tests.support.tables import make_tables


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    settings = Settings(
        var_dir=tmp_path, max_workers=MOST, reap_interval_s=0.1, holder_ttl_s=30, function_concurrency=MOST
    )
    make_tables(settings)
    database.connect(settings)
    yield settings
    database.disconnect()


@pytest.fixture
def house(connection: PipelinedConnection, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setattr("os.cpu_count", lambda: 2)  # the number of start slots
    house = House(connection.url, settings)
    try:
        house.await_stock()
        yield house
    finally:
        house.close()


def test_workers_are_replaced_one_after_another_and_the_stock_is_at_most_one_short(house: House) -> None:
    house.end(house.lease("f"))
    wait_until(lambda: house.warm() == STOCK)
    seen: list[tuple[int, int]] = []
    house.orchestrator.look = lambda: seen.append((house.warm(), house.states("old")["draining"]))
    house.change_image("new")
    wait_until(house.available)
    assert house.states("old") - Counter(draining=1) == Counter()
    wait_until(lambda: house.states("new") == Counter(warm=STOCK) and not house.states("old"))
    assert min(warm for warm, _ in seen) == STOCK - 1
    assert max(ending for _, ending in seen) == 1
    assert house.lost == {}


def test_starts_are_prepared_for_the_image_on_trial_and_after_its_failure_for_the_one_before(house: House) -> None:
    wait_until(lambda: list(house.orchestrator.prepared.values()) == ["old"])
    trial = house.orchestrator.held_up["new"] = Event()
    house.change_image("new")
    wait_until(lambda: list(house.orchestrator.prepared.values()) == ["new"])

    house.orchestrator.broken["new"] = UnknownImage("it is missing")
    trial.set()

    wait_until(lambda: list(house.orchestrator.prepared.values()) == ["old"])


def test_it_is_upgrading_until_no_old_worker_can_get_a_call(house: House) -> None:
    held = house.lease("f")
    idle_later = house.lease("g")
    house.orchestrator.held_up["new"] = Event()
    house.change_image("new")
    wait_until(lambda: house.orchestrator.starts["new"] == 1)  # the trial
    house.end(idle_later)
    assert house.image_of(house.lease("g")) == "old"
    assert house.row().previous_image == "old"
    house.orchestrator.held_up.pop("new").set()
    wait_until(house.available)
    assert house.states("old") == Counter(ending=2)  # both serve their call to its end
    house.end(held)
    for function in ("f", "g", "h"):
        assert house.image_of(house.lease(function)) == "new"
    assert house.lost == {}


@pytest.mark.parametrize("count", [1, MOST])
def test_all_of_max_workers_are_replaced_while_calls_hold_them(house: House, count: int) -> None:
    leases = [house.lease(f"f{number}") for number in range(MOST)]
    waiting = [gevent.spawn(house.lease, f"g{number}", 30) for number in range(count)]
    house.change_image("new")
    wait_until(lambda: house.row().previous_image is None)
    wait_until(lambda: house.states("old")["ending"] > 0)
    for lease in leases:
        house.end(lease)
    gevent.joinall(waiting, timeout=20, raise_error=True)
    assert {house.image_of(waiter.get()) for waiter in waiting} == {"new"}
    wait_until(house.available)
    wait_until(lambda: set(house.orchestrator.images.values()) == {"new"})
    assert house.lost == {}


def test_idle_workers_are_replaced_where_there_is_no_room_for_stock(house: House) -> None:
    for lease in [house.lease(f"f{number}") for number in range(MOST)]:
        house.end(lease)
    house.change_image("new")
    wait_until(house.available)
    wait_until(lambda: set(house.orchestrator.images.values()) == {"new"})


@pytest.mark.parametrize("emptied", [False, True])
def test_a_worker_that_was_starting_with_the_old_image_does_not_serve(house: House, emptied: bool) -> None:
    known: list[str] = []
    mark_ready = house.registry.mark_ready
    house.registry.mark_ready = lambda *args: known.append(args[-1]) or mark_ready(*args)
    house.orchestrator.held_up["old"] = Event()
    house.end(house.lease("f"))  # takes one of the stock
    wait_until(lambda: house.states("old")["starting"] == 1)
    house.change_image("new")
    wait_until(house.available)
    wait_until(lambda: house.states("new") == Counter(warm=STOCK))  # it is not counted upon
    destroyed = house.orchestrator.destroyed["old"]
    if emptied:
        house.connection.call("FLUSHALL")
    house.orchestrator.held_up.pop("old").set()
    wait_until(lambda: house.orchestrator.destroyed["old"] > destroyed)
    wait_until(lambda: house.warm() == STOCK and not house.states("old"))
    assert set(known) == {"new"}


def test_nothing_is_started_from_the_old_image_after_the_promotion_of_another(house: House) -> None:
    hold = house.orchestrator.held_up["old"] = Event()
    started = house.orchestrator.starts["old"] + 2  # as many as may start at once
    waiting = [gevent.spawn(house.lease, f"f{number}") for number in range(STOCK + 3)]
    wait_until(lambda: house.states("old")["starting"] == 2 and house.orchestrator.starts["old"] == started)
    runtime.update(ADMIN, house.runtime_id, {"image": "new"})
    rollout.promote(house.runtime_id, "new")  # as if a trial had ended just now
    house.pool.wake()
    wait_until(lambda: house.states("old")["draining"] == 2)
    hold.set()
    gevent.joinall(waiting, timeout=20, raise_error=True)
    assert house.orchestrator.starts["old"] == started


@pytest.mark.parametrize("error", [UnknownImage("no such image"), StartFailed("it does not start")])
def test_a_failing_image_leaves_the_old_workers_and_says_why(house: House, error: Exception) -> None:
    before = set(house.orchestrator.images)
    house.orchestrator.broken["new"] = error
    house.change_image("new")
    wait_until(house.available)
    row = house.row()
    assert (row.image, row.previous_image, row.status_reason) == ("old", None, str(error))
    assert set(house.orchestrator.images) == before
    assert house.states("old") == Counter(warm=STOCK)
    house.change_image("newer")
    wait_until(house.available)
    assert (house.row().image, house.row().status_reason) == ("newer", None)


def test_a_failing_image_is_given_up_also_while_workers_of_the_old_one_start(house: House) -> None:
    known: list[str] = []
    mark_ready, start = house.registry.mark_ready, house.orchestrator.start

    def start_between_old_ones(worker_id: str, image: str, runtime_id: str = "") -> WorkerInfo:
        if image == "new":
            seen = len(known)
            house.end(house.lease("f"), destroy=True)
            wait_until(lambda: len(known) > seen)
        return start(worker_id, image, runtime_id)

    house.registry.mark_ready = lambda *args: mark_ready(*args) or known.append(args[-1])
    house.orchestrator.start = start_between_old_ones
    house.orchestrator.broken["new"] = StartFailed("it does not start")
    house.change_image("new")
    wait_until(house.available)
    assert house.row().image == "old"
    assert house.orchestrator.starts["new"] == 3


@pytest.mark.parametrize("error", [UnknownImage("no such image"), StartFailed("it does not start")])
def test_a_promoted_image_that_stops_starting_is_aborted_and_the_old_one_serves_on(
    house: House, error: Exception
) -> None:
    held = [house.lease(f"f{number}") for number in range(MOST)]
    house.change_image("new")
    wait_until(lambda: house.row().fallback_image == "old")
    house.orchestrator.broken["new"] = error
    for lease in held:
        house.end(lease)  # the workers of the old image end one after another, and none of the new one comes
    wait_until(house.available)
    row = house.row()
    assert (row.image, row.fallback_image, row.status_reason) == ("old", None, str(error))
    house.end(house.lease("g"))
    wait_until(lambda: house.warm() == STOCK and not house.states("new"))
    assert set(house.orchestrator.images.values()) == {"old"}
    assert house.lost == {}


@pytest.mark.parametrize(("is_failing", "ended"), [(False, ["w1"]), (True, [])])
def test_no_old_worker_is_replaced_while_the_new_image_does_not_start(is_failing: bool, ended: list[str]) -> None:
    workers = [
        WorkerRecord(name, "idle", "r", "old", f"{name}:0:digest", drains=False, granted_ms=granted, has_served=True)
        for name, granted in (("w2", 2), ("w1", 1))
    ]
    step = next_step(workers, "new", stock=0, is_crowded=False, is_failing=is_failing)
    assert step.drain == ended


def test_a_runtime_that_is_deleted_in_between_ends(house: House) -> None:
    lease = house.lease()
    seen = []

    def delete_amid() -> None:
        if not seen and house.row().previous_image is None:
            seen.append(house.row().status)
            runtime.delete(ADMIN, house.runtime_id)

    house.orchestrator.look = delete_amid
    house.change_image("new")
    wait_until(lambda: set(house.orchestrator.images) == {lease.worker.worker_id})
    assert seen == ["upgrading"]
    with pytest.raises(NotFound):
        house.row()
    house.end(lease)
    wait_until(lambda: not house.orchestrator.images)


def test_an_image_that_proves_itself_while_rows_are_read_is_not_taken_back(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = runtime.everything
    trial = house.orchestrator.held_up["new"] = Event()

    def read_slowly() -> list[runtime.Runtime]:
        rows = everything()
        if house.orchestrator.starts["new"]:
            trial.set()
            gevent.sleep(0.1)
        return rows

    monkeypatch.setattr(runtime, "everything", read_slowly)
    house.change_image("new")
    wait_until(house.available)
    assert house.orchestrator.destroyed["new"] == 0


def test_no_worker_waits_for_the_manager_s_next_look(connection: PipelinedConnection, settings: Settings) -> None:
    house = House(connection.url, dataclasses.replace(settings, reap_interval_s=60))
    house.end(house.lease())
    house.pool.wake()
    wait_until(lambda: house.warm() == STOCK)
    house.change_image("new")
    wait_until(house.available)
    house.close()


def test_an_old_worker_that_comes_back_with_a_redis_that_lost_its_last_writes_ends(house: House) -> None:
    house.change_image("new")
    wait_until(house.available)
    house.orchestrator.images["revived"] = "old"
    house.registry.mark_ready(WorkerInfo("revived", "127.0.0.1:1", "secret"), house.runtime_id, "old")
    wait_until(lambda: "revived" not in house.orchestrator.images)


@pytest.mark.parametrize("survive", [True, False])
def test_a_manager_that_dies_at_any_step_leaves_what_the_next_one_needs(house: House, survive: bool) -> None:
    """`survive`: the workers outlive their manager, as pods do; local ones don't."""
    house.orchestrator.workers_outlive_manager = survive
    image = "old"
    for step in range(0, 1000, 3):
        old, image = image, f"image {step}"
        lease = house.lease(f"f{step % 3}")
        house.change_image(image)
        house.life.acts_left = step
        wait_until(lambda: house.manager.dead or house.available())
        died = house.manager.dead
        if died:
            house.registry.close()
            if not survive:
                house.orchestrator.images.clear()
            house.manage()
        house.life.acts_left = float("inf")
        wait_until(house.available)
        assert house.row().image == image
        assert set(house.states(old)) <= {"draining", "ending"}
        house.end(lease)
        # `wait_until` runs the lambda before the loop goes on.
        wait_until(lambda: set(house.orchestrator.images.values()) == {image} and house.warm() >= STOCK)  # noqa: B023
        if not died:
            return
    raise AssertionError("an update does not end")


def test_a_new_image_waits_for_room_and_the_row_says_so(house: House) -> None:
    house.orchestrator.broken["new"] = NoRoom("2 pods wait for a node")
    house.change_image("new")
    wait_until(lambda: house.orchestrator.starts["new"] > 4)  # three failures would abort the rollout

    assert house.row().status == "upgrading"
    assert house.row().status_reason == "No worker can be started now: 2 pods wait for a node"
    del house.orchestrator.broken["new"]
    wait_until(house.available)
    assert house.row().status_reason is None
    assert house.lost == {}


@pytest.mark.parametrize("error", [NoRoom("it is full"), StartFailed("it is full")], ids=["no room", "failing"])
def test_an_available_runtime_says_why_no_worker_starts_until_one_has_started(
    house: House, error: NoRoom | StartFailed
) -> None:
    house.orchestrator.broken["old"] = error
    held = [house.lease(f"f{number}") for number in range(STOCK)]  # so that the stock is short
    wait_until(lambda: house.row().status_reason == "No worker can be started now: it is full")
    assert house.row().status == "available"

    del house.orchestrator.broken["old"]

    wait_until(lambda: house.row().status_reason is None)
    for lease in held:
        house.end(lease)
