"""Packages in the service's own account in Swift, with a fake Swift and without Keystone."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qinling_falcon.errors import BadGateway, BadRequest, TooLarge, Unavailable
from qinling_falcon.settings import Settings, SettingsError
from qinling_falcon.settings_environment import read_settings
from qinling_falcon.storage import swift_packages
from qinling_falcon.storage.objects import Account
from qinling_falcon.storage.packages import LocalPackages, PackageMissing
from qinling_falcon.storage.stores import make_packages
from qinling_falcon.storage.swift_packages import SwiftPackages
from tests.servers.fake_swift import TOKEN, FakeSwift, answer, fake_swift
from tests.servers.odd_keystone import odd_keystone
from tests.storage.archives import make_zip

PACKAGE = make_zip({"main.py": b"def main():\n    return 'Hello, World'\n", "data.bin": os.urandom(300_000)})
MD5 = hashlib.md5(PACKAGE).hexdigest()
ACCOUNT = {"os_auth_url": "http://127.0.0.1:1/v3", "os_username": "q", "os_password": "p", "os_project_name": "service"}


class OwnAccount:
    """Stands for Keystone."""

    server: FakeSwift
    token = TOKEN
    renewed = 0

    def __init__(self, settings: Settings) -> None: ...

    def find(self, *, renew: bool = False) -> Account:
        if renew:
            type(self).renewed += 1
            type(self).token = TOKEN
        return Account(self.server.url, self.token)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSwift]:
    with fake_swift() as running:
        account = type("Mine", (OwnAccount,), {"server": running})
        monkeypatch.setattr(swift_packages, "_OwnAccount", account)
        yield running


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    swift: dict[str, Any] = {"package_storage": "swift", "package_container": "packages", "swift_timeout_s": 5}
    return Settings(var_dir=tmp_path, **swift, **ACCOUNT)


@pytest.fixture
def packages(server: FakeSwift, settings: Settings) -> SwiftPackages:
    made = make_packages(settings)
    assert isinstance(made, SwiftPackages)
    return made


def left(settings: Settings) -> list[Path]:
    return list((settings.var_dir / "uploads").iterdir())


def test_a_package_is_read_back_by_another_machine(
    packages: SwiftPackages, server: FakeSwift, settings: Settings, tmp_path: Path
) -> None:
    stored = packages.save(io.BytesIO(PACKAGE), len(PACKAGE), MD5.upper(), project_id="p")
    assert (stored.md5sum, stored.size) == (MD5, len(PACKAGE))
    assert server.objects == {("packages", stored.key): PACKAGE}  # the container was made
    assert left(settings) == []
    other = SwiftPackages(Settings(var_dir=tmp_path / "other", package_container="packages", **ACCOUNT))
    assert other.read(stored.key) == PACKAGE
    unknown = stored.key.translate(str.maketrans("0123456789abcdef", "123456789abcdef0"))
    assert (other.size(stored.key), other.size(unknown)) == (len(PACKAGE), None)
    opened = other.open(stored.key)
    with contextlib.closing(opened.stream):
        assert (opened.size, opened.stream.read(10)) == (len(PACKAGE), PACKAGE[:10])
    second = other.save(io.BytesIO(PACKAGE), len(PACKAGE), project_id="p").key
    other.delete(stored.key)
    other.delete(stored.key)
    with pytest.raises(PackageMissing):
        packages.read(stored.key)
    assert packages.read(second) == PACKAGE


@pytest.mark.parametrize("key", ["", "..", "../../etc/passwd", "a" * 32, "\0", "x.zip"])
def test_a_key_leads_to_packages_alone(packages: SwiftPackages, server: FakeSwift, key: str) -> None:
    for act in (packages.open, packages.read, packages.delete):
        with pytest.raises(PackageMissing):
            act(key)
    assert server.seen == []


def test_what_is_refused_leaves_nothing(packages: SwiftPackages, server: FakeSwift, settings: Settings) -> None:
    refusals: list[tuple[bytes, int, Any, type[Exception]]] = [
        (b"no zip", 1000, None, BadRequest),
        (PACKAGE, len(PACKAGE) - 1, None, TooLarge),
        (PACKAGE, len(PACKAGE), "0" * 32, BadRequest),
    ]
    for content, limit, md5sum, error in refusals:
        with pytest.raises(error):
            packages.save(io.BytesIO(content), limit, md5sum, project_id="p")
    assert (server.objects, server.seen, left(settings)) == ({}, [], [])


def test_a_token_that_has_ended_is_renewed_once(packages: SwiftPackages, server: FakeSwift) -> None:
    account: Any = packages._own
    type(account).token = "ended"
    key = packages.save(io.BytesIO(PACKAGE), len(PACKAGE), project_id="p").key
    assert (account.renewed, packages.read(key)) == (1, PACKAGE)
    server.tokens.clear()
    with pytest.raises(Unavailable):
        packages.read(key)
    assert account.renewed == 2


def test_a_swift_that_is_away_is_a_503_and_leaves_nothing(
    packages: SwiftPackages, server: FakeSwift, settings: Settings
) -> None:
    key = packages.save(io.BytesIO(PACKAGE), len(PACKAGE), project_id="p").key
    for status in (503, 403, 401):
        server.misbehave = lambda handler, status=status: answer(handler, status)
        with pytest.raises(Unavailable):
            packages.save(io.BytesIO(PACKAGE), len(PACKAGE), project_id="p")
        with pytest.raises(Unavailable):
            packages.read(key)
        with pytest.raises(Unavailable):
            packages.sweep(set, 0)
        packages.delete(key)  # is left to the sweep
    server.misbehave = lambda handler: answer(handler, 404)
    with pytest.raises(Unavailable):
        packages.save(io.BytesIO(PACKAGE), len(PACKAGE), project_id="p")
    assert left(settings) == []
    server.misbehave = None
    assert packages.read(key) == PACKAGE


def test_the_sweep_removes_what_nobody_knows(packages: SwiftPackages, server: FakeSwift, settings: Settings) -> None:
    assert packages.sweep(set, 0) == []  # before there is a container
    keys = [packages.save(io.BytesIO(PACKAGE), len(PACKAGE), project_id="p").key for _ in range(7)]
    server.objects["packages", "README"] = b"somebody else's"
    server.objects["other", keys[0]] = b"somebody else's"
    killed = settings.var_dir / "uploads" / "tmpx.partial"
    killed.write_bytes(b"an upload that was killed")
    os.utime(killed, (0, 0))
    known = set(keys[2:])
    assert packages.sweep(lambda: known, 10**10) == []  # all are younger
    assert packages.sweep(lambda: known, 3600) == sorted([*keys[:2], "tmpx.partial"])
    assert {name for _, name in server.objects} == known | {"README", keys[0]}
    assert left(settings) == []


def test_the_sweep_knows_what_was_saved_meanwhile(packages: SwiftPackages) -> None:
    old = packages.save(io.BytesIO(PACKAGE), len(PACKAGE), project_id="p").key
    meanwhile = []

    def known() -> list[str]:
        meanwhile.append(packages.save(io.BytesIO(PACKAGE), len(PACKAGE), project_id="p").key)
        return [old, *meanwhile]

    assert packages.sweep(known, older_than_s=0) == []
    assert packages.read(meanwhile[0]) == PACKAGE


def test_what_is_larger_than_any_package_is_not_read(server: FakeSwift, settings: Settings) -> None:
    small = SwiftPackages(replace(settings, max_package_size=1024, max_unpacked_size=1024))
    key = f"{MD5}-{MD5}.zip"
    server.objects["packages", key] = bytes(1025)
    with pytest.raises(BadGateway):
        small.read(key)
    server.objects["packages", key] = bytes(1024)
    assert small.read(key) == bytes(1024)


def test_keystone_that_is_away_is_a_503(settings: Settings) -> None:
    with pytest.raises(Unavailable):
        SwiftPackages(settings).read(f"{MD5}-{MD5}.zip")


ODD: list[dict[str, Any]] = [
    {"token": None},
    {"token": {"expires_at": "tomorrow"}},
    {"token": {"expires_at": "2999-01-01T00:00:00Z", "catalog": 7}},
    {"token": {"expires_at": "2999-01-01T00:00:00Z", "catalog": [{"type": "object-store", "endpoints": None}]}},
]


@pytest.mark.parametrize("body", [*(json.dumps(said).encode() for said in ODD), b"[" * 100_000])
def test_keystone_that_makes_no_sense_is_a_503(settings: Settings, body: bytes) -> None:
    with odd_keystone() as odd:
        odd.logins, odd.body, odd.headers = 200, body, {"X-Subject-Token": "t"}
        packages = SwiftPackages(replace(settings, os_auth_url=odd.url))
        with pytest.raises(Unavailable):
            packages.read(f"{MD5}-{MD5}.zip")
        packages.delete(f"{MD5}-{MD5}.zip")  # what can't be removed now is left to the sweep


def test_which_storage_is_used_is_a_setting(tmp_path: Path) -> None:
    assert isinstance(make_packages(Settings(var_dir=tmp_path)), LocalPackages)


@pytest.mark.parametrize("name", ["a/b", "..", ".", "a\tb", "ü", "x" * 201])
def test_a_container_that_leads_elsewhere_stops_the_start(name: str) -> None:
    with pytest.raises(SettingsError, match="PACKAGE_CONTAINER"):
        read_settings({"PACKAGE_CONTAINER": name})
