"""Copies of objects in Swift follow their objects, whatever happens meanwhile."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event

from qinling_falcon.errors import Conflict, NotFound, Unavailable
from qinling_falcon.invocation import swift_sources
from qinling_falcon.invocation.sessions import Access, TrustGone
from qinling_falcon.invocation.swift_sources import SwiftSources
from qinling_falcon.invocation.targets import Resolver, Target
from qinling_falcon.models import database, function, quotas
from qinling_falcon.models.scope import Context
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.pool import Pool
from qinling_falcon.settings import Settings
from qinling_falcon.storage.packages import LocalPackages
from tests.models.factories import make_function, make_runtime
from tests.servers.fake_swift import TOKEN, FakeSwift, answer, fake_swift
from tests.servers.valkey import valkey
from tests.storage.archives import make_zip
from tests.support.clock import Clock
from tests.support.tables import make_tables

OWNER = Context("project-a")
HERE = {"container": "c", "object": "o"}
OLD, NEW, NEWER = (make_zip({"main.py": f"def main():\n    return {word!r}\n".encode()}) for word in ("1", "2", "3"))


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


class Rights:
    """Stands for trusts."""

    gone = False

    def __init__(self, url: str):
        self.url = url
        self.forgotten: list[str] = []

    def session(self, trust_id: str) -> dict[str, Any]:
        return {}

    def access(self, trust_id: str) -> Access:
        if self.gone:
            raise TrustGone
        return Access(self.url, TOKEN if self.forgotten else "ended")

    def forget(self, trust_id: str) -> None:
        self.forgotten.append(trust_id)


class World:
    """A function that is a copy of an object, and what keeps it."""

    def __init__(self, server: FakeSwift, pool: Pool, settings: Settings):
        self.server, self.pool, self.settings = server, pool, settings
        self.packages = LocalPackages.from_settings(settings)
        self.rights = Rights(server.url)
        self.sources = SwiftSources(self.rights, self.packages, pool, settings)
        server.objects["c", "o"] = OLD
        self.id = make_function(
            OWNER, make_runtime(OWNER).id, code={"source": "swift", "swift": HERE, "md5sum": md5(OLD)},
            package_key=self.save(OLD), source_etag=md5(OLD), trust_id="trust",
        ).id  # fmt: skip

    def save(self, content: bytes) -> str:
        return self.packages.save(io.BytesIO(content), len(content), project_id="p").key

    def target(self) -> Target:
        return Resolver(self.pool).resolve(OWNER, self.id, 0)

    def is_current(self) -> bool:
        return self.sources.is_current(self.target())

    def runs(self) -> bytes:
        """What would run; nothing else is kept."""
        key = self.target().package
        assert [path.name for path in (self.settings.var_dir / "packages").iterdir()] == [key]
        return self.packages.read(key)

    def asked(self) -> list[str]:
        """How Swift was asked since the last look, by a token that it believes."""
        methods = [method for method, _, token in self.server.seen if token == TOKEN]
        self.server.seen.clear()
        return methods

    def refused(self, word: str) -> None:
        with pytest.raises(Conflict, match=word):
            self.is_current()

    def meanwhile(self, act: Callable[[], Any]) -> None:
        """Have something happen once, right after the object was fetched."""
        save = self.packages.save

        def saved(*arguments: Any, **named: Any) -> Any:
            self.packages.save = save
            stored = save(*arguments, **named)
            act()
            return stored

        self.packages.save = saved


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(swift_sources, "time", made)
    return made


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with valkey() as url:
        yield url


@pytest.fixture
def world(tmp_path: Path, redis_url: str, clock: Clock) -> Iterator[World]:
    settings = Settings(var_dir=tmp_path, redis_url=redis_url, swift_check_s=0)
    make_tables(settings)
    database.connect(settings)
    connection = PipelinedConnection(settings.effective_redis_url)
    with fake_swift() as server:
        yield World(server, Pool(connection, "sources-test", settings), settings)
    connection.close()
    database.disconnect()


def test_a_changed_object_is_fetched_once_and_a_token_that_has_ended_replaced(world: World) -> None:
    assert world.is_current()
    assert (world.asked(), world.rights.forgotten) == (["HEAD"], ["trust"])
    world.server.objects["c", "o"] = NEW
    old = world.target()
    assert not world.sources.is_current(old)
    assert not world.sources.is_current(old)
    assert (world.asked(), world.runs()) == (["HEAD", "GET"], NEW)
    assert world.is_current()


def test_an_object_that_is_changed_back_before_it_is_fetched_is_no_change(world: World) -> None:
    def behave(handler: BaseHTTPRequestHandler) -> None:
        if handler.command == "HEAD" and handler.headers["X-Auth-Token"] == TOKEN:
            return answer(handler, 200, b"", ETag=md5(NEW))
        return world.server.behave(handler)

    world.server.misbehave = behave
    assert world.is_current()
    assert (world.asked(), world.runs()) == (["HEAD", "GET"], OLD)


def test_a_function_that_is_deleted_while_its_object_is_fetched_leaves_nothing(world: World) -> None:
    world.server.objects["c", "o"] = NEW

    def delete() -> None:
        for key in function.delete(OWNER, world.id):
            world.packages.delete(key)

    world.meanwhile(delete)
    assert not world.is_current()
    assert list((world.settings.var_dir / "packages").iterdir()) == []
    with pytest.raises(NotFound):
        world.target()


@pytest.mark.parametrize("who", ["another process", "its owner"])
def test_what_somebody_else_has_put_there_meanwhile_stays(world: World, who: str) -> None:
    old = world.target()
    world.server.objects["c", "o"] = NEW

    def put() -> None:
        key = world.save(NEWER)
        if who == "another process":
            row = {"md5sum": md5(NEWER), "package_key": key, "source_etag": md5(NEWER)}
            unused = function.refresh(OWNER, world.id, HERE, md5(OLD), package_size=1, **row)
        else:
            code = {"source": "swift", "swift": HERE | {"object": "p"}, "md5sum": md5(NEWER)}
            unused = function.update(OWNER, world.id, {"code": code, "package_key": key}).unused
        for name in unused:
            world.packages.delete(name)

    world.meanwhile(put)
    assert not world.sources.is_current(old)
    assert world.runs() == NEWER


def test_a_refusal_is_short(world: World, clock: Clock) -> None:
    del world.server.objects["c", "o"]
    world.refused("gone")
    world.refused("gone")
    assert world.asked() == ["HEAD"]
    world.server.objects["c", "o"] = OLD
    clock.now += swift_sources._REFUSED_S
    assert world.is_current()


def test_what_is_no_package_is_fetched_once(world: World, clock: Clock) -> None:
    world.server.objects["c", "o"] = b"no zip"
    for _ in range(3):
        world.refused("zip")
        clock.now += swift_sources._REFUSED_S
    assert world.asked() == ["HEAD", "GET", "HEAD", "HEAD"]
    assert world.runs() == OLD


def test_a_copy_over_the_quota_stops_calls_until_there_is_room(world: World, clock: Clock) -> None:
    assert world.is_current()
    quotas.change(OWNER.project_id, {quotas.PACKAGE_BYTES: len(NEW) - 1})
    world.server.objects["c", "o"] = NEW
    assert not world.is_current()  # the attempt makes its target stale
    world.refused("Quota exceeded for package_bytes")
    assert world.runs() == OLD  # the new copy is not kept
    world.asked()
    world.refused("Quota exceeded for package_bytes")
    assert world.asked() == []
    quotas.change(OWNER.project_id, {quotas.PACKAGE_BYTES: len(NEW)})
    clock.now += swift_sources._AWAY_S
    assert not world.is_current()
    assert world.runs() == NEW


def test_rights_that_are_withdrawn_stop_calls(world: World, clock: Clock) -> None:
    assert world.is_current()
    world.server.misbehave = lambda handler: answer(handler, 403)
    world.refused("may not be read")
    world.server.misbehave = None
    clock.now += swift_sources._REFUSED_S
    assert world.is_current()
    world.rights.gone = True
    world.refused("trust")


def test_the_refusal_of_an_old_target_is_none_of_the_function(world: World) -> None:
    old = world.target()
    with world.pool.changing(f"function:{world.id}"):
        pass
    del world.server.objects["c", "o"]
    assert not world.sources.is_current(old)


def test_nobody_asks_a_swift_that_was_away_again_at_once(world: World, clock: Clock) -> None:
    world.server.misbehave = lambda handler: answer(handler, 503)
    assert world.is_current()
    one_check = len(world.server.seen)  # of more than one try
    assert one_check >= 1
    for _ in range(2):
        assert world.is_current()
    assert len(world.server.seen) == one_check
    clock.now += swift_sources._AWAY_S
    assert world.is_current()
    assert len(world.server.seen) == 2 * one_check


def test_one_call_waits_for_a_swift_that_hangs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, going_on = [], Event()

    def etag(*place: Any) -> str:
        asked.append(place)
        going_on.wait()
        return md5(OLD)

    monkeypatch.setattr(world.sources._swift, "etag", etag)
    monkeypatch.setattr(swift_sources, "_PATIENCE_S", 0.01)
    assert world.is_current()
    monkeypatch.setattr(world.sources, "_wait", None)  # nobody may from here on
    assert world.is_current()
    assert len(asked) == 1
    going_on.set()


def test_simultaneous_calls_make_one_check(world: World) -> None:
    world.server.objects["c", "o"] = NEW
    target = world.target()
    calls = [gevent.spawn(world.sources.is_current, target) for _ in range(8)]
    gevent.joinall(calls)
    assert [call.value for call in calls] == [False] * 8
    assert (world.asked(), world.runs()) == (["HEAD", "GET"], NEW)


def test_the_resolver_gives_a_target_that_is_current(world: World) -> None:
    resolver = Resolver(world.pool, world.sources)
    assert world.packages.read(resolver.resolve(OWNER, world.id, 0).package) == OLD
    world.server.objects["c", "o"] = NEW
    world.sources._checks.pop(world.id)  # its time is over

    target = resolver.resolve(OWNER, world.id, 0)

    assert world.packages.read(target.package) == NEW
    assert world.sources.is_current(target)


def test_an_object_that_never_stays_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.sources, "is_current", lambda target: False)
    with pytest.raises(Unavailable, match="changes again and again"):
        Resolver(world.pool, world.sources).resolve(OWNER, world.id, 0)
