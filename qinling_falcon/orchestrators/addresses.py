"""The addresses of workers. There are three forms:

1. `@name`, an abstract Unix socket. Workers of the same machine listen on these, because a call costs less than through
   TCP on loopback, and no port is used. An abstract socket has no file, so nothing is left of it after a crash. Like
   127.0.0.1, it belongs to one network namespace.
2. `host:port`, with an IP address: of a pod, or of a node and one of its ports.
3. `pod:NAMESPACE/NAME`, a pod that is reached through the API server (see `gateways`).
"""

from __future__ import annotations

import errno
import os
import socket
import time

_RETRY_S = 0.01
_POD = "pod:"
# A firewall or load balancer forgets a connection on which nothing was sent for minutes, and a node that is gone sends
# nothing. So the kernel asks after so many seconds of silence, so often, and then the connection breaks.
_SILENCE_S, _ASK_EVERY_S, _ASK_TIMES = 30, 10, 3


def is_local(address: str) -> bool:
    """Whether only processes in the worker's own network namespace reach this address."""
    return address.startswith(("@", "127."))


def pod_address(namespace: str, name: str) -> str:
    """The address of a pod that is reached through the API server."""
    return f"{_POD}{namespace}/{name}"


def pod_of(address: str) -> tuple[str, str] | None:
    """Namespace and name of a pod that is reached through the API server; None: it is another form of address."""
    if not address.startswith(_POD):
        return None
    namespace, _, name = address[len(_POD) :].partition("/")
    return namespace, name


def tcp_address(host: str, port: int) -> str:
    """The address of a port.

    Args:
        host: an IP address.
        port: the TCP port.
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


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
    """Connect to a worker directly.

    Args:
        address: of the worker, in the first or second form.
        timeout_s: seconds to wait, and the timeout of the connection afterwards.

    Raises:
        OSError: there is no connection, or the address is of another form.
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
            prepare_tcp(connection)
            connection.connect((host.strip("[]"), int(port)))
    except OSError:
        connection.close()
        raise
    return connection


def prepare_tcp(connection: socket.socket) -> None:
    """Set the options of a TCP connection to a worker."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _SILENCE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _ASK_EVERY_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _ASK_TIMES)


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
