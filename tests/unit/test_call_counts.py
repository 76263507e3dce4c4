"""How calls are counted by how they got their workers."""

from __future__ import annotations

import pytest

from qinling_falcon.pool.call_counts import CallCounts, Outcome
from qinling_falcon.pool.leases import StartKind
from qinling_falcon.pool.local_queue import PATIENCE_S


@pytest.mark.parametrize(
    ("cold", "waited_s", "outcome"),
    [
        ("none", 0.0, "hit"),
        ("none", PATIENCE_S, "wait"),
        ("assign", 0.0, "assign"),
        ("assign", 1.0, "assign"),
        ("start", 1.0, "start"),
    ],
)
def test_a_call_counts_by_its_worker_and_its_wait(cold: StartKind, waited_s: float, outcome: Outcome) -> None:
    counts = CallCounts()
    counts.served("r", cold, waited_s)
    assert counts.take() == ["r", outcome, 1]
    assert counts.take() == []


def test_calls_without_a_worker_are_counted_too() -> None:
    counts = CallCounts()
    counts.refused("r")
    counts.refused("r")
    assert counts.take() == ["r", "refused", 2]
