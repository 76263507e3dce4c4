"""Workers that outlive their manager go on after it was killed, and are adopted when Redis does not know them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.registry import Registry
from qinling_falcon.settings import Settings
from tests.pool.cluster import ClusterOrchestrator
from tests.pool.house import STOCK, House, running_house
from tests.pool.side import wait_until


@pytest.fixture
def cluster() -> Iterator[ClusterOrchestrator]:
    cluster = ClusterOrchestrator()
    yield cluster
    cluster.close()


@pytest.fixture
def house(connection: PipelinedConnection, tmp_path: Path, cluster: ClusterOrchestrator) -> Iterator[House]:
    settings = Settings(var_dir=tmp_path, reap_interval_s=0.1, holder_ttl_s=30)
    with running_house(connection, settings, cluster) as house:
        yield house


def states(house: House) -> dict[str, str]:
    """The state of each worker that Redis knows."""
    found = Registry(house.connection, house.settings).workers()
    return {worker_id: worker.state for worker_id, worker in found.items()}


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_workers_go_on_after_their_manager(house: House, cluster: ClusterOrchestrator, how: str) -> None:
    house.end(house.lease("idle"))
    held = house.lease("held")
    wait_until(lambda: house.warm() >= STOCK)
    before, started = states(house), cluster.starts["old"]
    if how == "killed":
        house.kill_manager()
    else:
        house.stop_manager()
    assert states(house) == before

    house.manage()

    house.await_pass()
    assert states(house) == before
    again = house.lease("idle")
    assert (before[again.worker.worker_id], again.cold) == ("idle", "none")
    house.end(again)
    house.end(held)
    assert (cluster.starts["old"], cluster.destroyed, house.lost) == (started, set(), {})


def test_a_worker_whose_manager_was_killed_before_it_was_ready_is_adopted(
    house: House, cluster: ClusterOrchestrator
) -> None:
    house.kill_manager()
    cluster.add("orphan", "old", house.runtime_id)
    assert Registry(house.connection, house.settings).register("orphan", house.runtime_id, "old")

    house.manage()

    wait_until(lambda: states(house).get("orphan") == "warm")


@pytest.mark.parametrize("killed", [False, True])
def test_workers_that_hold_nothing_are_adopted_after_a_wipe(
    house: House, cluster: ClusterOrchestrator, killed: bool
) -> None:
    warm, started = set(cluster.workers), cluster.starts["old"]
    if killed:
        house.kill_manager()

    house.connection.call("FLUSHALL")

    if killed:
        house.manage()
    wait_until(lambda: states(house) == dict.fromkeys(warm, "warm"))
    with house.lease("f", 20) as lease:
        assert lease.worker.worker_id in warm
        assert lease.worker.address == cluster.workers[lease.worker.worker_id].info.address
    assert cluster.starts["old"] == started


def test_a_worker_that_holds_a_target_is_replaced_after_a_wipe_and_one_that_runs_a_call_after_the_call(
    house: House, cluster: ClusterOrchestrator
) -> None:
    loaded, busy = (cluster.workers[house.lease(name).worker.worker_id] for name in ("f", "g"))
    loaded.is_loaded = busy.is_loaded = busy.is_busy = True
    wait_until(lambda: house.warm() >= STOCK)

    house.connection.call("FLUSHALL")

    wait_until(lambda: loaded.info.worker_id in cluster.destroyed and house.warm() >= STOCK)
    for _ in range(3):
        house.await_pass()
    assert busy.info.worker_id in cluster.workers
    assert not {loaded.info.worker_id, busy.info.worker_id} & states(house).keys()
    busy.is_busy = False
    wait_until(lambda: busy.info.worker_id in cluster.destroyed)
    with house.lease("f", 20):
        pass


def test_a_worker_that_does_not_answer_is_replaced(house: House, cluster: ClusterOrchestrator) -> None:
    cluster.add("silent", "old", house.runtime_id).close()
    wait_until(lambda: "silent" in cluster.destroyed)
    assert "silent" not in states(house)


def test_a_worker_of_no_runtime_is_ended(house: House, cluster: ClusterOrchestrator) -> None:
    cluster.add("stray", "old", "no such runtime")
    wait_until(lambda: "stray" in cluster.destroyed)


def test_a_standby_leaves_the_workers_of_the_active_manager_alone(house: House, cluster: ClusterOrchestrator) -> None:
    with house.standby():
        for _ in range(3):
            house.await_pass()
        with house.lease("f"):
            pass
    assert cluster.destroyed == set()


@pytest.mark.parametrize("killed", [False, True])
def test_a_recall_is_taken_back_when_no_queue_wants_a_worker(house: House, killed: bool) -> None:
    """Also by the manager after one that was killed."""
    lease = house.lease("f")
    worker_id = lease.worker.worker_id
    if killed:
        house.kill_manager()
    assert Registry(house.connection, house.settings).recall(worker_id, 600_000, "for another function")
    if killed:
        house.manage()
    house.await_pass()

    house.end(lease)

    wait_until(lambda: states(house)[worker_id] == "idle")
