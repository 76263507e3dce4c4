"""The WSGI entry point: Gunicorn loads it in each web process, after the fork; its modules are imported before."""

from __future__ import annotations

import os
import socket
import uuid
from typing import TYPE_CHECKING

from qinling_falcon.api import Api, create_app
from qinling_falcon.auth.policy import Policy
from qinling_falcon.invocation.admission import Admission
from qinling_falcon.invocation.execution_quota import ExecutionQuota
from qinling_falcon.invocation.invoker import Invoker
from qinling_falcon.invocation.scaling import Scaler
from qinling_falcon.invocation.swift_sources import SwiftSources
from qinling_falcon.invocation.targets import Resolver
from qinling_falcon.models import database
from qinling_falcon.observability.health import Check
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.pool import Pool
from qinling_falcon.pool.readiness import PoolReadiness
from qinling_falcon.resources.services import Services
from qinling_falcon.settings import Settings, get_settings
from qinling_falcon.storage.package_cache import PackageCache
from qinling_falcon.storage.stores import make_packages

if TYPE_CHECKING:
    from qinling_falcon.auth.trusts import Trusts


def build(settings: Settings) -> Api:
    """Make the application with its real collaborators. They connect at their first use."""
    database.connect(settings)
    connection = PipelinedConnection(settings.effective_redis_url)
    pool = Pool(connection, f"web:{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}", settings)
    pool.start()
    packages = make_packages(settings)
    resolver = Resolver(pool)
    trusts = _trusts(settings)
    sessions = None if trusts is None else trusts.tokens
    sources = None if sessions is None else SwiftSources(sessions, packages, pool, settings)
    at_hand = PackageCache(packages, settings.package_cache_size)
    admission = Admission(settings, lambda: pool.call_bounds)
    quota = ExecutionQuota()
    invoker = Invoker(pool, resolver, at_hand, settings, sessions, sources, quota, admission)
    invoker.start()
    scaler = Scaler(pool, resolver, at_hand, settings, sources, admission)
    checks: dict[str, Check] = {
        "redis": PoolReadiness(connection, settings).faults,
        "database": _ask_database,
    }
    policy = Policy(settings.policy_file)
    return create_app(Services(settings, pool, invoker, scaler, packages, policy, checks, trusts, quota))


def _trusts(settings: Settings) -> Trusts | None:
    if settings.auth_mode != "keystone":
        return None
    from qinling_falcon.auth.trusts import Trusts  # 800 modules that noauth has no use for

    return Trusts(settings)


def _ask_database() -> None:
    """Check that the database answers and has its tables."""
    with database.reading():
        database.engine().execute_sql("SELECT 1 FROM runtimes LIMIT 1")


application = build(get_settings())
