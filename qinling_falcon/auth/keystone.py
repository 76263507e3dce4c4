"""`AUTH_MODE=keystone`: identifies callers by their Keystone tokens."""

from __future__ import annotations

import io
import logging
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

import gevent
from gevent.lock import BoundedSemaphore
from keystoneauth1.access import AccessInfoV3
from keystoneauth1.exceptions import ClientException, NotFound
from keystonemiddleware.auth_token import AuthProtocol, InvalidToken
from webob.exc import HTTPServiceUnavailable  # type: ignore[import-untyped]  # WebOb has no types

from qinling_falcon.auth.identity import Identity
from qinling_falcon.auth.policy import Policy
from qinling_falcon.auth.service_account import NotAsked, is_about_asker, reason_of
from qinling_falcon.auth.token_cache import Known, Question, Refused, TokenCache
from qinling_falcon.errors import Forbidden, QinlingError, Unauthorized, Unavailable
from qinling_falcon.models.scope import Context
from qinling_falcon.observability.health import Check
from qinling_falcon.openstack import credentials, object_store_url
from qinling_falcon.settings import Settings

log = logging.getLogger(__name__)

SERVICE_TYPE = "function-engine"
# Keystone's own are some hundred long. What its web server takes for too long a header is no token either; it would be
# answered as if Keystone were away.
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")
# As many as the connections that keystoneauth keeps.
_MOST_AT_ONCE = 10
_ANSWER = "qinling_falcon.keystone"
# Seconds after an answer of Keystone during which `/readyz` does not ask again.
_BELIEVED_S = 2.0
_NOBODYS = Question("nobody-s-token", "GET", "/readyz")


class KeystoneAuth:
    """Authenticates requests by validating `X-Auth-Token` with Keystone.

    The constructor calls Keystone once. Wrong settings are therefore logged before the first request, and the first
    request does not wait for the service's own login.
    """

    def __init__(self, settings: Settings, policy: Policy):
        self._policy = policy
        self._timeout_s = settings.keystone_timeout_s
        self._settings = settings
        self._challenge = challenge(settings)
        self._turn = BoundedSemaphore(_MOST_AT_ONCE)
        self._configuration = _configuration(settings)
        _hush()
        self._protocol = _Protocol(_let_in, dict(self._configuration))
        self._answered_at: float | None = None
        self._cache = TokenCache(
            self._ask,
            keep_s=settings.token_cache_s,
            size=settings.token_cache_size,
            wait_s=settings.keystone_timeout_s,
            # These requests can't be counted by project, because the project is not known before validation.
            most_waiting=settings.web_connections // 4,
        )
        gevent.spawn(self._try)

    def checks(self) -> dict[str, Check]:
        """The check `keystone`: this process can validate tokens.

        The check fails with wrong settings, so that the process gets no requests. It does not notice that the service's
        user lacks a role, because only the validation of a real token shows that.
        """
        return {"keystone": self.check}

    def check(self) -> None:
        """Ask Keystone to validate an invented token, unless Keystone has answered within the last seconds.

        Raises:
            Unavailable: Keystone does not answer, or not as expected.
        """
        if self._answered_at is None or time.monotonic() - self._answered_at > _BELIEVED_S:
            self._ask(_NOBODYS)

    def _try(self) -> None:
        try:
            self.check()
        except Unavailable:
            # Without a traceback: the line before has the cause.
            log.error("Keystone can't be asked yet: see the line before; OS_* settings may be wrong")  # noqa: TRY400

    def authenticate(self, environ: Mapping[str, Any]) -> Identity:
        """The user and project of the request's token. Keystone is asked when nobody has for `TOKEN_CACHE_S`.

        Raises:
            Unauthorized: no token, or none that Keystone believes.
            Forbidden: the token is of no project.
            Unavailable: Keystone doesn't answer, or not as it should.
        """
        token = environ.get("HTTP_X_AUTH_TOKEN", "").strip()
        if not token:
            raise self._unauthorized("A token is needed: X-Auth-Token.")
        if not _TOKEN.fullmatch(token):
            raise self._unauthorized("X-Auth-Token is no token.")
        path = environ["PATH_INFO"]
        if not path.isascii():  # as Falcon reads it
            path = path.encode("latin-1").decode("utf-8", "replace")
        method = environ["REQUEST_METHOD"]
        if method == "HEAD":
            method = "GET"  # of which access rules speak
        known = self._cache.find(Question(token, method, path))
        return Identity(known.context, token, known.object_store, known.role_ids, known.by_credential)

    def _ask(self, question: Question) -> Known | Refused:
        """Validate a token through keystonemiddleware."""
        environ: dict[str, Any] = _environ(question)
        statuses: list[str] = []
        asked = time.time()
        try:
            with gevent.Timeout(self._timeout_s), self._turn:
                for _ in self._protocol(environ, lambda status, headers, error=None: statuses.append(status)):
                    pass
            answer = self._read(environ, statuses[-1], asked)
        except gevent.Timeout:
            raise self._away(f"no answer within {self._timeout_s:g} s") from None
        except ClientException as error:
            raise self._away(reason_of(error)) from None
        except Exception as error:  # its answer was not what keystonemiddleware reckons with
            self._protocol = _Protocol(_let_in, dict(self._configuration))  # which may remember some of it
            raise self._away(f"its answer can't be understood: {type(error).__name__}") from None
        self._answered_at = time.monotonic()
        return answer

    def _read(self, environ: dict[str, Any], status: str, asked: float) -> Known | Refused:
        if status.startswith("401"):
            return Refused(lambda: self._unauthorized("Keystone does not know this token, or it has ended."))
        if _ANSWER not in environ:
            raise NotAsked(f"keystonemiddleware answered {status}")
        return self._known(environ[_ANSWER], asked)

    def _known(self, body: dict[str, Any], asked: float) -> Known | Refused:
        access = AccessInfoV3(body)
        if access.project_id is None:
            return Refused(lambda: Forbidden("The token is of no project: take one that is scoped to a project."))
        roles = tuple(sorted(set(access.role_names or ())))
        context = Context(project_id=access.project_id, user_id=access.user_id, roles=roles)
        if self._policy.is_admin(context):
            context = Context(context.project_id, True, context.user_id, context.roles)
        credential = body["token"].get("application_credential")
        return Known(
            context=context,
            object_store=object_store_url(access, self._settings),
            left_s=0.0 if access.expires is None else access.expires.timestamp() - asked,
            restricted=credential is not None and credential.get("access_rules") is not None,
            role_ids=tuple(sorted(set(access.role_ids or ()))),
            by_credential=credential is not None,
        )

    def _unauthorized(self, message: str) -> QinlingError:
        return Unauthorized(message, challenge=self._challenge)

    def _away(self, reason: str) -> QinlingError:
        log.warning("Keystone can't be asked: %s", reason)
        return Unavailable("Keystone does not answer as it should; try again.", retry_after_s=1)


class _Protocol(AuthProtocol):  # type: ignore[misc]  # keystonemiddleware has no types
    """keystonemiddleware, which takes more for a refusal of a token than is one."""

    def fetch_token(self, token: str, **more: Any) -> Any:
        """What Keystone says of the token.

        Raises:
            InvalidToken: Keystone doesn't know it.
            ClientException: it can't be asked, or something was not found, or empty, but it is not Keystone that said
                so of the token.
        """
        try:
            return self._fetch(token, **more)
        except InvalidToken as error:
            answer = error.__context__.response
            if not is_about_asker(answer, self._auth, self._session):
                raise
        return self._fetch(token, **more)

    def _fetch(self, token: str, **more: Any) -> Any:
        try:
            return super().fetch_token(token, **more)
        except InvalidToken as error:
            cause = error.__context__
            if not _is_about_token(cause):
                raise NotAsked(f"its answer is not one about a token: {reason_of(cause)}") from None
            raise
        except HTTPServiceUnavailable as error:
            raise NotAsked(reason_of(error.__context__)) from None

    def _create_session(self, **arguments: Any) -> Any:
        """Without redirects: tokens and the service's password go where the settings and the catalogue say."""
        return super()._create_session(redirect=False, **arguments)


def _is_about_token(cause: BaseException | None) -> bool:
    """Whether it is Keystone's 404 to the question, not one to the service's own login, nor a page of a proxy's."""
    answer = cause.response if isinstance(cause, NotFound) else None
    if answer is None or "X-Subject-Token" not in answer.request.headers:
        return False
    try:
        return bool(answer.json()["error"]["code"] == NotFound.http_status)
    except (ValueError, TypeError, LookupError):
        return False


def _hush() -> None:
    """Silence keystonemiddleware's warnings, and debugging of the libraries below.

    They repeat Keystone's answers, in which there are parts of tokens, and call options unknown that are used.
    """
    logging.getLogger("keystonemiddleware").setLevel(logging.ERROR)
    for name in ("keystoneauth", "keystoneclient"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _configuration(settings: Settings) -> dict[str, Any]:
    """What keystonemiddleware is told: its cache is off, so that `TOKEN_CACHE_S` is all of the time that a token lives.

    Of its 'no cache' (-1) and its 'for ever' (0) the first is meant.
    """
    return {
        **credentials(settings),
        "auth_type": "password",
        "www_authenticate_uri": settings.www_authenticate_uri or settings.os_auth_url,
        "region_name": settings.os_region_name,
        "interface": settings.os_interface,
        "cafile": None if settings.os_cacert is None else str(settings.os_cacert),
        "service_type": SERVICE_TYPE,
        "include_service_catalog": True,
        "delay_auth_decision": False,
        "token_cache_time": -1,
        "http_connect_timeout": settings.keystone_timeout_s,
        "http_request_max_retries": 0,
        "service_token_roles_required": True,
    }


def challenge(settings: Settings) -> str:
    """Where users get tokens, for `WWW-Authenticate`."""
    return f'Keystone uri="{settings.www_authenticate_uri or settings.os_auth_url}"'


def _environ(question: Question) -> dict[str, Any]:
    """The least that keystonemiddleware needs. Without X-Service-Token, by which tokens would outlive their end."""
    return {
        "REQUEST_METHOD": question.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": question.path.encode().decode("latin-1"),
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_X_AUTH_TOKEN": question.token,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }


def _let_in(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """The app behind keystonemiddleware: notes what it found, and answers nothing."""
    environ[_ANSWER] = environ["keystone.token_info"]
    start_response("204 No Content", [])
    return []
