"""A caller of one project, who repeats a request until it has an answer."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any, NamedTuple

import requests

from tests.chaos.web import HEADER

_PAUSE_S = 0.2
_TIMEOUT_S = 20.0
_LONGEST_S = 90.0


class Answer(NamedTuple):
    """The answer to a request.

    Attributes:
        status: its status code.
        json: its body; None: it has none.
        text: the same as text.
        unanswered: how often the request was sent before without an answer. Each time it may have been carried out.
    """

    status: int
    json: Any
    text: str
    unanswered: int


class Caller:
    """Sends requests to a service of which parts may be away.

    Args:
        url: the service.
        project_id: the caller's project; empty: the admin's.
    """

    def __init__(self, url: str, project_id: str = ""):
        self._url = url
        self._http = requests.Session()
        if project_id:
            self._http.headers[HEADER] = project_id

    def close(self) -> None:
        self._http.close()

    def send(self, method: str, path: str, timeout_s: float = _TIMEOUT_S, **arguments: Any) -> Answer | None:
        """Send a request once. Returns None if the connection broke, or the service could not serve it (5xx).

        Raises:
            requests.ReadTimeout: there was no answer in time.
        """
        try:
            answer = self._http.request(method, self._url + path, timeout=timeout_s, **arguments)
            if answer.status_code >= 500:
                return None
            return Answer(answer.status_code, answer.json() if answer.content else None, answer.text, 0)
        except requests.ReadTimeout:
            raise
        except requests.RequestException:  # also a body that was cut off
            return None

    def try_once(self, method: str, path: str, **arguments: Any) -> Answer | None:
        """As `send`, also if there was no answer in time."""
        try:
            return self.send(method, path, **arguments)
        except requests.ReadTimeout:
            return None

    def insist(self, method: str, path: str, expected: Collection[int], **arguments: Any) -> Answer:
        """Send a request until it is answered with one of the expected statuses.

        Raises:
            AssertionError: it was answered with another status below 500, or not in time.
        """
        until = time.monotonic() + _LONGEST_S
        unanswered = 0
        while time.monotonic() < until:
            answer = self.try_once(method, path, **arguments)
            if answer is not None:
                assert answer.status in expected, f"{method} {path}: {answer.status} {answer.text}"
                return answer._replace(unanswered=unanswered)
            unanswered += 1
            time.sleep(_PAUSE_S)
        raise AssertionError(f"{method} {path}: no answer within {_LONGEST_S} s")
