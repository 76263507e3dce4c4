"""The service's own API, as the process manager uses it."""

from __future__ import annotations

import http.client
import json
from typing import Any

from qinling_falcon.settings import Settings
from workers.run.errors import StartError

_TIMEOUT_S = 5.0


class Api:
    """Calls to the web process on this machine, one connection each."""

    def __init__(self, settings: Settings):
        self._host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
        self._port = settings.port

    @property
    def url(self) -> str:
        """Base URL, without a slash at its end."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    def ready(self) -> bool:
        """Whether the service, its database and its Redis answer."""
        try:
            return self._request("GET", "/readyz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def runtimes(self) -> list[dict[str, Any]]:
        """All runtimes."""
        return self._json("GET", "/v1/runtimes")  # type: ignore[no-any-return]

    def create_runtime(self, name: str, image: str) -> None:
        """Register a runtime; it becomes available later."""
        self._json("POST", "/v1/runtimes", {"name": name, "image": image})

    def available_workers(self, runtime_id: str) -> int:
        """Workers of a runtime that wait for their first function."""
        status, body = self._request("GET", f"/v1/runtimes/{runtime_id}/pool")
        return int(json.loads(body)["capacity"]["available"]) if status == 200 else 0

    def _json(self, method: str, path: str, body: object = None) -> Any:
        try:
            status, answer = self._request(method, path, body)
        except (OSError, http.client.HTTPException) as error:
            raise StartError(f"{method} {path} failed: {error}", log="web") from error
        if status >= 400:
            raise StartError(f"{method} {path} answered {status}: {answer.decode(errors='replace')}", log="web")
        return json.loads(answer)

    def _request(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT_S)
        try:
            connection.request(
                method,
                path,
                None if body is None else json.dumps(body),
                {"Content-Type": "application/json", "Connection": "close"},
            )
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()
