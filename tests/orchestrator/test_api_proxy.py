"""Workers that are reached through the API server: what a request says, and whose answer it gets."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import gevent.socket
import pytest
from gevent.event import Event

from qinling_falcon.invocation.worker_client import Execution, NotSent, WorkerClient, WorkerLost
from qinling_falcon.orchestrators.base import WorkerInfo
from qinling_falcon.orchestrators.gateways import GatewayAway, make_gateway
from qinling_falcon.orchestrators.kubernetes import api_proxy
from qinling_falcon.orchestrators.ping import ping
from qinling_falcon.pool import adoption
from qinling_falcon.pool.adoption import Adoption
from qinling_falcon.pool.leases import LeasedWorker
from qinling_falcon.pool.registry import Registry
from qinling_falcon.settings import Settings, SettingsError
from tests.support.scripted_worker import ScriptedWorker, Step, answers, answers_with, hangs_up, sends, succeeds

ADDRESS = "pod:functions/runtime-1-x"
PATH = "/api/v1/namespaces/functions/pods/runtime-1-x:9090/proxy"
EXECUTION = Execution("e1", 5, {"context": {}}, None)

Start = Callable[..., tuple[ScriptedWorker, Settings]]


def status(code: int, message: str, reason: str = "") -> Step:
    """An answer of the API server itself."""
    return answers(code, kind="Status", apiVersion="v1", status="Failure", message=message, reason=reason, code=code)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("first\n")
    return path


@pytest.fixture
def start(token_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a server in place of the API server, in greenlets beside the client, and the settings to reach it."""
    monkeypatch.setattr(api_proxy, "socket", gevent.socket)  # as after `patch_all`
    servers = []

    def start(*steps: Step) -> tuple[ScriptedWorker, Settings]:
        servers.append(ScriptedWorker(*steps))
        return servers[-1], settings_for(f"http://{servers[-1].address}", token_file)

    yield start
    for server in servers:
        server.close()


def settings_for(url: str, token_file: Path) -> Settings:
    return Settings(
        orchestrator="kubernetes",
        kubernetes_worker_access="api-proxy",
        kubernetes_api_url=url,
        kubernetes_token_file=token_file,
    )


def worker(token: int = 1) -> LeasedWorker:
    return LeasedWorker("w", ADDRESS, "s", token, needs_load=False)


def test_a_request_names_the_pod_and_has_the_token_of_the_file(token_file: Path) -> None:
    gateway = make_gateway(settings_for("https://api.example:6443/clusters/c1", token_file))

    assert gateway is not None
    assert gateway.begin(ADDRESS, "POST", "/execute") == (
        f"POST /clusters/c1{PATH}/execute HTTP/1.1\r\nHost: api.example:6443\r\nAuthorization: Bearer first\r\n"
    )


def test_calls_share_a_connection(start: Start) -> None:
    server, settings = start(succeeds("1"), succeeds("2"))
    client = WorkerClient(settings)

    outputs = [client.execute(worker(token), EXECUTION, 5).result for token in (1, 2)]

    assert ['"1"' in outputs[0], '"2"' in outputs[1]] == [True, True]
    assert server.paths() == [f"{PATH}/execute"] * 2
    assert len(server.connections) == 1


def test_a_connection_that_the_server_will_close_is_not_kept(start: Start) -> None:
    ending = b"HTTP/1.1 409 X\r\nConnection: close\r\nContent-Length: 16\r\n\r\n" + b'{"error": "old"}'
    _, settings = start(sends(ending))
    client = WorkerClient(settings)

    with pytest.raises(NotSent, match="old"):
        client.execute(worker(), EXECUTION, 5)

    assert not client.knows(worker())


@pytest.mark.parametrize(
    "answer",
    [
        status(404, 'pods "runtime-1-x" not found', "NotFound"),
        status(400, "address not allowed", "BadRequest"),
        status(500, "error trying to reach service: dial tcp 10.1.2.3:9090: connect: connection refused"),
        status(503, "error trying to reach service: dial tcp 10.1.2.3:9090: i/o timeout", "ServiceUnavailable"),
        status(503, "error trying to reach service: proxy error from 127.0.0.1:6443 while dialing 10.1.2.3:9090"),
        answers(409, error="stale token"),
    ],
)
def test_a_call_that_did_not_reach_the_worker_may_be_sent_to_another_one(start: Start, answer: Step) -> None:
    _, settings = start(answer)

    with pytest.raises(NotSent):
        WorkerClient(settings).execute(worker(), EXECUTION, 5)


@pytest.mark.parametrize(
    "answer",
    [
        status(500, "error trying to reach service: EOF"),
        status(502, "error trying to reach service: read tcp 10.1.2.4:1->10.1.2.3:9090: connection reset by peer"),
        status(503, "the server is currently unable to handle the request", "ServiceUnavailable"),
        answers_with(b"<h1>504 Gateway Time-out</h1>", 504),
        hangs_up(),
    ],
)
def test_a_call_that_may_have_reached_the_worker_is_lost(start: Start, answer: Step) -> None:
    _, settings = start(answer)

    with pytest.raises(WorkerLost):
        WorkerClient(settings).execute(worker(), EXECUTION, 5)


@pytest.mark.parametrize(
    "answer",
    [
        status(401, "Unauthorized", "Unauthorized"),
        status(403, 'pods "runtime-1-x" is forbidden: User "web" cannot create resource', "Forbidden"),
        status(429, "Too many requests, please try again later.", "TooManyRequests"),
        answers_with(b"<h1>404 Not Found</h1>", 404),
    ],
)
def test_an_api_server_that_refuses_this_process_says_nothing_of_the_worker(start: Start, answer: Step) -> None:
    _, settings = start(answer, answer)

    with pytest.raises(GatewayAway) as raised:
        WorkerClient(settings).execute(worker(), EXECUTION, 5)
    with pytest.raises(GatewayAway):
        ping(WorkerInfo("w", ADDRESS, "s"), 5, make_gateway(settings))

    assert "forbidden" not in str(raised.value)


def test_an_api_server_that_is_away_says_nothing_of_the_worker(start: Start) -> None:
    server, settings = start()
    server.close()

    with pytest.raises(GatewayAway):
        WorkerClient(settings).execute(worker(), EXECUTION, 5)


def test_a_refused_token_is_read_again_for_the_next_request(start: Start, token_file: Path) -> None:
    _, settings = start(status(401, "Unauthorized"), succeeds())
    gateway = make_gateway(settings)
    assert gateway is not None
    gateway.begin(ADDRESS, "GET", "/ping")
    token_file.write_text("second")
    assert "first" in gateway.begin(ADDRESS, "GET", "/ping")

    with pytest.raises(GatewayAway):
        ping(WorkerInfo("w", ADDRESS, "s"), 5, gateway)

    assert "Authorization: Bearer second\r\n" in gateway.begin(ADDRESS, "GET", "/ping")


def test_a_token_file_that_is_gone_says_nothing_of_the_worker(start: Start, token_file: Path) -> None:
    _, settings = start()
    client = WorkerClient(settings)
    token_file.unlink()

    with pytest.raises(GatewayAway):
        client.execute(worker(), EXECUTION, 5)


def test_a_worker_with_another_form_of_address_gets_nothing(start: Start) -> None:
    server, settings = start()

    with pytest.raises(NotSent, match=r"10\.1\.2\.3:9090"):
        WorkerClient(settings).execute(LeasedWorker("w", "10.1.2.3:9090", "s", 1, needs_load=False), EXECUTION, 5)

    assert server.asked == []


def test_a_handshake_that_hangs_ends_in_time_and_holds_up_no_other_greenlet(token_file: Path) -> None:
    command = [sys.executable, "-m", "tests.orchestrator.hanging_handshake", str(token_file)]

    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)

    outcome, turns = done.stdout.split()
    assert outcome == "away"
    assert int(turns) > 2


def test_a_busy_worker_is_waited_for_while_the_api_server_is_away(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adoption, "_ASK_AGAIN_S", 0.01)
    busy, idle = answers(200, loaded=True, busy=True), answers(200, loaded=True, busy=False)
    server, settings = start(busy, status(429, "Too many requests"), idle)
    ended = Event()
    registry = cast(Registry, None)  # this worker is not registered

    Adoption(registry, lambda _worker_id: ended.set(), settings).adopt([WorkerInfo("w", ADDRESS, "s")])

    assert ended.wait(10)
    assert len(server.asked) == 3


def test_a_worker_is_not_replaced_because_the_api_server_is_away(start: Start) -> None:
    _, settings = start(status(429, "Too many requests"))
    ended: list[str] = []

    Adoption(cast(Registry, None), ended.append, settings).adopt([WorkerInfo("w", ADDRESS, "s")])

    assert ended == []


def test_an_http_proxy_is_an_error_of_the_settings(token_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "https_proxy", "http://proxy.example:3128")
    settings = settings_for("https://api.example", token_file)

    with pytest.raises(SettingsError, match="NO_PROXY"):
        make_gateway(settings)

    monkeypatch.setitem(os.environ, "no_proxy", "api.example")
    assert make_gateway(settings) is not None
