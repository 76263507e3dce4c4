"""Builds the engine and its collaborators from settings, the same for every process of the Procfile."""

from __future__ import annotations

import os
import socket
import uuid
from functools import cached_property
from typing import TYPE_CHECKING

from qinling_falcon.invocation.accept_limits import AcceptLimits
from qinling_falcon.invocation.acceptance import Acceptance
from qinling_falcon.invocation.admission import Admission
from qinling_falcon.invocation.attempts import Attempts
from qinling_falcon.invocation.engine import Engine
from qinling_falcon.invocation.execution_quota import ExecutionQuota
from qinling_falcon.invocation.idempotency import IdempotentCalls
from qinling_falcon.invocation.image_calls import ImageCalls
from qinling_falcon.invocation.scaling import Scaler
from qinling_falcon.invocation.swift_sources import SwiftSources
from qinling_falcon.invocation.targets import Resolver
from qinling_falcon.invocation.waits import Waits
from qinling_falcon.invocation.webhook_calls import WebhookCalls
from qinling_falcon.jobs import queues
from qinling_falcon.jobs.alarms import Alarms
from qinling_falcon.jobs.callbacks import Callbacks
from qinling_falcon.jobs.tick import Tick
from qinling_falcon.orchestrators.choice import can_run_images, make_image_runs
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.pool import Pool
from qinling_falcon.schemas.executions import ExecutionShown
from qinling_falcon.settings import Settings
from qinling_falcon.storage.package_cache import PackageCache
from qinling_falcon.storage.packages import PackageStore
from qinling_falcon.storage.stores import make_packages

if TYPE_CHECKING:
    from qinling_falcon.auth.trusts import Trusts


class Assembly:
    """The parts of one process. Make one per process, after forks.

    Each part is made when it is first asked for, so that a process has only what it uses. Redis, the storage and
    Keystone are connected to at their first use. The database is connected by the process itself.

    Args:
        settings: the settings.
        process: the name of the process in the Procfile.
    """

    def __init__(self, settings: Settings, process: str):
        self.settings = settings
        self._process = process

    @cached_property
    def connection(self) -> PipelinedConnection:
        """The connection to Redis."""
        return PipelinedConnection(self.settings.effective_redis_url)

    @cached_property
    def pool(self) -> Pool:
        """The warm pool, to which this process reports from now on."""
        holder = f"{self._process}:{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        pool = Pool(self.connection, holder, self.settings)
        pool.start()
        return pool

    def close(self) -> None:
        """Stop the counting of quotas, and return the unused leased workers to the pool.

        Call it before the process ends.
        """
        if "quota" in vars(self):
            self.quota.stop()
        if "pool" in vars(self):
            self.pool.close()

    @cached_property
    def packages(self) -> PackageStore:
        """The package storage."""
        return make_packages(self.settings)

    @cached_property
    def trusts(self) -> Trusts | None:
        """The Keystone trusts of functions; None without Keystone."""
        if self.settings.auth_mode != "keystone":
            return None
        from qinling_falcon.auth.trusts import Trusts  # 800 modules that noauth has no use for

        return Trusts(self.settings)

    @cached_property
    def resolver(self) -> Resolver:
        """Finds targets. Functions in Swift are refreshed, where there is Keystone."""
        sources = None
        if self.trusts is not None:
            sources = SwiftSources(self.trusts.tokens, self.packages, self.pool, self.settings)
        return Resolver(self.pool, sources)

    @cached_property
    def quota(self) -> ExecutionQuota:
        """Counts the executions of each project."""
        return ExecutionQuota()

    @cached_property
    def admission(self) -> Admission | None:
        """Limits the calls in flight, in processes that serve connections."""
        return Admission(self.settings, lambda: self.pool.call_bounds) if self._process == "web" else None

    @cached_property
    def engine(self) -> Engine:
        """The engine, whose background tasks run."""
        engine = Engine(
            self.pool,
            self.resolver,
            PackageCache(self.packages, self.settings.package_cache_size),
            self.settings,
            sessions=None if self.trusts is None else self.trusts.tokens,
            quota=self.quota,
            admission=self.admission,
            attempts=self.attempts,
            images=self.images,
        )
        engine.start()
        return engine

    @cached_property
    def images(self) -> ImageCalls | None:
        """Runs functions from images; None: the orchestrator does not."""
        if not can_run_images(self.settings):
            return None
        settings, holder = self.settings, self.pool.holder
        return ImageCalls(lambda: make_image_runs(settings, holder), holder, settings)

    @cached_property
    def attempts(self) -> Attempts:
        """Ends attempts of asynchronous executions."""
        return Attempts(self.pool.ready, self.settings, self.pool.ended)

    @cached_property
    def acceptance(self) -> Acceptance:
        """Accepts asynchronous executions."""
        limits = AcceptLimits(self.settings) if self._process == "web" else None
        return Acceptance(self.resolver, self.pool.ready, self.quota, self.settings, limits)

    @cached_property
    def idempotent_calls(self) -> IdempotentCalls:
        """Runs and accepts calls with an idempotency key."""
        return IdempotentCalls(self.engine, self.acceptance, self.pool, self.settings)

    @cached_property
    def webhook_calls(self) -> WebhookCalls:
        """Takes deliveries to webhooks."""
        return WebhookCalls(self.engine, self.acceptance, self.idempotent_calls, self.pool, self.settings)

    @cached_property
    def waits(self) -> Waits:
        """The requests that wait for the end of an execution, with a background task that runs."""
        waits = Waits(self.pool.watches, self.admission)
        waits.start()
        return waits

    @cached_property
    def callbacks(self) -> Callbacks:
        """Delivers callbacks, in the process that calls its `deliver_due`."""
        return Callbacks(self.settings, ExecutionShown().show)

    @cached_property
    def alarms(self) -> Alarms:
        """Sets the alarms that wake the tick when jobs are due."""
        return Alarms(queues.connect(self.settings))

    @cached_property
    def tick(self) -> Tick:
        """Fires jobs, in the `tasks` process. Also starts counting quotas in the background."""
        self.quota.start()
        return Tick(self.pool.ready, self.quota, self.alarms, self.settings)

    @cached_property
    def scaler(self) -> Scaler:
        """Assigns workers ahead of calls."""
        return Scaler(self.engine, self.pool, self.resolver, self.settings, self.admission)
