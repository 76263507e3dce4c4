"""No leased worker waits for a package, and no worker is evicted for a missing package."""

from __future__ import annotations

from typing import Any, cast

import gevent
import pytest
from gevent.event import Event

from qinling_falcon.errors import QinlingError, Unavailable
from qinling_falcon.invocation.calls import Call
from qinling_falcon.invocation.engine import Engine
from qinling_falcon.invocation.loading import Loading, Wait, lease_request
from qinling_falcon.invocation.scaling import Scaler
from qinling_falcon.invocation.targets import Resolver, Target
from qinling_falcon.models.scope import Context
from qinling_falcon.pool.leases import Lease, LeasedWorker, LeaseRequest
from qinling_falcon.pool.pool import Pool
from qinling_falcon.pool.waiter import Gate
from qinling_falcon.settings import Settings
from qinling_falcon.storage.package_cache import PackageCache
from qinling_falcon.storage.packages import PackageMissing

OWNER = Context("p")
TARGET = Target(
    key="f:0:d", function_id="f", version=0, runtime_id="r", project_id="p", package="k", entry="main.main", cpu=100,
    memory_size=1, timeout_s=5, generations=(),
)  # fmt: skip


class Resolves:
    """A fake resolver. After `forget`, it returns the target with the next package."""

    def __init__(self, *packages: str):
        self._packages = list(packages)
        self._target: Target | None = None

    def resolve(self, *about: object) -> Target:
        if self._target is None:
            self._target = TARGET if not self._packages else _naming(self._packages.pop(0))
        return self._target

    def forget(self, target: Target) -> None:
        self._target = None


def _naming(package: str) -> Target:
    members = {name: getattr(TARGET, name) for name in TARGET.__slots__}
    return Target(**members | {"package": package})


class NoWorkers:
    """A fake pool in which no worker holds the target, or only busy ones do.

    Attributes:
        asked: which workers were asked for.
        busy: workers that hold the target.
        free_after_s: when one of them is free for a call that waits in the queue; None: never.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.busy: list[str] = []
        self.free_after_s: float | None = None

    def workers(self, function_id: str, version: int) -> list[str]:
        return self.busy

    def lease_loaded(self, request: LeaseRequest) -> None:
        self.asked.append("loaded")

    def lease(self, request: LeaseRequest, wait_s: float, gate: Gate | None = None) -> Lease:
        if gate is None or gate.is_open:
            self.asked.append("any")
            raise Unavailable("No worker was free in time")
        self.asked.append("queued")
        failed = Event()
        gate.watch(failed.set)
        if not failed.wait(self.free_after_s) and self.free_after_s is not None:
            worker = LeasedWorker("w", "a:1", "s", 1, needs_load=False)
            return Lease(cast(Any, self), worker, request.execution_id, request.queue, "none", 0.0, is_journaled=True)
        assert gate.error is not None
        raise gate.error


class Storage:
    def __init__(self, error: Exception | None = None):
        self.error = error
        self.asked: list[str] = []

    def read(self, key: str) -> bytes:
        self.asked.append(key)
        if self.error is not None:
            raise self.error
        return b"zip"


def refused(storage: Storage, act: str = "call", *packages: str) -> tuple[list[str], QinlingError]:
    """Which workers a call asked for, and what its caller was told."""
    pool, settings, resolver = NoWorkers(), Settings(), cast(Resolver, Resolves(*packages))
    cache = PackageCache(cast(Any, storage), settings.package_cache_size)
    with pytest.raises(QinlingError) as caught:
        engine = Engine(cast(Pool, pool), resolver, cache, settings)
        if act == "call":
            engine.invoke(OWNER, Call("f"))
        else:
            Scaler(engine, cast(Pool, pool), resolver, settings).scale_up(OWNER, "f", 0, 2)
    return pool.asked, caught.value


@pytest.mark.parametrize(("act", "asked"), [("call", ["loaded"]), ("scale_up", [])])
def test_no_worker_is_taken_while_the_storage_is_away(act: str, asked: list[str]) -> None:
    workers, told = refused(Storage(Unavailable("away", retry_after_s=1)), act)
    assert (workers, told.status) == (asked, 503)
    assert "away" in told.message


def test_an_odd_error_of_the_storage_is_a_503_too() -> None:
    for act in ("call", "scale_up"):
        assert refused(Storage(OSError("broken")), act)[1].status == 503


@pytest.mark.parametrize(("act", "asked"), [("call", ["loaded"]), ("scale_up", [])])
def test_a_lost_package_takes_no_worker_and_is_named(act: str, asked: list[str]) -> None:
    storage = Storage(PackageMissing("k"))
    workers, told = refused(storage, act)
    assert (workers, storage.asked) == (asked, ["k"])
    assert "The package of function f is not in the package storage" in told.message
    assert "PACKAGE_STORAGE=local" in told.message


def test_a_package_that_was_replaced_meanwhile_is_looked_for_under_its_new_name() -> None:
    class Replaced(Storage):
        def read(self, key: str) -> bytes:
            self.error = PackageMissing(key) if key == "old" else None
            return super().read(key)

    storage = Replaced()
    workers, told = refused(storage, "call", "old", "new")
    assert storage.asked == ["old", "new"]
    assert workers == ["loaded", "loaded", "any"]
    assert "No worker was free" in told.message


def loading(pool: NoWorkers, storage: Any, **settings: Any) -> tuple[Loading, LeaseRequest]:
    made = Settings(**settings)
    request = lease_request(TARGET, made, "e", "", 5.0)
    return Loading(cast(Pool, pool), PackageCache(storage, made.package_cache_size), made), request


def test_a_busy_worker_that_holds_the_function_serves_on_while_the_storage_is_away() -> None:
    pool = NoWorkers()
    pool.busy, pool.free_after_s = ["w"], 0.1
    made, request = loading(pool, Storage(Unavailable("away")))
    assert made.lease(TARGET, request, Wait(5)).worker.worker_id == "w"
    assert pool.asked == ["loaded", "queued"]


def test_a_worker_that_gets_free_is_taken_while_the_storage_is_slow() -> None:
    class Hangs(Storage):
        def read(self, key: str) -> bytes:
            gevent.sleep(30)
            return b"zip"

    pool = NoWorkers()
    pool.free_after_s = 0.1
    made, request = loading(pool, Hangs())
    assert made.lease(TARGET, request, Wait(5)).worker.worker_id == "w"
    assert pool.asked == ["loaded", "queued"]


def test_what_the_storage_said_is_told_when_no_worker_gets_free_either() -> None:
    pool = NoWorkers()
    pool.busy = ["w"]
    made, request = loading(pool, Storage(Unavailable("the storage is away")), invoke_queue_timeout_s=0.3)
    with pytest.raises(Unavailable, match="storage is away"):
        made.lease(TARGET, request, Wait(0.3))
    assert pool.asked == ["loaded", "queued"]


def test_the_time_of_reading_is_no_waiting() -> None:
    class Slow(Storage):
        def read(self, key: str) -> bytes:
            gevent.sleep(0.1)
            return super().read(key)

    made, _ = loading(NoWorkers(), Slow())
    wait = Wait(0.05)
    with pytest.raises(Unavailable, match="No worker was free"):
        made.lease(TARGET, lease_request(TARGET, Settings(), "e", "", 5.0, kind="warm"), wait)
    assert wait.left_s() > 0
