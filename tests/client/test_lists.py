"""Lists of more rows than a page has come whole, for the library never asks for a second page."""

from __future__ import annotations

import contextlib
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.client.conftest import Maker
from tests.client.driver import Client, Driver, running_driver
from tests.integration.service import Service, running_service

pytestmark = pytest.mark.xdist_group("client-lists")

MORE_THAN_A_PAGE = 1200


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """One that nobody else has to read such lists of."""
    with running_service(max_workers=2, warm_workers=1, quota_functions=-1) as running:
        running.http.headers["Connection"] = "close"
        yield running


@pytest.fixture(scope="module")
def driver(service: Service) -> Iterator[Driver]:
    with running_driver(service.url) as running:
        yield running


def fill(service: Service, table: str, row_id: str) -> None:
    """Write copies of a row to the service's database, each with an id and a name of its own."""
    with contextlib.closing(sqlite3.connect(next(service.var_dir.glob("*.db")), timeout=30)) as database, database:
        columns = [column[1] for column in database.execute(f"PRAGMA table_info({table})")]
        row = database.execute(f"SELECT {', '.join(columns)} FROM {table} WHERE id = ?", (row_id,)).fetchone()
        copies = []
        for number in range(MORE_THAN_A_PAGE):
            copy = dict(zip(columns, row, strict=True)) | {"id": str(uuid.uuid4())}
            copy |= {"created_at": copy["created_at"] + 1 + number}
            copy |= {"name": f"copy-{uuid.uuid4()}"} if "name" in copy else {}
            copies.append([*copy.values()])
        places = ", ".join("?" * len(columns))
        database.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", copies)


# How one of each is made of a function's id, and the table that its row is in.
MAKES: dict[str, tuple[str, Callable[[Client, str], dict[str, Any]]]] = {
    "functions": ("functions", lambda client, made: client.functions.get(made)),
    "function_executions": ("executions", lambda client, made: client.function_executions.create(made)),
    "function_aliases": ("function_aliases", lambda client, made: client.function_aliases.create("a", made)),
    "webhooks": ("webhooks", lambda client, made: client.webhooks.create(made)),
    "jobs": ("jobs", lambda client, made: client.jobs.create(function_id=made, pattern="0 0 1 1 *")),
}


@pytest.mark.parametrize("manager", MAKES)
def test_list_is_whole(driver: Driver, service: Service, make: Maker, manager: str) -> None:
    table, create = MAKES[manager]
    first = create(Client(driver, session=True), make()["id"])
    fill(service, table, first["id"])

    for session in (False, True):
        ids = [row["id"] for row in getattr(Client(driver, session=session), manager).list()]
        assert first["id"] in ids
        assert len(set(ids)) == len(ids) > MORE_THAN_A_PAGE


def test_list_with_a_limit_is_a_page(client: Client, service: Service, make: Maker) -> None:
    for _ in range(3):
        make()
    assert len(client.functions.list(limit=2)) == 2


def test_function_behind_the_first_page_is_found_by_its_name(
    client: Client, service: Service, make: Maker, name: str
) -> None:
    fill(service, "functions", make()["id"])
    last = make(name=name)
    assert client.functions.find(name=name)["id"] == last["id"]
