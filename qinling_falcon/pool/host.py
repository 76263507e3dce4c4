"""How workers are confined and made, as `GET /v1/pool` shows it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from qinling_falcon.orchestrators.base import Confinement, ServerState

_UNKNOWN = (
    "Warm calls go on. Workers that have ended since then are still counted, and no worker can be started or ended."
)


def describe_host(confinement: Confinement, server: ServerState | None) -> dict[str, Any]:
    """The member `host` of the answer.

    Args:
        confinement: how workers are confined.
        server: the state of the orchestrator's server, if it has one.
    """
    missing = [{"feature": feature, "note": note} for feature, note in confinement.missing]
    shown = None
    if server is not None:
        since = server.away_since
        shown = {
            "away_since": None if since is None else datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%d %H:%M:%S"),
            "reason": server.reason,
            "unknown": None if since is None else _UNKNOWN,
            "requests_per_minute": server.requests_per_minute,
            "request_budget": server.request_budget,
        }
    return {"isolation": confinement.form, "missing": missing, "server": shown}
