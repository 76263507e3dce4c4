"""Transfers from and to Swift for tests."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

from qinling_falcon.storage.objects import Account
from qinling_falcon.storage.swift import ObjectStream, Swift

CONTENT = bytes(range(256)) * 1000
LIMIT = 10_000_000


def fetch(swift: Swift, account: Account, name: str = "o", limit: int | None = LIMIT) -> bytes:
    with contextlib.closing(swift.open(account, "c", name, limit)) as stream:
        return rest(stream)


def rest(stream: ObjectStream) -> bytes:
    return b"".join(iter(lambda: stream.read(1_000_000), b""))


def md5_of(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def raw(*parts: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    def send(handler: BaseHTTPRequestHandler) -> None:
        for part in parts:
            handler.wfile.write(part)
        handler.close_connection = True

    return send
