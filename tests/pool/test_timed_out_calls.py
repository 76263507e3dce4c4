"""The error for a call that got no worker in time: how long it waited, and which limit blocks it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from qinling_falcon.errors import Unavailable
from qinling_falcon.pool.connection import PipelinedConnection
from tests.pool.side import LIMITS, Side

TIGHT = dataclasses.replace(LIMITS, function_concurrency=2, project_concurrency=3, max_workers=6)


@pytest.fixture
def side(connection: PipelinedConnection) -> Iterator[Side]:
    """Six warm workers, and low limits."""
    side = Side(connection.url, TIGHT)
    side.registry.configure("python3", 0)
    side.registry.set_limits(6, 20.0)
    for _ in range(6):
        side.start()
    yield side
    side.close()


def refusal(side: Side, function: str, concurrency: int | None = None) -> str:
    with pytest.raises(Unavailable) as refused:
        side.pool.lease(side.request(function, concurrency=concurrency), 0.2)
    assert refused.value.retry_after_s == 1
    assert refused.value.message.startswith("No worker was free in time: this call waited for 0.")
    assert refused.value.message.endswith("The function has not run. Try again.")
    return refused.value.message


def hold(side: Side, function: str, count: int, concurrency: int | None = None) -> None:
    for _ in range(count):
        side.pool.lease(side.request(function, concurrency=concurrency, kind="warm"), 0)


def test_the_concurrency_of_the_function(side: Side) -> None:
    hold(side, "f", 1, concurrency=1)

    assert "Function f has reached its concurrency of 1." in refusal(side, "f", concurrency=1)


def test_the_limit_of_all_functions(side: Side) -> None:
    hold(side, "f", 2, concurrency=9)

    assert "Function f has reached FUNCTION_CONCURRENCY, 2 calls at once." in refusal(side, "f", 9)


def test_the_limit_of_the_project(side: Side) -> None:
    hold(side, "f", 2)
    hold(side, "g", 1)

    assert "Project p has reached PROJECT_CONCURRENCY, 3 calls at once." in refusal(side, "h")


def test_no_number_of_other_projects(side: Side) -> None:
    for number in range(6):
        side.pool.lease(side.request(f"f{number}", project=f"p{number}"), 1)

    message = refusal(side, "h")

    assert "All workers are busy." in message
    assert " 6" not in message
