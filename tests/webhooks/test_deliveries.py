"""Callbacks from the end of an execution to the receiver: with real servers, on both databases."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gevent
import pytest

from qinling_falcon.jobs import callbacks as jobs
from qinling_falcon.jobs.callbacks import Callbacks
from qinling_falcon.models import callbacks, clock, database, execution, function
from qinling_falcon.models.database import reading, transact
from qinling_falcon.models.execution_queue import end
from qinling_falcon.models.records import ExecutionRecord
from qinling_falcon.models.scope import Context
from qinling_falcon.models.tables import Callback
from qinling_falcon.schemas.executions import ExecutionShown
from qinling_falcon.settings import Settings
from qinling_falcon.webhooks.sender import NotDelivered, Sender
from tests.models.conftest import backend, migrated, postgres_tables  # noqa: F401
from tests.models.factories import make_function, make_runtime
from tests.models.test_callbacks import claimed_execution, ended
from tests.support.secrets import SECRET, fernet_key
from tests.webhooks.receiver import Received, Receiver, receiver

OWNER, OTHER = Context("project-a"), Context("project-b")


@pytest.fixture
def settings(migrated: Settings) -> Iterator[Settings]:  # noqa: F811
    """This process is connected, callbacks may reach loopback, and failed ones are due again at once."""
    settings = replace(
        migrated,
        secret_keys=fernet_key(1),
        callback_networks="127.0.0.0/8",
        callback_timeout_s=5.0,
        callback_backoff_s=0.01,
        callback_max_attempts=3,
    )
    database.connect(settings)
    yield settings
    database.disconnect()


@pytest.fixture
def receiving() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


@pytest.fixture
def runtime_id(settings: Settings) -> str:
    return make_runtime(OWNER).id


@pytest.fixture
def calling_id(runtime_id: str, receiving: Receiver) -> str:
    """A function whose callbacks go to the receiver, signed."""
    urls = {"on_success": receiving.url("/done"), "on_failure": receiving.url("/failed")}
    return make_function(OWNER, runtime_id, callback_secret=SECRET, **urls).id


@pytest.fixture
def delivering(settings: Settings) -> Iterator[Callbacks]:
    made = Callbacks(settings, ExecutionShown().show)
    yield made
    made.close(10)


def run(function_id: str, status: str = "success", **fields: Any) -> ExecutionRecord:
    """An asynchronous execution that has ended."""
    final = ended(claimed_execution(function_id, **fields), status)
    assert end(final)
    return final


def deliver(delivering: Callbacks) -> int:
    """Deliver what is due, and wait for it."""
    started = delivering.deliver_due()
    delivering._running.join(10)
    return started


def deliver_all(delivering: Callbacks) -> int:
    """Deliver until no callback is left, also those that fail; how many attempts that took."""
    attempts = 0
    give_up = time.monotonic() + 20
    while rows():
        assert time.monotonic() < give_up
        attempts += deliver(delivering)
    return attempts


def rows() -> list[Callback]:
    with reading():
        return list(Callback.select())


def dropped(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.getMessage() == "callback dropped"]


def check_signature(request: Received) -> None:
    """As a receiver does that has read the specification, and nothing of this service."""
    key = base64.b64decode(SECRET[len("whsec_") :])
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert request.headers["webhook-signature"].split(" ") == [f"v1,{expected}"]
    assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 300


def test_the_check_in_the_documents_works(calling_id: str, receiving: Receiver, delivering: Callbacks) -> None:
    text = (Path(__file__).parents[2] / "docs" / "callbacks.md").read_text()
    made: dict[str, Any] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], made)
    run(calling_id)
    assert deliver(delivering) == 1
    [request] = receiving.received

    assert made["verify"](SECRET, request.headers, request.body)
    assert not made["verify"](SECRET, request.headers, request.body + b" ")
    assert not made["verify"](SECRET, request.headers | {"webhook-timestamp": "1"}, request.body)


def test_a_success_is_delivered_signed_and_without_log(
    calling_id: str, receiving: Receiver, delivering: Callbacks
) -> None:
    final = run(calling_id, input='{"a": "ü"}', description="nightly")

    assert deliver(delivering) == 1

    [request] = receiving.received
    check_signature(request)
    assert request.path == "/done"
    assert request.headers["webhook-id"] == final.id
    assert request.headers["qinling-callback-depth"] == "1"
    message = request.message
    assert message.keys() == {"type", "timestamp", "data"}
    assert message["type"] == "execution.success"
    assert datetime.datetime.fromisoformat(message["timestamp"]) == final.updated_at
    assert message["data"] == json.loads(json.dumps(ExecutionShown().show(execution.get(OWNER, final.id))))
    assert (message["data"]["status"], message["data"]["input"]) == ("success", '{"a": "ü"}')
    assert "log" not in message["data"]
    assert rows() == []


@pytest.mark.parametrize("status", ["failed", "error", "dead"])
def test_a_failure_is_delivered(calling_id: str, receiving: Receiver, delivering: Callbacks, status: str) -> None:
    run(calling_id, status)

    assert deliver(delivering) == 1

    [request] = receiving.received
    assert (request.path, request.message["type"]) == ("/failed", "execution.failure")
    assert request.message["data"]["status"] == status


def test_without_a_secret_requests_are_not_signed(
    runtime_id: str, receiving: Receiver, delivering: Callbacks
) -> None:
    run(make_function(OWNER, runtime_id, on_success=receiving.url()).id)

    assert deliver(delivering) == 1

    assert "webhook-signature" not in receiving.received[0].headers
    assert "webhook-id" in receiving.received[0].headers


def test_with_nothing_due_there_is_one_query(
    settings: Settings, delivering: Callbacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = database.engine()
    statements: list[str] = []
    execute = engine.execute_sql
    monkeypatch.setattr(engine, "execute_sql", lambda sql, *more: statements.append(sql) or execute(sql, *more))

    assert delivering.deliver_due() == 0

    [statement] = statements
    assert statement.startswith("SELECT 1")
    assert statement.endswith("LIMIT 1")


def test_a_failed_delivery_is_repeated_with_its_id(
    calling_id: str, receiving: Receiver, delivering: Callbacks
) -> None:
    receiving.statuses = [500, 302]
    run(calling_id)

    assert deliver_all(delivering) == 3

    assert len({request.headers["webhook-id"] for request in receiving.received}) == 1
    assert len({request.body for request in receiving.received}) == 1
    for request in receiving.received:
        check_signature(request)


def test_after_the_last_attempt_a_callback_is_dropped(
    calling_id: str, receiving: Receiver, delivering: Callbacks, caplog: pytest.LogCaptureFixture
) -> None:
    receiving.statuses = [500] * 10
    final = run(calling_id)

    assert deliver_all(delivering) == 3

    assert len(receiving.received) == 3
    [event] = dropped(caplog)
    assert vars(event)["execution_id"] == final.id
    assert vars(event)["attempt"] == 3
    assert "status 500" in vars(event)["reason"]
    assert SECRET not in caplog.text


def test_gone_ends_a_callback_at_once(
    calling_id: str, receiving: Receiver, delivering: Callbacks, caplog: pytest.LogCaptureFixture
) -> None:
    receiving.statuses = [410]
    run(calling_id)

    assert deliver_all(delivering) == 1
    assert "410" in vars(dropped(caplog)[0])["reason"]


def test_an_address_that_is_not_public_gets_no_request(
    calling_id: str, receiving: Receiver, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    strict = replace(settings, callback_networks=None, callback_max_attempts=1)
    run(calling_id)

    assert deliver_all(Callbacks(strict, ExecutionShown().show)) == 1

    assert receiving.received == []
    assert "is not public" in vars(dropped(caplog)[0])["reason"]


@pytest.mark.parametrize("depth", [None, 0, 1, 2])
def test_the_depth_grows_by_one(
    calling_id: str, receiving: Receiver, delivering: Callbacks, depth: int | None
) -> None:
    run(calling_id, callback_depth=depth)

    assert deliver(delivering) == 1

    assert receiving.received[0].headers["qinling-callback-depth"] == str((depth or 0) + 1)


def test_the_deepest_execution_has_no_callback(
    calling_id: str, receiving: Receiver, delivering: Callbacks, caplog: pytest.LogCaptureFixture
) -> None:
    run(calling_id, callback_depth=3)

    assert deliver_all(delivering) == 1

    assert receiving.received == []
    assert "3 callbacks led to the execution" in vars(dropped(caplog)[0])["reason"]


def test_a_crash_after_the_answer_repeats_the_delivery_with_its_id(
    calling_id: str, receiving: Receiver, delivering: Callbacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(calling_id)

    def crash(callback_id: str, attempt: int) -> bool:
        raise gevent.GreenletExit  # as when the process dies: nothing more is written

    with monkeypatch.context() as patched:
        patched.setattr(callbacks, "finish", crash)
        assert deliver(delivering) == 1
    assert deliver(delivering) == 0  # the claim has not ended
    transact(lambda: Callback.update(claimed_until=clock.to_micros(clock.now())).execute())
    assert deliver(delivering) == 1

    first, second = receiving.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    assert rows() == []


def test_crashes_at_the_last_attempt_end_too(
    calling_id: str, receiving: Receiver, delivering: Callbacks, caplog: pytest.LogCaptureFixture
) -> None:
    run(calling_id)
    transact(lambda: Callback.update(attempt=3).execute())

    assert deliver_all(delivering) == 1

    assert receiving.received == []
    assert "not delivered in 3 attempts" in vars(dropped(caplog)[0])["reason"]


def test_a_deleted_execution_or_function_has_no_callback(
    calling_id: str, receiving: Receiver, delivering: Callbacks, caplog: pytest.LogCaptureFixture
) -> None:
    first = run(calling_id)
    run(calling_id)
    execution.delete(OWNER, first.id)
    assert deliver(delivering) == 2
    run(calling_id)
    function.delete(OWNER, calling_id)
    assert deliver(delivering) == 1

    assert len(receiving.received) == 1
    assert [vars(event)["reason"] for event in dropped(caplog)] == [
        "The execution was deleted.",
        "The function was deleted.",
    ]


def test_the_secret_counts_that_the_function_has_now(
    calling_id: str, receiving: Receiver, delivering: Callbacks
) -> None:
    function.update(OWNER, calling_id, {"callback_secret": None})
    run(calling_id)
    function.update(OWNER, calling_id, {"callback_secret": SECRET})

    assert deliver(delivering) == 1

    check_signature(receiving.received[0])


def test_a_secret_that_no_key_reads_is_not_sent_unsigned(
    calling_id: str, receiving: Receiver, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    run(calling_id)
    database.disconnect()
    changed = replace(settings, secret_keys=fernet_key(2))
    database.connect(changed)

    assert deliver_all(Callbacks(changed, ExecutionShown().show)) == 3

    assert receiving.received == []
    assert "SECRET_KEYS" in vars(dropped(caplog)[0])["reason"]


def test_the_url_counts_that_the_function_had_at_the_end(
    calling_id: str, receiving: Receiver, delivering: Callbacks
) -> None:
    run(calling_id)
    function.update(OWNER, calling_id, {"on_success": receiving.url("/later")})
    run(calling_id)

    assert deliver(delivering) == 2

    assert {request.path for request in receiving.received} == {"/done", "/later"}


def test_pauses_grow_and_are_random(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    bounds: list[tuple[float, float]] = []
    monkeypatch.setattr(jobs.random, "uniform", lambda low, high: bounds.append((low, high)) or high)
    made = Callbacks(replace(settings, callback_backoff_s=10.0), ExecutionShown().show)

    assert [made._pause_s(attempt) for attempt in (1, 2, 3, 9, 10, 100)] == [10, 20, 40, 2560, 3600, 3600]
    assert {low for low, _ in bounds} == {0}


class HeldSender(Sender):
    """Holds each request until it is told to go on, and knows how many it holds."""

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self.go_on = gevent.event.Event()
        self.held = 0
        self.most = 0
        self.urls: list[str] = []

    def post(self, url: str, headers: Any, body: bytes) -> int:
        self.urls.append(url)
        self.held += 1
        self.most = max(self.most, self.held)
        self.go_on.wait()
        self.held -= 1
        return 204


@pytest.fixture
def held(settings: Settings) -> HeldSender:
    return HeldSender(settings)


def holding(settings: Settings, sender: Sender, places: int) -> Callbacks:
    return Callbacks(replace(settings, callback_concurrency=places), ExecutionShown().show, sender)


def test_many_are_delivered_at_once_and_one_project_has_a_quarter_of_the_places(
    runtime_id: str, settings: Settings, held: HeldSender
) -> None:
    mine, theirs = (make_function(owner, runtime_id, on_success=f"http://{owner.project_id}.example").id
                    for owner in (OWNER, OTHER))  # fmt: skip
    for _ in range(20):
        run(mine, project_id="project-a")
    for _ in range(2):
        run(theirs, project_id="project-b")
    delivering = holding(settings, held, 16)

    started = delivering.deliver_due(budget_s=0.2)
    gevent.sleep(0.01)

    assert started == 6
    assert sorted(held.urls) == ["http://project-a.example"] * 4 + ["http://project-b.example"] * 2
    held.go_on.set()
    assert delivering.deliver_due() == 16
    delivering.close(10)
    assert rows() == []


def test_one_call_delivers_more_than_there_are_places(
    calling_id: str, receiving: Receiver, settings: Settings
) -> None:
    for _ in range(25):
        run(calling_id)
    delivering = Callbacks(replace(settings, callback_concurrency=8), ExecutionShown().show)

    assert deliver(delivering) == 25

    assert len({request.headers["webhook-id"] for request in receiving.received}) == 25
    assert rows() == []


def test_projects_take_turns(runtime_id: str, settings: Settings, held: HeldSender) -> None:
    for number in range(6):
        owner = Context(f"project-{number}")
        function_id = make_function(owner, runtime_id, on_success=f"http://p{number}.example").id
        run(function_id, project_id=owner.project_id)
        run(function_id, project_id=owner.project_id)
    delivering = holding(settings, held, 3)

    delivering.deliver_due(budget_s=0.05)
    gevent.sleep(0.01)
    assert len(set(held.urls)) == 3
    held.go_on.set()
    assert delivering.deliver_due() + 3 == 12
    delivering.close(10)
    assert len(set(held.urls[:6])) == 6


def test_a_second_call_at_the_same_time_does_nothing(calling_id: str, settings: Settings, held: HeldSender) -> None:
    for _ in range(3):
        run(calling_id)
    delivering = holding(settings, held, 1)
    first = gevent.spawn(delivering.deliver_due, budget_s=30)
    gevent.sleep(0.01)

    assert delivering.deliver_due() == 0

    held.go_on.set()
    assert first.get(timeout=30) == 3
    delivering.close(10)


def test_a_second_call_lets_the_first_one_look_again(
    runtime_id: str, settings: Settings, held: HeldSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_LOOK_EVERY_S", 60)
    mine, theirs = (make_function(owner, runtime_id, on_success=f"http://{owner.project_id}.example").id
                    for owner in (OWNER, OTHER))  # fmt: skip
    for _ in range(2):
        run(mine)
    delivering = holding(settings, held, 4)
    first = gevent.spawn(delivering.deliver_due, budget_s=60)
    gevent.sleep(0.01)
    run(theirs, project_id="project-b")
    assert held.urls == ["http://project-a.example"]

    delivering.deliver_due()
    gevent.sleep(0.01)

    assert held.urls == ["http://project-a.example", "http://project-b.example"]
    held.go_on.set()
    assert first.get(timeout=30) == 3


def test_without_a_budget_it_never_waits(calling_id: str, settings: Settings, held: HeldSender) -> None:
    for _ in range(3):
        run(calling_id)
    delivering = holding(settings, held, 1)

    assert delivering.deliver_due(budget_s=0) == 1

    held.go_on.set()
    delivering.close(10)
    assert len(rows()) == 2


def test_deliveries_that_do_not_end_in_time_are_left_to_other_processes(
    calling_id: str, settings: Settings, held: HeldSender
) -> None:
    run(calling_id)
    delivering = holding(settings, held, 1)
    assert delivering.deliver_due() == 1
    gevent.sleep(0.01)

    delivering.close(0.01)

    [row] = rows()
    assert (row.attempt, row.claimed_until > row.not_before) == (1, True)


def test_a_delivery_that_fails_unexpectedly_frees_its_place(
    calling_id: str, receiving: Receiver, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(row: object) -> dict[str, Any]:
        raise KeyError("odd")

    run(calling_id)
    delivering = Callbacks(replace(settings, callback_concurrency=1), broken)

    assert deliver(delivering) == 1

    assert "callback failed unexpectedly" in caplog.text
    assert (delivering._running.free_count(), delivering._by_project) == (1, {})
    assert len(rows()) == 1


def test_receivers_in_silence_do_not_delay_other_projects(
    runtime_id: str, receiving: Receiver, settings: Settings
) -> None:
    silent = threading.Event()
    with receiver() as tarpit:
        tarpit.answer = lambda handler: silent.wait(30) and None
        slow = make_function(OWNER, runtime_id, on_success=tarpit.url()).id
        for _ in range(20):
            run(slow)
        run(make_function(OTHER, runtime_id, on_success=receiving.url()).id, project_id="project-b")
        delivering = Callbacks(settings, ExecutionShown().show)
        delivering.deliver_due(budget_s=0.1)
        give_up = time.monotonic() + 4  # less than the timeout of a delivery
        while not receiving.received and time.monotonic() < give_up:
            gevent.sleep(0.01)
        try:
            assert len(receiving.received) == 1
        finally:
            silent.set()
            delivering.close(10)


def test_what_the_sender_refuses_is_not_delivered(
    calling_id: str, settings: Settings, make_refusing: Callable[[str], Sender]
) -> None:
    run(calling_id)

    assert deliver_all(Callbacks(settings, ExecutionShown().show, make_refusing("no"))) == 3


@pytest.fixture
def make_refusing(settings: Settings) -> Callable[[str], Sender]:
    class Refusing(Sender):
        def __init__(self, reason: str):
            super().__init__(settings)
            self._reason = reason

        def post(self, url: str, headers: Any, body: bytes) -> int:
            raise NotDelivered(self._reason)

    return Refusing
