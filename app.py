"""The WSGI entry point: Gunicorn loads it in each web process, after the fork; its modules are imported before."""

from __future__ import annotations

from qinling_falcon.api import Api, create_app
from qinling_falcon.assembly import Assembly
from qinling_falcon.auth.policy import Policy
from qinling_falcon.models import database
from qinling_falcon.observability.health import Check
from qinling_falcon.pool.readiness import PoolReadiness
from qinling_falcon.resources.services import Services
from qinling_falcon.settings import Settings
from qinling_falcon.settings_environment import get_settings


def build(settings: Settings) -> Api:
    """Make the application with its real collaborators. They connect at their first use."""
    database.connect(settings)
    parts = Assembly(settings, "web")
    checks: dict[str, Check] = {
        "redis": PoolReadiness(parts.connection, settings).faults,
        "database": _ask_database,
    }
    services = Services(
        settings,
        parts.pool,
        parts.engine,
        parts.acceptance,
        parts.idempotent_calls,
        parts.webhook_calls,
        parts.waits,
        parts.scaler,
        parts.packages,
        Policy(settings.policy_file),
        parts.alarms,
        checks,
        parts.trusts,
        parts.quota,
    )
    app = create_app(services)
    app.stop = parts.waits.stop
    app.close = parts.close
    return app


def _ask_database() -> None:
    """Check that the database answers and has its tables."""
    with database.reading():
        database.engine().execute_sql("SELECT 1 FROM runtimes LIMIT 1")


application = build(get_settings())
