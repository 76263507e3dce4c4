"""Idle, slow and silent clients don't block other clients."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.integration.service import wait_until
from tests.web.server import Server, answer, get, request, rest, running_server

pytestmark = pytest.mark.xdist_group("web-connections")  # two servers for most of them

CROWD = 40


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server with 8 places and short deadlines."""
    with running_server(
        web_connections=8, head_timeout_s=2, body_grace_s=2, body_min_rate=1000, keep_alive_s=3, send_timeout_s=2
    ) as running:
        yield running


@pytest.fixture(scope="module")
def patient_server() -> Iterator[Server]:
    """A server with 8 places and deadlines that no test reaches: a client that takes a place keeps it."""
    with running_server(
        web_connections=8, head_timeout_s=300, body_grace_s=600, keep_alive_s=600, send_timeout_s=600
    ) as running:
        yield running


def count(client: socket.socket) -> int:
    """The answer to a request for `/count`."""
    return int(answer(client).rpartition(b"\r\n\r\n")[2])


@contextlib.contextmanager
def crowd(server: Server, first_bytes: bytes) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(CROWD)]
        for client in clients:
            client.sendall(first_bytes)
        yield clients


def test_idle_connections_take_no_places(patient_server: Server) -> None:
    with crowd(patient_server, request("/")) as clients:
        assert all(answer(client).endswith(b"ok") for client in clients)
        assert patient_server.answers()
        assert all(get(client).endswith(b"ok") for client in clients)


def test_requests_that_arrive_while_the_process_is_busy_begin_in_the_order_of_arrival(patient_server: Server) -> None:
    with crowd(patient_server, b"") as clients:
        assert all(get(client).endswith(b"ok") for client in clients)  # all connections are accepted
        with patient_server.suspended():
            for client in clients:
                client.sendall(request("/count"))
        numbers = list(map(count, clients))
    assert numbers == sorted(numbers)


def test_one_client_after_another_is_served_by_the_same_greenlets(server: Server) -> None:
    for _ in range(3):
        with crowd(server, request("/read", "POST", b"abc")) as clients:
            assert all(answer(client).endswith(b"3") for client in clients)


unfinished = pytest.mark.parametrize(
    "first_bytes",
    [b"", b"G", b"GET / HTTP/1.1\r\nHost: x\r\nX-More: ", request("/read", "POST", b"{", 1000)],
    ids=["nothing", "a letter", "half a head", "half a body"],
)


@unfinished
def test_unfinished_requests_take_no_places(patient_server: Server, first_bytes: bytes) -> None:
    with crowd(patient_server, first_bytes):
        assert patient_server.answers()


@unfinished
def test_unfinished_requests_are_ended(server: Server, first_bytes: bytes) -> None:
    with crowd(server, first_bytes) as clients:
        for client in clients:
            rest(client)


def begin(client: socket.socket, first_bytes: bytes) -> None:
    """Send the beginning of a request, or a whole one, and wait until the server has it, behind an answered one."""
    client.sendall(request("/") + first_bytes)
    assert answer(client).endswith(b"ok")


@contextlib.contextmanager
def dripping(client: socket.socket) -> Iterator[None]:
    """Sends a byte every tenth of a second."""
    stop = threading.Event()

    def drip() -> None:
        with contextlib.suppress(OSError):
            while not stop.wait(0.1):
                client.sendall(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_head_that_comes_too_slowly_is_answered_408(server: Server) -> None:
    with server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nX-More: ")
        with dripping(client):
            assert rest(client).startswith(b"HTTP/1.1 408 ")


def test_a_body_that_comes_too_slowly_is_answered_408(server: Server) -> None:
    with server.connect() as client:
        client.sendall(request("/read", "POST", b"", 100_000))
        with dripping(client):
            text = rest(client)
    assert text.startswith(b"HTTP/1.1 408 ")
    assert b"Connection: close" in text
    assert b"send at least 1000 bytes a second" in text


@pytest.mark.parametrize("first_bytes", [b"GET / HTTP/1.1\r\n", request("/read", "POST", b"{", 1000)])
def test_a_client_that_has_fallen_silent_is_disconnected_without_an_answer(server: Server, first_bytes: bytes) -> None:
    with server.connect() as client:
        client.sendall(first_bytes)
        assert rest(client) == b""


def test_many_bytes_buy_no_long_silence(server: Server) -> None:
    with server.connect() as client:
        client.sendall(request("/read", "POST", b"x" * 2_000_000, 2_000_001))
        assert rest(client) == b""


def test_a_body_above_the_rate_may_take_longer_than_the_grace(server: Server) -> None:
    with server.connect() as client:
        client.sendall(request("/read", "POST", b"", 9000))
        for _ in range(9):
            time.sleep(0.4)
            client.sendall(b"x" * 1000)
        assert answer(client).endswith(b"9000")


def test_the_server_s_own_slowness_is_not_the_client_s(server: Server) -> None:
    with server.connect() as client:
        client.sendall(request("/late/3", "POST", b"", 5))
        time.sleep(3.5)
        client.sendall(b"later")
        assert answer(client).endswith(b"5")


def test_more_requests_than_places_wait_for_their_turn(server: Server) -> None:
    with crowd(server, request("/sleep/0.2")) as clients:
        assert all(answer(client).endswith(b"ok") for client in clients)


def test_requests_that_are_sent_at_once_are_answered_in_turn(server: Server) -> None:
    with server.connect() as client:
        client.sendall(request("/read", "POST", b"four") + request("/") + request("/read", "POST", b"eleven char"))
        assert [answer(client)[-2:] for _ in range(3)] == [b"\n4", b"ok", b"11"]


def test_an_idle_connection_is_kept_and_then_closed(server: Server) -> None:
    with server.connect() as client:
        assert get(client).endswith(b"ok")
        time.sleep(1.5)
        assert get(client).endswith(b"ok")
        assert rest(client) == b""


def test_a_request_that_arrives_while_the_process_is_busy_is_served_although_its_connection_was_idle(
    server: Server,
) -> None:
    with server.connect() as idle:
        assert get(idle).endswith(b"ok")
        with server.suspended():
            idle.sendall(request("/"))
            time.sleep(3.5)  # longer than KEEP_ALIVE_S
        assert answer(idle).endswith(b"ok")


def test_a_body_that_nothing_reads_leaves_the_connection_usable(server: Server) -> None:
    with server.connect() as client:
        body = b"x" * 300_000
        client.sendall(request("/ignore", "POST", body))
        assert answer(client).endswith(b"ok")
        assert get(client).endswith(b"ok")


def test_a_body_that_nothing_reads_and_never_ends_closes_the_connection(server: Server) -> None:
    with server.connect() as client:
        client.sendall(request("/ignore", "POST", b"x", 1_000_000_000))
        assert answer(client).endswith(b"ok")
        assert rest(client) == b""


def test_a_client_that_has_half_sent_what_nothing_reads_gets_no_answer(server: Server) -> None:
    with server.connect() as client:
        client.sendall(request("/ignore", "POST", b"x", 1000))
        assert rest(client) == b""


def test_broken_chunks_that_nothing_reads_get_one_answer(server: Server) -> None:
    with server.connect() as client:
        client.sendall(b"POST /ignore HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + request("/"))
        text = rest(client)
    assert text.count(b"HTTP/1.1 ") == 1
    assert b"Connection: close" in text
    assert text.endswith(b"ok")


def test_a_flood_of_tiny_chunks_is_ended_and_delays_no_other_request(server: Server) -> None:
    head = b"POST /ignore HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    answered, ended = [], threading.Event()

    def flood() -> None:
        try:
            with server.connect() as client, contextlib.suppress(ConnectionError):
                client.sendall(head)
                while True:
                    client.sendall(b"1\r\nx\r\n" * 10_000)
        finally:
            ended.set()

    flooding = threading.Thread(target=flood)
    flooding.start()
    while not ended.is_set():
        answered.append(server.answers())
    flooding.join()
    assert all(answered)
    assert len(answered) >= 10, "other requests wait for a few turns of the flood, not for its end"


def test_a_client_that_pipelines_gives_others_their_turn(patient_server: Server) -> None:
    with patient_server.connect() as pipelining, patient_server.connect() as other:
        assert all(get(client).endswith(b"ok") for client in (pipelining, other))
        with patient_server.suspended():
            pipelining.sendall(request("/count") * 100)
            other.sendall(request("/count"))
        of_other = count(other)
        assert sum(count(pipelining) < of_other for _ in range(100)) <= 5


@contextlib.contextmanager
def clients_that_do_not_read(server: Server) -> Iterator[list[socket.socket]]:
    """Clients that have sent requests for more small answers than the buffers hold."""
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(CROWD):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(60)
            client.connect(("127.0.0.1", server.port))
            client.sendall(request("/large") * 400)
            clients.append(client)
        yield clients


def test_clients_that_do_not_read_small_answers_take_no_places(patient_server: Server) -> None:
    with clients_that_do_not_read(patient_server):
        assert patient_server.answers()


def test_clients_that_do_not_read_small_answers_are_cut_off(server: Server) -> None:
    before = server.descriptors()
    with clients_that_do_not_read(server) as clients:
        wait_until("all are cut off", lambda: server.descriptors() <= before, timeout_s=100)
        for client in clients:
            assert rest(client).count(b"HTTP/1.1 200") < 400


def test_100_continue_is_sent_when_the_body_is_read_and_not_otherwise(server: Server) -> None:
    head = "POST {} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    with server.connect() as client:
        client.sendall(head.format("/read").encode())
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"12345")
        assert answer(client).endswith(b"\n5")
        assert get(client).endswith(b"ok")
    with server.connect() as client:
        client.sendall(head.format("/ignore").encode())
        text = rest(client)
        assert text.startswith(b"HTTP/1.1 200")
        assert b"Connection: close" in text


def test_the_oldest_idle_connection_makes_room_for_a_new_one() -> None:
    with running_server(max_connections=16, web_connections=8) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(CROWD)]
        assert get(clients[-1]).endswith(b"ok")
        assert rest(clients[0]) == b""
        assert get(clients[-2]).endswith(b"ok")


@pytest.mark.parametrize("first_bytes", [b"GET / HTTP/1.1\r\n", request("/read", "POST", b"{", 1000)])
def test_clients_that_have_sent_half_make_room_too(first_bytes: bytes) -> None:
    with running_server(max_connections=16, web_connections=8) as server, crowd(server, first_bytes):
        assert server.answers()


def test_idle_connections_do_not_delay_a_stop_and_requests_end() -> None:
    with running_server(shutdown_grace_s=60, keep_alive_s=600) as server, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(server.connect()) for _ in range(5)]
        assert all(get(client).endswith(b"ok") for client in idle)
        busy = stack.enter_context(server.connect())
        begin(busy, request("/sleep/2"))
        assert server.stop() < 30
        text = answer(busy)
        assert text.endswith(b"ok")
        assert b"Connection: close" in text
        assert all(rest(client) == b"" for client in idle)


@pytest.mark.parametrize("first_bytes", [b"GET / HT", request("/ignore", "POST", b"x", 1000)])
def test_clients_that_have_sent_half_do_not_delay_a_stop(first_bytes: bytes) -> None:
    with running_server(shutdown_grace_s=60, head_timeout_s=100) as server, server.connect() as client:
        begin(client, first_bytes)
        assert server.stop() < 30
        rest(client)


def test_a_stop_ends_what_takes_longer_than_the_grace() -> None:
    with running_server(shutdown_grace_s=1) as server, server.connect() as busy:
        begin(busy, request("/sleep/60"))
        assert server.stop() < 30
        assert rest(busy) == b""


def test_file_descriptors_of_closed_connections_are_given_back(server: Server) -> None:
    before = server.descriptors()
    for _ in range(3):
        with crowd(server, request("/")) as clients:
            for client in clients:
                answer(client)
    wait_until("all are closed", lambda: server.descriptors() <= before + 2)


def test_few_file_descriptors_mean_fewer_connections() -> None:
    with running_server(files="100", max_connections=4000) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(150)]
        assert get(clients[-1]).endswith(b"ok")
        assert server.answers()


def test_the_limit_on_open_files_is_raised_for_all_clients_and_all_workers() -> None:
    with running_server(files="256:8192", max_connections=4000, max_workers=700) as server:
        [web] = psutil.Process(server.process.pid).children()
        soft, _ = web.rlimit(psutil.RLIMIT_NOFILE)
        assert soft >= 4000 + 700 + 100
