"""The package cache: concurrent reads share one read, memory is limited, and failed reads are not repeated at once."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
from gevent.event import Event

from qinling_falcon.errors import BadGateway, Unavailable
from qinling_falcon.storage import package_cache
from qinling_falcon.storage.package_cache import PackageCache
from qinling_falcon.storage.packages import PackageMissing
from tests.support.clock import Clock


class Storage:
    """Stands for one that takes its time.

    Attributes:
        asked: keys, in order.
        error: what reading raises.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.error: Exception | None = None

    def read(self, key: str) -> bytes:
        self.asked.append(key)
        gevent.sleep(0.001)
        if self.error is not None:
            raise self.error
        return key.encode() * 10


@pytest.fixture
def storage() -> Storage:
    return Storage()


def cache(storage: Any, size: int = 1000) -> PackageCache:
    return PackageCache(storage, size)


def test_simultaneous_readers_make_one_reading(storage: Storage) -> None:
    packages = cache(storage)
    assert not packages.has("a")
    readers = [gevent.spawn(packages.read, "a", "p") for _ in range(20)]
    gevent.joinall(readers)
    assert {reader.value for reader in readers} == {b"a" * 10}
    assert packages.has("a")
    assert packages.read("a", "p") == b"a" * 10
    assert storage.asked == ["a"]


def test_a_reader_that_ends_leaves_the_others_their_package(storage: Storage) -> None:
    packages = cache(storage)
    first, second = gevent.spawn(packages.read, "a", "p"), gevent.spawn(packages.read, "a", "p")
    gevent.sleep(0)
    first.kill()
    assert second.get() == b"a" * 10


def test_what_was_used_longest_ago_goes_first(storage: Storage) -> None:
    packages = cache(storage, 25)
    for key in "abac":
        packages.read(key, "p")
    assert [key for key in "abc" if packages.has(key)] == ["a", "c"]
    assert packages.read("large" * 3, "p") == b"large" * 30
    assert [key for key in ("a", "c", "large" * 3) if packages.has(key)] == ["a", "c"]


@pytest.mark.parametrize("size", [0, 9])
def test_nothing_is_kept_that_is_too_large(storage: Storage, size: int) -> None:
    packages = cache(storage, size)
    assert packages.read("a", "p") == packages.read("a", "p") == b"a" * 10
    assert storage.asked == ["a", "a"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PackageMissing("a"), PackageMissing),
        (Unavailable("away", retry_after_s=7), Unavailable),
        (BadGateway("nonsense"), BadGateway),
        (OSError("broken"), Unavailable),
    ],
)
def test_what_could_not_be_read_is_not_asked_for_again_at_once(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, error: Exception, told: type[Exception]
) -> None:
    clock = Clock()
    monkeypatch.setattr(package_cache, "time", clock)
    packages = cache(storage)
    storage.error = error
    for _ in range(3):
        with pytest.raises(told) as caught:
            packages.read("a", "p")
        assert caught.value is not error
        assert getattr(caught.value, "retry_after_s", None) in (7, 1, None)
    assert storage.asked == ["a"]
    storage.error = None
    assert packages.read("b", "p") == b"b" * 10
    clock.now += 1
    assert packages.read("a", "p") == b"a" * 10
    assert packages.read("a", "p") == b"a" * 10
    assert storage.asked == ["a", "b", "a"]


def test_who_only_wants_to_know_waits_for_so_long_and_no_longer(storage: Storage) -> None:
    packages = cache(storage)
    assert not packages.can_read("a", "p", 0.0)
    assert packages.can_read("a", "p")
    assert packages.can_read("a", "p", 0.0)
    assert storage.asked == ["a"]


def test_few_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each package is in memory while it is read."""
    monkeypatch.setattr(package_cache, "_PATIENCE_S", 0.05)
    at_once, most, goes_on = 0, 0, Event()

    class Slow(Storage):
        def read(self, key: str) -> bytes:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            goes_on.wait()
            at_once -= 1
            return b""

    packages = cache(Slow())
    readers = [gevent.spawn(packages.can_read, str(number), f"p{number % 5}") for number in range(20)]
    gevent.joinall(readers[8:])  # whose patience ends
    assert [type(reader.exception) for reader in readers[8:]] == [Unavailable] * 12
    goes_on.set()
    gevent.joinall(readers)
    assert (most, [reader.value for reader in readers[:8]]) == (8, [True] * 8)
    assert packages.can_read("19", "p")


def test_a_burst_of_first_calls_reads_all_packages(storage: Storage) -> None:
    packages = cache(storage, 100_000)
    names = [f"package {number}" for number in range(200)]
    readers = [gevent.spawn(packages.read, name, "p") for name in names]
    assert [reader.get() for reader in readers] == [name.encode() * 10 for name in names]


def test_slow_packages_of_one_project_keep_no_other_waiting() -> None:
    goes_on = Event()

    class Slow(Storage):
        def read(self, key: str) -> bytes:
            if key != "quick":
                goes_on.wait()
            return b"x"

    packages = cache(Slow())
    readers = [gevent.spawn(packages.can_read, str(number), "p") for number in range(20)]
    gevent.sleep(0)
    assert packages.can_read("quick", "other", 5.0)
    goes_on.set()
    gevent.joinall(readers)
    assert [reader.value for reader in readers] == [True] * 20
