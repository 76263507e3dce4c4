"""Idempotency keys: one request has a key, and the key and its execution's row are written together."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import cast

import pytest

from qinling_falcon.errors import NotFound
from qinling_falcon.models import clock, database, execution, execution_counters, execution_queue, idempotency
from qinling_falcon.models.idempotency import KeyClaim
from qinling_falcon.models.internal_tables import IdempotencyKey
from qinling_falcon.models.records import ExecutionRecord, record
from qinling_falcon.models.scope import Context
from qinling_falcon.settings import Settings
from tests.models.factories import in_one_batch, make_record, together

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


def wanted(key: str = "k", **fields: object) -> KeyClaim:
    now = clock.now()
    values = {
        "project_id": "project-a",
        "key": key,
        "digest": "d" * 64,
        "execution_id": clock.new_id(now),
        "created_at": now,
        "expires_at": now + DAY,
    }
    return KeyClaim(**(values | fields))


def claim(one: KeyClaim, lasts: timedelta = MINUTE) -> bool:
    now = clock.now()
    return idempotency.claim(one, now, now + lasts)


def found(key: str = "k", project_id: str = "project-a") -> idempotency.FoundKey | None:
    return idempotency.find(project_id, key, clock.now())


def started(one: KeyClaim, function_id: str, *, sync: bool = True) -> ExecutionRecord:
    return make_record(
        function_id, id=one.execution_id, created_at=one.created_at, status="running", sync=sync, updated_at=None,
        result=None, log=None, attempt=1 if sync else 0,
    )  # fmt: skip


def keys() -> list[str]:
    with database.reading():
        return [row.idempotency_key for row in IdempotencyKey.select().order_by(IdempotencyKey.idempotency_key)]


def test_a_claimed_key_is_found_with_its_request_and_execution(settings: Settings) -> None:
    one = wanted()
    now = clock.now()

    assert idempotency.claim(one, now, now + MINUTE)

    assert found() == (one.digest, one.execution_id, now + MINUTE, None)


def test_a_key_belongs_to_its_project_and_is_compared_exactly(settings: Settings) -> None:
    claim(wanted("Key"))

    assert found("Key", "project-b") is None
    assert found("key") is None
    assert claim(wanted("Key", project_id="project-b"))
    assert claim(wanted("key"))


@pytest.mark.parametrize("gather", [together, in_one_batch])
def test_of_many_claims_of_a_key_one_succeeds(settings: Settings, gather: object) -> None:
    claims = [wanted() for _ in range(8)]

    won = gather([lambda one=one: claim(one) for one in claims])

    assert sorted(won) == [False] * 7 + [True]
    key = found()
    assert key is not None
    assert key.execution_id == claims[won.index(True)].execution_id


def test_an_expired_key_counts_as_absent(settings: Settings) -> None:
    claim(wanted(expires_at=clock.now()))
    assert found() is None

    second = wanted()
    assert claim(second)
    key = found()
    assert key is not None
    assert key.execution_id == second.execution_id


def test_a_key_is_bound_with_the_row_of_its_execution(function_id: str, owner: Context) -> None:
    one = wanted()
    claim(one)

    assert idempotency.begin(one, started(one, function_id))
    assert idempotency.begin(one, started(one, function_id)), "on the second worker that is tried"

    key = found()
    assert key is not None
    assert key.claimed_until is None
    assert key.execution is not None
    assert (key.execution.id, key.execution.status) == (one.execution_id, "running")
    assert execution.get(owner, one.execution_id).status == "running"


def test_an_ended_claim_is_taken_over_once_and_the_first_request_can_not_begin(
    function_id: str, owner: Context
) -> None:
    late = wanted()
    claim(late, timedelta(0))
    others = [wanted(instead_of=late.execution_id) for _ in range(4)]

    won = together([lambda one=one: claim(one) for one in others])

    assert sorted(won) == [False, False, False, True]
    assert not idempotency.begin(late, started(late, function_id))
    with pytest.raises(NotFound):
        execution.get(owner, late.execution_id)
    winner = others[won.index(True)]
    assert idempotency.begin(winner, started(winner, function_id))


def test_a_claim_that_lasts_is_not_taken_over(settings: Settings) -> None:
    first = wanted()
    claim(first)
    assert not claim(wanted(instead_of=first.execution_id))


def test_an_extended_claim_is_not_taken_over(settings: Settings) -> None:
    first = wanted()
    claim(first, timedelta(0))

    idempotency.extend([first], clock.now() + MINUTE)

    assert not claim(wanted(instead_of=first.execution_id))


def test_a_bound_key_is_neither_taken_over_nor_claimed_by_an_extension(function_id: str) -> None:
    first = wanted()
    claim(first, timedelta(0))
    idempotency.begin(first, started(first, function_id))

    idempotency.extend([first], clock.now())

    key = found()
    assert key is not None
    assert key.claimed_until is None
    assert not claim(wanted(instead_of=first.execution_id))


def test_a_claim_whose_execution_was_recorded_as_lost_is_not_taken_over(function_id: str) -> None:
    first = wanted()
    claim(first, timedelta(0))
    record(started(first, function_id)._replace(status="error", updated_at=clock.now()))

    assert not claim(wanted(instead_of=first.execution_id))
    key = found()
    assert key is not None
    assert key.execution is not None
    assert key.execution.status == "error"


def test_a_begin_and_a_takeover_at_once_leave_one_of_them(function_id: str) -> None:
    for number in range(20):
        first = wanted(f"k{number}")
        claim(first, timedelta(0))
        other = wanted(f"k{number}", instead_of=first.execution_id)

        outcomes = together(
            [
                lambda first=first: idempotency.begin(first, started(first, function_id)),
                lambda other=other: claim(other),
            ]
        )

        assert sorted(outcomes) == [False, True]


def test_a_released_key_is_absent_and_its_execution_has_no_row(function_id: str, owner: Context) -> None:
    claimed, begun = wanted("claimed"), wanted("begun")
    claim(claimed)
    claim(begun)
    idempotency.begin(begun, started(begun, function_id))

    idempotency.release([claimed, begun])

    assert keys() == []
    with pytest.raises(NotFound):
        execution.get(owner, begun.execution_id)


def test_a_release_leaves_the_key_of_another_request(settings: Settings) -> None:
    first = wanted()
    claim(first, timedelta(0))
    second = wanted(instead_of=first.execution_id)
    claim(second)

    idempotency.release([first])

    key = found()
    assert key is not None
    assert key.execution_id == second.execution_id


def test_an_accepted_execution_and_its_key_are_written_together(function_id: str, owner: Context) -> None:
    one = wanted()

    assert idempotency.accept(one, started(one, function_id, sync=False))

    key = found()
    assert key is not None
    assert key.claimed_until is None
    assert execution_queue.attempt_of(one.execution_id) == 0


def test_of_many_acceptances_with_a_key_one_is_queued(function_id: str, owner: Context) -> None:
    claims = [wanted() for _ in range(8)]

    def accept(one: KeyClaim) -> bool:
        return idempotency.accept(one, started(one, function_id, sync=False))

    won = in_one_batch([lambda one=one: accept(one) for one in claims])

    assert sorted(won) == [False] * 7 + [True]
    queued, _ = execution_queue.unclaimed("", clock.now(), 100)
    assert [one.id for one in queued] == [claims[won.index(True)].execution_id]


def test_a_failing_acceptance_leaves_no_key_and_does_not_harm_its_batch(function_id: str) -> None:
    good, bad = wanted("good"), wanted("bad")
    broken = started(bad, function_id, sync=False)._replace(source=cast(str, None))  # no database takes it

    outcomes = in_one_batch(
        [
            lambda: idempotency.accept(good, started(good, function_id, sync=False)),
            lambda: idempotency.accept(bad, broken),
        ]
    )

    assert outcomes[0] is True
    assert isinstance(outcomes[1], Exception)
    assert keys() == ["good"]


def test_many_keys_are_accepted_in_one_batch(function_id: str) -> None:
    claims = [wanted(f"key {number}") for number in range(40)]

    won = in_one_batch(
        [lambda one=one: idempotency.accept(one, started(one, function_id, sync=False)) for one in claims]
    )

    assert won == [True] * 40
    queued, _ = execution_queue.unclaimed("", clock.now(), 100)
    assert {one.id for one in queued} == {one.execution_id for one in claims}


def test_an_accepted_key_keeps_its_execution_and_an_expired_one_gets_a_new_one(function_id: str) -> None:
    first, second = wanted(expires_at=clock.now()), wanted()
    assert idempotency.accept(first, started(first, function_id, sync=False))

    assert idempotency.accept(second, started(second, function_id, sync=False)), "the first one has expired"
    third = wanted()
    assert not idempotency.accept(third, started(third, function_id, sync=False))

    key = found()
    assert key is not None
    assert key.execution_id == second.execution_id
    queued, _ = execution_queue.unclaimed("", clock.now(), 100)
    assert {one.id for one in queued} == {first.execution_id, second.execution_id}
    assert execution_counters.read().accepted == 2


def test_a_claimed_key_is_not_accepted(function_id: str) -> None:
    first, second = wanted(), wanted()
    claim(first)
    assert not idempotency.accept(second, started(second, function_id, sync=False))
    assert execution_queue.unclaimed("", clock.now(), 100)[0] == []


def test_a_forgotten_key_is_absent_and_that_of_another_execution_stays(function_id: str) -> None:
    first, other = wanted(), wanted()
    assert idempotency.accept(first, started(first, function_id, sync=False))
    idempotency.forget(first.project_id, first.key, other.execution_id)
    assert found() is not None
    idempotency.forget(first.project_id, first.key, first.execution_id)
    assert found() is None


def test_expired_keys_are_pruned_in_batches(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "_BATCH", 3)
    now = clock.now()
    for number in range(8):
        claim(wanted(f"old{number}", expires_at=now))
    claim(wanted("kept"))

    assert idempotency.prune(clock.now()) == 8
    assert keys() == ["kept"]
    assert idempotency.prune(clock.now()) == 0


def test_a_key_of_the_greatest_length_is_kept_as_it_is(settings: Settings) -> None:
    key = "~" * 254 + " "
    one = wanted(key)
    assert claim(replace(one))
    assert found(key) is not None
    assert found(key.strip()) is None


def test_a_claim_is_forgotten_only_after_its_end_and_without_a_row(settings: Settings, function_id: str) -> None:
    running, begun, ended, extended = (wanted(key) for key in ("running", "begun", "ended", "extended"))
    before = clock.now() - MINUTE
    claim(running)
    for one in (begun, ended, extended):
        idempotency.claim(one, before - MINUTE, before)
    assert idempotency.begin(begun, started(begun, function_id))
    idempotency.extend([extended], clock.now() + MINUTE)

    forgotten = [
        one.key
        for one in (running, begun, ended, extended)
        if idempotency.forget_claim("project-a", one.key, one.execution_id, clock.now())
    ]

    assert forgotten == ["ended"]
    assert keys() == ["begun", "extended", "running"]
    assert not idempotency.begin(ended, started(ended, function_id))
