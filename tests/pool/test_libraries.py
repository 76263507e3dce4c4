"""The scripts of several releases on one Redis: each has its own library, and the pool manager deletes old ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.lua import Library, library
from qinling_falcon.settings import Settings
from tests.pool.house import MOST, House, running_house
from tests.pool.side import Side, end, wait_until


def older_library() -> Library:
    """The library of an older release, which has the same scripts under other names."""
    present, name = library(), f"qf_{0:012x}"
    text = present.text.replace(present.name, name)
    return Library(name, text, {script: f"{name}_{script}" for script in present.functions})


def libraries(connection: PipelinedConnection) -> set[str]:
    return {fields[1].decode() for fields in connection.call("FUNCTION", "LIST")}


@pytest.fixture
def older(connection: PipelinedConnection, monkeypatch: pytest.MonkeyPatch) -> Iterator[Side]:
    """A process of an older release."""
    with monkeypatch.context() as patched:
        patched.setattr("qinling_falcon.pool.connection.library", older_library)
        older = Side(connection.url, holder="web-older")
    yield older
    older.close()


@pytest.fixture
def house(connection: PipelinedConnection, tmp_path: Path) -> Iterator[House]:
    """A pool manager of this release, which is active."""
    settings = Settings(var_dir=tmp_path, max_workers=MOST, reap_interval_s=0.1)
    with running_house(connection, settings) as house:
        yield house


def test_processes_of_two_releases_lease_the_same_workers(side: Side, older: Side) -> None:
    side.start()
    first = side.run()
    again = older.run()
    assert again.worker.worker_id == first.worker.worker_id
    held = older.lease()
    waiting = side.waiting()
    end(held)
    assert waiting.get(timeout=10).worker.worker_id == first.worker.worker_id
    assert libraries(side.connection) >= {library().name, older_library().name}


def test_a_manager_that_becomes_active_deletes_the_libraries_of_other_releases(house: House, older: Side) -> None:
    others = "#!lua name={0}\nredis.register_function('{0}', function() return 1 end)"
    for name in ("qf_of_another_service", "another"):
        house.connection.call("FUNCTION", "LOAD", "REPLACE", others.format(name))
    assert older_library().name in libraries(house.connection)
    house.kill_manager()
    house.manage()
    wait_until(lambda: older_library().name not in libraries(house.connection))
    assert libraries(house.connection) == {library().name, "qf_of_another_service", "another"}
    house.connection.call("FUNCTION", "FLUSH")


def test_neither_a_standby_nor_a_pass_deletes_a_library(house: House, older: Side) -> None:
    with house.standby():
        house.await_pass()
        assert older_library().name in libraries(house.connection)


def test_a_process_whose_library_was_deleted_goes_on(side: Side, older: Side) -> None:
    side.start()
    first = older.run()
    side.registry.delete_other_libraries()
    assert older.run().worker.worker_id == first.worker.worker_id
    assert libraries(side.connection) == {library().name, older_library().name}
