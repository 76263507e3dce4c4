"""Connections to workers: abstract Unix sockets, and TCP."""

from __future__ import annotations

import contextlib
import socket
import uuid

import gevent.socket
import pytest

from qinling_falcon.orchestrators import addresses
from qinling_falcon.orchestrators.addresses import connect, is_local, listen, pod_address, pod_of, tcp_address


@pytest.fixture(params=["native", "gevent"])
def address(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "gevent":
        monkeypatch.setattr(addresses, "socket", gevent.socket)  # as after `patch_all`
    return f"@qinling-falcon-test/{uuid.uuid4()}"


def test_a_listening_name_is_reached_and_is_free_again_when_it_is_closed(address: str) -> None:
    with listen(address, 8) as listener, connect(address, 5) as client:
        server, _ = listener.accept()
        with server:
            client.sendall(b"x")
            assert server.recv(1) == b"x"
        with pytest.raises(OSError, match="in use"):
            listen(address, 8)
    with pytest.raises(ConnectionRefusedError):
        connect(address, 5)
    listen(address, 8).close()


def test_a_connection_to_a_worker_that_accepts_none_times_out(address: str) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(listen(address, 1))
        with pytest.raises(TimeoutError):
            for _ in range(4):
                stack.enter_context(connect(address, 0.2))


def test_a_worker_is_reached_by_tcp() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connect(f"127.0.0.1:{listener.getsockname()[1]}", 5).close()


@pytest.mark.parametrize("address", ["", "127.0.0.1", "127.0.0.1:port", "#name", "pod:namespace/name"])
def test_another_form_is_no_address(address: str) -> None:
    with pytest.raises(OSError, match="can't have the address"):
        connect(address, 1)


def test_names_and_loopback_addresses_are_local() -> None:
    assert is_local("@name") and is_local("127.0.0.1:80")
    assert not is_local("10.0.0.1:80") and not is_local("[2001:db8::1]:80") and not is_local("pod:namespace/name")


def test_the_address_of_a_pod_behind_the_api_server_has_its_namespace_and_name() -> None:
    assert pod_of(pod_address("namespace", "name")) == ("namespace", "name")
    assert [pod_of(address) for address in ("@name", "10.0.0.1:80", "")] == [None, None, None]


def test_the_address_of_a_port_is_reached_in_both_families() -> None:
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.create_server((host, 0), family=family) as listener:
            connect(tcp_address(host, listener.getsockname()[1]), 5).close()


def test_a_silent_connection_is_checked_by_the_kernel() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        connect(tcp_address(*listener.getsockname()), 5) as connection,
    ):
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
