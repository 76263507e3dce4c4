from __future__ import annotations

from collections.abc import Iterator

import pytest

from qinling_falcon.pool.connection import PipelinedConnection
from tests.pool.side import Side
from tests.servers.valkey import ValkeyServer, valkey_server


@pytest.fixture(scope="session")
def server() -> Iterator[ValkeyServer]:
    with valkey_server() as server:
        yield server


@pytest.fixture
def connection(server: ValkeyServer) -> Iterator[PipelinedConnection]:
    """A connection to an empty Valkey."""
    connection = PipelinedConnection(server.url)
    connection.call("FLUSHALL")
    yield connection
    connection.close()


@pytest.fixture
def side(connection: PipelinedConnection) -> Iterator[Side]:
    """A process that leases workers of the runtime `python3`, of which two are kept warm."""
    side = Side(connection.url)
    side.configure()
    yield side
    side.close()


@pytest.fixture
def other(side: Side) -> Iterator[Side]:
    """Another process."""
    other = Side(side.connection.url, holder="web-2")
    yield other
    other.close()
