"""Who is calling: the seam between a request and the `Identity` of its caller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from qinling_falcon.auth.identity import Identity
from qinling_falcon.auth.noauth import NoAuth
from qinling_falcon.auth.policy import Policy
from qinling_falcon.observability.health import Check
from qinling_falcon.settings import Settings


class Authenticator(Protocol):
    """Tells who sent a request."""

    def authenticate(self, environ: Mapping[str, Any]) -> Identity:
        """The caller of the request with this WSGI environment.

        Raises:
            Unauthorized: nobody, or nobody known.
            Forbidden: the caller's token is of no project.
            Unavailable: whoever knows the callers doesn't answer.
        """

    def checks(self) -> Mapping[str, Check]:
        """What `GET /readyz` asks for it."""


def make_authenticator(settings: Settings, policy: Policy) -> Authenticator:
    """The authenticator that `AUTH_MODE` names."""
    match settings.auth_mode:
        case "noauth":
            return NoAuth()
        case "keystone":
            from qinling_falcon.auth.keystone import KeystoneAuth  # 800 modules that noauth has no use for

            return KeystoneAuth(settings, policy)
