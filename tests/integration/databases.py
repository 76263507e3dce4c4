"""The databases with which a service of the tests runs."""

from __future__ import annotations

import pytest

from tests.servers.postgres import PostgresServer

BOTH = ["sqlite", pytest.param("postgresql", marks=pytest.mark.xdist_group("postgresql"))]
"""The parameters of a fixture that starts a service on each database. Each service can run in a process of its own."""


def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a new database, of the kind that the parameter of a fixture names; empty for SQLite."""
    if request.param == "sqlite":
        return ""
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.create_database()
