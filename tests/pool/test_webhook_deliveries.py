"""Deliveries to webhooks: one script says whether one is admitted, and the log is bounded."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.deliveries import AdmitResult, Deliveries, Outcome, RateLimit
from qinling_falcon.pool.pool import Pool
from qinling_falcon.pool.runner import ScriptRunner
from qinling_falcon.settings import Settings
from tests.pool.side import Side, wait_until

ADMITTED = AdmitResult(Outcome.ADMITTED)


class Scene:
    """Deliveries to one webhook of one function, at times that a test chooses."""

    def __init__(self, side: Side):
        self.side = side
        self.now = 1_700_000_000_000
        self.deliveries = Deliveries(ScriptRunner(side.connection, lambda: self.now))
        generations = side.pool.generations(["webhook:w", "function:f"])
        self.webhook, self.target = ("webhook:w", generations["webhook:w"]), ("function:f", generations["function:f"])

    def admit(self, per_minute: int | None = None, burst: int = 1, most_waiting: int = 100) -> AdmitResult:
        limit = None if per_minute is None else RateLimit.of("w", per_minute, burst)
        return self.deliveries.admit(self.webhook, [self.target], limit, "p", most_waiting)

    def admitted(self, per_minute: int, burst: int, tries: int) -> int:
        """How many of so many deliveries at once are admitted."""
        return sum(self.admit(per_minute, burst) == ADMITTED for _ in range(tries))

    def bucket(self) -> bytes | None:
        found: bytes | None = self.side.connection.call("GET", "qf:{pool}:bucket:w")
        return found


@pytest.fixture
def scene(side: Side) -> Scene:
    return Scene(side)


def test_a_webhook_without_a_limit_has_no_bucket(scene: Scene) -> None:
    assert {scene.admit() for _ in range(50)} == {ADMITTED}
    assert scene.bucket() is None


def test_a_bucket_holds_a_burst_and_is_refilled_evenly(scene: Scene) -> None:
    assert scene.admitted(60, 5, 20) == 5
    assert scene.admit(60, 5) == AdmitResult(Outcome.LIMITED, retry_after_s=1)
    scene.now += 2_500
    assert scene.admitted(60, 5, 20) == 2
    scene.now += 500
    assert scene.admitted(60, 5, 20) == 1, "the half token of before is not lost"
    scene.now += 3_600_000
    assert scene.admitted(60, 5, 20) == 5, "it holds no more than the burst"


def test_over_a_long_time_the_rate_is_exact(scene: Scene) -> None:
    """Also if there are fractions of milliseconds between two tokens."""
    count = 0
    for _ in range(6000):
        scene.now += 10
        count += scene.admit(7000, 1) == ADMITTED
    assert count == 6000
    for _ in range(6000):
        scene.now += 10
        count += scene.admit(700, 2) == ADMITTED
    assert 6699 <= count <= 6702


def test_a_refused_delivery_is_told_when_there_is_a_token(scene: Scene) -> None:
    scene.admit(1, 1)
    scene.now += 20_500
    assert scene.admit(1, 1) == AdmitResult(Outcome.LIMITED, retry_after_s=40)
    scene.now += 39_500
    assert scene.admit(1, 1) == ADMITTED


def test_a_new_limit_holds_at_once(scene: Scene) -> None:
    assert scene.admitted(1, 100, 200) == 100
    scene.now += 1_000
    assert scene.admitted(60, 10, 20) == 0
    scene.now += 1_000
    assert scene.admitted(60, 10, 20) == 1, "the bucket of the old limit would be empty for an hour"


def test_a_clock_that_is_set_back_stops_nothing_for_long(scene: Scene) -> None:
    assert scene.admitted(60, 2, 5) == 2
    scene.now -= 3_600_000
    assert scene.admit(60, 2).outcome is Outcome.LIMITED
    scene.now += 1_000
    assert scene.admit(60, 2) == ADMITTED


def test_a_bucket_expires_when_it_is_full(scene: Scene) -> None:
    scene.admitted(60, 5, 3)
    left = scene.side.connection.call("PTTL", "qf:{pool}:bucket:w")
    assert 0 < left <= 3_000


@pytest.mark.parametrize("changed", ["webhook:w", "function:f"])
def test_a_change_of_the_webhook_or_the_target_is_noticed_and_takes_no_token(scene: Scene, changed: str) -> None:
    stale = Outcome.STALE_WEBHOOK if changed == "webhook:w" else Outcome.STALE_TARGET
    with scene.side.pool.changing(changed):
        assert scene.admit(1, 1).outcome is stale
    assert scene.admit(1, 1).outcome is stale
    assert scene.bucket() is None


def test_a_full_queue_is_noticed_before_a_token_is_taken(scene: Scene) -> None:
    for execution in ("a", "b"):
        scene.side.pool.ready.push("p", "f", execution)
    scene.side.sync()
    assert scene.admit(1, 1, most_waiting=2) == AdmitResult(Outcome.FULL, waiting=2)
    assert scene.bucket() is None
    assert scene.admit(1, 1, most_waiting=3) == ADMITTED


def test_the_log_has_the_last_entries_newest_first_and_expires(side: Side) -> None:
    for number in range(250):
        side.pool.deliveries.log("w", b"%d" % number)
    side.pool.deliveries.log("other", b"one")
    side.pool.deliveries.flush()
    assert side.pool.deliveries.logged("w") == [b"%d" % number for number in range(249, 149, -1)]
    assert side.pool.deliveries.logged("other") == [b"one"]
    assert 0 < side.connection.call("TTL", "qf:{pool}:deliveries:w") <= 7 * 24 * 3600


@pytest.mark.parametrize(
    ("accepted", "refused", "shown"),
    [(250, 0, (100, 0)), (0, 250, (0, 100)), (250, 250, (50, 50)), (30, 250, (30, 70)), (250, 10, (90, 10))],
)
def test_refused_deliveries_push_at_most_half_of_the_accepted_ones_out(
    side: Side, accepted: int, refused: int, shown: tuple[int, int]
) -> None:
    for number in range(accepted):
        side.pool.deliveries.log("w", b"a%d" % number)
    for number in range(refused):
        side.pool.deliveries.log("w", b"r%d" % number, refused=True)
    side.pool.deliveries.flush()
    last = [b"a%d" % (accepted - 1 - at) for at in range(shown[0])]
    last += [b"r%d" % (refused - 1 - at) for at in range(shown[1])]
    assert side.pool.deliveries.logged("w") == last


def test_the_log_is_written_by_itself(side: Side) -> None:
    side.pool.deliveries.log("w", b"one")
    wait_until(lambda: side.pool.deliveries.logged("w") == [b"one"])
    side.pool.deliveries.log("w", b"two")
    wait_until(lambda: side.pool.deliveries.logged("w") == [b"two", b"one"])


def test_entries_wait_while_redis_is_away_and_are_bounded(side: Side, tmp_path: object) -> None:
    lonely = PipelinedConnection(f"unix://{tmp_path}/nothing.sock", timeout_s=0.2)
    deliveries = Deliveries(ScriptRunner(lonely))
    for number in range(20_000):
        deliveries.log("w", b"%d" % number)
    deliveries.flush()
    assert len(deliveries._unflushed) == 10_000


def test_what_redis_has_of_a_deleted_webhook_is_removed(scene: Scene) -> None:
    scene.admit(1, 1)
    scene.side.pool.deliveries.log("w", b"one")
    scene.side.pool.deliveries.log("w", b"two", refused=True)
    scene.side.pool.deliveries.flush()
    scene.side.pool.deliveries.forget("w")
    scene.side.sync()
    assert scene.side.connection.call("KEYS", "qf:{pool}:*:w") == []


@pytest.fixture
def closing(side: Side) -> Iterator[Pool]:
    pool = Pool(side.connection.another(), "web-closing", Settings())
    pool.start()
    yield pool


def test_a_process_that_stops_writes_its_last_entries(side: Side, closing: Pool) -> None:
    closing.deliveries.log("w", b"last")
    closing.close()
    assert side.pool.deliveries.logged("w") == [b"last"]
