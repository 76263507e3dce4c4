"""The addresses of workers: `host:port`, or `@name` for an abstract Unix socket.

Workers of the same machine listen on Unix sockets, because a call costs less than through TCP on loopback, and no port
is used. An abstract socket has no file, so nothing is left of it after a crash. Like 127.0.0.1, it belongs to one
network namespace.
"""

from __future__ import annotations

import errno
import http.client
import os
import socket
import time

_RETRY_S = 0.01


def is_local(address: str) -> bool:
    """Whether only processes in the worker's own network namespace reach this address."""
    return address.startswith(("@", "127."))


def listen(address: str, backlog: int) -> socket.socket:
    """A blocking socket that listens on an address `@name`.

    Raises:
        OSError: the name is in use.
    """
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(_abstract(address))
        listener.listen(backlog)
        os.set_blocking(listener.fileno(), True)  # gevent's sockets do not block, and its `setblocking` keeps that
    except OSError:
        listener.close()
        raise
    return listener


def connect(address: str, timeout_s: float) -> socket.socket:
    """Connect to a worker.

    Args:
        address: of the worker. Its host is an IP address.
        timeout_s: seconds to wait, and the timeout of the connection afterwards.

    Raises:
        OSError: there is no connection, or the address is of neither form.
    """
    is_unix = address.startswith("@")
    host, _, port = address.rpartition(":")
    if not is_unix and not port.isdigit():
        raise OSError(f"a worker can't have the address {address!r}")
    # `create_connection` would resolve the address in a thread.
    connection = socket.socket(socket.AF_UNIX if is_unix else socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        if is_unix:
            _connect_unix(connection, address, timeout_s)
            connection.settimeout(timeout_s)
        else:
            connection.settimeout(timeout_s)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.connect((host.strip("[]"), int(port)))
    except OSError:
        connection.close()
        raise
    return connection


def connect_http(address: str, timeout_s: float) -> http.client.HTTPConnection:
    """Connect to a worker for requests by `http.client`. Arguments and errors as for `connect`."""
    connection = http.client.HTTPConnection("worker", timeout=timeout_s)
    connection.sock = connect(address, timeout_s)
    return connection


def _connect_unix(connection: socket.socket, address: str, timeout_s: float) -> None:
    """Connect, and wait while the backlog is full. gevent would try again in each turn of the event loop."""
    until = time.monotonic() + timeout_s
    connection.settimeout(0)
    while (error := connection.connect_ex(_abstract(address))) == errno.EAGAIN:
        if time.monotonic() >= until:
            raise TimeoutError("timed out: the worker accepts no connections")
        time.sleep(_RETRY_S)
    if error:
        raise OSError(error, os.strerror(error))


def _abstract(address: str) -> str:
    return "\0" + address[1:]
