"""What the client makes of a worker's answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.socket
import pytest
from gevent.event import Event
from gevent.server import StreamServer

from qinling_falcon.invocation import worker_client
from qinling_falcon.invocation.worker_client import (
    DiskFull,
    Execution,
    NotLoaded,
    NotSent,
    Ran,
    WorkerClient,
    WorkerLost,
)
from qinling_falcon.orchestrators import addresses
from qinling_falcon.pool.leases import LeasedWorker
from qinling_falcon.settings import Settings
from tests.support.executions import answer_body
from tests.support.scripted_worker import (
    ScriptedWorker,
    Step,
    answers,
    answers_with,
    hangs_up,
    sends,
    succeeds,
    waits,
)

LIMITS = Settings(max_result_size=256 * 1024, max_log_size=128 * 1024)
LARGEST = (256 + 3 * 128) * 1024 + 256 * 1024
ABOUT = {"context": {"function_id": "f"}}

Start = Callable[..., ScriptedWorker]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts scripted workers, in greenlets beside the client, which yields to them as in the service."""
    monkeypatch.setattr(addresses, "socket", gevent.socket)
    workers: list[ScriptedWorker] = []

    def start(*steps: Step, **more: Step) -> ScriptedWorker:
        workers.append(ScriptedWorker(*steps, **more))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()


@pytest.fixture
def client() -> WorkerClient:
    return WorkerClient(LIMITS)


def load(client: WorkerClient, worker: ScriptedWorker) -> None:
    client.load(worker.leased(needs_load=True), b"the package", {"target": "t"}, 0.2)


def execute(client: WorkerClient, worker: ScriptedWorker, timeout_s: float = 5, given: str | None = None) -> Ran:
    return client.execute(worker.leased(token=7), Execution("e", 3, ABOUT, given), timeout_s)


@pytest.mark.parametrize("status", [400, 413, 422, 431])
def test_what_the_package_is_to_blame_for_is_no_reason_to_try_another_worker(
    start: Start, client: WorkerClient, status: int
) -> None:
    with pytest.raises(NotLoaded, match="The package is bad") as caught:
        load(client, start(load=answers(status, error="The package is bad.")))
    assert caught.value.is_reusable


@pytest.mark.parametrize("answer", [answers(409, error="another"), answers(500), hangs_up()])
def test_another_worker_is_tried_when_this_one_is_to_blame(start: Start, client: WorkerClient, answer: Step) -> None:
    with pytest.raises(NotSent):
        load(client, start(load=answer))


def test_a_full_disk_is_no_reason_to_try_another_worker(start: Start, client: WorkerClient) -> None:
    with pytest.raises(DiskFull, match="no room"):
        load(client, start(load=answers(507, error="no room")))


def test_a_worker_that_never_answers_is_not_used_again_nor_is_another(
    start: Start, client: WorkerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_client, "_GRACE_S", 0.1)
    with pytest.raises(NotLoaded, match=r"The package was not loaded within 0.2 s\.") as caught:
        load(client, start(load=waits(Event(), hangs_up())))
    assert not caught.value.is_reusable


def test_a_worker_that_is_gone_has_run_nothing(start: Start, client: WorkerClient) -> None:
    worker = start(succeeds())
    execute(client, worker)
    worker.close()
    gevent.sleep(0.05)

    with pytest.raises(NotSent, match="no connection"):
        execute(client, worker)


def test_a_refusal_has_run_nothing(start: Start, client: WorkerClient) -> None:
    with pytest.raises(NotSent, match="stale token"):
        execute(client, start(answers(409, error="stale token")))


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (hangs_up(), "closed the connection"),
        (sends(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"), "closed the connection"),
        (sends(b"HTTP/1.1 200 OK\r\n\r\n"), "no Content-Length"),
        (sends(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"), "at most"),
        (answers_with(b"[]"), "a member is missing"),
        (answers_with(b"{"), "can't be read"),
        (answers_with(b""), "can't be read"),
        (answers(200, status="success"), "a member is missing"),
        (answers_with(answer_body(log="", output_size=7)), "the output is cut"),
        (answers_with(answer_body(output_size=-1)), "the output is cut"),
        (answers_with(answer_body(output_size="1")), "can't be read"),
        (answers_with(answer_body(duration_s="1")), "can't be read"),
        (answers_with(answer_body() + b"\xff"), "can't be read"),
    ],
)
def test_after_an_answer_that_is_none_the_function_may_have_run(
    start: Start, client: WorkerClient, step: Step, reason: str
) -> None:
    def then_hangs_up(connection: Any) -> None:
        connection.sendall(step(connection) or b"")

    with pytest.raises(WorkerLost, match=reason):
        execute(client, start(then_hangs_up))


def test_after_a_late_answer_the_function_may_have_run(start: Start, client: WorkerClient) -> None:
    with pytest.raises(WorkerLost, match="timed out"):
        execute(client, start(waits(Event(), succeeds())), timeout_s=0.1)


def test_an_answer_above_the_bound_is_not_read(start: Start, client: WorkerClient) -> None:
    """The client waits for none of the bytes that the head announces."""
    endless = sends(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (LARGEST + 1))
    with pytest.raises(WorkerLost, match=f"at most {LARGEST} are possible"):
        execute(client, start(endless), timeout_s=30)


def test_the_largest_answer_that_is_possible_is_read(start: Start, client: WorkerClient) -> None:
    output, log = f'"{"x" * (LIMITS.max_result_size - 2)}"', "\N{REPLACEMENT CHARACTER}" * LIMITS.max_log_size
    ran = execute(client, start(answers_with(answer_body(output, log))))
    assert (ran.result, ran.log) == (f'{{"duration": 0.001, "output": {output}}}', log)


@pytest.mark.parametrize(
    ("given", "sent"),
    [(None, b""), ("", b"\n"), ('{"a": 1}', b'\n{"a": 1}'), ("two\nlines \u00e9", b"\ntwo\nlines \xc3\xa9")],
)
def test_the_input_is_sent_as_it_is(start: Start, client: WorkerClient, given: str | None, sent: bytes) -> None:
    worker = start(succeeds())
    execute(client, worker, given=given)
    assert worker.asked == [("/execute", b'7 e 3\n{"context":{"function_id":"f"}}' + sent)]


def test_the_output_is_in_the_result_as_it_came(start: Start, client: WorkerClient) -> None:
    output = '{"é": [1.0, 10000000000000000000001, "\\ud800"]}'
    ran = execute(client, start(answers_with(answer_body(output, "the\nlog", message="why", busy_s=0.5))))
    assert ran == Ran("success", "why", f'{{"duration": 0.001, "output": {output}}}', "the\nlog", 0.001, 0.5)


def test_a_message_with_a_lone_surrogate_is_read(start: Start, client: WorkerClient) -> None:
    assert execute(client, start(answers_with(answer_body(message="\ud800")))).message == "\ud800"


def test_an_endless_head_is_not_read(start: Start, client: WorkerClient) -> None:
    head = sends(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000)
    with pytest.raises(WorkerLost, match="head of the worker's answer is too large"):
        execute(client, start(head), timeout_s=30)


def test_the_connection_is_kept_after_an_answer_and_not_after_a_fault(start: Start, client: WorkerClient) -> None:
    worker = start(succeeds(), hangs_up())
    execute(client, worker)
    assert client.knows(worker.leased())
    with pytest.raises(WorkerLost):
        execute(client, worker)
    assert not client.knows(worker.leased())


@pytest.mark.parametrize(("status", "was_running"), [(202, True), (404, False)])
def test_an_execution_is_cancelled_while_its_answer_is_awaited(
    start: Start, client: WorkerClient, status: int, was_running: bool
) -> None:
    ended = Event()
    cancelled = answers_with(answer_body(status="cancelled", message="m"))
    worker = start(waits(ended, cancelled), cancel=answers(status))
    call = gevent.spawn(execute, client, worker)
    while not worker.asked:
        gevent.sleep(0.01)

    assert client.cancel(worker.leased(), "e") is was_running

    ended.set()
    assert call.get(timeout=10).status == "cancelled"
    assert worker.asked[1] == ("/cancel", b'{"execution_id":"e"}')
    assert client.knows(worker.leased())


@pytest.mark.parametrize(("step", "error"), [(answers(403, error="secret"), NotSent), (hangs_up(), WorkerLost)])
def test_whether_it_was_cancelled_is_unknown(
    start: Start, client: WorkerClient, step: Step, error: type[Exception]
) -> None:
    with pytest.raises(error):
        client.cancel(start(cancel=step).leased(), "e")


def test_a_package_that_is_refused_before_it_is_read_has_the_reason(
    client: WorkerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "socket", gevent.socket)
    refusal = b"HTTP/1.1 413 X\r\nContent-Length: 22\r\n\r\n" + b'{"error": "too large"}'

    def refuse(connection: Any, _address: object) -> None:
        """Answer at the head of the request and close, as an API server does whose worker has answered early."""
        connection.recv(1024)
        connection.sendall(refusal)

    server = StreamServer(("127.0.0.1", 0), refuse)
    server.start()
    try:
        worker = LeasedWorker("w", f"127.0.0.1:{server.server_port}", "s", 1, needs_load=True)
        with pytest.raises(NotLoaded, match="too large"):
            client.load(worker, bytes(32 << 20), {}, 5)
    finally:
        server.stop()
