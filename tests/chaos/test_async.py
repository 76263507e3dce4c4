"""Asynchronous executions while processes are killed: each acknowledged one ends, and its attempts explain its runs.

`make test` runs a short form, and `make chaos` the whole.
"""

from __future__ import annotations

import os

import pytest

from tests.chaos.functions import GOOD, HOSTILE, OTHER_GOOD, RETRIED, WELL_BEHAVED
from tests.chaos.scenario import Scenario

IS_LONG = os.environ.get("CHAOS") == "1"
PROCESSES = ("kill worker", "stop worker", "kill tasks", "kill web child", "kill pool")
SERVERS = ("restart redis", "wipe redis", "lose redis")

pytestmark = [pytest.mark.xdist_group("chaos"), pytest.mark.timeout(1200 if IS_LONG else 240)]
long = pytest.mark.skipif(not IS_LONG, reason="a part of `make chaos`")
databases = pytest.mark.parametrize("is_postgres", [False, True], ids=["sqlite", "postgres"])


def test_short() -> None:
    """One fault of each kind, with little load."""
    kinds = ("kill worker", "kill web child", "restart redis", "kill pool")
    Scenario(WELL_BEHAVED, 300, 8, 0.05, kinds, 4, 1.5, first_backlog=20, settled_s=90).run()


@long
@databases
def test_kills_of_workers(is_postgres: bool) -> None:
    scenario = Scenario(
        WELL_BEHAVED, 5000, 8, 0.12, ("kill worker",), 20, 1.5, first_backlog=5000, settled_s=400, workers=2
    )
    verdict = scenario.run(is_postgres=is_postgres)
    assert verdict.numbers["faults with a queue"] == 20


@long
@databases
def test_all_faults(is_postgres: bool) -> None:
    """Callers of several projects also cancel, delete, retry and wait, and repeat requests."""
    kinds = (*PROCESSES, *SERVERS, "kill web", *(["restart postgres"] if is_postgres else []))
    scenario = Scenario((), 800, 12, 0.2, kinds, 2 * len(kinds), 2, settled_s=400, workers=2)
    scenario.run(is_postgres=is_postgres, max_workers=12)


@long
@databases
def test_outages_of_the_database(is_postgres: bool) -> None:
    """The database is away for longer than a claim lasts, while callers also cancel, delete, retry and wait.

    No message between processes is lost, so no function begins to run long after its execution was cancelled.
    """
    kinds = ("suspend database", "stop postgres", "restart postgres") if is_postgres else ("suspend database",)
    scenario = Scenario((), 600, 12, 0.2, kinds, 6 if is_postgres else 3, 3, settled_s=400, workers=2)
    scenario.run(is_postgres=is_postgres, max_workers=12)


@long
@databases
def test_interrupts(is_postgres: bool) -> None:
    """A process that stops does not wait for its functions. Redis or the database may be away then."""
    kinds = ("stop worker", "stop worker", "restart postgres" if is_postgres else "restart redis")
    scenario = Scenario(WELL_BEHAVED, 250, 8, 1.5, kinds, 9, 2, settled_s=200, workers=2)
    scenario.run(is_postgres=is_postgres, shutdown_grace_s=0)


@long
@databases
def test_frozen_workers(is_postgres: bool) -> None:
    """A process that goes on after its leases and claims are over changes nothing any more."""
    kinds = ("freeze worker",)
    Scenario(WELL_BEHAVED, 450, 12, 0.5, kinds, 6, 2, settled_s=200, workers=2).run(is_postgres=is_postgres)


@long
@databases
def test_quick_functions_and_short_claims(is_postgres: bool) -> None:
    """Most time goes into claims and commits, so the kills hit these."""
    kinds = ("kill worker", "kill worker", "freeze worker", "kill tasks", "kill web child", "wipe redis")
    scenario = Scenario(WELL_BEHAVED, 1000, 12, 0.02, kinds, 18, 1, settled_s=200, workers=3)
    scenario.run(is_postgres=is_postgres, async_claim_s=2)


@long
@databases
def test_losses_of_redis(is_postgres: bool) -> None:
    Scenario(WELL_BEHAVED, 600, 15, 0.2, SERVERS, 9, 2, settled_s=200).run(is_postgres=is_postgres)


@long
@databases
def test_kills_of_the_pool_manager(is_postgres: bool) -> None:
    Scenario(WELL_BEHAVED, 600, 15, 0.2, ("kill pool",), 5, 4, settled_s=200).run(is_postgres=is_postgres)


@long
@databases
def test_kills_of_web(is_postgres: bool) -> None:
    kinds = ("kill web child", "kill web child", "kill web")
    Scenario(WELL_BEHAVED, 900, 12, 0.05, kinds, 12, 1.5, settled_s=200).run(is_postgres=is_postgres)


@long
@databases
def test_stops_of_workers(is_postgres: bool) -> None:
    kinds = ("stop worker",)
    Scenario(WELL_BEHAVED, 600, 10, 0.4, kinds, 8, 2, settled_s=200, workers=2).run(is_postgres=is_postgres)


@long
@databases
def test_changes_and_deletions_of_functions(is_postgres: bool) -> None:
    kinds = ("change function", "change function", "change function", "delete function", "kill worker")
    functions = (GOOD, OTHER_GOOD, GOOD, OTHER_GOOD)
    Scenario(functions, 800, 12, 0.2, kinds, 15, 1.5, settled_s=200, workers=2).run(is_postgres=is_postgres)


@long
@databases
def test_retries(is_postgres: bool) -> None:
    kinds = ("kill worker", "kill pool")
    Scenario(RETRIED, 300, 12, 0.1, kinds, 4, 4, settled_s=200).run(is_postgres=is_postgres)


@long
@databases
def test_bursts_of_deliveries(is_postgres: bool) -> None:
    """Senders of a webhook repeat each delivery on any error."""
    kinds = ("kill worker", "kill web child", "kill web child", "kill web")
    scenario = Scenario((GOOD,), 20_000, 0, 0.01, kinds, 16, 1.5, settled_s=400, workers=2, senders=64)
    scenario.run(is_postgres=is_postgres)


@long
@databases
def test_jobs_fire_once(is_postgres: bool) -> None:
    kinds = ("kill scheduler", "kill tasks", "kill tasks", "kill worker", *SERVERS)
    scenario = Scenario((GOOD,), 2000, 40, 0.01, kinds, 21, 1.5, settled_s=400, workers=2, schedulers=2)
    scenario.run(is_postgres=is_postgres, quota_jobs=-1)


@long
def test_functions_that_run_longer_than_a_claim() -> None:
    verdict = Scenario(WELL_BEHAVED, 40, 2, 7.0, settled_s=200).run(async_claim_s=2)
    assert set(verdict.numbers["attempts"]) == {1}


def test_short_burst_of_deliveries() -> None:
    """With little load."""
    kinds = ("kill web child", "kill worker")
    Scenario((GOOD,), 600, 0, 0.01, kinds, 4, 0.5, settled_s=90, senders=16).run()


def test_few_jobs_fire_once() -> None:
    """With few faults."""
    kinds = ("kill scheduler", "kill tasks")
    Scenario((GOOD,), 100, 6, 0.01, kinds, 4, 1, settled_s=150, schedulers=1).run()


@pytest.mark.parametrize("is_postgres", [False, pytest.param(True, marks=long)], ids=["sqlite", "postgres"])
def test_hostile_functions_beside_good_ones(is_postgres: bool) -> None:
    """No fault but the functions' own: good ones succeed, and each bad one ends with its own status.

    All of them end while executions of another function hang, of which there are as many as workers.
    """
    executions = 500 if IS_LONG else 120
    Scenario(HOSTILE, executions, 2, 0.05, settled_s=200, hung=8).run(is_postgres=is_postgres)
