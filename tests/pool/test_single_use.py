"""Workers for a single execution, which their process makes: limits, ends, and what becomes of them after crashes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from qinling_falcon.errors import Unavailable
from qinling_falcon.orchestrators.base import SingleUse, WorkerInfo
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.leases import Lease, StaleTarget
from qinling_falcon.pool.single_use import RUNTIME
from qinling_falcon.settings import Settings
from tests.pool.cluster import ClusterOrchestrator
from tests.pool.house import House, running_house
from tests.pool.side import LIMITS, Side, end, lost, may_run, wait_until


def lease(side: Side, function: str = "f", wait_s: float = 0, **changes: Any) -> Lease:
    return side.lease(function, wait_s, runtime_id=RUNTIME, single_use_image="i", **changes)


def test_each_lease_has_a_new_worker_that_drains_afterwards(side: Side) -> None:
    first, second = lease(side), lease(side)
    assert first.worker.worker_id != second.worker.worker_id
    assert (first.cold, first.worker.needs_load, first.worker.address) == ("start", False, "")

    end(first, destroy=True)
    with second:
        pass  # unused

    side.sync()
    assert set(side.registry.draining()) == {first.worker.worker_id, second.worker.worker_id}
    assert side.leased() == set()
    assert lost(side) == {}


@pytest.mark.parametrize(
    ("held", "refused"),
    [
        ([("f", 1)], ("f", 1)),
        ([("f", None)] * 4, ("f", None)),
        ([("f", None)] * 3 + [("g", None)] * 2, ("h", None)),
    ],
    ids=["of the version", "of the function", "of the project"],
)
def test_a_limit_is_never_exceeded(side: Side, held: list[Any], refused: Any) -> None:
    assert (LIMITS.function_concurrency, LIMITS.project_concurrency) == (4, 5)
    leases = [lease(side, function, concurrency=concurrency) for function, concurrency in held]

    with pytest.raises(Unavailable, match="No worker was free in time"):
        lease(side, refused[0], concurrency=refused[1])

    end(leases[0], destroy=True)
    lease(side, refused[0], concurrency=refused[1])


def test_warm_workers_count_too(side: Side) -> None:
    side.start()
    held = side.lease("f", concurrency=1)

    with pytest.raises(Unavailable):
        lease(side, "f", concurrency=1)
    end(held)
    lease(side, "f", concurrency=1)


def test_asynchronous_executions_have_a_share(side: Side) -> None:
    worker = Side(side.connection.url, holder="worker:1")
    for number in range(4):  # three quarters of six workers
        lease(worker, f"f{number}", project=f"p{number}")

    with pytest.raises(Unavailable):
        lease(worker, "other", project="other")
    lease(side, "other", project="other")
    worker.close()


def test_a_call_waits_for_the_end_of_another_one(side: Side) -> None:
    held = lease(side, concurrency=1)
    waiting = gevent.spawn(lease, side, wait_s=20, concurrency=1)
    gevent.sleep(0.1)
    assert not waiting.ready()

    end(held, destroy=True)

    assert waiting.get(timeout=10).execution_id != held.execution_id


def test_a_changed_target_is_not_run(side: Side) -> None:
    request = side.request()._replace(runtime_id=RUNTIME, single_use_image="i")
    with side.pool.changing("function:f"):
        pass

    with pytest.raises(StaleTarget):
        side.pool.lease(request, 0)
    assert side.leased() == set()


def test_a_full_pool_evicts_an_idle_worker_for_one(side: Side) -> None:
    idle = side.start()
    end(side.lease("idle"))
    for number in range(LIMITS.max_workers - 1):
        lease(side, f"f{number}", project=f"p{number}")

    with pytest.raises(Unavailable):
        lease(side, "other", project="other")
    assert side.registry.draining() == [idle]
    side.registry.remove(idle)

    lease(side, "other", project="other")


def test_a_lease_whose_process_has_failed_is_lost_with_its_worker(side: Side) -> None:
    held = lease(side)
    with pytest.raises(ZeroDivisionError), held:
        held.used()
        raise ZeroDivisionError

    wait_until(lambda: held.execution_id in lost(side))
    assert may_run(side) == {held.execution_id: held.worker.worker_id}
    assert side.registry.draining() == [held.worker.worker_id]


# With a manager


@pytest.fixture
def cluster() -> Iterator[ClusterOrchestrator]:
    cluster = ClusterOrchestrator()
    yield cluster
    cluster.close()


@pytest.fixture
def house(connection: PipelinedConnection, tmp_path: Path, cluster: ClusterOrchestrator) -> Iterator[House]:
    settings = Settings(var_dir=tmp_path, reap_interval_s=0.1, holder_ttl_s=2)
    with running_house(connection, settings, cluster) as house:
        yield house


def house_lease(house: House) -> Lease:
    request = house.request("f")._replace(runtime_id=RUNTIME, single_use_image="i")
    return house.pool.lease(request, 0)


def make(house: House, cluster: ClusterOrchestrator, held: Lease) -> str:
    """The process makes the worker of its lease."""
    single_use = SingleUse(house.pool.holder, held.worker.name)
    cluster.single_use[held.worker.worker_id] = WorkerInfo(held.worker.worker_id, "", "", single_use=single_use)
    return held.worker.worker_id


def known(house: House) -> set[str]:
    return set(house.snapshot()["workers"])


def test_the_manager_ends_a_worker_when_its_lease_has_ended(house: House, cluster: ClusterOrchestrator) -> None:
    held = house_lease(house)
    worker = make(house, cluster, held)
    house.await_pass()
    assert worker in cluster.single_use

    end(held, destroy=True)

    wait_until(lambda: worker in cluster.destroyed and worker not in known(house))
    assert house.lost == {}


def test_a_lease_stays_until_its_worker_is_made(house: House) -> None:
    held = house_lease(house)

    house.await_pass()

    assert held.worker.worker_id in known(house)
    end(held, destroy=True)
    wait_until(lambda: held.worker.worker_id not in known(house))


def test_the_worker_of_a_dead_process_ends_before_its_execution_is_recorded(
    house: House, cluster: ClusterOrchestrator
) -> None:
    held = house_lease(house)
    worker = make(house, cluster, held)

    gevent.killall(house.pool._greenlets)  # its heartbeats stop

    wait_until(lambda: house.lost == {held.execution_id: "detail"})
    assert worker in cluster.destroyed
    wait_until(lambda: worker not in known(house))


def test_after_a_wipe_a_worker_runs_on_while_its_process_holds_it(house: House, cluster: ClusterOrchestrator) -> None:
    held = house_lease(house)
    worker = make(house, cluster, held)

    house.connection.call("FLUSHALL")
    gevent.sleep(2 * house.settings.holder_ttl_s)
    assert worker in cluster.single_use

    end(held, destroy=True)
    wait_until(lambda: worker in cluster.destroyed)


def test_a_worker_that_no_process_holds_is_ended(house: House, cluster: ClusterOrchestrator) -> None:
    cluster.single_use["orphan"] = WorkerInfo("orphan", "", "", single_use=SingleUse("a dead process", "orphan:1"))

    wait_until(lambda: "orphan" in cluster.destroyed)
