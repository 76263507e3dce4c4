"""A process that is stopped in a transaction of PostgreSQL holds its locks for seconds, not until it goes on."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psycopg2
import pytest

from qinling_falcon.errors import Unavailable
from qinling_falcon.models.database import transact
from qinling_falcon.models.runtime import Runtime
from qinling_falcon.settings import Settings
from tests.models.connections import connected
from tests.servers.postgres import PostgresServer


def test_the_server_ends_a_transaction_that_does_nothing(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.create_database()
    with connected(Settings(var_dir=tmp_path, database_url=url, database_timeout_s=0.5)):
        transact(lambda: Runtime.create(id="r", project_id="p", image="before"))
        images = []

        def stops() -> None:
            Runtime.update(image="after").where(Runtime.id == "r").execute()
            with contextlib.closing(psycopg2.connect(url)) as other, other.cursor() as cursor:
                cursor.execute("SET lock_timeout = '20s'")
                cursor.execute("SELECT image FROM runtimes WHERE id = 'r' FOR UPDATE")
                images.append(cursor.fetchone()[0])

        with pytest.raises(Unavailable):
            transact(stops)

    assert images == ["before"]
