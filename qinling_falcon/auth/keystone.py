"""`AUTH_MODE=keystone`: callers are whom their tokens are of, as Keystone says."""

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
from keystoneauth1.exceptions import ClientException
from keystonemiddleware.auth_token import AuthProtocol

from qinling_falcon.auth.identity import Identity
from qinling_falcon.auth.policy import Policy
from qinling_falcon.auth.token_cache import Known, Question, Refused, TokenCache
from qinling_falcon.errors import Forbidden, QinlingError, Unauthorized, Unavailable
from qinling_falcon.models.scope import Context
from qinling_falcon.openstack import OBJECT_STORE, credentials
from qinling_falcon.settings import Settings

log = logging.getLogger(__name__)

SERVICE_TYPE = "function-engine"
_TOKEN = re.compile(r"[\x21-\x7e]{1,8190}")
# As many as the connections that keystoneauth keeps.
_MOST_AT_ONCE = 10
_ANSWER = "qinling_falcon.keystone"


class KeystoneAuth:
    """Believes `X-Auth-Token`, when Keystone does."""

    def __init__(self, settings: Settings, policy: Policy):
        self._policy = policy
        self._timeout_s = settings.keystone_timeout_s
        self._region = settings.os_region_name
        self._interface = settings.os_interface
        self._challenge = f'Keystone uri="{settings.www_authenticate_uri or settings.os_auth_url}"'
        self._turn = BoundedSemaphore(_MOST_AT_ONCE)
        self._protocol = AuthProtocol(_let_in, _configuration(settings))
        self._cache = TokenCache(
            self._ask, keep_s=settings.token_cache_s, size=settings.token_cache_size, wait_s=settings.keystone_timeout_s
        )

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
        known = self._cache.find(Question(token, environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        return Identity(known.context, token, known.object_store)

    def _ask(self, question: Question) -> Known | Refused:
        """Have keystonemiddleware ask Keystone."""
        environ: dict[str, Any] = _environ(question)
        statuses: list[str] = []
        try:
            with gevent.Timeout(self._timeout_s), self._turn:
                for _ in self._protocol(environ, lambda status, headers, error=None: statuses.append(status)):
                    pass
        except gevent.Timeout:
            raise self._away(f"no answer within {self._timeout_s:g} s") from None
        except ClientException as error:
            raise self._away(f"{type(error).__name__}: {error}") from None
        except Exception as error:  # its answer was not what keystonemiddleware reckons with
            log.exception("a token could not be validated")
            raise self._away(type(error).__name__) from None
        if statuses[-1].startswith("401"):
            return Refused(lambda: self._unauthorized("Keystone does not know this token, or it has ended."))
        if _ANSWER not in environ:
            raise self._away(f"keystonemiddleware answered {statuses[-1]}")
        return self._known(environ[_ANSWER])

    def _known(self, body: dict[str, Any]) -> Known | Refused:
        access = AccessInfoV3(body)
        if access.project_id is None:
            return Refused(lambda: Forbidden("The token is of no project: take one that is scoped to a project."))
        roles = tuple(sorted(set(access.role_names or ())))
        context = Context(project_id=access.project_id, user_id=access.user_id, roles=roles)
        if self._policy.is_admin(context):
            context = Context(context.project_id, True, context.user_id, context.roles)
        catalog = access.service_catalog
        urls = catalog.get_urls(OBJECT_STORE, interface=self._interface, region_name=self._region)
        credential = body["token"].get("application_credential") or {}
        return Known(
            context=context,
            object_store=urls[0] if urls else None,
            left_s=0.0 if access.expires is None else access.expires.timestamp() - time.time(),
            restricted=credential.get("access_rules") is not None,
        )

    def _unauthorized(self, message: str) -> QinlingError:
        return Unauthorized(message, challenge=self._challenge)

    def _away(self, reason: str) -> QinlingError:
        log.warning("Keystone can't be asked: %s", reason)
        return Unavailable("Keystone does not answer as it should; try again.", retry_after_s=1)


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


def _environ(question: Question) -> dict[str, Any]:
    """The least that keystonemiddleware needs. Without X-Service-Token, by which tokens would outlive their end."""
    return {
        "REQUEST_METHOD": question.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": question.path,
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
