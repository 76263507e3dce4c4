"""Connections whose greenlets are killed."""

from __future__ import annotations

import socket

import gevent
import gevent.socket
from gunicorn.config import Config

from qinling_falcon.web.connections import Connection, Connections
from qinling_falcon.web.environ import Environments
from qinling_falcon.web.reader import Deadlines


def test_a_connection_whose_greenlet_is_killed_before_it_begins_is_closed_and_not_served() -> None:
    cfg, served = Config(), []

    def serve(connection: Connection) -> bool:
        served.append(connection.address)
        return False

    deadlines = Deadlines(head_s=5, body_grace_s=5, body_min_rate=1000, send_grace_s=5, send_min_rate=1000)
    connections = Connections(cfg, serve, places=4, most=4, keep_alive_s=60, deadlines=deadlines)

    def start(name: str) -> socket.socket:
        """The greenlet of a new connection is made, and has not begun."""
        client, here = gevent.socket.socketpair()
        connections._add(here, name, Environments(cfg, ("127.0.0.1", 7070)))
        connections._has_arrived(next(iter(connections._idle)))
        connections._start_arrived()
        return client

    with start("killed") as killed:
        connections.kill(1.0)
        with start("next"):
            gevent.sleep(0.05)

        assert served == ["next"]
        killed.settimeout(5)
        assert killed.recv(1) == b""
    assert len(connections) == 0
