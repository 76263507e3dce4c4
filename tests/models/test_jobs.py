"""Jobs: when they fire, how they change, who may change them, and what they keep."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

import pytest

from qinling_falcon.errors import BadRequest, Forbidden, NotFound
from qinling_falcon.models import alias, clock, function, job, version
from qinling_falcon.models.database import transact
from qinling_falcon.models.job import Job
from qinling_falcon.models.scope import Context
from qinling_falcon.models.states import JobStatus
from qinling_falcon.settings import Settings
from tests.models.factories import make_function, raced

NOBODY = str(uuid.uuid4())


def utc(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)


NOW = utc("2026-11-23 12:00:30")
SOON = utc("2026-11-23 12:01:30")
LATER = utc("2026-11-23 12:30:45")


def recurring(owner: Context, function_id: str, /, **fields: Any) -> Job:
    return job.create(owner, **{"function_id": function_id, "pattern": "*/10 * * * *", "now": NOW} | fields)


def one_shot(owner: Context, function_id: str, /, **fields: Any) -> Job:
    return job.create(owner, **{"function_id": function_id, "first_execution_time": SOON, "now": NOW} | fields)


def end(made: Job, status: JobStatus) -> None:
    """Set the status, as a tick or an update does."""
    transact(lambda: Job.update(status=status.value).where(Job.id == made.id).execute())


# Creating


def test_a_job_is_read_back_as_it_was_made(owner: Context, function_id: str) -> None:
    made = recurring(owner, function_id, name="n", function_input='{"a": "ä"}', count=5)
    row = job.get(owner, made.id)
    assert row.__data__ == made.__data__ | {"updated_at": None, "last_execution_id": None}
    assert (row.function_id, row.function_version, row.function_alias) == (function_id, 0, None)
    assert (row.name, row.function_input, row.pattern, row.count) == ("n", '{"a": "ä"}', "*/10 * * * *", 5)
    assert (row.status, row.created_at, row.project_id) == ("running", NOW, owner.project_id)
    assert row.first_execution_time == row.next_execution_time == utc("2026-11-23 12:10")


def test_a_job_without_a_pattern_fires_once(owner: Context, function_id: str) -> None:
    row = one_shot(owner, function_id)
    assert (row.pattern, row.count) == (None, 1)
    assert row.first_execution_time == row.next_execution_time == SOON


def test_a_job_without_a_count_has_no_end(owner: Context, function_id: str) -> None:
    assert recurring(owner, function_id).count is None


@pytest.mark.parametrize(
    ("pattern", "given", "first"),
    [
        ("* * * * *", None, "2026-11-23 12:01:00"),
        ("0 12 * * *", None, "2026-11-24 12:00:00"),
        ("* * * * *", "2026-11-23 12:05:00", "2026-11-23 12:05:00"),
        ("* * * * *", "2026-11-23 12:05:01", "2026-11-23 12:06:00"),
        ("0 0 * * SUN", "2026-11-29 00:00:00", "2026-11-29 00:00:00"),
        ("0 0 * * SUN", "2026-11-29 00:00:01", "2026-12-06 00:00:00"),
    ],
)
def test_the_first_time_is_the_first_match_from_now_or_from_the_given_time(
    owner: Context, function_id: str, pattern: str, given: str | None, first: str
) -> None:
    row = recurring(owner, function_id, pattern=pattern, first_execution_time=utc(given) if given else None)
    assert row.first_execution_time == row.next_execution_time == utc(first)


@pytest.mark.parametrize("pattern", [None, "* * * * *"])
def test_the_first_time_is_at_least_a_minute_ahead(owner: Context, function_id: str, pattern: str | None) -> None:
    for late in (NOW + datetime.timedelta(minutes=1, microseconds=-1), NOW, NOW - datetime.timedelta(days=1)):
        with pytest.raises(BadRequest, match="first_execution_time: must be at least one minute ahead") as caught:
            one_shot(owner, function_id, first_execution_time=late, pattern=pattern)
        assert caught.value.errors is not None
    assert one_shot(owner, function_id, first_execution_time=NOW + datetime.timedelta(minutes=1), pattern=pattern)


def test_without_a_given_now_it_is_the_present(owner: Context, function_id: str) -> None:
    before = clock.now()
    row = job.create(owner, function_id=function_id, pattern="* * * * *")
    ahead = datetime.timedelta(minutes=1)
    assert before < row.created_at < row.first_execution_time
    assert row.first_execution_time - row.created_at <= ahead
    with pytest.raises(BadRequest, match="one minute ahead"):
        job.create(owner, function_id=function_id, first_execution_time=before)
    changed = job.update(owner, row.id, {"pattern": "*/2 * * * *"})
    assert changed.updated_at is not None
    assert changed.updated_at < changed.next_execution_time <= changed.updated_at + 2 * ahead


@pytest.mark.parametrize(
    ("named", "field"),
    [
        ({"function_id": NOBODY}, "function_id"),
        ({"function_version": 2}, "function_version"),
        ({"function_alias": "test"}, "function_alias"),
    ],
)
def test_what_a_job_names_has_to_be_there(
    owner: Context, function_id: str, named: dict[str, Any], field: str
) -> None:
    version.create(owner, function_id, most=10)
    with pytest.raises(NotFound, match=f"^{field}: "):
        recurring(owner, function_id, **named)


def test_only_the_caller_s_own_can_be_named(
    owner: Context, stranger: Context, admin: Context, function_id: str
) -> None:
    alias.create(owner, name="prod", function_id=function_id)
    for context in (stranger, admin):
        with pytest.raises(NotFound, match="function_id"):
            recurring(context, function_id)
        with pytest.raises(NotFound, match="function_alias"):
            recurring(context, function_id, function_alias="prod")


def test_a_job_is_of_a_version_or_of_an_alias_alone(owner: Context, function_id: str) -> None:
    version.create(owner, function_id, most=10)
    alias.create(owner, name="prod", function_id=function_id, function_version=1)
    row = recurring(owner, function_id, function_version=1)
    assert (row.function_id, row.function_version, row.function_alias) == (function_id, 1, None)
    row = job.get(owner, recurring(owner, function_id, function_version=1, function_alias="prod").id)
    assert (row.function_id, row.function_version, row.function_alias) == (None, None, "prod")


# Changing


def test_name_and_input_change_and_no_time(owner: Context, function_id: str) -> None:
    for made in (recurring(owner, function_id), one_shot(owner, function_id)):
        changes = {"name": "n", "function_input": "i"}
        expected = job.get(owner, made.id).__data__ | changes | {"input_size": 1, "updated_at": LATER}
        answered = job.update(owner, made.id, changes, now=LATER)
        row = job.get(owner, made.id)
        assert row.__data__ == answered.__data__ == expected


def test_another_pattern_moves_the_next_time_to_its_next_match(owner: Context, function_id: str) -> None:
    made = recurring(owner, function_id, first_execution_time=utc("2027-01-01 00:00"))
    same = job.update(owner, made.id, {"pattern": "*/10 * * * *"}, now=LATER)
    assert same.next_execution_time == utc("2027-01-01 00:00")
    for status, pattern, following in (("running", "5 * * * *", "13:05"), ("paused", "25 * * * *", "13:25")):
        job.update(owner, made.id, {"status": status}, now=LATER)
        row = job.update(owner, made.id, {"pattern": pattern}, now=LATER)
        assert (row.pattern, row.next_execution_time) == (pattern, utc(f"2026-11-23 {following}"))
        assert (row.first_execution_time, row.status) == (utc("2027-01-01 00:00"), status)
        assert job.get(owner, made.id).__data__ == row.__data__


def test_a_pattern_is_read_in_the_job_s_zone_and_another_zone_moves_the_next_time(
    owner: Context, function_id: str
) -> None:
    made = recurring(owner, function_id, pattern="0 9 * * *", timezone="Asia/Tokyo")
    assert made.first_execution_time == utc("2026-11-24 00:00")
    same = job.update(owner, made.id, {"timezone": "Asia/Tokyo"}, now=LATER)
    assert same.next_execution_time == utc("2026-11-24 00:00")
    row = job.update(owner, made.id, {"timezone": "Europe/Berlin"}, now=LATER)
    assert row.next_execution_time == utc("2026-11-24 08:00")
    given = utc("2026-11-25 00:00")
    row = job.update(owner, made.id, {"timezone": "UTC", "next_execution_time": given}, now=LATER)
    assert row.next_execution_time == given
    once = one_shot(owner, function_id)
    assert job.update(owner, once.id, {"timezone": "Asia/Tokyo"}, now=NOW).next_execution_time == SOON


def test_what_fires_once_gets_no_pattern(owner: Context, function_id: str) -> None:
    made = one_shot(owner, function_id)
    with pytest.raises(BadRequest, match=r"^pattern: .* fires once"):
        job.update(owner, made.id, {"pattern": "* * * * *", "name": "n"}, now=NOW)
    row = job.get(owner, made.id)
    assert (row.pattern, row.name) == (None, None)


@pytest.mark.parametrize("make", [recurring, one_shot])
def test_the_next_time_is_given_at_least_a_minute_ahead(owner: Context, function_id: str, make: Any) -> None:
    made = make(owner, function_id)
    with pytest.raises(BadRequest, match=r"^next_execution_time: must be at least one minute ahead"):
        changes = {"next_execution_time": LATER + datetime.timedelta(seconds=59), "name": "n"}
        job.update(owner, made.id, changes, now=LATER)
    assert job.get(owner, made.id).name is None
    given = LATER + datetime.timedelta(seconds=60)
    row = job.update(owner, made.id, {"next_execution_time": given}, now=LATER)
    assert row.next_execution_time == job.get(owner, made.id).next_execution_time == given
    assert row.first_execution_time == made.first_execution_time


def test_a_given_next_time_counts_more_than_a_new_pattern_or_running_again(owner: Context, function_id: str) -> None:
    made = recurring(owner, function_id)
    given = utc("2026-11-24 00:00")
    job.update(owner, made.id, {"status": "paused"}, now=NOW)
    changes = {"next_execution_time": given, "pattern": "5 * * * *", "status": "running"}
    row = job.update(owner, made.id, changes, now=LATER)
    assert (row.next_execution_time, row.pattern, row.status) == (given, "5 * * * *", "running")


def test_what_was_missed_while_paused_is_not_made_up(owner: Context, function_id: str) -> None:
    made = recurring(owner, function_id)
    row = job.update(owner, made.id, {"status": "paused"}, now=NOW)
    assert (row.status, row.next_execution_time) == ("paused", utc("2026-11-23 12:10"))
    row = job.update(owner, made.id, {"status": "paused"}, now=LATER)
    assert row.next_execution_time == utc("2026-11-23 12:10")
    row = job.update(owner, made.id, {"status": "running"}, now=LATER)
    assert (row.status, row.next_execution_time) == ("running", utc("2026-11-23 12:40"))


def test_a_running_job_that_is_set_to_running_keeps_its_time(owner: Context, function_id: str) -> None:
    made = recurring(owner, function_id)
    row = job.update(owner, made.id, {"status": "running"}, now=LATER)
    assert row.next_execution_time == utc("2026-11-23 12:10")


def test_a_paused_job_that_fires_once_runs_again_while_its_time_is_ahead(owner: Context, function_id: str) -> None:
    made = one_shot(owner, function_id)
    instant = datetime.timedelta(microseconds=1)
    job.update(owner, made.id, {"status": "paused"}, now=NOW)
    assert job.update(owner, made.id, {"status": "running"}, now=SOON - instant).next_execution_time == SOON
    job.update(owner, made.id, {"status": "paused"}, now=SOON - instant)
    with pytest.raises(BadRequest, match=r"^status: the time of the job has gone by"):
        job.update(owner, made.id, {"status": "running"}, now=SOON)
    assert job.get(owner, made.id).status == "paused"
    again = {"status": "running", "next_execution_time": LATER + datetime.timedelta(hours=1)}
    row = job.update(owner, made.id, again, now=LATER)
    assert (row.status, row.next_execution_time) == ("running", LATER + datetime.timedelta(hours=1))


@pytest.mark.parametrize("status", [JobStatus.CANCELLED, JobStatus.DONE])
def test_a_job_that_has_ended_stays_as_it_is(owner: Context, function_id: str, status: JobStatus) -> None:
    made = recurring(owner, function_id)
    if status is JobStatus.CANCELLED:
        assert job.update(owner, made.id, {"status": "cancelled"}, now=NOW).status == "cancelled"
    else:
        end(made, status)
    before = job.get(owner, made.id).__data__
    for changes in ({"status": "running"}, {"name": "n"}, {"pattern": "* * * * *"}, {"status": "cancelled"}):
        with pytest.raises(BadRequest, match=f"is {status.value}, and can't change any more"):
            job.update(owner, made.id, changes, now=LATER)
    assert job.get(owner, made.id).__data__ == before


def test_only_the_owner_changes_and_deletes_and_admins_see(
    owner: Context, stranger: Context, admin: Context, function_id: str
) -> None:
    made = recurring(owner, function_id)
    assert job.get(admin, made.id).id == made.id
    with pytest.raises(NotFound):
        job.get(stranger, made.id)
    for context, error in ((stranger, NotFound), (admin, Forbidden)):
        with pytest.raises(error):
            job.update(context, made.id, {"status": "cancelled"})
        with pytest.raises(error):
            job.delete(context, made.id)
    assert job.get(owner, made.id).status == "running"


@pytest.mark.parametrize("status", list(JobStatus))
def test_a_job_is_deleted_at_any_time(owner: Context, function_id: str, status: JobStatus) -> None:
    made, other = recurring(owner, function_id), recurring(owner, function_id)
    end(made, status)
    job.delete(owner, made.id)
    for call in (job.get, job.delete):
        with pytest.raises(NotFound, match=made.id):
            call(owner, made.id)
    assert job.get(owner, other.id).id == other.id


# What jobs keep


@pytest.mark.parametrize("last", ["cancelled", "deleted"])
def test_a_live_job_keeps_what_it_names_and_one_that_has_ended_does_not(
    owner: Context, function_id: str, last: str
) -> None:
    version.create(owner, function_id, most=10)
    alias.create(owner, name="prod", function_id=function_id)
    names: list[dict[str, Any]] = [{"function_version": 1}, {"function_alias": "prod"}, {"function_version": 0}]
    made = [recurring(owner, function_id, **fields) for fields in names]
    job.update(owner, made[1].id, {"status": "paused"})
    deletes = (
        lambda: version.delete(owner, function_id, 1),
        lambda: alias.delete(owner, "prod"),
        lambda: function.delete(owner, function_id),
    )
    for row, delete in zip(made, deletes, strict=True):
        with pytest.raises(Forbidden, match=row.id):
            delete()
        if last == "cancelled":
            job.update(owner, row.id, {"status": "cancelled"})
        else:
            job.delete(owner, row.id)
        delete()
    if last == "cancelled":
        assert job.get(owner, made[2].id).function_id == function_id


def test_no_live_job_is_left_without_its_function(settings: Settings, owner: Context, runtime_id: str) -> None:
    targets = [make_function(owner, runtime_id).id for _ in range(20)]
    outcomes = raced(
        settings, "function.delete(context, target)", targets, lambda target: recurring(owner, target)
    )
    assert {one_of_both(*outcome) for outcome in outcomes} <= {"kept", "gone"}


def test_no_live_job_is_left_without_its_version(settings: Settings, owner: Context, runtime_id: str) -> None:
    targets = [make_function(owner, runtime_id).id for _ in range(20)]
    for function_id in targets:
        version.create(owner, function_id, most=10)
    outcomes = raced(
        settings,
        "version.delete(context, target, 1)",
        targets,
        lambda target: recurring(owner, target, function_version=1),
    )
    assert {one_of_both(*outcome) for outcome in outcomes} <= {"kept", "gone"}


def test_no_live_job_is_left_without_its_alias(settings: Settings, owner: Context, function_id: str) -> None:
    targets = [alias.create(owner, name=f"alias-{number}", function_id=function_id).name for number in range(20)]
    outcomes = raced(
        settings,
        "alias.delete(context, target)",
        targets,
        lambda target: recurring(owner, function_id, function_alias=target),
    )
    assert {one_of_both(*outcome) for outcome in outcomes} <= {"kept", "gone"}


def test_a_job_is_cancelled_once_and_for_all(settings: Settings, owner: Context, function_id: str) -> None:
    """Cancelling races with running again: whichever comes first, the job ends cancelled."""
    targets = [recurring(owner, function_id).id for _ in range(20)]
    for target in targets:
        job.update(owner, target, {"status": "paused"})
    outcomes = raced(
        settings,
        "job.update(context, target, {'status': 'cancelled'})",
        targets,
        lambda target: job.update(owner, target, {"status": "running"}),
    )
    for target, (there, here) in zip(targets, outcomes, strict=True):
        assert there == "done"
        assert isinstance(here, Job | BadRequest)
        assert job.get(owner, target).status == "cancelled"


def one_of_both(there: str, here: Any) -> str:
    """Which came first: the job, and what it names was kept, or the deletion."""
    if there == "Forbidden" and isinstance(here, Job):
        return "kept"
    return "gone" if there == "done" and isinstance(here, NotFound) else f"{there}, {here!r}"
