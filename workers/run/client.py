"""The service's own API, as the process manager uses it."""

from __future__ import annotations

import http.client
import json
from typing import Any

from qinling_falcon.openstack import credentials
from qinling_falcon.settings import Settings
from workers.run.errors import StartError

_TIMEOUT_S = 5.0
_OTHERS = {"keystone", "swift"}


class Away(Exception):
    """Keystone doesn't answer, so that nobody can call the API."""


class NotAllowed(Exception):
    """The policy doesn't let the service's own user do this."""


class Api:
    """Calls to the web process on this machine, one connection each; with Keystone, as the service's own user."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._token: str | None = None
        self._host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
        self._port = settings.port

    @property
    def url(self) -> str:
        """Base URL, without a slash at its end."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    def ready(self) -> bool:
        """Whether the service, its database and its Redis answer; no start waits for others' services."""
        try:
            status, body = self._request("GET", "/readyz")
        except (OSError, http.client.HTTPException):
            return False
        if status != 503:
            return status == 200
        away = json.loads(body).get("errors")
        return bool(away) and set(away) <= _OTHERS

    def log_in(self) -> None:
        """Take a token for the calls that follow, where tokens are needed.

        Raises:
            Away: Keystone doesn't answer, or what answers is none.
            StartError: it refuses the service's own user, without whom it will tell the service of no other either; or
                there is none of it.
        """
        settings = self._settings
        if settings.auth_mode == "noauth":
            return
        from keystoneauth1 import exceptions, session  # a quarter of a second
        from keystoneauth1.identity import v3

        account = v3.Password(**credentials(settings), include_catalog=False)
        verify: str | bool = True if settings.os_cacert is None else str(settings.os_cacert)
        try:
            # No redirects: they would take the password elsewhere.
            self._token = session.Session(
                account, verify=verify, timeout=settings.keystone_timeout_s, redirect=False
            ).get_token()
        except exceptions.HttpError as error:
            if error.http_status == 404:
                raise StartError(f"There is no Keystone at OS_AUTH_URL={settings.os_auth_url}: 404") from error
            if error.http_status >= 500:
                raise Away(f"Keystone at {settings.os_auth_url} answers {error.http_status}") from error
            raise StartError(
                f"Keystone at {settings.os_auth_url} refuses OS_USERNAME={settings.os_username} with"
                f" OS_PROJECT_NAME={settings.os_project_name}: {error.message}"
            ) from error
        except exceptions.InvalidResponse as error:
            status = error.response.status_code
            raise Away(f"What answers at {settings.os_auth_url} is no Keystone: it answered {status}") from error
        except exceptions.ClientException as error:
            raise Away(f"Keystone at {settings.os_auth_url} does not answer") from error

    def runtimes(self) -> list[dict[str, Any]]:
        """All runtimes that can be seen.

        Raises:
            Away, NotAllowed, StartError: it can't be told.
        """
        return self._json("GET", "/v1/runtimes")  # type: ignore[no-any-return]

    def create_runtime(self, name: str, image: str) -> None:
        """Register a runtime; it becomes available later.

        Raises:
            Away, NotAllowed, StartError: it is not registered.
        """
        self._json("POST", "/v1/runtimes", {"name": name, "image": image})

    def available_workers(self, runtime_id: str) -> int | None:
        """Workers of a runtime that wait for their first function; None: the policy doesn't let us know."""
        status, body = self._request("GET", f"/v1/runtimes/{runtime_id}/pool")
        if status == 403:
            return None
        return int(json.loads(body)["capacity"]["available"]) if status == 200 else 0

    def _json(self, method: str, path: str, body: object = None) -> Any:
        try:
            status, answer = self._request(method, path, body)
        except (OSError, http.client.HTTPException) as error:
            raise StartError(f"{method} {path} failed: {error}", log="web") from error
        if self._token is not None and status == 503:
            raise Away(f"{method} {path} answered 503: {answer.decode(errors='replace')}")
        if status == 403:
            raise NotAllowed
        if status >= 400:
            raise StartError(f"{method} {path} answered {status}: {answer.decode(errors='replace')}", log="web")
        return json.loads(answer)

    def _request(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json", "Connection": "close"}
        timeout_s = _TIMEOUT_S
        if self._token is not None:
            headers["X-Auth-Token"] = self._token
            timeout_s += self._settings.keystone_timeout_s
        connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()
