"""Where functions' OpenStack sessions come from; what knows Keystone stands above this layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


class TrustRefused(Exception):
    """Keystone lets a caller make no trust; the message says why."""


class TrustGone(Exception):
    """Nobody can act by a trust: it was deleted, or its maker is disabled or has lost the roles that it passes on."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a trust gives in Swift.

    Attributes:
        object_store: URL of the account of the trust's project.
        token: a secret.
    """

    object_store: str
    token: str = field(repr=False)


class Sessions(Protocol):
    """Gives functions the sessions that their trusts allow."""

    def session(self, trust_id: str) -> Mapping[str, Any]:
        """What a worker makes `context["os_session"]` of.

        Returns:
            `auth_url`, `token`, and `about`, what Keystone says of the token without its catalogue; or `error`, the
            reason why there is none now. It never raises, and waits for Keystone for a bounded time at most.
        """

    def access(self, trust_id: str) -> Access:
        """The trust's rights, for Swift.

        Raises:
            TrustGone: there are none any more.
            Unavailable: Keystone doesn't answer.
            BadGateway: its catalogue has no object store.
        """

    def forget(self, trust_id: str) -> None:
        """The token was found to be no good: the next one who asks gets another."""
