"""Fails tests whose greenlets fail, and removes what the tests of a session have left on the machine."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from gevent import Timeout
from gevent.hub import Hub
from redis.exceptions import RedisError

from qinling_falcon.errors import QinlingError
from qinling_falcon.pool.leases import StaleTarget
from tests.kubernetes.selection import skip_others
from tests.models.connections import shared_postgres
from tests.servers.postgres import PostgresServer, running_postgres
from tests.support.control_groups import remove_groups_of

# The tests start hundreds of Python processes. Without bytecode each one compiles all of its modules anew. That is
# two thirds of the time to collect the tests, and a tenth of the time to start a service.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

_TESTS = Path(__file__).parent
# What takes longest by itself, longest first. The group of a file's tests comes with it.
_FIRST = (
    "run/test_run.py", "soak/test_kills.py", "integration/openstack/test_docs.py", "openapi/test_fuzz.py",
    "soak/", "integration/openstack/", "models/test_reads.py", "chaos/",
)  # fmt: skip

_ON_PURPOSE = (QinlingError, StaleTarget, RedisError, Timeout)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Keep the garbage collector away from the thousands of tests, which live as long as the process."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    """Have xdist hand out tests in the order of `pytest_collection_modifyitems`, and not the largest groups first."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest groups and tests, so that no process is left with one of them at the end.

    Tests are skipped that need a cluster, or that do not hold for pods.
    """

    def place(item: pytest.Item) -> int:
        path = item.path.relative_to(_TESTS).as_posix()
        others = len(_FIRST) + (item.get_closest_marker("xdist_group") is None)
        return next((place for place, first in enumerate(_FIRST) if path.startswith(first)), others)

    items.sort(key=place)
    skip_others(items)


@pytest.fixture(scope="session", autouse=True)
def remove_groups(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remove the control groups of the session's installs: a killed manager leaves them to the next one."""
    yield
    remove_groups_of(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One PostgreSQL for all tests of a process that make databases in it. A test that stops one starts its own."""
    shared = shared_postgres()
    with running_postgres() if shared is None else contextlib.nullcontext(shared) as server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail the test when an error ends a greenlet that nobody raises on purpose: a failed assertion, a bug.

    Errors of the service and of Redis are outcomes of calls, which tests read with `get`. What goes on while fixtures
    are taken down does not count. For threads, pytest fails the test (see `filterwarnings` in pyproject.toml).
    """
    failed: list[str] = []
    handle = Hub.handle_error

    def note(hub: Hub, context: object, kind: type[BaseException], value: Any, traceback: Any) -> None:
        if not issubclass(kind, (*hub.NOT_ERROR, *_ON_PURPOSE)):
            failed.append(f"{context!r}: {kind.__name__}: {value}")
        handle(hub, context, kind, value, traceback)

    with mock.patch.object(Hub, "handle_error", note):
        yield
    assert not failed, "errors that ended greenlets"
