"""Reference (b): a bare Falcon app that does nothing but relay a call to a worker, as fast as can be made here.

Each Gunicorn process takes one share of the workers in `RELAY_WORKERS` (a JSON list of shares, each a list of
[address, secret]), so that it never waits for another process. No lease, no record, no checks.
"""

import json
import os
import time

import falcon
from gevent.queue import LifoQueue
from geventhttpclient import HTTPClient
from geventhttpclient.connectionpool import ConnectionPool

from qinling_falcon.orchestrators.addresses import connect


class Connections(ConnectionPool):
    """Connections to a worker, whose address `geventhttpclient` itself can't use."""

    def __init__(self, address):
        super().__init__("worker", 80, "worker", 80, size=1)
        self.address = address

    def _create_socket(self):
        return connect(self.address, 30)


class Relay:
    def __init__(self, share):
        self.free = LifoQueue()
        for address, secret in share:
            client = HTTPClient("worker", connection_timeout=5, network_timeout=30, concurrency=1)
            client._connection_pool = Connections(address)
            self.free.put((client, {"X-Worker-Secret": secret}))

    def on_post(self, request, response):
        call = json.loads(request.bounded_stream.read())
        execution = f'{time.time_ns() // 1000} relay 5\n{{"context": {{}}}}'
        if call["input"] is not None:
            execution += f"\n{call['input']}"
        worker = self.free.get()
        client, headers = worker
        try:
            answer = client.request("POST", "/execute", execution, headers)
            response.data = answer.read()
        finally:
            self.free.put(worker)
        response.status = "201 Created"
        response.content_type = "application/json"


def take_share():
    """The share that no other process has taken: a file made by the first to come is the claim."""
    for number, share in enumerate(json.loads(os.environ["RELAY_WORKERS"])):
        try:
            os.close(os.open(f"{os.environ['RELAY_CLAIMS']}/{number}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        return share
    raise RuntimeError("more Gunicorn processes than shares of workers")


application = falcon.App()
application.add_route("/call", Relay(take_share()))
