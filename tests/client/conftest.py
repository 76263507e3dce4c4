"""One running service and one process of the client for each of pytest's workers, while it runs these tests."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client.driver import Client, Driver, running_driver
from tests.integration.service import Service, package, running_service

HELLO = "def main(name='World'):\n    print('hello')\n    return 'Hello, ' + name\n"
_numbers = itertools.count()

Maker = Callable[..., dict[str, Any]]


@pytest.fixture(scope="package")
def service() -> Iterator[Service]:
    with running_service(with_workers=True, max_workers=12, warm_workers=2, worker_idle_s=60) as running:
        running.http.headers["Connection"] = "close"  # at its end web would wait for an idle one
        yield running


@pytest.fixture(scope="package")
def driver(service: Service) -> Iterator[Driver]:
    with running_driver(service.url) as running:
        yield running


@pytest.fixture(params=[False, True], ids=["plain", "session"])
def client(driver: Driver, request: pytest.FixtureRequest) -> Client:
    """The library, without and with a session of keystoneauth1."""
    return Client(driver, session=request.param)


@pytest.fixture(scope="package")
def check_fields(driver: Driver) -> Callable[..., None]:
    """Checks that answers hold every column that the commands print of that kind, and no name that breaks a resource.

    A column that an answer lacks is fetched with a call of its own, or printed as empty.
    """
    columns = driver.ask({"inventory": True})["columns"]

    def check(kind: str, *answers: dict[str, Any]) -> None:
        for answer in answers:
            assert set(columns[kind]) <= answer.keys()
            assert not {"manager", "get", "to_dict", "is_loaded", "set_loaded"} & answer.keys()

    return check


@pytest.fixture
def name() -> str:
    """A name that nothing else has."""
    return f"name-{next(_numbers)}"


@pytest.fixture
def zipped(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a package of one module, `main`."""

    def write(source: str = HELLO) -> Path:
        path = tmp_path / f"package-{next(_numbers)}.zip"
        path.write_bytes(package(main=source))
        return path

    return write


@pytest.fixture
def make(driver: Driver, service: Service, zipped: Callable[[str], Path]) -> Maker:
    """Makes a function, by the library."""

    def create(source: str = HELLO, **fields: Any) -> dict[str, Any]:
        made = Client(driver, session=True).functions.create(
            code={"source": "package"}, runtime=service.runtime(), package=zipped(source), **fields
        )
        return dict(made)

    return create
