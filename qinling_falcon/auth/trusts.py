"""Trusts: by them functions act for whoever put their code in, with nobody's password.

A trust is made with a caller's own token, for the service's user, and names the caller's project and roles in it. The
service logs in by it (`trust_tokens.py`), and gives a function the token that comes of that. Trusts that no function
names any more are noted in `models/trusts.py` and deleted by `sweep`; only ids that stand there are, so that two
installations of one service user never delete each other's.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass

import gevent
from gevent.lock import BoundedSemaphore
from keystoneauth1.exceptions import Forbidden, NotFound, Unauthorized
from requests import Response

from qinling_falcon import errors
from qinling_falcon.auth.identity import Identity
from qinling_falcon.auth.keystone import challenge
from qinling_falcon.auth.service_account import ServiceAccount, asked, is_keystones, message, odd
from qinling_falcon.auth.trust_tokens import TrustTokens
from qinling_falcon.errors import QinlingError, Unavailable
from qinling_falcon.invocation.sessions import TrustRefused
from qinling_falcon.models import trusts
from qinling_falcon.settings import Settings

log = logging.getLogger(__name__)

_ID = re.compile(r"[0-9A-Za-z-]{1,64}")
# Whoever wants a trust waits as for all of Keystone's answers. One that is made later than that is deleted again, if
# the answer comes within this time from the question: Keystone lists no trusts by what they were made for.
_LATEST_S = 60.0
# Questions that are out at once; no new one waits for their late answers.
_MOST_OUT = 100
# After the database was away.
_RETRY_S = 5.0
# A trust that Keystone doesn't let delete now, for its maker is disabled, is left alone for so long.
_REFUSED_S = 600.0
# One at which Keystone was away, or answered oddly.
_AGAIN_S = 20.0


@dataclass(slots=True)
class _Making:
    """A trust that is being made: its id, or why there is none, when that is known."""

    outcome: str | Exception | None = None
    is_wanted: bool = True


class Trusts:
    """Makes and deletes trusts. One for each process.

    Attributes:
        tokens: by which functions act.
    """

    def __init__(self, settings: Settings):
        self._settings = settings
        self._account = ServiceAccount(settings)
        self.tokens = TrustTokens(self._account, settings)
        self._out = BoundedSemaphore(_MOST_OUT)
        self._left_until: dict[str, float] = {}
        self._sweeping: gevent.Greenlet | None = None
        self._wanted = False

    def make(self, identity: Identity) -> str:
        """A new trust of the caller: in its project, with its roles there, without an end.

        Unless a row comes to name it within an hour, the sweep deletes it. A crash between the question to Keystone and
        that note leaves a trust that nobody uses or deletes, as does an answer that never comes.

        Raises:
            TrustRefused: the caller's token can't make trusts, as those of application credentials and of trusts.
            Unauthorized: it has ended.
            Unavailable: Keystone doesn't answer, or not yet: a trust that it makes later is deleted again.
            BadGateway: it answers what makes no sense.
        """
        if identity.by_credential:
            # Keystone isn't asked: to one with access rules it would say 401, as if the token had ended.
            raise TrustRefused("Keystone lets application credentials make no trusts.")
        making = _Making()
        # In a greenlet of its own: Keystone may make the trust when the caller is gone, or has waited long enough.
        asking = gevent.spawn(self._fly, making, identity)
        try:
            asking.join(self._account.timeout_s)
        finally:
            making.is_wanted = False
        if making.outcome is None:
            log.warning("Keystone can't be asked: no trust within %g s", self._account.timeout_s)
            raise Unavailable("Keystone takes too long to make a trust; try again.", retry_after_s=1)
        if isinstance(making.outcome, Exception):
            raise making.outcome
        return making.outcome

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
        doomed = trusts.doomed()
        self._left_until = {trust_id: until for trust_id, until in self._left_until.items() if trust_id in doomed}
        for trust_id in doomed:
            if self._left_until.get(trust_id, 0.0) > time.monotonic():
                continue
            # One that always fails must not keep the others from their turn.
            self._left_until[trust_id] = time.monotonic() + _AGAIN_S
            answer = self._delete(trust_id)
            if _is_gone(answer):
                trusts.deleted(trust_id)
                del self._left_until[trust_id]
                gone.append(trust_id)
                continue
            log.warning("trust %s can't be deleted: Keystone answered %s", trust_id, answer.status_code)
            if answer.status_code == Forbidden.http_status and is_keystones(answer):
                self._left_until[trust_id] = time.monotonic() + _REFUSED_S
        return gone

    def _fly(self, making: _Making, identity: Identity) -> None:
        """Make it; what comes of that is a value, for an error that goes up in a greenlet reaches nobody."""
        try:
            made = self._make(making, identity)
        except (QinlingError, TrustRefused) as error:
            making.outcome = error
        except Exception:
            log.exception("a trust could not be made")
            making.outcome = Unavailable("A trust could not be made; try again.", retry_after_s=1)
        else:
            making.outcome = made
            if not making.is_wanted:
                log.warning("trust %s was made when nobody waited for it any more", made)
                self.forgo(made)

    def _make(self, making: _Making, identity: Identity) -> str:
        answer = self._request_trust(making, identity, identity.role_ids)
        if answer.status_code == 404 and is_keystones(answer):
            # The caller may have lost one of the roles since Keystone was asked about the token; or the service's user
            # is another one now, as the question about the roles finds out.
            answer = self._request_trust(making, identity, self._roles_now(identity))
        if answer.status_code == 401:
            raise self._ended()
        if answer.status_code == 403 and is_keystones(answer):
            raise TrustRefused(message(answer))
        if answer.status_code != 201:
            raise odd(f"a trust was to be made, and Keystone answered {answer.status_code}: {message(answer)}")
        try:
            trust_id = answer.json()["trust"]["id"]
        except (ValueError, KeyError, TypeError):
            trust_id = None
        if not isinstance(trust_id, str) or not _ID.fullmatch(trust_id):
            raise odd("a trust was to be made, and Keystone's answer names none")
        try:
            trusts.expect(trust_id)
        except BaseException:
            self.forgo(trust_id)
            raise
        return trust_id

    def _request_trust(self, making: _Making, identity: Identity, role_ids: Iterable[str]) -> Response:
        """Keystone's answer, whatever it is.

        Raises:
            Unavailable: there is none; or it wasn't asked, for nobody waits any more, or too many questions are out.
        """
        trust = {
            "trustor_user_id": identity.context.user_id,
            "trustee_user_id": self._account.ask(self._account.session.get_user_id),
            "project_id": identity.context.project_id,
            "roles": [{"id": role_id} for role_id in role_ids],
            "impersonation": True,
        }
        if not making.is_wanted:
            log.warning("no trust is asked for, as nobody waits for it any more")
            raise Unavailable("Nobody waits for the trust.")
        if self._out.locked():
            log.warning("no trust is asked for, as %d questions are out", _MOST_OUT)
            raise Unavailable("Keystone takes too long to make trusts; try again.", retry_after_s=1)
        timeout_s = (self._account.timeout_s, _LATEST_S)

        def ask() -> Response:
            return self._account.request(
                "POST", "/OS-TRUST/trusts", identity.token, json={"trust": trust}, timeout=timeout_s
            )

        return asked(ask, self._out, _LATEST_S)

    def _roles_now(self, identity: Identity) -> list[str]:
        """Ids of the roles that the caller's token has now.

        Raises:
            Unauthorized: it has ended.
            Unavailable, BadGateway: as `ServiceAccount.ask`.
        """
        account = self._account
        about = {"X-Subject-Token": identity.token}
        answer = account.ask(lambda: account.request_own("GET", "/auth/tokens?nocatalog", headers=about))
        if answer.status_code == 404 and is_keystones(answer):
            raise self._ended()
        try:
            return [str(role["id"]) for role in answer.json()["token"]["roles"]]
        except (ValueError, KeyError, TypeError):
            raise odd(f"a token was asked about, and Keystone answered {answer.status_code}") from None

    def _ended(self) -> errors.Unauthorized:
        return errors.Unauthorized("The token has ended.", challenge=challenge(self._settings))

    def _delete(self, trust_id: str) -> Response:
        """What Keystone answers when it is to delete a trust."""
        self.tokens.forget(trust_id)
        account = self._account
        path = f"/OS-TRUST/trusts/{trust_id}"

        def ask() -> Response:
            answer = account.request_own("DELETE", path)
            if answer.status_code != 403:
                return answer
            # Without an admin's role, the trustor may: whom the trust's own token stands for.
            try:
                token = account.by_trust(trust_id).get_token(account.session)
            except (Unauthorized, Forbidden, NotFound):
                return answer
            return account.request("DELETE", path, token)

        return account.ask(ask)

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


def _is_gone(answer: Response) -> bool:
    """Whether Keystone doesn't know the trust any more."""
    return answer.status_code == 204 or (answer.status_code == 404 and is_keystones(answer))
