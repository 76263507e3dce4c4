"""Swift: the one place that talks to it. Each transfer ends in bounded time and memory, or in a named error."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from swiftclient import client as swiftclient

from qinling_falcon.errors import BadGateway, BadRequest, TooLarge, Unavailable
from qinling_falcon.settings import Settings
from qinling_falcon.storage.objects import Account, ObjectForbidden, ObjectMissing
from qinling_falcon.storage.swift_names import why_not
from qinling_falcon.storage.swift_transfer import PassingTrouble, Transfer, Where

CHUNK = 64 * 1024
_PAGE = 1000
_LONGEST_ETAG = 255
Headers = dict[str, str]
_UNPACKED = {"Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Listed:
    """An object in a listing."""

    name: str
    modified: datetime.datetime


class ObjectStream:
    """An object's content as it comes, to be closed. What breaks off goes on where it was, while there are tries left.

    Args:
        transfer: for this alone.
        get: asks for the object, by headers of the request; its answer's headers and body.
        limit: bytes that there may be.

    Attributes:
        etag: Swift's, without quotes; the content's md5 for plain objects only.
        size: bytes, where Swift says so beforehand.

    Raises:
        TooLarge, Unavailable, BadGateway, ObjectMissing, ObjectForbidden: as `Swift.open`.
    """

    def __init__(self, transfer: Transfer, get: Callable[[Where, Headers], tuple[Headers, Any]], limit: int | None):
        self._transfer = transfer
        self._get = get
        self._limit = limit
        self._read = 0
        transfer.do(self._begin)

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, 64 KiB at once; none at the end, which is the object's.

        Raises:
            TooLarge: there are more than may be.
            Unavailable: it was cut each time, or was changed meanwhile, or takes too long.
        """
        want = min(size, CHUNK)
        try:
            with self._transfer.running():
                data: bytes = self._body.read(want)
        except PassingTrouble as trouble:
            try:
                data = self._transfer.do(lambda to: self._go_on(to, want), after=trouble)
            except (ObjectMissing, ObjectForbidden):
                raise Unavailable(
                    "The object was changed while it was read, or is not whole; try again.", retry_after_s=1
                ) from None
        self._read += len(data)
        self._check(self._read)
        return data

    def close(self) -> None:
        """End the connection, wherever it is."""
        self._transfer.close()

    def _begin(self, to: Where) -> None:
        headers, self._body = self._get(to, {})
        self.etag, self._match = _etag(headers), headers["etag"]
        self.size = int(headers["content-length"]) if "content-length" in headers else None
        self._check(self.size or 0)

    def _go_on(self, to: Where, want: int) -> bytes:
        headers, self._body = self._get(to, {"Range": f"bytes={self._read}-", "If-Match": self._match})
        if not headers.get("content-range", "").startswith(f"bytes {self._read}-"):
            raise Unavailable("Swift has broken off, and can't go on where it was; try again.", retry_after_s=1)
        data: bytes = self._body.read(want)
        return data

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

        Raises:
            TooLarge: it has more than `limit` bytes. Here, or when they have been read.
        """

        def get(to: Where, headers: Headers) -> tuple[Headers, Any]:
            found: tuple[Headers, Any] = swiftclient.get_object(
                account.url, account.token, container, name, to, resp_chunk_size=CHUNK, headers=headers
            )
            return found

        with contextlib.ExitStack() as stack:
            transfer = stack.enter_context(self._transfer(account, container, name))
            stream = ObjectStream(transfer, get, limit)
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
