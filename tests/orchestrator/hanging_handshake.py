"""Connects to an API server that accepts and says nothing, in a process of gevent: `python -m … TOKEN_FILE`.

Prints how the connection ended, and how often another greenlet ran meanwhile.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import socket
import sys
import time
from pathlib import Path

import gevent

from qinling_falcon.orchestrators.gateways import GatewayAway, make_gateway
from qinling_falcon.settings import Settings

turns = 0


def count_turns() -> None:
    global turns
    while True:
        time.sleep(0.01)
        turns += 1


with socket.create_server(("127.0.0.1", 0)) as silent:
    gateway = make_gateway(
        Settings(
            orchestrator="kubernetes",
            kubernetes_worker_access="api-proxy",
            kubernetes_api_url=f"https://127.0.0.1:{silent.getsockname()[1]}",
            kubernetes_token_file=Path(sys.argv[1]),
        )
    )
    assert gateway is not None
    gevent.spawn(count_turns)
    try:
        gateway.connect(0.3)
    except GatewayAway:
        print("away", turns)
