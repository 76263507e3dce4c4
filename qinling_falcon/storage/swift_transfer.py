"""One transfer from or to Swift: one deadline, a bounded number of tries, and errors that are ours.

Redirects are not followed, for they would take the token along; proxies of the
environment are not used; and nothing of what swiftclient logs is kept, for it logs
parts of tokens.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import gevent
import requests
import urllib3
from swiftclient import client as swiftclient
from swiftclient.exceptions import ClientException

from qinling_falcon.errors import BadGateway, Unavailable
from qinling_falcon.storage.objects import ObjectForbidden, ObjectMissing, TokenRefused

logging.getLogger("swiftclient").setLevel(logging.CRITICAL)

_CONNECT_S = 3.0
# What Swift says beside objects: errors, and a page of a listing.
_MOST_SAID = 4 * 1024 * 1024
# Of those below 500 these mean: not so fast. A repetition at once would make it worse.
_SLOWER = frozenset({429, 498, 499})
_FULL = 413
_REQUEST_TIMEOUT = 408
# Before the second try, and before the third and last.
_PAUSES_S = (0.1, 0.4)

T = TypeVar("T")


class PassingTrouble(Unavailable):
    """Swift has broken off or answered that something went wrong, which the next try may not meet."""


class Transfer:
    """The time that may be spent on something in Swift, and a connection at a time for it."""

    def __init__(self, url: str, cacert: str | None, timeout_s: float):
        self._url = url
        self._cacert = cacert
        self._timeout_s = (min(_CONNECT_S, timeout_s), timeout_s)
        self._left_s = timeout_s
        self._pauses_s = iter(_PAUSES_S)
        self._connection: _Connection | None = None

    def do(self, act: Callable[[Where], T], after: PassingTrouble | None = None) -> T:
        """Do what may be done twice, given a new connection: thrice at most in all, while Swift's troubles may pass.

        Args:
            act: what is to be done.
            after: what became of a try that was made already.
        """
        while True:
            if after is not None:
                self._pause(after)
            try:
                return self._try(act)
            except PassingTrouble as trouble:
                after = trouble

    def _pause(self, trouble: PassingTrouble) -> None:
        pause_s = next(self._pauses_s, self._left_s)
        if self._left_s <= pause_s:
            raise trouble
        self._left_s -= pause_s
        gevent.sleep(pause_s)

    def _try(self, act: Callable[[Where], T]) -> T:
        self.close()
        with self.running():
            self._connection = _Connection(self._url, cacert=self._cacert, timeout=self._timeout_s)
            return act((self._connection.parsed_url, self._connection))

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Around each step: it ends in time, and its errors are ours."""
        began = time.monotonic()
        timeout = gevent.Timeout.start_new(max(0.001, self._left_s))
        try:
            yield
        except gevent.Timeout as expired:
            if expired is not timeout:
                raise
            raise Unavailable("Swift takes too long; try again.", retry_after_s=1) from None
        except ClientException as error:
            raise _meant(error) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            if _is_nonsense(error):
                raise BadGateway("What answers is no Swift that can be understood.") from error
            # TCP itself has tried for as long as a connection may take.
            kind = Unavailable if isinstance(error, requests.Timeout) else PassingTrouble
            raise kind("Swift can't be reached, or has broken off; try again.", retry_after_s=1) from error
        # What it said was read, and was not what Swift says; or was nested too deeply to be.
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise BadGateway("What answers is no Swift that can be understood.") from error
        finally:
            timeout.close()
            self._left_s -= time.monotonic() - began

    def close(self) -> None:
        """End the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()


class _Connection(swiftclient.HTTPConnection):  # type: ignore[misc]  # swiftclient has no types
    """Goes where it is sent and nowhere else, and keeps little of what it is told."""

    def __init__(self, url: str, **arguments: Any):
        super().__init__(url, **arguments)
        self.request_session.trust_env = False
        self.requests_args["allow_redirects"] = False

    def getresponse(self) -> Any:
        response = super().getresponse()
        # swiftclient would unpack what is said to be packed, however much that is. Nothing that is asked for is.
        response.headers.pop("Content-Encoding", None)
        read = response.read
        response.read = lambda size=None: read(_MOST_SAID if size is None else size)
        return response

    def close(self) -> None:
        """End it now: of itself, urllib3 does that when its garbage is collected."""
        managers = [adapter.poolmanager for adapter in self.request_session.adapters.values()]
        pools = [manager.pools[key] for manager in managers for key in manager.pools.keys()]  # noqa: SIM118 - no dict
        super().close()
        for pool in pools:
            pool.close()


# What swiftclient wants of one who keeps the connection.
Where = tuple[urllib.parse.ParseResult, _Connection]


def _meant(error: ClientException) -> Exception:
    status = error.http_status
    match status:
        case 404 | 409:  # 409: segments are missing
            return ObjectMissing()
        case 403:
            return ObjectForbidden()
        case 412:  # asked for with If-Match: it is not what it was
            return ObjectMissing()
        case 401:
            return TokenRefused("Swift does not believe the token at the moment; try again.", retry_after_s=1)
    if status == _FULL:
        return Unavailable("Swift takes no more: a quota is used up.", retry_after_s=60)
    if status and (status >= 500 or status == _REQUEST_TIMEOUT or status in _SLOWER):
        kind = Unavailable if status in _SLOWER else PassingTrouble
        return kind(f"Swift has troubles: it answered {status}; try again.", retry_after_s=1)
    return BadGateway(f"What answers is no Swift that can be understood: it answered {status}.")


def _is_nonsense(error: BaseException | None) -> bool:
    """Whether something did answer, but not in HTTP; or the account's URL is none."""
    if isinstance(error, ValueError):
        return True
    while error is not None:
        if isinstance(error, http.client.HTTPException) and not isinstance(error, OSError | http.client.IncompleteRead):
            return True
        error = error.__cause__ or error.__context__
    return False
