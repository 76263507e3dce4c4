"""Sends requests to the Kubernetes API server: JSON in, JSON out, each with a deadline and within a budget.

Of the `kubernetes` package, only the HTTP client is used: for connections, TLS and authentication. Its models cost much
CPU for long lists, and refuse answers of older servers.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

import gevent
import orjson
import urllib3.exceptions
from kubernetes.client.api_client import ApiClient
from kubernetes.client.exceptions import ApiException
from kubernetes.client.rest import RESTResponse

from qinling_falcon.orchestrators.base import OrchestratorAway
from qinling_falcon.orchestrators.kubernetes.access import make_configuration
from qinling_falcon.orchestrators.kubernetes.budget import Budget
from qinling_falcon.settings import Settings

logger = logging.getLogger(__name__)

JSON = "application/json"
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
_FIELD_MANAGER = "qinling-falcon"
_TOO_MANY_REQUESTS = 429
_CONNECT_TIMEOUT_S = 3.0
# The server ends a watch after the time that it is asked for. Only a hanging connection takes longer.
_WATCH_GRACE_S = 15.0


class ApiAway(OrchestratorAway):
    """The cluster can't be used now, and may be later.

    The API server does not answer, has failed or has too many requests; or another manager holds the Lease; or a
    request was refused that may be accepted later; or the budget is used up.
    """


class ApiError(Exception):
    """The API server refused a request.

    Args:
        status: the HTTP status.
        reason: the machine-readable reason, such as `NotFound`; may be empty.
        message: the server's text.
    """

    def __init__(self, status: int, reason: str, message: str):
        super().__init__(message)
        self.status = status
        self.reason = reason


class KubernetesApi:
    """The API server of one cluster.

    Args:
        settings: how to reach it, the deadline of a request, and the budget.

    Attributes:
        budget: counts the requests.
        away_since: since when the server has not answered, in seconds since 1970; None: it answers.
        away_reason: why it is away.

    Raises:
        SettingsError: the configuration can't be used.
    """

    def __init__(self, settings: Settings):
        self.budget = Budget(settings.kubernetes_api_budget)
        self.away_since: float | None = None
        self.away_reason: str | None = None
        self._timeout_s = settings.kubernetes_api_timeout_s
        self._client = ApiClient(make_configuration(settings))

    def get(self, path: str, query: Mapping[str, str] | None = None, *, urgent: bool = False) -> Any:
        """Read an object or a list."""
        return self._call("GET", path, query, urgent=urgent)

    def create(self, path: str, body: Mapping[str, Any], *, urgent: bool = False) -> Any:
        """Create an object."""
        return self._call("POST", path, None, body, JSON, urgent=urgent)

    def replace(self, path: str, body: Mapping[str, Any], *, urgent: bool = False) -> Any:
        """Replace an object. With a `resourceVersion`, this fails with status 409 if the object has changed."""
        return self._call("PUT", path, None, body, JSON, urgent=urgent)

    def change(self, path: str, operations: list[dict[str, Any]]) -> Any:
        """Apply a JSON patch. It fails with status 422 if a `test` operation does not hold."""
        return self._call("PATCH", path, None, operations, JSON_PATCH)

    def merge(self, path: str, changes: Mapping[str, Any]) -> Any:
        """Change members of an object (JSON merge patch)."""
        return self._call("PATCH", path, None, changes, MERGE_PATCH)

    def apply(self, path: str, body: Mapping[str, Any]) -> Any:
        """Create an object or make it as `body` says (server-side apply). Fields that `body` does not have stay."""
        query = {"fieldManager": _FIELD_MANAGER, "force": "true"}
        # JSON is YAML.
        return self._call("PATCH", path, query, json.dumps(body), APPLY_PATCH)

    def delete(self, path: str, *, uid: str | None = None, grace_s: int | None = None) -> bool:
        """Delete an object, and in the background the objects that it owns. Returns False if there is none.

        Args:
            path: of the object.
            uid: only if it has this uid.
            grace_s: seconds that its processes get to end.
        """
        options: dict[str, Any] = {"propagationPolicy": "Background"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        try:
            self._call("DELETE", path, None, options, JSON, urgent=True)
        except ApiError as error:
            if error.status == 404 or (error.status == 409 and uid is not None):
                return False
            raise
        return True

    def watch(self, path: str, query: Mapping[str, str], longest_s: float) -> Iterator[Mapping[str, Any]]:
        """Yield the events of a watch as they come, until the server ends it.

        Args:
            path: of the list.
            query: with the `resourceVersion` to begin at.
            longest_s: seconds after which the server ends the watch.
        """
        query = {**query, "watch": "true", "timeoutSeconds": str(int(longest_s))}
        timeout_s = (_CONNECT_TIMEOUT_S, longest_s + _WATCH_GRACE_S)
        response = self._send("GET", path, query, None, JSON, timeout_s, urgent=True)
        rest = b""
        try:
            for piece in response.response.stream():
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    yield orjson.loads(line)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise ApiAway(f"a watch was cut: {error}") from error
        finally:
            response.response.close()

    def log(self, path: str, query: Mapping[str, str]) -> bytes:
        """Read the log of a pod. The API server asks its node, so a failure does not show that the server is away."""
        return self._read(self._send("GET", path, query, None, JSON, self._timeout_s, of_node=True))

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        media_type: str = JSON,
        *,
        urgent: bool = False,
    ) -> Any:
        answer = self._read(self._send(method, path, query or {}, body, media_type, self._timeout_s, urgent=urgent))
        try:
            return orjson.loads(answer)
        except ValueError as error:
            raise ApiAway(f"the API server's answer is not JSON: {answer[:100]!r}") from error

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Any,
        media_type: str,
        timeout_s: float | tuple[float, float],
        *,
        urgent: bool = False,
        of_node: bool = False,
    ) -> RESTResponse:
        """Send a request. The body of the answer is not read yet.

        After status 429, the request is sent again when the server says, for `KUBERNETES_API_TIMEOUT_S` in all.

        Args:
            method: of the request.
            path: of the object or list.
            query: of the request.
            body: of the request, as JSON.
            media_type: of the body.
            timeout_s: for one answer.
            urgent: whether it may use what the budget keeps for urgent requests.
            of_node: whether the server passes it on to a node, whose failure the answer may tell.
        """
        deadline = time.monotonic() + self._timeout_s
        while True:
            if not self.budget.spend(deadline - time.monotonic(), urgent=urgent):
                raise ApiAway("the budget of requests to the API server is used up", retry_after_s=5)
            headers = {"Accept": JSON, "Content-Type": media_type}
            request = self._client.param_serialize(
                method, path, query_params=list(query.items()), header_params=headers, body=body,
                auth_settings=["BearerToken"],
            )  # fmt: skip
            try:
                response = self._client.call_api(*request, _request_timeout=timeout_s)
            except (urllib3.exceptions.HTTPError, OSError, ApiException) as error:
                reason = f"the API server did not answer: {error}"
                raise (ApiAway(reason) if of_node else self._note_away(reason)) from error
            if response.status < 300:
                self._note_answer()
                return response
            answer, pause_s = self._read(response), _pause_s(response)
            if response.status >= 500:
                reason = f"the API server answered with status {response.status}: {_message(answer)}"
                raise ApiAway(reason) if of_node else self._note_away(reason)
            if response.status != _TOO_MANY_REQUESTS:
                self._note_answer()
                raise ApiError(response.status, *_reason_and_message(answer))
            if time.monotonic() + pause_s > deadline:
                raise self._note_away(f"the API server has too many requests: {_message(answer)}")
            gevent.sleep(pause_s)

    def _read(self, response: RESTResponse) -> bytes:
        try:
            data: bytes = response.read()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiAway(f"the API server's answer broke off: {error}") from error
        return data

    def _note_away(self, reason: str) -> ApiAway:
        if self.away_since is None:
            self.away_since = time.time()
            logger.warning("the API server is away", extra={"reason": reason})
        self.away_reason = reason
        return ApiAway(reason, retry_after_s=5)

    def _note_answer(self) -> None:
        if self.away_since is not None:
            logger.info("the API server answers again", extra={"after_s": round(time.time() - self.away_since, 1)})
            self.away_since = self.away_reason = None


def _pause_s(response: RESTResponse) -> float:
    try:
        return float(response.getheader("Retry-After", "1"))
    except ValueError:
        return 1.0


def _reason_and_message(answer: bytes) -> tuple[str, str]:
    """The machine-readable reason and the text of a refusal."""
    try:
        told = orjson.loads(answer)
        return str(told["reason"]), str(told["message"])
    except (ValueError, KeyError, TypeError):
        return "", answer[:500].decode("utf-8", "replace")


def _message(answer: bytes) -> str:
    return _reason_and_message(answer)[1]
