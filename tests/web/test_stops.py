"""A stop does not wait for clients that have sent half a head."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
from gevent import socket
from gunicorn.config import Config

from qinling_falcon.web.connections import Connection, Connections
from qinling_falcon.web.environ import Environments
from qinling_falcon.web.reader import Deadlines, Phase

PATIENT = Deadlines(head_s=600, body_grace_s=600, body_min_rate=1, send_grace_s=600, send_min_rate=1)


@contextmanager
def served(serve: Any) -> Iterator[tuple[Connections, Any]]:
    """Connections with one that is being served. Gives the client's socket as well."""
    connections = Connections(Config(), serve, places=8, most=8, keep_alive_s=600, deadlines=PATIENT)
    ours, theirs = socket.socketpair()
    try:
        connections._add(ours, "", Environments(Config(), ("127.0.0.1", 80)))
        theirs.sendall(b"GET / HT")
        yield connections, theirs
    finally:
        connections.kill(1.0)
        theirs.close()


def test_a_connection_that_begins_to_wait_for_a_head_after_the_stop_is_cut_off() -> None:
    errors: list[OSError] = []

    def serve(connection: Connection) -> bool:
        connection.sock.recv(100)
        connections.stop()  # it comes between two requests
        connection.reader.begin(Phase.HEAD)
        try:
            connection.reader.read(100)
        except OSError as error:
            errors.append(error)
        return False

    with served(serve) as (connections, client):
        assert client.recv(100) == b""
        with gevent.Timeout(10):
            while len(connections):
                gevent.sleep(0.01)
    assert [error.errno for error in errors] == [errno.ECONNRESET]
