"""Who is calling: the seam between a request and the `Context` that its rows belong to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from qinling_falcon.auth.noauth import NoAuth
from qinling_falcon.models.scope import Context
from qinling_falcon.settings import Settings


class Authenticator(Protocol):
    """Tells who sent a request."""

    def authenticate(self, environ: Mapping[str, Any]) -> Context:
        """The caller of the request with this WSGI environment.

        Raises:
            Unauthorized: nobody, or nobody known.
        """


def make_authenticator(settings: Settings) -> Authenticator:
    """The authenticator that `AUTH_MODE` names."""
    match settings.auth_mode:
        case "noauth":
            return NoAuth()
