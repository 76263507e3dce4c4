"""The tokens of trusts, by which functions act: asked for once, replaced beside the calls that use them."""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keystoneauth1.access import AccessInfo
from keystoneauth1.exceptions import Forbidden, NotFound, Unauthorized

from qinling_falcon.auth.service_account import AWAY, ServiceAccount, is_keystones, odd
from qinling_falcon.bounded import BoundedCache
from qinling_falcon.errors import BadGateway, Unavailable
from qinling_falcon.flights import Flights
from qinling_falcon.invocation.sessions import Access, TrustGone
from qinling_falcon.openstack import identity_url, object_store_url
from qinling_falcon.settings import Settings

log = logging.getLogger(__name__)

_MOST_HELD = 10_000
# A token is replaced after so long, though it would last: those of a trust that is gone are dead before their time.
_KEEP_S = 300.0
# After a failure nobody asks again for so long; then one asks, and nobody waits for it while the failure is young.
RETRY_S = 5.0
_YOUNG_S = 60.0
_GONE = "Keystone refuses the function's trust: it was deleted, or its maker is disabled or has lost the roles"


@dataclass(slots=True)
class _Held:
    """What is known of one trust's token, or why there is none.

    Attributes:
        answer: what `session` gives.
        fresh_until: until then nobody asks for another one.
        until: until then it is given out, while another one is asked for.
        gone: the reason why there is no token is the trust, not Keystone.
    """

    answer: Mapping[str, Any]
    fresh_until: float
    until: float
    object_store: str | None = None
    gone: bool = False


class TrustTokens:
    """Holds tokens of trusts; `invocation.sessions.Sessions`. One for each process."""

    def __init__(self, account: ServiceAccount, settings: Settings):
        self._account = account
        self._settings = settings
        self._url_for_functions = identity_url(settings.function_auth_url or str(settings.os_auth_url))
        self._held: BoundedCache[str, _Held] = BoundedCache(_MOST_HELD)
        self._flights: Flights[str, _Held] = Flights()
        self._away_until = 0.0

    def session(self, trust_id: str) -> Mapping[str, Any]:
        """What a worker makes `context["os_session"]` of: see `invocation.sessions.Sessions`."""
        held = self._held.get(trust_id)
        if held is None or held.fresh_until < time.monotonic():
            held = self._find(trust_id, held)
        return held.answer

    def access(self, trust_id: str) -> Access:
        """The trust's rights, for Swift: see `invocation.sessions.Sessions`."""
        held = self._held.get(trust_id)
        if held is None or held.fresh_until < time.monotonic():
            held = self._find(trust_id, held)
        if held.gone:
            raise TrustGone(held.answer["error"])
        if "token" not in held.answer:
            raise Unavailable(f"{held.answer['error']}; try again.", retry_after_s=1)
        if held.object_store is None:
            raise BadGateway("Keystone's catalogue has no object store.")
        return Access(held.object_store, held.answer["token"])

    def forget(self, trust_id: str) -> None:
        """Somebody has found the token no good: the next one who asks gets another."""
        self._held.pop(trust_id)

    def _find(self, trust_id: str, held: _Held | None) -> _Held:
        """Have a token asked for, and wait for it, for a bounded time, when there is nothing to give meanwhile."""
        usable = held is not None and held.until > time.monotonic()
        flight = self._flights.get(trust_id)
        if flight is None:
            if not usable and self._away_until > time.monotonic():
                return _no_session(AWAY, 0.0)
            flight = self._flights.start(trust_id, lambda: self._fly(trust_id))
        if usable:
            assert held is not None
            return held
        # Its own bound comes first, and names the reason.
        return flight.result() if flight.wait(self._account.timeout_s + 0.5) else _no_session(AWAY, 0.0)

    def _fly(self, trust_id: str) -> _Held:
        """Log in by the trust, and remember what came of it."""
        try:
            found = self._account.ask(lambda: self._log_in(trust_id))
        except (Unavailable, BadGateway):
            self._away_until = time.monotonic() + RETRY_S
            old = self._held.get(trust_id)
            if old is not None and old.until > time.monotonic() and "token" in old.answer:
                old.fresh_until = self._away_until
                return old
            found = _no_session(AWAY, RETRY_S)
        except Exception:  # callers get no error, whatever it is
            log.exception("no session by trust %s", trust_id)
            return _no_session(AWAY, 0.0)
        self._held.put(trust_id, found)
        return found

    def _log_in(self, trust_id: str) -> _Held:
        try:
            access = self._account.by_trust(trust_id).get_access(self._account.session)
        except (Unauthorized, Forbidden, NotFound) as error:
            if not is_keystones(error.response):
                raise
            # A service that can't log in any more is told the same: that says nothing of the trust.
            self._account.session.invalidate()
            self._account.session.get_token()
            log.warning("no session by trust %s: %s", trust_id, error)
            return _no_session(_GONE, _YOUNG_S, gone=True)
        if access.auth_token is None or access.expires is None or access.issued is None:
            raise odd("a token has no text, beginning or end")
        left_s = (access.expires - access.issued).total_seconds()
        now = time.monotonic()
        # A call that begins with a token should end before it does.
        margin_s = min(left_s / 2, 2.0 * self._settings.max_timeout)
        return _Held(
            {
                "auth_url": self._url_for_functions,
                "token": access.auth_token,
                "about": _about(access),
            },
            fresh_until=now + min(_KEEP_S, left_s - margin_s),
            until=now + left_s - margin_s / 2,
            object_store=object_store_url(access, self._settings),
        )


def _no_session(reason: str, keep_s: float, *, gone: bool = False) -> _Held:
    now = time.monotonic()
    return _Held({"error": reason}, now + keep_s, now + (_YOUNG_S if keep_s else 0.0), gone=gone)


def _about(access: AccessInfo) -> dict[str, Any]:
    """What Keystone says of a token, which the token itself has no right to ask, without the long catalogue."""
    return {
        "methods": ["password"],
        "user": {
            "id": access.user_id,
            "name": access.username,
            "domain": {"id": access.user_domain_id, "name": access.user_domain_name},
        },
        "project": {
            "id": access.project_id,
            "name": access.project_name,
            "domain": {"id": access.project_domain_id, "name": access.project_domain_name},
        },
        "roles": [{"name": name} for name in access.role_names or ()],
        "issued_at": _when(access.issued),
        "expires_at": _when(access.expires),
    }


def _when(time: datetime.datetime | None) -> str | None:
    return None if time is None else time.isoformat()
