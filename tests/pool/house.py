"""A pool manager on a real Valkey and SQLite, with workers that are only names."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gevent
from gevent.event import Event

from qinling_falcon.models import database, runtime
from qinling_falcon.models.scope import Context
from qinling_falcon.orchestrators.base import Confinement, RuntimeImage, WorkerEvent, WorkerInfo
from qinling_falcon.pool import keys
from qinling_falcon.pool.claim import Claim
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.leases import Lease, LeaseRequest
from qinling_falcon.pool.lua import ANCHOR
from qinling_falcon.pool.manager import Manager
from qinling_falcon.pool.pool import Pool
from qinling_falcon.pool.registry import Registry
from qinling_falcon.pool.runtimes import Runtimes
from qinling_falcon.settings import Settings
from tests.pool.side import wait_until
from tests.support.tables import make_tables

STOCK, MOST = 2, 5
ADMIN = Context("admins", is_admin=True)


class FakeOrchestrator:
    """Workers that are only names. `look` is called whenever one comes or goes."""

    concurrent_starts = 2
    workers_outlive_manager = False

    def __init__(self) -> None:
        self.images: dict[str, str] = {}
        self.prepared: dict[str, str] = {}
        self.happened: list[WorkerEvent] = []
        self.cpu_ms = 0.0
        self.broken: dict[str, Exception] = {}
        self.held_up: dict[str, Event] = {}
        self.starts: Counter[str] = Counter()
        self.destroyed: Counter[str] = Counter()
        self.look: Callable[[], None] = lambda: None

    def confinement(self) -> Confinement:
        return Confinement("fake")

    def check(self, image: str) -> None:
        pass

    def server(self) -> None:
        pass

    def limit(self) -> None:
        pass

    def prepare(self, runtimes: Sequence[RuntimeImage]) -> None:
        self.prepared = {runtime.runtime_id: runtime.image for runtime in runtimes}

    def start(self, worker_id: str, image: str, runtime_id: str = "") -> WorkerInfo:
        self.starts[image] += 1
        self.look()
        if image in self.held_up:
            self.held_up[image].wait()
        gevent.sleep(0.002)
        if image in self.broken:
            raise self.broken[image]
        self.images[worker_id] = image
        return WorkerInfo(worker_id, f"127.0.0.1:{worker_id}", "secret", runtime_id, image, cpu_ms=self.cpu_ms)

    def destroy(self, worker_id: str) -> None:
        self.look()
        gevent.sleep(0.001)
        if worker_id in self.images:
            self.destroyed[self.images.pop(worker_id)] += 1

    def events(self) -> list[WorkerEvent]:
        happened, self.happened = self.happened, []
        return happened

    def list(self) -> Sequence[WorkerInfo]:
        return [WorkerInfo(worker_id, f"127.0.0.1:{worker_id}", "secret") for worker_id in self.images]

    def detach(self) -> None:
        self.images.clear()


class Life:
    """A process that dies after `acts_left` acts: each later act ends its greenlet."""

    acts_left = float("inf")

    def act(self) -> None:
        self.acts_left -= 1
        if self.acts_left < 0:
            raise gevent.GreenletExit

    def of(self, thing: Any) -> Any:
        """`thing` as this process uses it: the process may die just before or just after each call."""
        life = self

        class Mortal:
            def __getattr__(self, name: str) -> Any:
                if not callable(getattr(thing, name)):
                    return getattr(thing, name)

                def call(*args: Any) -> Any:
                    life.act()
                    answer = getattr(thing, name)(*args)
                    life.act()
                    return answer

                return call

        return Mortal()


class House:
    """A manager, its workers, and a process that leases them."""

    def __init__(self, url: str, settings: Settings, orchestrator: Any = None):
        self.url, self.settings = url, settings
        self.orchestrator = orchestrator or FakeOrchestrator()
        self.connection = PipelinedConnection(url)
        self.pool = Pool(self.connection, "web-1", settings)
        self.pool.start()
        self.lost: dict[str, str] = {}
        self.executions = (f"e{number}" for number in itertools.count())
        self.manage()
        self.runtime_id = runtime.create(ADMIN, image="old").id
        self.pool.wake()

    def await_stock(self) -> None:
        """Wait until the runtime is available, and its stock is full."""
        wait_until(lambda: self.row().status == "available" and self.warm() == STOCK)

    def manage(self) -> None:
        """A manager begins its work, when the claim of the one before has expired."""
        self.connection.call("DEL", f"{ANCHOR}:manager")
        self.life = Life()
        self.registry = Registry(PipelinedConnection(self.url), self.settings)
        self.stopping = Event()
        self.manager = self._spawn_manager(self.registry, self.life, self.stopping)

    def _spawn_manager(self, registry: Any, life: Life, stopping: Event) -> gevent.Greenlet:
        registry, orchestrator = life.of(registry), life.of(self.orchestrator)
        runtimes, claim = Runtimes(registry, STOCK), Claim(registry, self.settings)
        manager = Manager(registry, orchestrator, runtimes, self.settings, self.record_lost, claim)
        return gevent.spawn(manager.run, stopping)

    @contextlib.contextmanager
    def standby(self) -> Iterator[None]:
        """A second manager, while the first one is active."""
        registry, stopping = Registry(PipelinedConnection(self.url), self.settings), Event()
        manager = self._spawn_manager(registry, Life(), stopping)
        yield
        stopping.set()
        manager.join(30)
        registry.close()

    def stop_manager(self) -> None:
        """The manager stops in order."""
        self.stopping.set()
        self.registry.wake()
        self.manager.join(30)
        assert self.manager.dead

    def await_pass(self) -> None:
        """Wait until the manager has made a full pass that began after this call."""
        for _ in range(2):
            self.connection.call("HDEL", keys.POLICY, "start_ms")  # each full pass writes it at its beginning
            wait_until(lambda: self.connection.call("HGET", keys.POLICY, "start_ms") is not None)

    def kill_manager(self) -> None:
        """The manager and all its greenlets end at their next act."""
        self.life.acts_left = 0
        Registry(self.connection, self.settings).wake()
        self.manager.join(30)
        assert self.manager.dead

    def record_lost(self, details: Mapping[str, str]) -> list[str]:
        self.lost.update(details)
        return list(details)

    def close(self) -> None:
        self.stopping.set()
        self.registry.wake()
        self.manager.join(10)
        self.pool.close()
        self.registry.close()
        self.connection.close()

    def row(self) -> runtime.Runtime:
        return runtime.get(ADMIN, self.runtime_id)

    def change_image(self, image: str) -> None:
        runtime.update(ADMIN, self.runtime_id, {"image": image})
        self.pool.wake()

    def available(self) -> bool:
        return self.row().status == "available"

    def snapshot(self) -> dict[str, Any]:
        return Registry(self.connection, self.settings).snapshot()

    def warm(self, runtime_id: str = "") -> int:
        return len(self.snapshot().get(f"warm:{runtime_id or self.runtime_id}", ()))

    def states(self, image: str) -> Counter[str]:
        """The workers made from an image by their state; leased ones that drain are `ending`."""
        records = [value for key, value in self.snapshot().items() if key.startswith("worker:")]
        return Counter(
            "ending" if "drain" in record else record["state"] for record in records if record["image"] == image
        )

    def request(self, function: str, runtime_id: str = "") -> LeaseRequest:
        return LeaseRequest(
            target=f"{function}:0:digest",
            runtime_id=runtime_id or self.runtime_id,
            function_id=function,
            project_id="p",
            execution_id=next(self.executions),
            generations=tuple(self.pool.generations([f"function:{function}"]).items()),
            run_s=60,
            detail="detail",
        )

    def lease(self, function: str = "f", wait_s: float = 10, runtime_id: str = "") -> Lease:
        return self.pool.lease(self.request(function, runtime_id), wait_s)

    def end(self, lease: Lease, *, destroy: bool = False) -> None:
        """A worker has answered, and the record is committed."""
        with lease:
            lease.used()
            lease.released(destroy=destroy)
            lease.committed()

    def image_of(self, lease: Lease) -> str:
        return self.orchestrator.images[lease.worker.worker_id]


@contextlib.contextmanager
def running_house(
    connection: PipelinedConnection, settings: Settings, orchestrator: Any = None
) -> Iterator[House]:
    """A house with tables of its own and a full stock; ended afterwards."""
    make_tables(settings)
    database.connect(settings)
    house = House(connection.url, settings, orchestrator)
    try:
        house.await_stock()
        yield house
    finally:
        house.close()
        database.disconnect()
