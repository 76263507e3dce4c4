"""The check of uploaded packages, and a false Swift with one object."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qinling_falcon.settings import Settings
from qinling_falcon.storage.archive import ArchiveLimits, check_zip
from qinling_falcon.storage.objects import Account
from qinling_falcon.storage.swift import Swift
from tests.servers.fake_swift import TOKEN, FakeSwift, fake_swift
from tests.storage.swift_transfers import CONTENT

Check = Callable[[bytes], None]
LIMITS = ArchiveLimits(max_files=100, max_unpacked_size=1_000_000, max_depth=10)


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Checks a package as an upload is checked. Nothing is written."""

    def run(data: bytes) -> None:
        path = tmp_path / "package"
        path.write_bytes(data)
        check_zip(path, LIMITS)
        assert [entry.name for entry in tmp_path.iterdir()] == ["package"]

    return run


@pytest.fixture
def server() -> Iterator[FakeSwift]:
    with fake_swift() as running:
        running.objects["c", "o"] = CONTENT
        yield running


@pytest.fixture
def account(server: FakeSwift) -> Account:
    return Account(server.url, TOKEN)


@pytest.fixture
def swift() -> Swift:
    return Swift(Settings(swift_timeout_s=5))
