"""Jobs on both databases and a real Valkey. Tests that use `settings` run once on each database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from qinling_falcon.jobs import queues
from qinling_falcon.jobs.alarms import Alarms
from tests.jobs.bench import Bench, Clock
from tests.models.conftest import (  # noqa: F401 - fixtures
    admin,
    backend,
    function_id,
    migrated,
    owner,
    postgres_tables,
    runtime_id,
    settings,
)
from tests.servers.valkey import valkey


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with valkey() as url:
        yield url


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    """A client of RQ's, of an empty Valkey."""
    connection = queues.connect(queues.Settings(redis_url=redis_url))
    connection.flushall()
    yield connection
    connection.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bench(settings: Any, client: Any, clock: Clock) -> Bench:  # noqa: F811 - a fixture
    """A tick with a clock that tests set."""
    return Bench(settings, Alarms(client), clock)
