"""Trusts: by them functions act for whoever put their code in, with nobody's password.

A trust is made with a caller's own token, for the service's user, and names the caller's project and roles in it. The
service logs in by it, and gives a function the token that comes of that. Trusts that no function names any more are
noted in `models/trusts.py` and deleted by `sweep`; only ids that stand there are, so that two installations of one
service user never delete each other's.
"""

from __future__ import annotations

import datetime
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import gevent
from gevent.lock import BoundedSemaphore
from keystoneauth1.access import AccessInfo
from keystoneauth1.exceptions import ClientException, Forbidden, NotFound, Unauthorized
from keystoneauth1.identity import v3
from keystoneauth1.session import Session
from requests import Response

from qinling_falcon import errors
from qinling_falcon.auth.identity import Identity
from qinling_falcon.auth.keystone import challenge
from qinling_falcon.errors import BadGateway, QinlingError, Unavailable
from qinling_falcon.invocation.sessions import Access, TrustGone, TrustRefused
from qinling_falcon.models import trusts
from qinling_falcon.openstack import credentials, identity_url, object_store_url
from qinling_falcon.settings import Settings

T = TypeVar("T")

log = logging.getLogger(__name__)

_MOST_AT_ONCE = 10
_MOST_HELD = 10_000
_ID = re.compile(r"[0-9A-Za-z-]{1,64}")
# A token is replaced after so long, though it would last: those of a trust that is gone are dead before their time.
_KEEP_S = 300.0
# After a failure nobody asks again for so long; then one asks, and nobody waits for it while the failure is young.
_RETRY_S = 5.0
_YOUNG_S = 60.0
# A trust that Keystone doesn't let delete now, for its maker is disabled, is left alone for so long.
_REFUSED_S = 600.0
# One at which Keystone was away, or answered oddly.
_AGAIN_S = 20.0
_GONE = "Keystone refuses the function's trust: it was deleted, or its maker is disabled or has lost the roles"
_AWAY = "Keystone does not answer as it should"


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


class Trusts:
    """Makes, uses and deletes trusts. One for each process."""

    def __init__(self, settings: Settings):
        self._settings = settings
        logging.getLogger("keystoneauth").setLevel(logging.WARNING)  # its debugging repeats Keystone's answers
        self._timeout_s = settings.keystone_timeout_s
        self._url = identity_url(str(settings.os_auth_url))
        self._url_for_functions = identity_url(settings.function_auth_url or str(settings.os_auth_url))
        verify: str | bool = True if settings.os_cacert is None else str(settings.os_cacert)
        # No redirects: they would take tokens elsewhere.
        account = v3.Password(**credentials(settings))
        self._keystone = Session(account, verify=verify, timeout=self._timeout_s, redirect=False)
        self._turn = BoundedSemaphore(_MOST_AT_ONCE)
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._flights: dict[str, gevent.Greenlet] = {}
        self._away_until = 0.0
        self._refused_until: dict[str, float] = {}
        self._sweeping: gevent.Greenlet | None = None
        self._wanted = False

    def make(self, identity: Identity) -> str:
        """A new trust of the caller: in its project, with its roles there, without an end.

        Unless a row comes to name it within an hour, the sweep deletes it. A crash between Keystone's answer and that
        note leaves a trust that nobody uses or deletes.

        Raises:
            TrustRefused: the caller's token can't make trusts, as those of application credentials and of trusts.
            Unauthorized: it has ended.
            Unavailable: Keystone doesn't answer; a trust may have been made that nobody uses.
            BadGateway: it answers what makes no sense.
        """
        context = identity.context

        def ask() -> Response:
            trust = {
                "trustor_user_id": context.user_id,
                "trustee_user_id": self._keystone.get_user_id(),
                "project_id": context.project_id,
                "roles": [{"id": role_id} for role_id in identity.role_ids],
                "impersonation": True,
            }
            return self._request("POST", "/OS-TRUST/trusts", identity.token, json={"trust": trust})

        answer = self._ask(ask)
        if answer.status_code == 401:
            raise errors.Unauthorized("The token has ended.", challenge=challenge(self._settings))
        if answer.status_code == 403 and _is_keystones(answer):
            raise TrustRefused(_message(answer))
        if answer.status_code != 201:
            raise self._odd(f"a trust was to be made, and Keystone answered {answer.status_code}: {_message(answer)}")
        try:
            trust_id = answer.json()["trust"]["id"]
        except (ValueError, KeyError, TypeError):
            trust_id = None
        if not isinstance(trust_id, str) or not _ID.fullmatch(trust_id):
            raise self._odd("a trust was to be made, and Keystone's answer names none")
        try:
            trusts.expect(trust_id)
        except BaseException:
            self.forgo(trust_id)
            raise
        return trust_id

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
        self._held.pop(trust_id, None)

    def forgo(self, trust_id: str) -> None:
        """Delete, soon, a trust that was made for a row that was not written, or may not have been.

        After a crash before it is noted, it is deleted an hour after it was made.
        """
        gevent.spawn(self._forgo, trust_id)

    def sweep_soon(self) -> None:
        """Delete those that were doomed, without being waited for."""
        self._wanted = True
        if self._sweeping is None or self._sweeping.ready():
            self._sweeping = gevent.spawn(self._sweep_while_wanted)

    def sweep(self) -> list[str]:
        """Delete at Keystone the trusts that were doomed, and return those that are gone now.

        Raises:
            Unavailable: Keystone or the database doesn't answer; what is left stays doomed.
        """
        gone = []
        for trust_id in trusts.doomed():
            if self._refused_until.get(trust_id, 0.0) > time.monotonic():
                continue
            # One that always fails must not keep the others from their turn.
            self._refused_until[trust_id] = time.monotonic() + _AGAIN_S
            if self._delete(trust_id):
                trusts.deleted(trust_id)
                del self._refused_until[trust_id]
                gone.append(trust_id)
            else:
                self._refused_until[trust_id] = time.monotonic() + _REFUSED_S
        return gone

    def _find(self, trust_id: str, held: _Held | None) -> _Held:
        """Have a token asked for, and wait for it, for a bounded time, when there is nothing to give meanwhile."""
        usable = held is not None and held.until > time.monotonic()
        flight = self._flights.get(trust_id)
        if flight is None:
            if not usable and self._away_until > time.monotonic():
                return _no_session(_AWAY, 0.0)
            # In a greenlet of its own: the call that asks may be ended while others wait for the answer.
            flight = self._flights[trust_id] = gevent.spawn(self._fly, trust_id)
        if usable:
            assert held is not None
            return held
        flight.join(self._timeout_s + 0.5)  # its own bound comes first, and names the reason
        return flight.value if flight.successful() else _no_session(_AWAY, 0.0)

    def _fly(self, trust_id: str) -> _Held:
        """Log in by the trust, and remember what came of it."""
        try:
            found = self._ask(lambda: self._log_in(trust_id))
        except (Unavailable, BadGateway):
            self._away_until = time.monotonic() + _RETRY_S
            old = self._held.get(trust_id)
            if old is not None and old.until > time.monotonic() and "token" in old.answer:
                old.fresh_until = self._away_until
                return old
            found = _no_session(_AWAY, _RETRY_S)
        finally:
            del self._flights[trust_id]
        self._held[trust_id] = found
        self._held.move_to_end(trust_id)
        if len(self._held) > _MOST_HELD:
            self._held.popitem(last=False)
        return found

    def _log_in(self, trust_id: str) -> _Held:
        try:
            access = self._by_trust(trust_id).get_access(self._keystone)
        except (Unauthorized, Forbidden, NotFound) as error:
            if not _is_keystones(error.response):
                raise
            # A service that can't log in any more is told the same: that says nothing of the trust.
            self._keystone.invalidate()
            self._keystone.get_token()
            log.warning("no session by trust %s: %s", trust_id, error)
            return _no_session(_GONE, _YOUNG_S, gone=True)
        if access.auth_token is None or access.expires is None or access.issued is None:
            raise self._odd("a token has no text, beginning or end")
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

    def _by_trust(self, trust_id: str) -> v3.Password:
        account = credentials(self._settings)
        user = {name: value for name, value in account.items() if not name.startswith("project_")}
        return v3.Password(**user, trust_id=trust_id, reauthenticate=False)

    def _delete(self, trust_id: str) -> bool:
        """Whether Keystone doesn't know the trust any more."""
        self.forget(trust_id)
        path = f"/OS-TRUST/trusts/{trust_id}"

        def ask() -> Response:
            answer = self._keystone.delete(self._url + path, raise_exc=False)
            if answer.status_code != 403:
                return answer
            # Without an admin's role, the trustor may: whom the trust's own token stands for.
            try:
                token = self._by_trust(trust_id).get_token(self._keystone)
            except (Unauthorized, Forbidden, NotFound):
                return answer
            return self._request("DELETE", path, token)

        answer = self._ask(ask)
        if answer.status_code == 204 or (answer.status_code == 404 and _is_keystones(answer)):
            return True
        log.warning("trust %s can't be deleted: Keystone answered %s", trust_id, answer.status_code)
        return False

    def _forgo(self, trust_id: str) -> None:
        while True:
            try:
                trusts.doom_unnamed(trust_id)
            except Unavailable:
                gevent.sleep(_RETRY_S)
            else:
                return self.sweep_soon()

    def _sweep_while_wanted(self) -> None:
        while self._wanted:
            self._wanted = False
            try:
                self.sweep()
            except Unavailable as error:
                log.warning("trusts are left for later: %s", error)

    def _request(self, method: str, path: str, token: str | None, **arguments: Any) -> Response:
        headers = {"X-Auth-Token": token}
        return self._keystone.request(
            self._url + path, method, headers=headers, authenticated=False, raise_exc=False, **arguments
        )

    def _ask(self, what: Callable[[], T]) -> T:
        """Do something with Keystone, for a bounded time.

        Raises:
            Unavailable: it doesn't answer, or doesn't believe the service.
            BadGateway: it answers what makes no sense.
        """
        try:
            with gevent.Timeout(self._timeout_s, _Silent), self._turn:
                return what()
        except _Silent:
            reason = f"no answer within {self._timeout_s:g} s"
        except ClientException as error:
            reason = f"{type(error).__name__}: {error}"
        except QinlingError:
            raise
        except Exception as error:  # its answer was not what keystoneauth reckons with
            log.exception("Keystone's answer can't be read")
            reason = type(error).__name__
        log.warning("Keystone can't be asked: %s", reason)
        raise Unavailable(f"{_AWAY}; try again.", retry_after_s=1)

    def _odd(self, reason: str) -> BadGateway:
        log.warning("Keystone: %s", reason)
        return BadGateway(f"{_AWAY}; try again.", retry_after_s=1)


class _Silent(Exception):
    """No answer in time."""


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


def _is_keystones(answer: Response | None) -> bool:
    """Whether an error is Keystone's, and not that of something before it, or at a wrong URL."""
    try:
        return answer is not None and isinstance(answer.json()["error"]["message"], str)
    except (ValueError, KeyError, TypeError):
        return False


def _message(answer: Response) -> str:
    """Keystone's own words."""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"Keystone answered {answer.status_code}"
