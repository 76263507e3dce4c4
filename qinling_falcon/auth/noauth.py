"""`AUTH_MODE=noauth`: every caller is the admin of one project."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qinling_falcon.auth.identity import Identity
from qinling_falcon.models.scope import Context
from qinling_falcon.observability.health import Check

EVERYBODY = Identity(Context(project_id="default", is_admin=True, roles=("admin",)))


class NoAuth:
    """Accepts every request. A token is ignored."""

    def authenticate(self, environ: Mapping[str, Any]) -> Identity:
        """The admin of project `default`, for every request."""
        return EVERYBODY

    def checks(self) -> dict[str, Check]:
        """None: there is nobody to ask."""
        return {}
