"""Hostile clients of one project, for `front_door.py`. They hold connections, and open new ones when they are cut off.

    python -m benchmarks.crowd HOST PORT TOKEN FUNCTION COUNT

A third of the clients each send bodies that never end, read answers very slowly, and make calls that wait for a worker.
The program prints `ready` when all clients have sent their first request, and runs until it is killed.
"""

from __future__ import annotations

import json
import sys

import gevent
from gevent import socket

READ_EVERY_S = 1.0
BEGIN_AGAIN_S = 5.0


def head(method: str, path: str, token: str, length: int | None = None) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"X-Auth-Token: {token}", "Content-Type: application/json"]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def hold(address: tuple[str, int], first: bytes, begun: list[int]) -> None:
    """Send `first`, read a few bytes a second, and begin again when the connection ends."""
    counted = False
    while True:
        try:
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.settimeout(60)
                client.connect(address)
                client.sendall(first)
                if not counted:
                    counted = True
                    begun.append(1)
                while client.recv(64):
                    gevent.sleep(READ_EVERY_S)
        except OSError:
            pass
        gevent.sleep(BEGIN_AGAIN_S)


def main() -> None:
    host, port, token, function, count = sys.argv[1:]
    call = json.dumps({"function_id": function}).encode()
    kinds = [
        head("POST", "/v1/executions", token, 1_900_000) + b'{"function_id": "' + b"x" * 20_000,
        head("GET", "/v1/executions?limit=1000", token),
        head("POST", "/v1/executions", token, len(call)) + call,
    ]
    begun: list[int] = []
    for number in range(int(count)):
        gevent.spawn(hold, (host, int(port)), kinds[number % len(kinds)], begun)
    while len(begun) < int(count):
        gevent.sleep(0.1)
    print("ready", flush=True)
    gevent.sleep(3600)


if __name__ == "__main__":
    main()
