"""Clients with a pool, a semaphore or a cache of connections lose none of their places while a server is away."""

from __future__ import annotations

import dataclasses
import gc
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import redis

from qinling_falcon.auth.service_account import ServiceAccount
from qinling_falcon.errors import Unavailable
from qinling_falcon.invocation.worker_client import Execution, NotSent, WorkerClient, WorkerLost
from qinling_falcon.jobs.queues import connect
from qinling_falcon.pool.leases import LeasedWorker
from qinling_falcon.settings import Settings
from tests.integration.service import free_port
from tests.servers.odd_keystone import SETTINGS, odd_keystone
from tests.servers.valkey import valkey_server

EXECUTION = Execution("e", 5, {"context": {}}, None)
# redis-py's pool makes 100 connections unless it is told otherwise; the service account asks 10 times at once.
MANY = 300


def descriptors() -> int:
    gc.collect()
    return psutil.Process(os.getpid()).num_fds()


def test_the_client_of_rq_and_rq_scheduler() -> None:
    with valkey_server() as server:
        client = connect(Settings(redis_url=server.url))
        other = redis.Redis.from_url(server.url)
        client.ping()
        before = descriptors()
        for _ in range(MANY):
            other.client_kill_filter(_id=str(client.client_id()))
            client.ping()  # redis-py looks whether the idle connection has ended
        server.kill()
        for _ in range(MANY):
            with pytest.raises(redis.RedisError):
                client.ping()
        server.start()
        assert client.ping()
        assert descriptors() <= before + 3
        client.close()
        other.close()


def test_the_client_of_keystone() -> None:
    with odd_keystone() as keystone:
        away = dataclasses.replace(SETTINGS, os_auth_url=f"http://127.0.0.1:{free_port()}/v3")
        account = ServiceAccount(away)
        before = descriptors()
        for _ in range(MANY):
            with pytest.raises(Unavailable):
                account.ask(lambda: account.session.get_token())
        assert descriptors() <= before + 3
        # The same turns and the same pool of connections, now that Keystone is there.
        there = ServiceAccount(dataclasses.replace(SETTINGS, os_auth_url=keystone.url))
        account.session, account.url = there.session, there.url
        assert account.ask(lambda: account.session.get_token()) == "token-of-qinling"


@contextmanager
def worker_that_hangs_up() -> Iterator[int]:
    """The port of a worker that reads a request and then dies."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connection.recv(65536)
                connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def worker(number: int, port: int) -> LeasedWorker:
    return LeasedWorker(f"w{number}", f"127.0.0.1:{port}", "s", 1, needs_load=False)


def test_the_client_of_workers(tmp_path: Path) -> None:
    client = WorkerClient(Settings())
    nobody = free_port()
    before = descriptors()
    for number in range(MANY):
        with pytest.raises(NotSent):
            client.execute(worker(number, nobody), EXECUTION, 5.0)
    with worker_that_hangs_up() as port:
        for number in range(MANY):
            with pytest.raises(WorkerLost):
                client.execute(worker(number, port), EXECUTION, 5.0)
    assert descriptors() <= before + 3
