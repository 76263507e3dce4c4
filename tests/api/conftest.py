"""The app in process, on a real database, a real Valkey and real storage; only the workers are fake."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qinling_falcon.api import create_app
from qinling_falcon.auth import noauth
from qinling_falcon.auth.identity import Identity
from qinling_falcon.auth.policy import Policy
from qinling_falcon.invocation.accept_limits import AcceptLimits
from qinling_falcon.invocation.acceptance import Acceptance
from qinling_falcon.invocation.engine import Engine
from qinling_falcon.invocation.execution_quota import ExecutionQuota
from qinling_falcon.invocation.idempotency import IdempotentCalls
from qinling_falcon.invocation.scaling import Scaler
from qinling_falcon.invocation.targets import Resolver
from qinling_falcon.invocation.waits import Waits
from qinling_falcon.invocation.webhook_calls import WebhookCalls
from qinling_falcon.jobs import queues
from qinling_falcon.jobs.alarms import Alarms
from qinling_falcon.models import database
from qinling_falcon.models.scope import Context
from qinling_falcon.pool import keys
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.pool import Pool
from qinling_falcon.pool.registry import Registry
from qinling_falcon.resources.services import Services
from qinling_falcon.settings import Settings
from qinling_falcon.storage.package_cache import PackageCache
from qinling_falcon.storage.packages import LocalPackages
from tests.api.client import Client
from tests.api.fake_engine import FakeEngine
from tests.api.hooks import Hook
from tests.api.house import House
from tests.servers.valkey import valkey
from tests.support.secrets import fernet_key
from tests.support.tables import make_tables

SECRET_KEY = fernet_key()


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with valkey() as url:
        yield url


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Settings:
    """On SQLite; a test that overrides this says what it changes."""
    limits = {"max_package_size": 256 * 1024, "max_body_size": 64 * 1024}
    return Settings(var_dir=tmp_path, redis_url=redis_url, secret_keys=SECRET_KEY, **limits)


@pytest.fixture
def connected(settings: Settings) -> Iterator[Settings]:
    make_tables(settings)
    database.connect(settings)
    yield settings
    database.disconnect()


@pytest.fixture
def connection(settings: Settings) -> Iterator[PipelinedConnection]:
    """To an empty Valkey."""
    connection = PipelinedConnection(settings.effective_redis_url)
    connection.call("FLUSHALL")
    connection.close()  # the next one notes which server this is, which was erased
    yield connection
    connection.close()


@pytest.fixture
def pool(connection: PipelinedConnection, settings: Settings) -> Iterator[Pool]:
    pool = Pool(connection, "api-test", settings)
    pool.start()
    yield pool
    pool.close()


@pytest.fixture
def registry(connection: PipelinedConnection, settings: Settings) -> Registry:
    """The pool manager's side."""
    registry = Registry(connection, settings)
    registry.set_limits(max_workers=48, start_ms=100)
    return registry


@pytest.fixture
def woken(connection: PipelinedConnection) -> Callable[[], bool]:
    """Whether the pool manager was woken since the last look."""
    return lambda: bool(connection.call("DEL", keys.WAKEUPS))


@pytest.fixture
def lonely_pool(settings: Settings, tmp_path: Path) -> Iterator[Pool]:
    """A pool whose Redis is away."""
    connection = PipelinedConnection(f"unix://{tmp_path}/nothing.sock", timeout_s=0.2)
    yield Pool(connection, "lonely", settings)
    connection.close()


@pytest.fixture
def packages(connected: Settings) -> LocalPackages:
    return LocalPackages.from_settings(connected)


@pytest.fixture
def engine(connected: Settings, pool: Pool, packages: LocalPackages) -> FakeEngine:
    return FakeEngine(pool, PackageCache(packages, connected.package_cache_size), connected)


@pytest.fixture
def services(connected: Settings, pool: Pool, engine: FakeEngine, packages: LocalPackages) -> Services:
    resolver, at_hand = Resolver(pool), PackageCache(packages, connected.package_cache_size)
    scaler = Scaler(Engine(pool, resolver, at_hand, connected), pool, resolver, connected)
    acceptance = Acceptance(resolver, pool.ready, ExecutionQuota(), connected)
    idempotent_calls = IdempotentCalls(engine, acceptance, pool, connected)
    waits = Waits(pool.watches)
    waits.start()
    policy = Policy(connected.policy_file)
    webhook_calls = WebhookCalls(engine, acceptance, idempotent_calls, pool, connected)
    alarms = Alarms(queues.connect(connected))
    return Services(
        connected, pool, engine, acceptance, idempotent_calls, webhook_calls, waits, scaler, packages, policy, alarms
    )


@pytest.fixture
def client(services: Services) -> Client:
    return Client(create_app(services), services.settings)


@pytest.fixture
def act_as(monkeypatch: pytest.MonkeyPatch) -> Callable[[Context], None]:
    """Lets requests come from another caller."""
    return lambda context: monkeypatch.setattr(noauth, "EVERYBODY", Identity(context))


@pytest.fixture
def client_with(services: Services) -> Callable[..., Client]:
    """A client of an app with other settings."""

    def make(**changes: Any) -> Client:
        settings = replace(services.settings, **changes)
        ready, quota = services.pool.ready, services.execution_quota
        acceptance = Acceptance(Resolver(services.pool), ready, quota, settings, AcceptLimits(settings))
        keyed = IdempotentCalls(services.engine, acceptance, services.pool, settings)
        webhook_calls = WebhookCalls(services.engine, acceptance, keyed, services.pool, settings)
        changed = replace(
            services, settings=settings, acceptance=acceptance, idempotent_calls=keyed, webhook_calls=webhook_calls
        )
        return Client(create_app(changed), settings)

    return make


@pytest.fixture
def function_id(client: Client) -> str:
    """A function with the versions 1 and 2, and an alias of the second."""
    function_id = str(client.function()["id"])
    for number in (1, 2):
        assert client.form("PUT", f"/v1/functions/{function_id}", [("timeout", str(5 + number))]).status_code == 200
        assert client.simulate_post(f"/v1/functions/{function_id}/versions").status_code == 201
    alias = {"name": "hq-production-function", "function_id": function_id, "function_version": 2}
    assert client.simulate_post("/v1/aliases", json=alias).status_code == 201
    return function_id


@pytest.fixture
def make_hook(client: Client, services: Services, function_id: str) -> Callable[..., Hook]:
    """Makes webhooks of the function."""

    def make(**fields: Any) -> Hook:
        answer = client.simulate_post("/v1/webhooks", json={"function_id": function_id, **fields})
        assert answer.status_code == 201, answer.text
        return Hook(client, services, str(answer.json["id"]))

    return make


@pytest.fixture
def house(pool: Pool, registry: Registry) -> Iterator[House]:
    house = House(pool, registry)
    yield house
    house.close()
