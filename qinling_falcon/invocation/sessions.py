"""The interface through which the engine gets functions' OpenStack sessions. `auth` implements it with Keystone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


class TrustRefused(Exception):
    """Keystone does not let a caller make a trust. The message says why."""


class TrustGone(Exception):
    """A trust can't be used any more: it was deleted, or its maker is disabled or has lost the roles it passes on."""


@dataclass(frozen=True, slots=True)
class Access:
    """The access to Swift that a trust gives.

    Attributes:
        object_store: URL of the account of the trust's project.
        token: a secret.
    """

    object_store: str
    token: str = field(repr=False)


class Sessions(Protocol):
    """Gives functions the sessions that their trusts allow."""

    def session(self, trust_id: str) -> Mapping[str, Any]:
        """The values from which a worker makes `context["os_session"]`.

        It never raises, and waits for Keystone for a bounded time.

        Returns:
            `auth_url`, `token` and `about` (Keystone's description of the token, without the catalogue); or `error`,
            the reason why there is no session now.
        """

    def access(self, trust_id: str) -> Access:
        """The access to Swift that the trust gives.

        Raises:
            TrustGone: the trust can't be used any more.
            Unavailable: Keystone does not answer.
            BadGateway: Keystone's catalogue has no object store.
        """

    def forget(self, trust_id: str) -> None:
        """Drop the cached token of a trust, because it was refused. The next request gets a new one."""
