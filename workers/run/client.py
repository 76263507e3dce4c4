"""A client of the service's own API, for `make run`."""

from __future__ import annotations

import http.client
import json
from typing import Any

from qinling_falcon.settings import Settings
from workers import service_user
from workers.run.errors import StartError
from workers.service_user import Away, Refused

_TIMEOUT_S = 5.0
_OTHERS = {"keystone", "swift"}


class Api:
    """Calls the web process on this machine, with one connection per call; with Keystone, as the service's user."""

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
        """Get a token for the following calls, if tokens are needed.

        Raises:
            Away: Keystone does not answer, or another server answers at its URL.
            StartError: Keystone refuses the service's user (then it can't validate tokens of users either), or there is
                no Keystone at that URL.
        """
        if self._settings.auth_mode == "noauth":
            return
        try:
            self._token = service_user.log_in(self._settings).auth_token
        except Refused as error:
            raise StartError(str(error)) from error

    def runtimes(self) -> list[dict[str, Any]]:
        """All visible runtimes.

        Raises:
            Away, StartError: the request failed.
        """
        try:
            status, body = self._request("GET", "/v1/runtimes")
        except (OSError, http.client.HTTPException) as error:
            raise StartError(f"GET /v1/runtimes failed: {error}", log="web") from error
        text = body.decode(errors="replace")
        if self._token is not None and status == 503:
            raise Away(f"GET /v1/runtimes answered 503: {text}")
        if status >= 400:
            raise StartError(f"GET /v1/runtimes answered {status}: {text}", log="web")
        found: list[dict[str, Any]] = json.loads(text)
        return found

    def available_workers(self, runtime_id: str) -> int | None:
        """Workers of a runtime that wait for their first function; None: the policy doesn't let us know."""
        status, body = self._request("GET", f"/v1/runtimes/{runtime_id}/pool")
        if status == 403:
            return None
        return int(json.loads(body)["capacity"]["available"]) if status == 200 else 0

    def _request(self, method: str, path: str) -> tuple[int, bytes]:
        headers = {"Connection": "close"}
        timeout_s = _TIMEOUT_S
        if self._token is not None:
            headers["X-Auth-Token"] = self._token
            timeout_s += self._settings.keystone_timeout_s
        connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()
