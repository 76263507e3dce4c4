"""`Idempotency-Key` of calls that are refused, lost, deleted, or overtaken by other requests with the same key."""

from __future__ import annotations

import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from qinling_falcon.errors import NotRecorded, Unavailable
from qinling_falcon.invocation import runs
from qinling_falcon.invocation.calls import failed_record
from qinling_falcon.models import clock, database, execution, execution_queue, idempotency, retention
from qinling_falcon.models.idempotency import KeyClaim
from qinling_falcon.models.internal_tables import IdempotencyKey
from qinling_falcon.models.records import ExecutionRecord, record
from qinling_falcon.models.scope import Context
from qinling_falcon.models.tables import Execution
from qinling_falcon.pool.pool import Pool
from qinling_falcon.settings import Settings
from tests.api.client import Client, assert_error
from tests.api.fake_engine import FakeEngine, FakeWorkers
from tests.api.repeats import change_keys, executions, post, replays
from tests.models.factories import end_claimed

OWNER = Context("default", is_admin=True)


@pytest.fixture
def function_id(client: Client) -> str:
    return str(client.function()["id"])


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
    assert end_claimed(ended)
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
        cancelled = client.simulate_put(f"/v1/executions/{first}", json={"status": "cancelled"})
        assert cancelled.status_code == 202
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
