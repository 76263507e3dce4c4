"""Functions from images on the engine, with containers that play scripts; and what containers get and give."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import gevent
import pytest
from gevent.event import Event

from qinling_falcon.errors import Unavailable
from qinling_falcon.invocation.calls import Accepted, Call, accepted_record
from qinling_falcon.invocation.cancellation import cancel
from qinling_falcon.invocation.engine import Engine
from qinling_falcon.invocation.image_calls import ImageCalls, arguments_of, outcome_of
from qinling_falcon.models import clock, execution_queue
from qinling_falcon.orchestrators.base import SingleUse
from qinling_falcon.orchestrators.image_runs import EndKind, ImageRun, ImageRunEnd, NotStarted, RunLost
from qinling_falcon.storage.package_cache import PackageCache
from tests.invocation.conftest import OWNER, House, MakeHouse, nothing_left
from tests.models.factories import make_function
from tests.pool.side import wait_until

RUN = ImageRun("e", "w", SingleUse("h", "w:1"), "f", "i", (), 100, 33554432, 5)


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        (None, ()),
        ("", ()),
        ("Qinling", ("Qinling",)),
        (" two  words\n", ("two", "words")),
        ('["a b", 1, {"c": null}]', ("a b", "1", '{"c": null}')),
        ("[]", ()),
        ('"a b"', ("a b",)),
        ('{"name": "Ada"}', ('{"name": "Ada"}',)),
        ('{"__function_input": "a b"}', ("a", "b")),
        ('{"__function_input": "a b", "c": 1}', ('{"__function_input": "a b", "c": 1}',)),
        ("42", ("42",)),
        ("true", ("true",)),
    ],
)
def test_the_input_becomes_arguments(text: str | None, arguments: tuple[str, ...]) -> None:
    assert arguments_of(text) == arguments


@pytest.mark.parametrize(
    ("end", "status", "output", "reason"),
    [
        (ImageRunEnd(EndKind.FAILED, 1.5, exit_status=3), "failed", "exit status 3.", "exit status 3."),
        (ImageRunEnd(EndKind.FAILED, 1.5, exit_status=139), "failed", "SIGSEGV", "139, as by signal SIGSEGV."),
        (ImageRunEnd(EndKind.TIMED_OUT, 1.5), "failed", "Function execution timeout", "its timeout of 5 s."),
        (ImageRunEnd(EndKind.OUT_OF_MEMORY, 1.5), "failed", "too much resource consumption", "(32 MiB)."),
        (ImageRunEnd(EndKind.OUT_OF_DISK, 1.5, reason="R."), "failed", "too much resource consumption", "R."),
        (ImageRunEnd(EndKind.UNUSABLE, reason="R"), "failed", "Image 'i' can't be run. R", "Image 'i' can't be run. R"),
        (ImageRunEnd(EndKind.CANCELLED), "cancelled", "Function execution was cancelled", "was cancelled."),
    ],
)
def test_a_failure_is_told_as_that_of_any_function(
    end: ImageRunEnd, status: str, output: str, reason: str
) -> None:
    ran = outcome_of(RUN, end)

    result = json.loads(ran.result)
    assert ran.status == status
    assert output in result["output"]
    assert reason in str(ran.message)
    assert result["duration"] >= (5 if end.kind is EndKind.TIMED_OUT else 0)


def test_the_result_of_a_success_is_its_duration() -> None:
    ran = outcome_of(RUN, ImageRunEnd(EndKind.SUCCEEDED, 1.23456, "log"))

    assert (ran.status, ran.message, json.loads(ran.result), ran.log) == ("success", None, {"duration": 1.235}, "log")


class Containers:
    """Containers that play scripts.

    Attributes:
        runs: the executions that got a container.
        script: what the next one does.
    """

    def __init__(self) -> None:
        self.runs: list[ImageRun] = []
        self.cancelled: dict[str, Event] = {}
        self.script: Callable[[ImageRun], ImageRunEnd] = lambda run: ImageRunEnd(EndKind.SUCCEEDED, 0.5, "log\n")

    def run(self, run: ImageRun) -> ImageRunEnd:
        self.runs.append(run)
        self.cancelled[run.worker_id] = Event()
        return self.script(run)

    def cancel(self, worker_id: str) -> bool:
        if worker_id not in self.cancelled:
            return False
        self.cancelled[worker_id].set()
        return True

    def forever(self, run: ImageRun) -> ImageRunEnd:
        assert self.cancelled[run.worker_id].wait(30)
        return ImageRunEnd(EndKind.CANCELLED)


@pytest.fixture
def containers() -> Containers:
    return Containers()


@pytest.fixture
def house(make_house: MakeHouse, containers: Containers) -> House:
    """A `worker` process, whose function is from an image."""
    house = make_house("worker")
    code = {"source": "image", "image": "img"}
    house.function_id = make_function(OWNER, None, code=code, entry=None, package_key=None).id
    images = ImageCalls(lambda: containers, house.pool.holder, house.settings)
    house.engine = Engine(
        house.pool, house.resolver, PackageCache(house.storage, 1 << 20), house.settings, attempts=house.attempts,
        images=images,
    )  # fmt: skip
    house.engine.start()
    return house


def removed(house: House) -> None:
    """The manager has ended all workers of ended leases, and nothing is left."""
    house.pool._beat()
    for worker in house.registry.draining():
        house.registry.remove(worker)
    nothing_left(house)
    assert house.registry.workers() == {}


def test_an_execution_runs_in_a_container_and_is_recorded(house: House, containers: Containers) -> None:
    ended = house.call('["a"]')

    [run] = containers.runs
    assert (run.image, run.arguments, run.execution_id) == ("img", ("a",), ended.id)
    assert run.lease == SingleUse(house.pool.holder, run.lease.lease)
    assert run.lease.lease.startswith(f"{run.worker_id}:")
    row = house.recorded(ended.id)
    assert (row.status, row.result, row.cold) == ("success", '{"duration": 0.5}', "start")
    assert ended.log == "log\n"
    removed(house)


def test_a_container_that_is_lost_is_an_error(house: House, containers: Containers) -> None:
    def lose(run: ImageRun) -> ImageRunEnd:
        raise RunLost("deleted")

    containers.script = lose

    ended = house.call()

    assert ended.status == "error"
    assert str(ended.status_reason).startswith("The worker was lost while it ran the function")
    removed(house)


def test_a_call_without_room_for_its_container_has_not_run(house: House, containers: Containers) -> None:
    def refuse(run: ImageRun) -> ImageRunEnd:
        raise NotStarted("There is no room.", retry_after_s=5)

    containers.script = refuse

    with pytest.raises(Unavailable, match="no room"):
        house.call()

    assert house.rows() == []
    removed(house)


def make_accepted(house: House) -> Accepted:
    """An execution that was accepted and claimed."""
    now = clock.now()
    target = house.resolver.resolve(OWNER, house.function_id, 0)
    record = accepted_record(target, Call(house.function_id), clock.new_id(now), now)
    execution_queue.accept(record)
    (claimed,) = execution_queue.claim([record.id], now, now + timedelta(minutes=1))
    return Accepted(
        claimed.id, claimed.project_id, claimed.function_id, claimed.created_at, claimed.attempt, claimed.claim
    )


def test_a_lost_container_is_gone_before_its_execution_is_queued_again(house: House, containers: Containers) -> None:
    def lose(run: ImageRun) -> ImageRunEnd:
        raise RunLost("deleted")

    containers.script = lose
    accepted = make_accepted(house)
    running: Any = gevent.spawn(house.engine.run, Call(house.function_id), accepted)
    wait_until(lambda: len(house.registry.draining()) == 1)
    gevent.sleep(0.1)
    assert not running.ready()

    house.registry.remove(house.registry.draining()[0])

    assert running.get(timeout=10).status == "running"
    assert "Attempt 1 was lost" in str(house.recorded(accepted.id).status_reason)
    removed(house)


def test_a_cancelled_execution_ends_its_container(house: House, containers: Containers) -> None:
    containers.script = containers.forever
    accepted = make_accepted(house)
    running: Any = gevent.spawn(house.engine.run, Call(house.function_id), accepted)
    wait_until(lambda: len(containers.runs) == 1)

    cancel(house.pool, OWNER, accepted.id)

    running.get(timeout=10)
    assert containers.cancelled[containers.runs[0].worker_id].is_set()
    assert house.recorded(accepted.id).status == "cancelled"
    removed(house)
