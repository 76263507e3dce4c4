"""An engine on a real Valkey and a real SQLite, over workers that play scripts."""

from __future__ import annotations

import io
import itertools
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent.socket
import pytest

from qinling_falcon.invocation.attempts import Attempts
from qinling_falcon.invocation.calls import Call, accepted_record
from qinling_falcon.invocation.engine import Engine
from qinling_falcon.invocation.scaling import Scaler
from qinling_falcon.invocation.targets import Resolver
from qinling_falcon.models import clock, database, execution, execution_queue
from qinling_falcon.models.execution import Execution
from qinling_falcon.models.scope import Context
from qinling_falcon.orchestrators import addresses
from qinling_falcon.orchestrators.base import WorkerInfo
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.pool import Pool
from qinling_falcon.pool.registry import Registry
from qinling_falcon.settings import Settings
from qinling_falcon.storage.package_cache import PackageCache
from qinling_falcon.storage.packages import LocalPackages
from tests.api.client import package
from tests.models.factories import make_function, make_runtime
from tests.pool.side import wait_until
from tests.servers.valkey import valkey
from tests.support.scripted_worker import ScriptedWorker, Step
from tests.support.tables import make_tables

OWNER = Context("project-a")


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with valkey() as url:
        yield url


class House:
    """The engine of one process, a function, and a registry with which a test starts workers.

    Args:
        kind: the kind of process: `web` or `worker`.

    Attributes:
        function_id: a function that no worker holds yet.
    """

    def __init__(self, url: str, settings: Settings, kind: str = "web"):
        self.settings = settings
        self.connection = PipelinedConnection(url, timeout_s=2)
        self.connection.call("FLUSHALL")
        self.connection.close()  # the next connection writes the id of the server again, which was erased
        self.registry = Registry(self.connection, settings)
        self.registry.set_limits(20, 100)
        self.pool = Pool(self.connection, f"{kind}:{uuid.uuid4().hex}", settings)
        self.pool.start()
        self.storage = LocalPackages.from_settings(settings)
        runtime_id = make_runtime(OWNER).id
        self.runtime_id = runtime_id
        self.registry.configure(runtime_id, 2)
        stored = self.storage.save(io.BytesIO(package("x = 1")), 1000, project_id="project-a")
        self.function_id = make_function(OWNER, runtime_id, package_key=stored.key).id
        self.resolver = Resolver(self.pool)
        self.attempts = Attempts(self.pool.ready, settings, self.pool.ended)
        cache = PackageCache(self.storage, 1 << 20)
        self.engine = Engine(self.pool, self.resolver, cache, settings, attempts=self.attempts)
        self.scaler = Scaler(self.engine, self.pool, self.resolver, settings)
        self.workers: dict[str, ScriptedWorker] = {}
        self._names = (f"w{number}" for number in itertools.count())

    def start(self, *steps: Step, **more: Step) -> str:
        """Start a warm worker with this script. Returns its id."""
        name, worker = next(self._names), ScriptedWorker(*steps, **more)
        self.workers[name] = worker
        assert self.registry.register(name, self.runtime_id)
        self.registry.mark_ready(WorkerInfo(name, worker.address, "s"), self.runtime_id)
        return name

    def call(self, text: str | None = None) -> Any:
        return self.engine.invoke(OWNER, Call(self.function_id, input=text))

    def wait_for_call(self, worker: str) -> None:
        """Wait until a worker has got its call."""
        wait_until(lambda: "/execute" in self.workers[worker].paths())

    def all_waiting(self) -> int:
        """How many calls wait in queues of Redis."""
        return int(self.connection.call("HGET", "qf:{pool}:waiting", "all") or 0)

    def states(self) -> dict[str, str]:
        """The state of each worker, once every lease has ended."""
        wait_until(lambda: self.connection.call("ZCARD", "qf:{pool}:leases") == 0)
        return {name: record.state for name, record in self.registry.workers().items()}

    def rows(self) -> list[Execution]:
        with database.reading():
            return list(Execution.select().order_by(Execution.id))

    def journal(self) -> dict[str, str]:
        """The details in the journal, after all acknowledgements were sent."""
        self.pool._beat()
        words = iter(self.connection.call("HGETALL", f"qf:{{pool}}:journal:{self.pool.holder}"))
        return {key.decode(): value.decode().split(" ", 2)[2] for key, value in zip(words, words, strict=True)}

    def lost(self) -> dict[str, str]:
        """The details of the executions that are to be recorded as lost."""
        return {execution: it.detail for execution, it in self.registry.lost().items()}

    def recorded(self, execution_id: str) -> Execution:
        return execution.get(OWNER, execution_id)

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()
        self.pool.close()
        self.registry.close()
        self.connection.close()


MakeHouse = Callable[..., House]


def accept(house: House) -> str:
    """Accept an execution of the house's function. Returns its id."""
    now = clock.now()
    target = house.resolver.resolve(OWNER, house.function_id, 0)
    record = accepted_record(target, Call(house.function_id), clock.new_id(now), now)
    execution_queue.accept(record)
    house.pool.ready.push(record.project_id, record.function_id, record.id)
    return record.id


def nothing_left(house: House) -> None:
    """No lease, no waiting call, no execution in the journal, and nothing to be recorded as lost."""
    house.states()
    assert house.journal() == {}
    assert house.lost() == {}
    assert house.all_waiting() == 0


@pytest.fixture
def make_house(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., House]]:
    """Makes houses with other settings."""
    monkeypatch.setattr(addresses, "socket", gevent.socket)  # as after `patch_all`
    houses: list[House] = []

    def make(kind: str = "web", **changes: Any) -> House:
        settings = Settings(var_dir=tmp_path, redis_url=redis_url, **changes)
        make_tables(settings)
        database.connect(settings)
        houses.append(House(redis_url, settings, kind))
        return houses[-1]

    yield make
    for house in houses:
        house.close()
    database.disconnect()


@pytest.fixture
def house(make_house: Callable[..., House]) -> House:
    return make_house()
