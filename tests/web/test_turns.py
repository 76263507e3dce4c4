"""A request that keeps its greenlet busy lets others run."""

from __future__ import annotations

import socket

from gevent.hub import get_hub

from qinling_falcon.web.turns import let_others_run


def test_bytes_that_have_arrived_are_read_after_a_few_turns() -> None:
    read: list[bytes] = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        watcher = get_hub().loop.io(ours.fileno(), 1)
        watcher.start(lambda: read.append(ours.recv(1)))
        theirs.send(b"x")
        for _ in range(5):
            let_others_run()
        watcher.close()
    assert read == [b"x"]
