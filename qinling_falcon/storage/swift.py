"""Swift: the one place that talks to it. Each transfer ends in bounded time and memory, or in a named error.

Of python-swiftclient its plain functions are used, which try once. Redirects are
not followed, for they would take the token along; proxies of the environment
are not used; and nothing of what swiftclient logs is kept, for it logs parts of tokens.
"""

from __future__ import annotations

import contextlib
import datetime
import http.client
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import gevent
import requests
import urllib3
from swiftclient import client as swiftclient
from swiftclient.exceptions import ClientException

from qinling_falcon.errors import BadGateway, BadRequest, TooLarge, Unavailable
from qinling_falcon.settings import Settings
from qinling_falcon.storage.objects import Account, ObjectForbidden, ObjectMissing, TokenRefused
from qinling_falcon.storage.swift_names import why_not

logging.getLogger("swiftclient").setLevel(logging.CRITICAL)

CHUNK = 64 * 1024
_CONNECT_S = 3.0
# What Swift says beside objects: errors, and a page of a listing.
_MOST_SAID = 4 * 1024 * 1024
_PAGE = 1000
_LONGEST_ETAG = 255
# Of those below 500 these mean: later.
_LATER = frozenset({408, 429, 498, 499})


@dataclass(frozen=True, slots=True)
class Listed:
    """An object in a listing."""

    name: str
    modified: datetime.datetime


class ObjectStream:
    """An object's content as it comes, to be closed.

    Attributes:
        etag: Swift's, without quotes; the content's md5 for plain objects only.
        size: bytes, where Swift says so beforehand.
    """

    def __init__(self, transfer: _Transfer, headers: dict[str, str], body: Any, limit: int | None):
        self.etag = _etag(headers)
        self.size = int(headers["content-length"]) if "content-length" in headers else None
        self._transfer = transfer
        self._body = body
        self._limit = limit
        self._read = 0
        self._check(self.size or 0)

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, 64 KiB at once; none at the end, which is the object's.

        Raises:
            TooLarge: there are more than may be.
            Unavailable: it was cut, or takes too long.
        """
        with self._transfer.running():
            data: bytes = self._body.read(min(size, CHUNK))
        self._read += len(data)
        self._check(self._read)
        return data

    def close(self) -> None:
        """End the connection, wherever it is."""
        self._transfer.close()

    def _check(self, size: int) -> None:
        if self._limit is not None and size > self._limit:
            raise TooLarge(f"The object is larger than {self._limit} bytes.")


class Swift:
    """Transfers from and to Swift. Each method raises, beside what it says, the same errors.

    - `ObjectMissing`, `ObjectForbidden`: there is none, or not for this token;
    - `Unavailable` (`TokenRefused` for one): Swift is away, hangs, takes too long or has troubles of its own;
    - `BadGateway`: what answers makes no sense, such as a redirect;
    - `BadRequest`: a name that leads elsewhere.
    """

    def __init__(self, settings: Settings):
        self._timeout_s = settings.swift_timeout_s
        self._cacert = None if settings.os_cacert is None else str(settings.os_cacert)

    def etag(self, account: Account, container: str, name: str) -> str:
        """The etag that an object has now."""
        with self._transfer(account, container, name) as transfer, transfer.running():
            return _etag(swiftclient.head_object(account.url, account.token, container, name, transfer.connection))

    def open(self, account: Account, container: str, name: str, limit: int | None) -> ObjectStream:
        """An object, to be read; the time that its reader takes doesn't count.

        Raises:
            TooLarge: it has more than `limit` bytes. Here, or when they have been read.
        """
        with contextlib.ExitStack() as stack:
            transfer = stack.enter_context(self._transfer(account, container, name))
            with transfer.running():
                headers, body = swiftclient.get_object(
                    account.url, account.token, container, name, transfer.connection, resp_chunk_size=CHUNK
                )
                stream = ObjectStream(transfer, headers, body, limit)
            stack.pop_all()
        return stream

    def put(self, account: Account, container: str, name: str, file: BinaryIO, size: int, md5sum: str) -> None:
        """Make or replace an object, whole: Swift compares the md5. A crash leaves it as it was, or as it is to be."""
        with self._transfer(account, container, name) as transfer, transfer.running():
            etag = swiftclient.put_object(
                account.url, account.token, container, name, file, size, md5sum,
                content_type="application/zip", http_conn=transfer.connection,
            )  # fmt: skip
            if etag != md5sum:
                raise BadGateway("Swift has stored something else than it was given.")

    def delete(self, account: Account, container: str, name: str) -> None:
        """Remove an object. A crash leaves it, or not."""
        with self._transfer(account, container, name) as transfer, transfer.running():
            swiftclient.delete_object(account.url, account.token, container, name, transfer.connection)

    def make_container(self, account: Account, container: str) -> None:
        """Make a container, if there is none. A crash leaves it made, or not."""
        with self._transfer(account, container) as transfer, transfer.running():
            swiftclient.put_container(account.url, account.token, container, http_conn=transfer.connection)

    def list(self, account: Account, container: str) -> Iterator[Listed]:
        """All objects of a container, in order of their names; each page is a transfer."""
        marker = None
        while True:
            with self._transfer(account, container) as transfer, transfer.running():
                _, rows = swiftclient.get_container(
                    account.url, account.token, container, marker, _PAGE, http_conn=transfer.connection
                )
                page = [Listed(row["name"], _moment(row["last_modified"])) for row in rows]
            if not page or page[-1].name == marker:
                return
            yield from page
            marker = page[-1].name

    def _transfer(self, account: Account, container: str, name: str | None = None) -> contextlib.closing[_Transfer]:
        wrong = why_not("container", container) or (None if name is None else why_not("object", name))
        if wrong is not None:
            raise BadRequest(f"A name in Swift {wrong}")
        return contextlib.closing(_Transfer(account.url, self._cacert, self._timeout_s))


class _Transfer:
    """One connection, and the time that may be spent on it."""

    def __init__(self, url: str, cacert: str | None, timeout_s: float):
        self._left_s = timeout_s
        with self.running():
            connection = _Connection(url, cacert=cacert, timeout=(min(_CONNECT_S, timeout_s), timeout_s))
            self.connection = connection.parsed_url, connection

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
            raise Unavailable("Swift can't be reached, or has broken off; try again.", retry_after_s=1) from error
        except (ValueError, LookupError, TypeError) as error:  # what it said was read, and was not what Swift says
            raise BadGateway("What answers is no Swift that can be understood.") from error
        finally:
            timeout.close()
            self._left_s -= time.monotonic() - began

    def close(self) -> None:
        self.connection[1].close()


class _Connection(swiftclient.HTTPConnection):  # type: ignore[misc]
    """Goes where it is sent and nowhere else, and keeps little of what it is told."""

    def __init__(self, url: str, **arguments: Any):
        super().__init__(url, **arguments)
        self.request_session.trust_env = False
        self.requests_args["allow_redirects"] = False

    def getresponse(self) -> Any:
        response = super().getresponse()
        read = response.read
        response.read = lambda size=None: read(_MOST_SAID if size is None else size)
        return response


def _etag(headers: dict[str, str]) -> str:
    etag = headers["etag"].strip('"')
    if not 0 < len(etag) <= _LONGEST_ETAG:
        raise ValueError("no etag")
    return etag


def _moment(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)


def _meant(error: ClientException) -> Exception:
    status = error.http_status
    match status:
        case 404 | 409:  # 409: segments are missing
            return ObjectMissing()
        case 403:
            return ObjectForbidden()
        case 401:
            return TokenRefused("Swift does not believe the token at the moment; try again.", retry_after_s=1)
    if status and (status >= 500 or status in _LATER):
        return Unavailable(f"Swift has troubles: it answered {status}; try again.", retry_after_s=1)
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
