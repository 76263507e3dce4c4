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

CROWD = 40


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server with 8 places and short deadlines."""
    with running_server(
        web_connections=8, head_timeout_s=2, body_grace_s=2, body_min_rate=1000, keep_alive_s=3, send_timeout_s=2
    ) as running:
        yield running


@contextlib.contextmanager
def crowd(server: Server, first_bytes: bytes) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(CROWD)]
        for client in clients:
            client.sendall(first_bytes)
        yield clients


def test_idle_connections_take_no_places(server: Server) -> None:
    with crowd(server, request("/")) as clients:
        assert all(answer(client).endswith(b"ok") for client in clients)
        assert server.answers()
        assert all(get(client).endswith(b"ok") for client in clients)


def test_requests_that_arrive_while_the_process_is_busy_begin_in_the_order_of_arrival(server: Server) -> None:
    with crowd(server, b"") as clients, server.connect() as busy:
        assert all(get(client).endswith(b"ok") for client in clients)  # all connections are accepted
        busy.sendall(request("/block/0.5"))
        time.sleep(0.1)
        for client in clients:
            client.sendall(request("/count"))
        numbers = [int(answer(client).rpartition(b"\r\n\r\n")[2]) for client in clients]
    assert numbers == sorted(numbers)


def test_one_client_after_another_is_served_by_the_same_greenlets(server: Server) -> None:
    for _ in range(3):
        with crowd(server, request("/read", "POST", b"abc")) as clients:
            assert all(answer(client).endswith(b"3") for client in clients)


@pytest.mark.parametrize(
    "first_bytes",
    [b"", b"G", b"GET / HTTP/1.1\r\nHost: x\r\nX-More: ", request("/read", "POST", b"{", 1000)],
    ids=["nothing", "a letter", "half a head", "half a body"],
)
def test_unfinished_requests_take_no_places_and_are_ended(server: Server, first_bytes: bytes) -> None:
    with crowd(server, first_bytes) as clients:
        assert server.answers()
        for client in clients:
            rest(client)


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
        with server.connect() as client, contextlib.suppress(OSError):
            client.sendall(head)
            while True:
                client.sendall(b"1\r\nx\r\n" * 10_000)
        ended.set()

    flooding = threading.Thread(target=flood)
    flooding.start()
    while not ended.wait(0.05):
        answered.append(server.answers())
    flooding.join()
    assert all(answered)
    assert server.answers()


def test_a_client_that_pipelines_gives_others_their_turn(server: Server) -> None:
    stop = threading.Event()

    def pipeline() -> None:
        with server.connect() as client:
            while not stop.is_set():
                client.sendall(request("/") * 200)
                for _ in range(200):
                    answer(client)

    threads = [threading.Thread(target=pipeline) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        assert all(server.answers() for _ in range(5))
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_clients_that_do_not_read_small_answers_take_no_places_and_are_cut_off(server: Server) -> None:
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(CROWD):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", server.port))
            client.settimeout(20)
            client.sendall(request("/large") * 400)
            clients.append(client)
        assert server.answers()
        time.sleep(3)
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
    with running_server(shutdown_grace_s=20, keep_alive_s=60) as server, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(server.connect()) for _ in range(5)]
        assert all(get(client).endswith(b"ok") for client in idle)
        busy = stack.enter_context(server.connect())
        busy.sendall(request("/sleep/2"))
        time.sleep(0.3)
        assert server.stop() < 15
        text = answer(busy)
        assert text.endswith(b"ok")
        assert b"Connection: close" in text
        assert all(rest(client) == b"" for client in idle)


@pytest.mark.parametrize("first_bytes", [b"GET / HT", request("/ignore", "POST", b"x", 1000)])
def test_clients_that_have_sent_half_do_not_delay_a_stop(first_bytes: bytes) -> None:
    with running_server(shutdown_grace_s=60, head_timeout_s=100) as server, server.connect() as client:
        client.sendall(first_bytes)
        time.sleep(0.3)
        assert server.stop() < 30
        rest(client)


def test_a_stop_ends_what_takes_longer_than_the_grace() -> None:
    with running_server(shutdown_grace_s=1) as server, server.connect() as busy:
        busy.sendall(request("/sleep/60"))
        time.sleep(0.3)
        assert server.stop() < 30
        assert rest(busy) == b""


def test_file_descriptors_of_closed_connections_are_given_back(server: Server) -> None:
    def descriptors() -> int:
        master = psutil.Process(server.process.pid)
        return max(child.num_fds() for child in master.children())

    before = descriptors()
    for _ in range(3):
        with crowd(server, request("/")) as clients:
            for client in clients:
                answer(client)
    wait_until("all are closed", lambda: descriptors() <= before + 2)


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
