"""`GET /v1/executions/{id}?wait=…` is answered when the execution has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta

import gevent
import pytest
from falcon import testing
from gevent import socket

from qinling_falcon.api import create_app
from qinling_falcon.auth import noauth
from qinling_falcon.invocation import waits
from qinling_falcon.invocation.admission import Admission
from qinling_falcon.invocation.calls import Call
from qinling_falcon.invocation.waits import Waits
from qinling_falcon.models import clock, execution_queue
from qinling_falcon.models.records import ExecutionRecord
from qinling_falcon.models.scope import Context
from qinling_falcon.pool.limits import CallBounds
from qinling_falcon.pool.pool import Pool
from qinling_falcon.resources.disconnects import on_disconnect
from qinling_falcon.resources.services import Services
from tests.api.client import Client, assert_error
from tests.models.factories import end_claimed
from tests.pool.side import wait_until

DEADLINE_S = 60.0
STRANGER = Context("another-project")


@pytest.fixture
def execution_id(services: Services, function_id: str) -> str:
    """An accepted execution that no process has claimed."""
    return services.acceptance.accept(noauth.EVERYBODY.context, Call(function_id)).id


@pytest.fixture
def finish(services: Services, execution_id: str) -> Iterator[Callable[[], None]]:
    """Ends the execution as a process that runs it does, which does not notify yet."""

    def finish() -> None:
        now = clock.now()
        (claimed,) = execution_queue.claim([execution_id], now, now + timedelta(minutes=1))
        record = ExecutionRecord(
            execution_id, claimed.project_id, claimed.function_id, "success", claimed.created_at,
            result='{"duration": 0.1, "output": 1}', log="", sync=False, attempt=claimed.attempt, updated_at=now,
        )  # fmt: skip
        assert end_claimed(record)

    yield finish


def asked(client: Client, execution_id: str, wait: object = DEADLINE_S) -> gevent.Greenlet:
    """Start a request that waits."""
    return gevent.spawn(client.simulate_get, f"/v1/executions/{execution_id}?wait={wait}")


def waiting(client: Client, pool: Pool, execution_id: str) -> gevent.Greenlet:
    """Start a request, and wait until it waits."""
    request = asked(client, execution_id)
    wait_until(lambda: request.ready() or pool.watches.ids() == [execution_id])
    assert not request.ready(), request.value.text
    return request


def status_of(request: gevent.Greenlet) -> str:
    """The status that the answer to a request shows."""
    answer: testing.Result = request.get(timeout=DEADLINE_S / 2)
    assert answer.status_code == 200, answer.text
    return str(answer.json["status"])


def test_it_is_answered_when_the_execution_has_ended(
    client: Client, pool: Pool, execution_id: str, finish: Callable[[], None]
) -> None:
    requests = [waiting(client, pool, execution_id) for _ in range(3)]
    finish()

    pool.ended.notify([execution_id])

    assert [status_of(request) for request in requests] == ["success"] * 3
    assert pool.watches.ids() == []


def test_an_execution_that_has_ended_is_shown_at_once(
    client: Client, pool: Pool, execution_id: str, finish: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    finish()
    monkeypatch.setattr(pool.watches, "open", None)
    assert status_of(asked(client, execution_id)) == "success"


def test_when_the_time_is_up_the_execution_is_shown_as_it_is(client: Client, execution_id: str) -> None:
    for wait in (0, 0.05, "5e-2"):
        assert status_of(asked(client, execution_id, wait)) == "running"


def test_a_longer_time_than_the_service_allows_counts_as_that(
    client_with: Callable[..., Client], execution_id: str
) -> None:
    client = client_with(execution_wait_max_s=0.05)
    for wait in (60, "1e999"):
        assert status_of(asked(client, execution_id, wait)) == "running"


@pytest.mark.parametrize("wait", ["x", "", "-1", "nan", "inf", "1_0", "1&wait=2", "%2B1", "٣"])
def test_a_wait_that_is_not_a_number_of_seconds_is_refused(client: Client, execution_id: str, wait: str) -> None:
    answer = client.simulate_get(f"/v1/executions/{execution_id}?wait={wait}")
    assert_error(answer, 400, "wait must be a number")
    assert "wait" in answer.json["errors"]


def test_a_stranger_gets_404_at_once(
    client: Client, pool: Pool, execution_id: str, act_as: Callable[[Context], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool.watches, "open", None)
    act_as(STRANGER)
    theirs, none = (
        client.simulate_get(f"/v1/executions/{name}?wait=60") for name in (execution_id, clock.new_id(clock.now()))
    )
    assert theirs.status_code == none.status_code == 404


def test_an_end_of_which_no_notification_came_is_found(
    client: Client, pool: Pool, execution_id: str, finish: Callable[[], None]
) -> None:
    """The process that recorded it has died before it could notify."""
    request = waiting(client, pool, execution_id)
    finish()
    assert status_of(request) == "success"


def test_an_end_is_found_after_notifications_may_have_been_lost(
    client: Client, pool: Pool, execution_id: str, finish: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = waiting(client, pool, execution_id)
    finish()
    monkeypatch.setattr(waits, "_LOOK_S", DEADLINE_S)
    pool.watches.register_again()
    assert status_of(request) == "success"


def test_a_notification_before_the_end_is_only_a_hint(
    client: Client, pool: Pool, execution_id: str, finish: Callable[[], None]
) -> None:
    request = waiting(client, pool, execution_id)
    for _ in range(3):
        pool.ended.notify([execution_id])
        gevent.sleep(0.02)
    assert not request.ready()
    finish()
    pool.ended.notify([execution_id])
    assert status_of(request) == "success"


def test_a_cancelled_execution_has_ended(client: Client, pool: Pool, execution_id: str) -> None:
    request = waiting(client, pool, execution_id)
    answer = client.simulate_put(f"/v1/executions/{execution_id}", json={"status": "cancelled"})
    assert answer.status_code == 202, answer.text
    assert status_of(request) == "cancelled"


def test_a_request_for_an_execution_that_is_deleted_does_not_wait_on(
    client: Client, pool: Pool, execution_id: str
) -> None:
    request = waiting(client, pool, execution_id)
    assert client.simulate_delete(f"/v1/executions/{execution_id}").status_code == 204
    answer = request.get(timeout=DEADLINE_S / 2)
    assert answer.status_code == 404 or answer.json["status"] == "cancelled"


def test_a_process_that_stops_answers_at_once(
    client: Client, services: Services, pool: Pool, execution_id: str
) -> None:
    request = waiting(client, pool, execution_id)
    services.waits.stop()
    assert status_of(request) == "running"
    assert status_of(asked(client, execution_id)) == "running"


def test_one_project_leaves_places_to_others(services: Services, pool: Pool, execution_id: str) -> None:
    admission = Admission(replace(services.settings, web_connections=16), CallBounds)  # six requests may wait
    client = Client(create_app(replace(services, waits=Waits(pool.watches, admission))), services.settings)
    requests = [asked(client, execution_id) for _ in range(3)]
    wait_until(lambda: admission.waits == 3)

    assert_error(client.simulate_get(f"/v1/executions/{execution_id}?wait=60"), 503, "WEB_CONNECTIONS")

    assert status_of(asked(client, execution_id, 0)) == "running"
    with admission.admit_wait("another-project"):
        assert admission.waits == 4
    gevent.killall(requests)
    assert admission.waits == 0


def test_the_wait_ends_when_the_client_disconnects() -> None:
    ours, theirs = socket.socketpair()
    gone = gevent.event.Event()
    with ours, on_disconnect(ours, gone.set):
        theirs.close()
        assert gone.wait(DEADLINE_S)


def test_a_client_that_sends_its_next_request_has_not_disconnected() -> None:
    ours, theirs = socket.socketpair()
    gone = gevent.event.Event()
    with ours, theirs:
        with on_disconnect(ours, gone.set):
            theirs.sendall(b"GET")
            gevent.sleep(0.05)
        assert not gone.is_set()
        assert ours.recv(10) == b"GET"
