"""Many callbacks at once: places, turns of projects, and slow receivers."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import gevent
import pytest

from qinling_falcon.jobs import callbacks as jobs
from qinling_falcon.jobs.callbacks import Callbacks
from qinling_falcon.models.scope import Context
from qinling_falcon.schemas.executions import ExecutionShown
from qinling_falcon.settings import Settings
from qinling_falcon.webhooks.sender import Sender
from tests.models.factories import make_function
from tests.webhooks.deliveries import OTHER, OWNER, deliver, rows, run
from tests.webhooks.receiver import Receiver, receiver


class HeldSender(Sender):
    """Holds each request until it is told to go on, and knows how many it holds."""

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self.go_on = gevent.event.Event()
        self.held = 0
        self.most = 0
        self.urls: list[str] = []

    def post(self, url: str, headers: Any, body: bytes, project_id: str = "") -> int:
        self.urls.append(url)
        self.held += 1
        self.most = max(self.most, self.held)
        self.go_on.wait()
        self.held -= 1
        return 204


@pytest.fixture
def held(settings: Settings) -> HeldSender:
    return HeldSender(settings)


def holding(settings: Settings, sender: Sender, places: int) -> Callbacks:
    return Callbacks(replace(settings, callback_concurrency=places), ExecutionShown().show, sender)


def test_many_are_delivered_at_once_and_one_project_has_a_quarter_of_the_places(
    runtime_id: str, settings: Settings, held: HeldSender
) -> None:
    mine, theirs = (make_function(owner, runtime_id, on_success=f"http://{owner.project_id}.example").id
                    for owner in (OWNER, OTHER))  # fmt: skip
    for _ in range(20):
        run(mine, project_id="project-a")
    for _ in range(2):
        run(theirs, project_id="project-b")
    delivering = holding(settings, held, 16)

    started = delivering.deliver_due(budget_s=0.2)
    gevent.sleep(0.01)

    assert started == 6
    assert sorted(held.urls) == ["http://project-a.example"] * 4 + ["http://project-b.example"] * 2
    held.go_on.set()
    assert delivering.deliver_due() == 16
    delivering.close(10)
    assert rows() == []


def test_one_call_delivers_more_than_there_are_places(
    calling_id: str, receiving: Receiver, settings: Settings
) -> None:
    for _ in range(25):
        run(calling_id)
    delivering = Callbacks(replace(settings, callback_concurrency=8), ExecutionShown().show)

    assert deliver(delivering) == 25

    assert len({request.headers["webhook-id"] for request in receiving.received}) == 25
    assert rows() == []


def test_projects_take_turns(runtime_id: str, settings: Settings, held: HeldSender) -> None:
    for number in range(6):
        owner = Context(f"project-{number}")
        function_id = make_function(owner, runtime_id, on_success=f"http://p{number}.example").id
        run(function_id, project_id=owner.project_id)
        run(function_id, project_id=owner.project_id)
    delivering = holding(settings, held, 3)

    delivering.deliver_due(budget_s=0.05)
    gevent.sleep(0.01)
    assert len(set(held.urls)) == 3
    held.go_on.set()
    assert delivering.deliver_due() + 3 == 12
    delivering.close(10)
    assert len(set(held.urls[:6])) == 6


def test_a_second_call_at_the_same_time_does_nothing(calling_id: str, settings: Settings, held: HeldSender) -> None:
    for _ in range(3):
        run(calling_id)
    delivering = holding(settings, held, 1)
    first = gevent.spawn(delivering.deliver_due, budget_s=30)
    gevent.sleep(0.01)

    assert delivering.deliver_due() == 0

    held.go_on.set()
    assert first.get(timeout=30) == 3
    delivering.close(10)


def test_a_second_call_lets_the_first_one_look_again(
    runtime_id: str, settings: Settings, held: HeldSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_LOOK_EVERY_S", 60)
    mine, theirs = (make_function(owner, runtime_id, on_success=f"http://{owner.project_id}.example").id
                    for owner in (OWNER, OTHER))  # fmt: skip
    for _ in range(2):
        run(mine)
    delivering = holding(settings, held, 4)
    first = gevent.spawn(delivering.deliver_due, budget_s=60)
    gevent.sleep(0.01)
    run(theirs, project_id="project-b")
    assert held.urls == ["http://project-a.example"]

    delivering.deliver_due()
    gevent.sleep(0.01)

    assert held.urls == ["http://project-a.example", "http://project-b.example"]
    held.go_on.set()
    assert first.get(timeout=30) == 3


def test_without_a_budget_it_never_waits(calling_id: str, settings: Settings, held: HeldSender) -> None:
    for _ in range(3):
        run(calling_id)
    delivering = holding(settings, held, 1)

    assert delivering.deliver_due(budget_s=0) == 1

    held.go_on.set()
    delivering.close(10)
    assert len(rows()) == 2


def test_deliveries_that_do_not_end_in_time_are_left_to_other_processes(
    calling_id: str, settings: Settings, held: HeldSender
) -> None:
    run(calling_id)
    delivering = holding(settings, held, 1)
    assert delivering.deliver_due() == 1
    gevent.sleep(0.01)

    delivering.close(0.01)

    [row] = rows()
    assert (row.attempt, row.claimed_until > row.not_before) == (1, True)


def test_receivers_in_silence_do_not_delay_other_projects(
    runtime_id: str, receiving: Receiver, settings: Settings
) -> None:
    silent = threading.Event()
    with receiver() as tarpit:
        tarpit.answer = lambda handler: silent.wait(30) and None
        slow = make_function(OWNER, runtime_id, on_success=tarpit.url()).id
        for _ in range(20):
            run(slow)
        run(make_function(OTHER, runtime_id, on_success=receiving.url()).id, project_id="project-b")
        delivering = Callbacks(settings, ExecutionShown().show)
        delivering.deliver_due(budget_s=0.1)
        give_up = time.monotonic() + 4  # less than the timeout of a delivery
        while not receiving.received and time.monotonic() < give_up:
            gevent.sleep(0.01)
        try:
            assert len(receiving.received) == 1
        finally:
            silent.set()
            delivering.close(10)
