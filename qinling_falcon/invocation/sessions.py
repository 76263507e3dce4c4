"""Where functions' OpenStack sessions come from; what knows Keystone stands above this layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Sessions(Protocol):
    """Gives functions the sessions that their trusts allow."""

    def session(self, trust_id: str) -> Mapping[str, str]:
        """What a worker makes `context["os_session"]` of.

        Returns:
            `auth_url` and `token`; or `error`, the reason why there is none now. It never raises, and waits for
            Keystone for a bounded time at most.
        """
