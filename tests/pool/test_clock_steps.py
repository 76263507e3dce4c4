"""Steps of Redis's clock by an hour: live calls go on, and nothing stands for an hour."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qinling_falcon.pool.connection import PipelinedConnection
from tests.pool.scene import Lease, Scene

HOUR_MS = 3_600_000
RUN_MS = 30_000


@pytest.fixture
def scene(connection: PipelinedConnection) -> Iterator[Scene]:
    scene = Scene(connection, 8)
    scene.start(8)
    scene.live(3000)
    yield scene
    scene.close()


@pytest.fixture(params=[HOUR_MS, -HOUR_MS], ids=["forward", "back"])
def step_ms(request: pytest.FixtureRequest) -> int:
    ms: int = request.param
    return ms


def lost(scene: Scene) -> set[str]:
    return set(scene.registry.draining())


def name(lease: Lease) -> str:
    return lease[0].decode()


def test_no_lease_is_lost_and_each_one_ends_at_its_deadline(scene: Scene, step_ms: int) -> None:
    before = scene.lease("f", run_ms=RUN_MS)
    scene.live(2000, before)

    scene.now += step_ms

    after = scene.lease("g", run_ms=RUN_MS)
    scene.live(RUN_MS - 5000, before, after)
    assert lost(scene) == set()
    scene.live(4000, before, after)
    assert lost(scene) == ({name(before)} if step_ms > 0 else set())
    scene.live(3000, before, after)
    assert lost(scene) == {name(before), name(after)}


def test_idle_workers_stay_and_can_be_evicted(scene: Scene, step_ms: int) -> None:
    used = scene.lease("f")
    scene.release(used)
    scene.live(1000)

    scene.now += step_ms

    scene.live(1000)
    assert lost(scene) == set()
    scene.live(2000)
    assert scene.registry.evict(name(used), unused_ms=1500)


def test_the_workers_of_a_process_that_dies_are_lost_in_time(scene: Scene, step_ms: int) -> None:
    lease = scene.lease("f", run_ms=300_000)
    scene.live(2000, lease)

    scene.now += step_ms

    for second in range(14):
        assert lost(scene) == set() or second > 3
        scene.pass_time(1000)
        scene.registry.reap()
    assert lost(scene) == {name(lease)}


def test_a_lost_offer_passes_on(scene: Scene, step_ms: int) -> None:
    leases = [scene.lease("f", "warm") for _ in range(7)]
    scene.wait("f")
    scene.release(leases[0])
    assert scene.waiting("f") == 0  # it was offered the worker

    scene.now += step_ms

    scene.live(2000, *leases[1:])
    assert leases[0][0] not in scene.connection.call("ZRANGE", "qf:{pool}:leases", 0, -1)


def test_recalls_are_taken_back(scene: Scene, step_ms: int) -> None:
    lease = scene.lease("f")
    scene.registry.recall(name(lease), 10_000)

    scene.now += step_ms

    scene.live(1000, lease)
    assert scene.registry.view().recalled == []
    scene.release(lease)
    assert lost(scene) == set()


def test_a_waiting_call_has_not_come_in_the_future(scene: Scene, step_ms: int) -> None:
    leases = [scene.lease(f"f{number}") for number in range(8)]
    scene.wait("g")

    scene.now += step_ms

    scene.live(1000, *leases)
    [growing] = scene.registry.view().growing
    assert growing.arrival <= scene.now and growing.rank <= scene.now


def test_a_delay_of_a_pass_is_not_a_step(scene: Scene) -> None:
    lease = scene.lease("f", run_ms=RUN_MS)
    scene.live(1000, lease)
    scene.pass_time(RUN_MS)
    scene.live(1000, lease)
    assert lost(scene) == {name(lease)}


def test_a_step_back_before_the_first_pass_of_a_manager_is_found_too(scene: Scene) -> None:
    lease = scene.lease("f", run_ms=RUN_MS)
    scene.connection.call("DEL", "qf:{pool}:reaper")
    scene.registry._reaped = None

    scene.now -= HOUR_MS

    scene.live(RUN_MS + 2000, lease)
    assert lost(scene) == {name(lease)}
