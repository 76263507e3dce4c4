"""`Idempotency-Key`: a repeated request gets the execution of the first one, and the function runs once."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from qinling_falcon.errors import NotRecorded, Unavailable
from qinling_falcon.invocation import runs
from qinling_falcon.invocation.calls import failed_record
from qinling_falcon.invocation.worker_client import Ran
from qinling_falcon.models import clock, database, execution, execution_queue, idempotency, retention
from qinling_falcon.models.idempotency import KeyClaim
from qinling_falcon.models.records import ExecutionRecord, record
from qinling_falcon.models.scope import Context
from qinling_falcon.models.tables import Execution, IdempotencyKey
from qinling_falcon.pool.pool import Pool
from qinling_falcon.settings import Settings
from tests.api.client import Client, assert_error
from tests.api.fake_engine import FakeClient, FakeEngine, FakeWorkers

OWNER = Context("default", is_admin=True)


@pytest.fixture
def function_id(client: Client) -> str:
    return str(client.function()["id"])


def post(client: Client, key: str | None = "k", **body: Any) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.simulate_post("/v1/executions", json=body, headers=headers)


def executions() -> list[Execution]:
    with database.reading():
        return list(Execution.select().order_by(Execution.id))


def change_keys(**values: Any) -> None:
    database.transact(lambda: IdempotencyKey.update(**values).execute())


def replays(answer: Any, first: Any) -> None:
    """An answer is that of the first request, marked as such."""
    assert (answer.status_code, answer.json) == (first.status_code, first.json)
    assert answer.headers["location"] == first.headers["location"]
    assert answer.headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize("is_sync", [True, False])
def test_a_repeated_request_gets_the_first_answer(client: Client, function_id: str, is_sync: bool) -> None:
    body = {"function_id": function_id, "input": {"a": 1}, "description": "d", "sync": is_sync}
    first = post(client, **body)

    assert first.status_code == 201
    assert "idempotent-replayed" not in first.headers
    for _ in range(2):
        replays(post(client, **body), first)
    assert [row.id for row in executions()] == [first.json["id"]]


def test_requests_without_a_key_never_look_at_keys(
    client: Client, function_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise AssertionError("a key was looked at")

    for name in ("find", "claim", "begin", "accept", "release"):
        monkeypatch.setattr(idempotency, name, fail)
    for is_sync in (True, False):
        assert post(client, None, function_id=function_id, sync=is_sync).status_code == 201
    assert len(executions()) == 2


def test_a_failure_of_the_function_is_replayed(
    client: Client, function_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = Ran("failed", "it raised", '{"duration": 0.1, "output": "no"}', "the log", 0.1)
    monkeypatch.setattr(FakeClient, "execute", lambda *args: failed)
    first = post(client, function_id=function_id)

    assert first.json["status"] == "failed"
    replays(post(client, function_id=function_id), first)


def test_the_spelling_of_the_body_does_not_matter(client: Client, function_id: str) -> None:
    first = post(client, function_id=function_id, input={"a": 1, "b": [2.5]})
    for body in (
        f'{{"input": {{"b":[2.5],"a":1}}, "function_id": "{function_id.upper()}"}}',
        f'{{"function_id": "{function_id}", "sync": "true", "input": "{{\\"b\\": [2.50], \\"a\\": 1}}"}}',
        f'{{"function_id": "{function_id}", "description": null, "input": {{"a": 1, "b": [2.5]}}}}',
        f'{{"function_version": "0", "function_id": "{function_id}", "input": {{"\\u0061": 1, "b": [2.5]}}}}',
    ):  # fmt: skip
        replays(client.send("POST", "/v1/executions", body.encode(), headers={"Idempotency-Key": "k"}), first)


@pytest.mark.parametrize(
    "changes",
    [
        {"input": {"a": 2}}, {"input": None}, {"input": "text"}, {"input": {"a": "1"}}, {"sync": False},
        {"description": "other"}, {"function_id": str(uuid.uuid4())}, {"function_alias": "prod"},
        {"function_version": 1},
    ],
)  # fmt: skip
def test_another_request_with_the_key_is_refused(
    client: Client, function_id: str, engine: FakeEngine, changes: dict[str, Any]
) -> None:
    body = {"function_id": function_id, "input": {"a": 1}}
    first = post(client, "order 7", **body)

    answer = post(client, "order 7", **body | changes)

    assert_error(answer, 422, 'Idempotency-Key "order 7"', "other fields", "new key")
    assert len(engine.calls) == 1
    replays(post(client, "order 7", **body), first)


def test_another_asynchronous_request_with_the_key_is_refused(client: Client, function_id: str) -> None:
    post(client, function_id=function_id, sync=False, input="1")
    assert_error(post(client, function_id=function_id, sync=False, input="2"), 422, "other fields")


@pytest.mark.parametrize(
    ("one", "other"), [("a b", '"a b"'), ('a"b', '"a\\"b"'), ("a\\b", '"a\\\\b"'), ("k", "  k\t"), ("~" * 255,) * 2]
)
def test_a_quoted_key_is_the_plain_one(client: Client, function_id: str, one: str, other: str) -> None:
    first = post(client, one, function_id=function_id)
    assert first.status_code == 201
    replays(post(client, other, function_id=function_id), first)


@pytest.mark.parametrize(
    "key",
    [
        "", '""', "ä", "a\tb", "a\x7f", '"', '"a', '"a"b', '"a";x=1', '"a", "b"', '"\\a"', "x" * 256,
        '"' + "x" * 256 + '"',
    ],
)  # fmt: skip
def test_a_header_that_is_no_key_is_refused(client: Client, engine: FakeEngine, function_id: str, key: str) -> None:
    assert_error(post(client, key, function_id=function_id), 400, "Idempotency-Key", "1 to 255")
    assert engine.calls == []


def test_keys_of_two_projects_are_apart(
    client: Client, function_id: str, act_as: Callable[[Context], None]
) -> None:
    first = post(client, function_id=function_id)
    act_as(Context("another", is_admin=True))

    second = post(client, function_id=function_id)

    assert second.status_code == 201
    assert second.json["id"] != first.json["id"]
    replays(post(client, function_id=function_id), second)


def test_who_may_not_see_the_execution_any_more_does_not_get_it(
    client: Client, function_id: str, act_as: Callable[[Context], None]
) -> None:
    act_as(Context("another", is_admin=True))
    first = post(client, function_id=function_id)
    act_as(Context("another"))
    assert_error(post(client, function_id=function_id), 404, first.json["id"])


def test_while_the_first_request_runs_a_repeated_one_is_refused(
    client: Client, function_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute, meanwhile = FakeClient.execute, []

    def repeat(*args: Any) -> Ran:
        meanwhile.append(post(client, function_id=function_id))
        meanwhile.append(post(client, function_id=function_id, input="other"))
        return execute(*args)

    monkeypatch.setattr(FakeClient, "execute", repeat)
    first = post(client, function_id=function_id)
    monkeypatch.undo()

    running, other = meanwhile
    assert_error(running, 409, 'Idempotency-Key "k"', "has not ended", first.json["id"])
    assert running.headers["retry-after"] == "1"
    assert_error(other, 422)
    assert first.status_code == 201
    replays(post(client, function_id=function_id), first)


def test_while_the_first_request_waits_for_a_worker_a_repeated_one_is_refused(
    client: Client, function_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, meanwhile = FakeWorkers.lease_loaded, []

    def repeat(*args: Any) -> Any:
        monkeypatch.undo()
        meanwhile.append(post(client, function_id=function_id))
        return lease(*args)

    monkeypatch.setattr(FakeWorkers, "lease_loaded", repeat)
    first = post(client, function_id=function_id)

    assert_error(meanwhile[0], 409, "has not ended", first.json["id"])
    assert int(meanwhile[0].headers["retry-after"]) >= 1
    replays(post(client, function_id=function_id), first)


@pytest.mark.parametrize("is_sync", [True, False])
def test_a_request_that_names_no_function_leaves_no_key(client: Client, function_id: str, is_sync: bool) -> None:
    assert post(client, function_id=str(uuid.uuid4()), sync=is_sync).status_code == 404
    assert post(client, function_id=function_id, input="x" * 2_000_000, sync=is_sync).status_code == 413
    assert post(client, function_id=function_id, sync=is_sync).status_code == 201


def no_worker(*args: object) -> None:
    raise Unavailable("No worker was free in time. The function has not run.", retry_after_s=1)


def test_a_call_that_got_no_worker_runs_when_it_is_repeated(
    client: Client, function_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(FakeWorkers, "lease_loaded", no_worker)
        assert_error(post(client, function_id=function_id), 503, "has not run")

    again = post(client, function_id=function_id)

    assert again.status_code == 201
    assert "idempotent-replayed" not in again.headers
    assert [row.id for row in executions()] == [again.json["id"]]


def test_a_call_that_could_not_begin_runs_when_it_is_repeated(
    client: Client, function_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row was written, and the answer of the database was lost."""
    begin = idempotency.begin

    def lose(*args: Any) -> bool:
        begin(*args)
        raise Unavailable("The database went away during a commit.")

    with monkeypatch.context() as patch:
        patch.setattr(idempotency, "begin", lose)
        assert post(client, function_id=function_id).status_code == 503
    assert executions() == []

    assert "idempotent-replayed" not in post(client, function_id=function_id).headers
    assert len(executions()) == 1


def test_without_the_database_nothing_runs(
    client: Client, engine: FakeEngine, function_id: str, settings: Settings
) -> None:
    path = Path(settings.var_dir, "qinling.db")
    away = path.rename(path.with_suffix(".away"))
    for is_sync in (True, False):
        assert post(client, function_id=function_id, sync=is_sync).status_code == 503
    away.rename(path)

    assert engine.calls == []
    assert "idempotent-replayed" not in post(client, function_id=function_id).headers


def test_a_call_that_was_not_recorded_does_not_run_again(
    client: Client, function_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[ExecutionRecord] = []

    def lose(final: ExecutionRecord, **more: bool) -> ExecutionRecord:
        lost.append(final)
        raise NotRecorded(final.id, "has run")

    with monkeypatch.context() as patch:
        patch.setattr(runs, "commit_record", lose)
        assert_error(post(client, function_id=function_id), 503, "has run")
    assert_error(post(client, function_id=function_id), 409, "has not ended")

    record(failed_record(lost[0], "The process was lost"))  # as the reaper does
    again = post(client, function_id=function_id)

    assert (again.status_code, again.json["id"], again.json["status"]) == (201, lost[0].id, "error")
    assert again.headers["idempotent-replayed"] == "true"
    assert len(executions()) == 1


def test_an_asynchronous_request_gets_its_first_answer_also_after_the_execution_has_ended(
    client: Client, function_id: str
) -> None:
    first = post(client, function_id=function_id, sync=False)
    now = clock.now()
    [claimed] = execution_queue.claim([first.json["id"]], now, now + timedelta(minutes=1))
    row = executions()[0]
    ended = ExecutionRecord(**{name: getattr(row, name) for name in ExecutionRecord._fields})
    ended = ended._replace(status="success", result="{}", log="", updated_at=now, attempt=claimed.attempt)
    assert execution_queue.end(ended)
    assert client.simulate_get(f"/v1/executions/{row.id}").json["status"] == "success"

    replays(post(client, function_id=function_id, sync=False), first)
    assert (first.json["status"], first.json["attempt"]) == ("running", 0)


def test_an_accepted_execution_is_found_without_its_function(client: Client, function_id: str) -> None:
    first = post(client, function_id=function_id, sync=False)
    assert client.simulate_delete(f"/v1/functions/{function_id}").status_code == 204
    replays(post(client, function_id=function_id, sync=False), first)


@pytest.mark.parametrize("is_sync", [True, False])
def test_a_faster_request_wins_and_the_other_one_gets_its_execution(
    client: Client, function_id: str, is_sync: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both find no key; then one of them is accepted, or runs, before the other one goes on."""
    find, answers = idempotency.find, []

    def overtake(*args: Any) -> Any:
        found = find(*args)
        monkeypatch.undo()
        answers.append(post(client, function_id=function_id, sync=is_sync))
        return found

    monkeypatch.setattr(idempotency, "find", overtake)
    late = post(client, function_id=function_id, sync=is_sync)

    replays(late, answers[0])
    assert len(executions()) == 1


@pytest.mark.parametrize("is_sync", [True, False])
@pytest.mark.parametrize("deleted_by", ["the user", "retention"])
def test_the_key_of_a_deleted_execution_runs_nothing(
    client: Client, function_id: str, settings: Settings, is_sync: bool, deleted_by: str
) -> None:
    first = post(client, function_id=function_id, sync=is_sync).json["id"]
    if not is_sync:
        execution_queue.cancel(first, "no longer wanted")
    if deleted_by == "retention":
        database.transact(lambda: Execution.update(created_at=1).execute())
        assert retention.prune(settings) == 1
    else:
        assert client.simulate_delete(f"/v1/executions/{first}").status_code == 204

    assert_error(post(client, function_id=function_id, sync=is_sync), 404, first, "was deleted", "has not run again")
    assert executions() == []


@pytest.mark.parametrize("is_sync", [True, False])
def test_an_expired_key_is_a_new_one(client: Client, function_id: str, is_sync: bool) -> None:
    first = post(client, function_id=function_id, sync=is_sync)
    change_keys(expires_at=clock.to_micros(clock.now()))

    second = post(client, function_id=function_id, sync=is_sync, input="other")

    assert second.status_code == 201
    assert second.json["id"] != first.json["id"]
    replays(post(client, function_id=function_id, sync=is_sync, input="other"), second)


def test_a_key_lasts_for_as_long_as_the_setting_says(client: Client, function_id: str, settings: Settings) -> None:
    before = clock.now()
    post(client, function_id=function_id)
    with database.reading():
        [row] = IdempotencyKey.select()
    lasts = timedelta(seconds=settings.idempotency_ttl_s)
    assert clock.to_micros(before + lasts) < row.expires_at < clock.to_micros(clock.now() + lasts)


def claimed_elsewhere(client: Client, function_id: str, monkeypatch: pytest.MonkeyPatch) -> KeyClaim:
    """A key that another process has claimed for `post(client, function_id=function_id)`, and no more."""
    claims: list[KeyClaim] = []

    def claim(wanted: KeyClaim, now: Any, until: Any) -> bool:
        claims.append(wanted)
        raise Unavailable("no more of this request")

    with monkeypatch.context() as patch:
        patch.setattr(idempotency, "claim", claim)
        assert post(client, function_id=function_id).status_code == 503
    now = clock.now()
    assert idempotency.claim(claims[0], now, now + timedelta(seconds=300))
    return claims[0]


def test_a_live_claim_of_another_process_is_respected(
    client: Client, function_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed = claimed_elsewhere(client, function_id, monkeypatch)

    answer = post(client, function_id=function_id)

    assert_error(answer, 409, claimed.execution_id)
    assert 1 < int(answer.headers["retry-after"]) <= 300
    assert executions() == []


def test_the_key_of_a_lost_process_is_taken_over(
    client: Client, function_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed = claimed_elsewhere(client, function_id, monkeypatch)
    change_keys(claimed_until=1)

    answer = post(client, function_id=function_id)

    assert answer.status_code == 201
    assert answer.json["id"] != claimed.execution_id
    replays(post(client, function_id=function_id), answer)


def test_a_key_whose_execution_is_in_a_journal_is_not_taken_over(
    client: Client, function_id: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed = claimed_elsewhere(client, function_id, monkeypatch)
    change_keys(claimed_until=1)
    monkeypatch.setattr(pool, "find", lambda execution_id: "{}" if execution_id == claimed.execution_id else None)

    assert_error(post(client, function_id=function_id), 409, claimed.execution_id)
    assert executions() == []


def test_a_call_whose_key_was_taken_over_does_not_run(
    client: Client, function_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process was stopped for longer than its claim, and goes on when it gets its worker."""
    lease, second = FakeWorkers.lease_loaded, []

    def take_over(*args: Any) -> Any:
        monkeypatch.undo()
        change_keys(claimed_until=1)
        second.append(post(client, function_id=function_id))
        return lease(*args)

    monkeypatch.setattr(FakeWorkers, "lease_loaded", take_over)
    first = post(client, function_id=function_id)

    replays(first, second[0])
    assert [row.id for row in executions()] == [second[0].json["id"]]


def test_a_call_of_an_image_is_recorded_with_its_key(client: Client) -> None:
    code = '{"source": "image", "image": "x"}'
    made = client.form("POST", "/v1/functions", [("name", "f"), ("code", code)])
    assert made.status_code == 201, made.text

    first = post(client, function_id=made.json["id"])

    assert first.json["status"] == "error"
    replays(post(client, function_id=made.json["id"]), first)
    assert execution.get(OWNER, first.json["id"]).status == "error"
