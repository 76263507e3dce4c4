"""`AUTH_MODE=noauth`: everybody is the admin of one project."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qinling_falcon.auth.identity import Identity
from qinling_falcon.models.scope import Context
from qinling_falcon.observability.health import Check

EVERYBODY = Identity(Context(project_id="default", is_admin=True, roles=("admin",)))


class NoAuth:
    """Lets everybody in; a token that a client sends all the same is ignored."""

    def authenticate(self, environ: Mapping[str, Any]) -> Identity:
        """The admin of project `default`, whatever the request holds."""
        return EVERYBODY

    def checks(self) -> dict[str, Check]:
        """None: there is nobody to ask."""
        return {}
