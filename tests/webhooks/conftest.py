"""Callbacks on both databases, a receiver on loopback, and functions that call it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from qinling_falcon.jobs.callbacks import Callbacks
from qinling_falcon.models import database
from qinling_falcon.schemas.executions import ExecutionShown
from qinling_falcon.settings import Settings
from tests.models.conftest import backend, migrated, postgres_tables  # noqa: F401 - fixtures
from tests.models.factories import make_function, make_runtime
from tests.support.secrets import SECRET, fernet_key
from tests.webhooks.deliveries import OWNER
from tests.webhooks.receiver import Receiver, receiver


@pytest.fixture
def settings(migrated: Settings) -> Iterator[Settings]:  # noqa: F811 - a fixture
    """This process is connected, callbacks may reach loopback, and failed ones are due again at once."""
    settings = replace(
        migrated,
        secret_keys=fernet_key(1),
        callback_networks="127.0.0.0/8",
        callback_timeout_s=5.0,
        callback_backoff_s=0.01,
        callback_max_attempts=3,
    )
    database.connect(settings)
    yield settings
    database.disconnect()


@pytest.fixture
def receiving() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


@pytest.fixture
def runtime_id(settings: Settings) -> str:
    return make_runtime(OWNER).id


@pytest.fixture
def calling_id(runtime_id: str, receiving: Receiver) -> str:
    """A function whose callbacks go to the receiver, signed."""
    urls = {"on_success": receiving.url("/done"), "on_failure": receiving.url("/failed")}
    return make_function(OWNER, runtime_id, callback_secret=SECRET, **urls).id


@pytest.fixture
def delivering(settings: Settings) -> Iterator[Callbacks]:
    made = Callbacks(settings, ExecutionShown().show)
    yield made
    made.close(10)
