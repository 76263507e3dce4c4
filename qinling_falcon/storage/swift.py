"""Swift: the one place that talks to it. Each transfer ends in bounded time and memory, or in a named error."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from swiftclient import client as swiftclient

from qinling_falcon.errors import BadGateway, BadRequest, TooLarge
from qinling_falcon.settings import Settings
from qinling_falcon.storage.objects import Account
from qinling_falcon.storage.swift_names import why_not
from qinling_falcon.storage.swift_transfer import Transfer, Where

CHUNK = 64 * 1024
_PAGE = 1000
_LONGEST_ETAG = 255
_UNPACKED = {"Accept-Encoding": "identity"}


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

    def __init__(self, transfer: Transfer, headers: dict[str, str], body: Any, limit: int | None):
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
        with self._transfer(account, container, name) as transfer:
            return transfer.do(
                lambda to: _etag(swiftclient.head_object(account.url, account.token, container, name, to))
            )

    def open(self, account: Account, container: str, name: str, limit: int | None) -> ObjectStream:
        """An object, to be read; the time that its reader takes doesn't count.

        Only its beginning is tried again: what breaks off later does so for its reader.

        Raises:
            TooLarge: it has more than `limit` bytes. Here, or when they have been read.
        """
        with contextlib.ExitStack() as stack:
            transfer = stack.enter_context(self._transfer(account, container, name))

            def begin(to: Where) -> ObjectStream:
                headers, body = swiftclient.get_object(
                    account.url, account.token, container, name, to, resp_chunk_size=CHUNK
                )
                return ObjectStream(transfer, headers, body, limit)

            stream = transfer.do(begin)
            stack.pop_all()
        return stream

    def put(self, account: Account, container: str, name: str, file: BinaryIO, size: int, md5sum: str) -> None:
        """Make or replace an object by all of a file, whole: Swift compares the md5.

        A crash leaves the object as it was, or as it is to be.
        """

        def send(to: Where) -> None:
            file.seek(0)
            etag = swiftclient.put_object(
                account.url, account.token, container, name, file, size, md5sum,
                content_type="application/zip", http_conn=to,
            )  # fmt: skip
            if etag != md5sum:
                raise BadGateway("Swift has stored something else than it was given.")

        with self._transfer(account, container, name) as transfer:
            transfer.do(send)

    def delete(self, account: Account, container: str, name: str) -> None:
        """Remove an object. A crash leaves it, or not.

        Raises:
            ObjectMissing: also when Swift has removed it and its answer was lost.
        """
        with self._transfer(account, container, name) as transfer:
            transfer.do(lambda to: swiftclient.delete_object(account.url, account.token, container, name, to))

    def make_container(self, account: Account, container: str) -> None:
        """Make a container, if there is none. A crash leaves it made, or not."""
        with self._transfer(account, container) as transfer:
            transfer.do(lambda to: swiftclient.put_container(account.url, account.token, container, http_conn=to))

    def list(self, account: Account, container: str) -> Iterator[Listed]:
        """All objects of a container, in order of their names; each page is a transfer."""
        marker = None
        while True:

            def read(to: Where, marker: str | None = marker) -> list[Listed]:
                _, rows = swiftclient.get_container(
                    account.url, account.token, container, marker, _PAGE, http_conn=to, headers=_UNPACKED
                )
                return [Listed(row["name"], _moment(row["last_modified"])) for row in rows]

            with self._transfer(account, container) as transfer:
                page = transfer.do(read)
            if not page or page[-1].name == marker:
                return
            yield from page
            marker = page[-1].name

    def _transfer(self, account: Account, container: str, name: str | None = None) -> contextlib.closing[Transfer]:
        wrong = why_not("container", container) or (None if name is None else why_not("object", name))
        if wrong is not None:
            raise BadRequest(f"A name in Swift {wrong}")
        return contextlib.closing(Transfer(account.url, self._cacert, self._timeout_s))


def _etag(headers: dict[str, str]) -> str:
    etag = headers["etag"].strip('"')
    if not 0 < len(etag) <= _LONGEST_ETAG:
        raise ValueError("no etag")
    return etag


def _moment(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)
