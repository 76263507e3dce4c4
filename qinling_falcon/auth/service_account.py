"""The service's own user at Keystone: what it asks there ends in time, and its errors are ours."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any, TypeVar

import gevent
from gevent.lock import BoundedSemaphore
from keystoneauth1.exceptions import CatalogException, ClientException, HttpError
from keystoneauth1.identity import BaseIdentityPlugin, v3
from keystoneauth1.session import Session
from requests import Response

from qinling_falcon.errors import BadGateway, QinlingError, Unavailable
from qinling_falcon.openstack import credentials, identity_url
from qinling_falcon.settings import Settings

T = TypeVar("T")

log = logging.getLogger(__name__)

AWAY = "Keystone does not answer as it should"
_MOST_AT_ONCE = 10


class ServiceAccount:
    """Questions to Keystone, with the service's own token, a trust's, or a caller's.

    Attributes:
        session: logs in as the service's user, again and again. Without redirects, which would take tokens elsewhere.
        timeout_s: longest wait for an answer.
    """

    def __init__(self, settings: Settings):
        logging.getLogger("keystoneauth").setLevel(logging.WARNING)  # its debugging repeats Keystone's answers
        self._credentials = credentials(settings)
        self.timeout_s = settings.keystone_timeout_s
        self.url = identity_url(str(settings.os_auth_url))
        verify: str | bool = True if settings.os_cacert is None else str(settings.os_cacert)
        self._auth = v3.Password(**self._credentials)
        self.session = Session(self._auth, verify=verify, timeout=self.timeout_s, redirect=False)
        self._turn = BoundedSemaphore(_MOST_AT_ONCE)

    def by_trust(self, trust_id: str) -> v3.Password:
        """The log-in of the service's user by a trust."""
        user = {name: value for name, value in self._credentials.items() if not name.startswith("project_")}
        return v3.Password(**user, trust_id=trust_id, reauthenticate=False)

    def request_own(self, method: str, path: str, **arguments: Any) -> Response:
        """Keystone's answer to a request with the service's own token, whatever it is; within `ask`."""
        answer = self.session.request(self.url + path, method, raise_exc=False, **arguments)
        if is_about_asker(answer, self._auth, self.session):
            answer = self.session.request(self.url + path, method, raise_exc=False, **arguments)
        return answer

    def request(self, method: str, path: str, token: str | None, **arguments: Any) -> Response:
        """Keystone's answer to a request with somebody's token, whatever it is; within `ask`."""
        headers = {"X-Auth-Token": token}
        return self.session.request(
            self.url + path, method, headers=headers, authenticated=False, raise_exc=False, **arguments
        )

    def ask(self, what: Callable[[], T]) -> T:
        """Do something with Keystone, for a bounded time.

        Raises:
            Unavailable: it doesn't answer, or doesn't believe the service.
            BadGateway: it answers what makes no sense.
        """
        return asked(what, self._turn, self.timeout_s)


def asked(what: Callable[[], T], turn: BoundedSemaphore, timeout_s: float) -> T:
    """Do something with Keystone when it is its turn, all within a time; raises as `ServiceAccount.ask`."""
    try:
        with gevent.Timeout(timeout_s, _Silent), turn:
            return what()
    except _Silent:
        reason = f"no answer within {timeout_s:g} s"
    except ClientException as error:
        reason = reason_of(error)
    except QinlingError:
        raise
    except Exception as error:  # its answer was not what keystoneauth reckons with
        log.exception("Keystone's answer can't be read")
        reason = type(error).__name__
    log.warning("Keystone can't be asked: %s", reason)
    raise Unavailable(f"{AWAY}; try again.", retry_after_s=1)


def is_about_asker(answer: Response, auth: BaseIdentityPlugin, session: Session) -> bool:
    """Whether a 404 was about the service, not about what it asked for; then it is logged in anew, and may ask again.

    Keystone says so while the service's token lives whose user or project was deleted, and names them ("Could not find
    user: ID"); they may be there again, by the same names. What others' tokens are of is named by other ids, so that
    nobody's token makes the service log in.

    Raises:
        ClientException: it can't log in.
    """
    if answer.status_code != 404 or not is_keystones(answer):
        return False
    mine = auth.get_access(session)
    if answer.request.headers.get("X-Auth-Token") != mine.auth_token:
        return True  # somebody else has logged in meanwhile
    ids = {mine.user_id, mine.project_id, mine.user_domain_id, mine.project_domain_id}
    if ids.isdisjoint(re.findall(r"[\w-]+", message(answer))):
        return False
    log.warning("Keystone doesn't know the service's user or project any more: logging in anew")
    auth.invalidate()
    auth.get_access(session)
    return True


def reason_of(error: BaseException | None) -> str:
    """Why Keystone can't be asked, for the log: without its own words and URLs, in which there may be secrets."""
    while error is not None and not isinstance(error, ClientException) and error.__context__ is not None:
        error = error.__context__  # keystonemiddleware's errors say nothing
    name = type(error).__name__
    if isinstance(error, HttpError):
        return f"{name} (HTTP {error.http_status})"
    if isinstance(error, NotAsked):
        return str(error)
    return f"{name}: {error}" if isinstance(error, CatalogException) else name


def odd(reason: str) -> BadGateway:
    """What is told, and logged, of an answer that makes no sense."""
    log.warning("Keystone: %s", reason)
    return BadGateway(f"{AWAY}; try again.", retry_after_s=1)


def is_keystones(answer: Response | None) -> bool:
    """Whether an error is Keystone's, and not that of something before it, or at a wrong URL."""
    try:
        return answer is not None and isinstance(answer.json()["error"]["message"], str)
    except (ValueError, KeyError, TypeError):
        return False


def message(answer: Response) -> str:
    """Keystone's own words."""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"Keystone answered {answer.status_code}"


class NotAsked(ClientException):
    """Keystone can't be asked, or doesn't answer the question; the message is our own."""


class _Silent(Exception):
    """No answer in time."""
