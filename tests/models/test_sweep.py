"""The sweep adds what the ready sets miss, and gives processes time to extend claims that have ended unnoticed."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from qinling_falcon.errors import Unavailable
from qinling_falcon.jobs import sweep as module
from qinling_falcon.jobs.sweep import Sweep
from qinling_falcon.models import clock, execution_queue
from tests.models.test_execution_queue import accepted

CLAIM_S = 8.0


class Ready:
    """Notes what is pushed."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def push_all(self, project_id: str, executions: Iterable[tuple[str, str, int]]) -> None:
        self.ids += [execution_id for _, execution_id, _ in executions]


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that lets seconds pass, for the sweep only."""
    passed = [0.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0]))
    return lambda seconds: passed.__setitem__(0, passed[0] + seconds)


@pytest.fixture
def pushed(settings: Any, later: Any) -> Any:
    """A function that makes a step of a sweep, and returns what it pushed."""
    ready = Ready()
    sweep = Sweep(ready, CLAIM_S, 4)

    def step() -> list[str]:
        ready.ids.clear()
        sweep.step()
        return sorted(ready.ids)

    return step


def expired(function_id: str) -> str:
    """An execution whose claim has ended."""
    record = accepted(function_id)
    now = clock.now()
    execution_queue.claim([record.id], now, now)
    return record.id


def test_at_first_only_executions_without_a_claim_are_added(function_id: str, pushed: Any, later: Any) -> None:
    waiting, lost = accepted(function_id).id, expired(function_id)
    assert pushed() == [waiting]
    later(CLAIM_S / 4)
    assert pushed() == sorted([waiting, lost])


def test_slow_passes_alone_hold_nothing_up(function_id: str, pushed: Any, later: Any) -> None:
    lost = expired(function_id)
    pushed()
    for _ in range(3):
        later(CLAIM_S)
        assert pushed() == [lost]


@pytest.mark.parametrize(("away_s", "is_added"), [(1, True), (CLAIM_S * 2, False)])
def test_after_a_long_outage_processes_get_time_to_extend_their_claims(
    function_id: str, pushed: Any, later: Any, monkeypatch: pytest.MonkeyPatch, away_s: float, is_added: bool
) -> None:
    lost = expired(function_id)
    pushed()
    later(CLAIM_S)
    assert pushed() == [lost]

    def fail(*args: Any) -> Any:
        raise Unavailable("The database can't be reached.")

    with monkeypatch.context() as patch:
        patch.setattr(execution_queue, "unclaimed", fail)
        with pytest.raises(Unavailable):
            pushed()
    later(away_s)

    assert pushed() == ([lost] if is_added else [])
    later(CLAIM_S / 4)
    assert pushed() == [lost]
