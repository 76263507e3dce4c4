"""The outcomes of a load, with a fake worker, because a real one can't be made to hang or to answer oddly."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from qinling_falcon.invocation import worker_client
from qinling_falcon.invocation.worker_client import NotLoaded, NotSent, WorkerClient
from qinling_falcon.pool.leases import LeasedWorker

Answers = Callable[[bytes | None], LeasedWorker]


@pytest.fixture
def answers() -> Iterator[Answers]:
    """Starts a fake worker that gives this answer to a request, closes at once (b""), or never answers (None)."""
    stops: list[Callable[[], object]] = []

    def start(answer: bytes | None) -> LeasedWorker:
        listener = socket.create_server(("127.0.0.1", 0))
        over = threading.Event()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                received = b""
                while not received.endswith(b"the package"):
                    received += connection.recv(65536)
                if answer is None:
                    over.wait(30)
                else:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        stops.extend([over.set, thread.join, listener.close])
        return LeasedWorker("w", f"127.0.0.1:{listener.getsockname()[1]}", "s", 1, needs_load=True)

    yield start
    for stop in stops:
        stop()


def answered(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        status,
        len(body),
        body,
    )


def load(worker: LeasedWorker) -> None:
    WorkerClient().load(worker, b"the package", {"target": "t"}, 0.2)


@pytest.mark.parametrize("status", [400, 413, 422, 431])
def test_what_the_package_is_to_blame_for_is_no_reason_to_try_another_worker(answers: Answers, status: int) -> None:
    with pytest.raises(NotLoaded, match="The package is bad") as caught:
        load(answers(answered(status, b'{"error": "The package is bad."}')))
    assert caught.value.is_reusable


@pytest.mark.parametrize("answer", [answered(409, b'{"error": "another"}'), answered(500, b"{}"), b""])
def test_another_worker_is_tried_when_this_one_is_to_blame(answers: Answers, answer: bytes) -> None:
    with pytest.raises(NotSent):
        load(answers(answer))


def test_a_worker_that_never_answers_is_not_used_again_nor_is_another(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_client, "_GRACE_S", 0.1)
    with pytest.raises(NotLoaded, match=r"The package was not loaded within 0.2 s\.") as caught:
        load(answers(None))
    assert not caught.value.is_reusable
