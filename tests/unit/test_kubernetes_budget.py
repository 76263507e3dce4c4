"""The budget of requests to the API server."""

from __future__ import annotations

from qinling_falcon.orchestrators.kubernetes.budget import Budget


def test_a_request_that_would_wait_for_too_long_is_not_sent() -> None:
    budget = Budget(60)
    while budget.spend(0, urgent=True):
        assert budget.used <= 60

    assert budget.used == 60
    assert not budget.spend(30, urgent=True)


def test_a_part_of_the_budget_is_kept_for_urgent_requests() -> None:
    budget = Budget(60)
    while budget.spend(0, urgent=False):
        assert budget.used <= 60

    assert budget.used == 54
    assert budget.spend(0, urgent=True)
