"""What the manager sees of a pool that has `max_workers`: useful queues and targets, however many others there are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qinling_falcon.pool.connection import PipelinedConnection
from tests.pool.scene import Lease, Scene, target

RECALL_MS = 10_000


@pytest.fixture
def scene(connection: PipelinedConnection) -> Iterator[Scene]:
    scene = Scene(connection, 201)
    yield scene
    scene.close()


class TestQueues:
    @pytest.fixture(params=[9, 17])
    def rich(self, request: pytest.FixtureRequest) -> int:
        """How many targets have their share of the workers, and long queues that rank first."""
        count: int = request.param
        return count

    @pytest.fixture
    def scene(self, connection: PipelinedConnection, rich: int) -> Iterator[Scene]:
        """Each target has 2 workers, which is its share, the first one 3, and the target `poor` 1."""
        scene = Scene(connection, 2 * rich + 2)
        scene.start(2 * rich + 2)
        for number in (0, *range(rich)):
            scene.lease(f"rich{number}", "warm")
        for number in range(rich):
            scene.lease(f"rich{number}", "warm")
        scene.lease("poor")
        for number in range(rich):
            scene.wait(f"rich{number}", calls=100, waited_ms=1000)
        scene.wait("poor", waited_ms=200)
        yield scene
        scene.close()

    def test_a_target_below_its_share_is_seen(self, scene: Scene) -> None:
        view = scene.registry.view()
        assert [one.target for one in view.growing if one.held < 2] == [target("poor")]

    def test_one_target_that_has_its_share_is_seen(self, scene: Scene) -> None:
        assert len([one for one in scene.registry.view().growing if one.held >= 2]) == 1

    def test_a_worker_that_becomes_ready_goes_to_the_target_below_its_share(self, scene: Scene) -> None:
        scene.registry.remove("w0")
        scene.start()
        assert (scene.waiting("poor"), scene.waiting("rich0")) == (0, 100)

    def test_with_room_for_a_worker_the_rank_alone_counts(self, scene: Scene) -> None:
        scene.registry.remove("w0")
        view = scene.registry.view()
        assert len(view.growing) == 8 and target("poor") not in [one.target for one in view.growing]


class TestTargets:
    """Each target has two workers, which run calls."""

    def fill(self, scene: Scene, targets: int) -> dict[str, list[Lease]]:
        """One worker stays warm, so that there are `max_workers`."""
        scene.limit(2 * targets + 1)
        scene.start(2 * targets + 1)
        leases: dict[str, list[Lease]] = {}
        for number in range(targets):
            leases[f"f{number}"] = [scene.lease(f"f{number}", "warm") for _ in range(2)]
            scene.pass_time(1)
        return leases

    def recall(self, scene: Scene, leases: list[Lease]) -> None:
        for worker, _ in leases:
            assert scene.registry.recall(worker.decode(), RECALL_MS)

    def keep(self, scene: Scene, function: str, leases: list[Lease]) -> None:
        for lease in leases:
            scene.release(lease)
        assert scene.scripts.run("keep", target(function), 2) == 2

    @pytest.mark.parametrize("why", ["recalled", "kept"])
    def test_a_target_is_seen_behind_eight_of_which_no_worker_may_be_taken(self, scene: Scene, why: str) -> None:
        leases = self.fill(scene, 9)
        for number in range(8):
            function = f"f{number}"
            if why == "recalled":
                self.recall(scene, leases[function])
            else:
                self.keep(scene, function, leases[function])

        view = scene.registry.view()

        for found in (view.largest, view.longest_without_growth):
            assert [(one.target, one.held, one.state) for one in found] == [(target("f8"), 2, "leased")]

    def test_no_number_of_targets_hides_the_others_for_ever(self, scene: Scene) -> None:
        leases = self.fill(scene, 100)
        for number in range(90):
            self.keep(scene, f"f{number}", leases[f"f{number}"])
        seen: set[str] = set()
        for _ in range(20):
            scene.pass_time(37)
            seen |= {one.target for one in scene.registry.view().longest_without_growth}
        assert seen == {target(f"f{number}") for number in range(90, 100)}

    def test_all_recalls_of_a_target_with_many_workers_are_counted(self, scene: Scene) -> None:
        scene.limit(13)
        scene.start(13)
        leases = [scene.lease("f", "warm") for _ in range(12)]
        self.recall(scene, leases[:7])

        view = scene.registry.view()

        assert sorted(view.recalled) == sorted(worker.decode() for worker, _ in leases[:7])
        assert [(one.held, one.recalled) for one in view.largest] == [(12, 7)]
        assert view.largest[0].worker not in view.recalled

    def test_a_recall_is_not_pending_any_more_when_it_ends(self, scene: Scene) -> None:
        """It is carried out, taken back, or has expired, or its worker ends."""
        leases = self.fill(scene, 2)["f0"] + [scene.lease("g")]
        self.recall(scene, leases)
        scene.release(leases[0])
        scene.registry.recall(leases[1][0].decode(), 0)
        assert scene.registry.view().recalled == [leases[2][0].decode()]
        scene.registry.remove(leases[2][0].decode())
        assert scene.registry.view().recalled == []
        self.recall(scene, leases[1:2])
        scene.pass_time(RECALL_MS)
        assert scene.registry.view().recalled == []
        scene.release(leases[1])
        assert leases[1][0].decode() not in scene.registry.draining()

    def test_an_idle_worker_is_taken_before_a_busy_one(self, scene: Scene) -> None:
        leases = self.fill(scene, 1)["f0"]
        scene.release(leases[1])
        [found] = scene.registry.view().largest
        assert (found.worker, found.state) == (leases[1][0].decode(), "idle")


class TestLongCalls:
    """The manager decides at each 50 ms."""

    def test_a_function_gets_a_worker_soon_beside_functions_that_are_in_long_calls(self, scene: Scene) -> None:
        """Eight functions run calls of 300 s, and got their workers first. Others call theirs again and again."""
        scene.limit(12)
        scene.start(12)
        for number in range(8):
            scene.lease(f"long{number}", run_ms=300_000)
            scene.pass_time(1)
        hot = {f"hot{number}": scene.lease(f"hot{number}") for number in range(4)}
        scene.pass_time(1000)
        scene.wait("new")
        waited_ms = 0
        while scene.waiting("new"):
            assert waited_ms < 5000
            scene.pass_time(50)
            waited_ms += 50
            scene.grow()
            for function, lease in list(hot.items()):
                scene.release(lease)
                reply = scene.ask(function)
                if reply[0] == b"lease":
                    hot[function] = reply[1], reply[4]
                else:
                    hot.pop(function)
        assert len(hot) == 3

    def test_few_workers_are_recalled_for_one_call(self, scene: Scene) -> None:
        """A function runs calls of some seconds in all workers. When one of them ends, the others stay."""
        scene.limit(12)
        scene.start(12)
        leases = [scene.lease("big", "warm") for _ in range(11)]
        scene.release(scene.lease("other"))
        other = scene.lease("other")
        scene.wait("new")
        recalled: list[str] = []
        for _ in range(20):
            scene.pass_time(50)
            recalled += [one.worker for one in scene.grow().recalls]
        assert 1 <= len(recalled) <= 4

        first = next(lease for lease in leases if lease[0].decode() == recalled[0])
        scene.release(first)
        scene.grow()
        scene.grow()

        assert scene.waiting("new") == 0
        for lease in (*leases, other):
            if lease != first:
                scene.release(lease)
        assert scene.registry.draining() == []
