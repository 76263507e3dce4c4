"""The collaborators of all resources; made once per process (`app.py`), or by a test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qinling_falcon.auth.policy import Policy
from qinling_falcon.invocation.acceptance import Acceptance
from qinling_falcon.invocation.engine import Engine
from qinling_falcon.invocation.execution_quota import ExecutionQuota
from qinling_falcon.invocation.idempotency import IdempotentCalls
from qinling_falcon.invocation.scaling import Scaler
from qinling_falcon.invocation.waits import Waits
from qinling_falcon.invocation.webhook_calls import WebhookCalls
from qinling_falcon.jobs.alarms import Alarms
from qinling_falcon.observability.health import Check
from qinling_falcon.pool.pool import Pool
from qinling_falcon.settings import Settings
from qinling_falcon.storage.packages import PackageStore

if TYPE_CHECKING:
    from qinling_falcon.auth.trusts import Trusts  # 800 modules that noauth has no use for


@dataclass(frozen=True, slots=True)
class Services:
    """The collaborators of the HTTP layer.

    Attributes:
        alarms: sets the alarms that wake the tick when jobs are due.
        waits: the requests that wait for the end of an execution.
        checks: the checks of `GET /readyz`, by the name of the part.
        trusts: the Keystone trusts; None without Keystone.
        execution_quota: counts the executions of each project; shared with the engine.
    """

    settings: Settings
    pool: Pool
    engine: Engine
    acceptance: Acceptance
    idempotent_calls: IdempotentCalls
    webhook_calls: WebhookCalls
    waits: Waits
    scaler: Scaler
    packages: PackageStore
    policy: Policy
    alarms: Alarms
    checks: Mapping[str, Check] = field(default_factory=dict)
    trusts: Trusts | None = None
    execution_quota: ExecutionQuota = field(default_factory=ExecutionQuota)
