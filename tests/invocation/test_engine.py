"""What the engine records and releases, whatever a worker, the storage or the database does."""

from __future__ import annotations

import errno
import json
import math
import os
from typing import Any, cast

import gevent
import pytest
from gevent.event import Event

from qinling_falcon.errors import Conflict, NotFound, NotRecorded, Unavailable
from qinling_falcon.invocation import calls, runs, worker_client
from qinling_falcon.invocation.calls import Call
from qinling_falcon.invocation.engine import Engine
from qinling_falcon.invocation.losses import record_lost
from qinling_falcon.models import function
from qinling_falcon.storage.package_cache import PackageCache
from tests.invocation.conftest import OWNER, House, MakeHouse, nothing_left
from tests.pool.side import wait_until
from tests.support.scripted_worker import answers, hangs_up, sends, succeeds, waits

LARGE = "x" * 20_000


def test_a_call_is_recorded_and_its_worker_serves_the_next(house: House) -> None:
    worker = house.start(succeeds("one"), succeeds("two"))

    first, second = house.call('{"a": 1}'), house.call()

    assert [json.loads(final.result)["output"] for final in (first, second)] == ["one", "two"]
    assert (first.status, first.cold, second.cold, first.log) == ("success", "assign", "none", "the log")
    assert house.states() == {worker: "idle"}
    assert house.workers[worker].paths() == ["/load", "/execute", "/execute"]
    line, _, given = house.workers[worker].asked[1][1].split(b"\n")
    assert (line.split()[1].decode(), given) == (first.id, b'{"a": 1}')
    assert [row.id for row in house.rows()] == [first.id, second.id]
    assert function.get(OWNER, house.function_id).count == 2
    nothing_left(house)


def test_the_token_rises_with_each_call(house: House) -> None:
    worker = house.start(succeeds(), succeeds())
    house.call()
    house.call()
    tokens = [int(body.split()[0]) for path, body in house.workers[worker].asked if path == "/execute"]
    assert tokens[0] < tokens[1]


def test_a_worker_that_can_not_be_reached_is_given_up_and_another_one_serves(house: House) -> None:
    gone = house.start()
    house.workers[gone].close()
    healthy = house.start(succeeds())

    final = house.call()

    assert final.status == "success"
    assert house.states() == {gone: "draining", healthy: "idle"}
    assert [row.id for row in house.rows()] == [final.id]
    nothing_left(house)


@pytest.mark.parametrize("refusal", [answers(409, error="stale token"), answers(409, error="not loaded")])
def test_a_worker_that_refuses_is_given_up_and_another_one_serves(house: House, refusal: Any) -> None:
    one, other = house.start(refusal), house.start(succeeds())

    final = house.call()

    assert final.status == "success"
    assert house.states() == {one: "draining", other: "idle"}
    nothing_left(house)


def test_after_five_workers_that_refuse_the_caller_is_told_that_nothing_has_run(house: House) -> None:
    refusing = [house.start(answers(409, error="busy")) for _ in range(6)]

    with pytest.raises(Unavailable, match="has not run"):
        house.call()

    assert sorted(house.states().values()) == ["draining"] * 5 + ["warm"]
    assert sum(house.workers[name].paths() == ["/load", "/execute"] for name in refusing) == 5
    assert house.rows() == []
    nothing_left(house)


def test_a_call_with_a_large_input_that_has_not_run_leaves_no_row(house: House) -> None:
    refusing = [house.start(answers(409, error="busy")) for _ in range(5)]

    with pytest.raises(Unavailable, match="has not run"):
        house.call(LARGE)

    assert {house.states()[name] for name in refusing} == {"draining"}
    assert house.rows() == []
    nothing_left(house)


@pytest.mark.parametrize(
    "fault",
    [hangs_up(), sends(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n"), answers(200, status="success")],
    ids=["lost", "above the bound", "odd"],
)
def test_after_a_lost_worker_the_call_is_recorded_as_an_error_and_not_repeated(house: House, fault: Any) -> None:
    lost, other = house.start(fault), house.start(succeeds())

    final = house.call()

    assert (final.status, final.result) == ("error", house.recorded(final.id).result)
    assert "may have run" in str(final.status_reason)
    assert house.states() == {lost: "draining", other: "warm"}
    assert house.workers[other].asked == []
    nothing_left(house)


def no_descriptor(address: str, timeout_s: float) -> Any:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.mark.parametrize("given", [None, LARGE], ids=["no input", "large input"])
def test_a_warm_worker_that_no_descriptor_is_left_for_is_returned_unused(
    house: House, monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    workers = [house.start(succeeds()) for _ in range(2)]
    with monkeypatch.context() as patch:
        patch.setattr(worker_client, "connect", no_descriptor)
        with pytest.raises(Unavailable, match=r"No file descriptor is left .* has not run"):
            house.call(given)

    assert house.states() == dict.fromkeys(workers, "warm")
    assert house.rows() == []
    nothing_left(house)
    assert house.call().status == "success"


@pytest.mark.parametrize("given", [None, LARGE], ids=["no input", "large input"])
def test_an_assigned_worker_that_no_descriptor_is_left_for_stays_assigned(
    house: House, monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    worker = house.start(succeeds(), succeeds())
    first = house.call()
    house.engine._workers._close_unused(math.inf)
    with monkeypatch.context() as patch:
        patch.setattr(worker_client, "connect", no_descriptor)
        with pytest.raises(Unavailable, match=r"No file descriptor is left .* has not run"):
            house.call(given)

    assert house.states() == {worker: "idle"}
    nothing_left(house)
    second = house.call()
    assert (second.status, second.cold) == ("success", "none")
    assert [row.id for row in house.rows()] == [first.id, second.id]


def test_a_worker_that_does_not_answer_in_time_is_lost(make_house: MakeHouse) -> None:
    house = make_house(load_timeout_s=0.1, lease_grace_s=2.0)
    function.update(OWNER, house.function_id, {"timeout": 1})
    slow = house.start(waits(Event(), succeeds()))

    final = house.call()

    assert (final.status, house.states()) == ("error", {slow: "draining"})
    nothing_left(house)


def test_a_slow_call_is_listed_while_it_runs(house: House) -> None:
    house.engine.start()
    over = Event()
    house.start(waits(over, succeeds()))
    call = gevent.spawn(house.call)

    wait_until(lambda: [row.status for row in house.rows()] == ["running"])
    over.set()

    assert call.get(timeout=10).status == "success"
    assert [row.status for row in house.rows()] == ["success"]
    nothing_left(house)


def test_the_next_call_runs_while_the_first_one_is_committed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker is handed over before the record is durable."""
    worker = house.start(succeeds("one"), succeeds("two"))
    committing, go_on = Event(), Event()
    commit = runs.commit_record

    def slowly(final: Any, **more: Any) -> Any:
        if "one" in str(final.result):
            committing.set()
            go_on.wait(20)
        return commit(final, **more)

    monkeypatch.setattr(runs, "commit_record", slowly)
    first = gevent.spawn(house.call)
    assert committing.wait(10)

    second = house.call()

    assert (json.loads(second.result)["output"], first.ready()) == ("two", False)
    assert set(house.journal()) == {house.workers[worker].asked[1][1].split()[1].decode()}
    go_on.set()
    assert first.get(timeout=10).status == "success"
    assert len(house.rows()) == 2
    nothing_left(house)


def test_an_answer_that_can_not_be_committed_is_handed_on_and_recorded_later(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = house.start(succeeds())

    def away(rec: Any) -> bool:
        raise Unavailable("The database can't be reached.")

    with monkeypatch.context() as patch:
        patch.setattr(calls, "record", away)
        with pytest.raises(NotRecorded) as caught:
            house.call("the input")

    assert "has run" in caught.value.message
    assert house.states() == {worker: "idle"}, "the worker is not at fault"
    wait_until(lambda: house.lost() != {})
    assert house.journal() == {}
    record_lost(house.lost(), house.attempts, house.pool.ended)
    (row,) = house.rows()
    assert (row.status, row.input) == ("error", "the input")
    assert "may have run" in str(row.status_reason)


def test_a_large_input_has_its_row_before_the_worker_gets_it(house: House) -> None:
    over = Event()
    worker = house.start(waits(over, succeeds()))
    call = gevent.spawn(house.call, LARGE)
    wait_until(lambda: "/execute" in house.workers[worker].paths())

    (row,) = house.rows()
    assert (row.status, row.input) == ("running", LARGE)
    assert LARGE not in "".join(house.journal().values())
    over.set()
    assert call.get(timeout=10).status == "success"
    nothing_left(house)


def test_a_worker_whose_execution_can_not_be_begun_is_returned_unused(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row of a large input is written before the worker gets a request."""
    worker = house.start(succeeds())

    def away(rec: Any) -> bool:
        raise Unavailable("The database can't be reached.")

    monkeypatch.setattr(runs, "begin", away)
    with pytest.raises(Unavailable, match="database"):
        house.call(LARGE)

    assert house.states() == {worker: "warm"}
    assert house.workers[worker].asked == []
    nothing_left(house)


@pytest.mark.parametrize(
    ("code", "status", "state"), [(422, "failed", "warm"), (507, "error", "warm")], ids=["bad package", "full disk"]
)
def test_a_package_that_is_not_taken_is_recorded_and_tried_once(
    house: House, code: int, status: str, state: str
) -> None:
    one, other = (house.start(load=answers(code, error="The reason.")) for _ in range(2))

    final = house.call()

    assert final.status == status
    assert "The reason." in str(final.status_reason)
    assert house.states() == {one: state, other: "warm"}
    assert len(house.workers[one].asked) + len(house.workers[other].asked) == 1
    assert [row.id for row in house.rows()] == [final.id]
    nothing_left(house)


@pytest.mark.parametrize(
    ("load", "state"), [(answers(422, error="Bad."), "warm"), (waits(Event(), hangs_up()), "draining")]
)
def test_a_package_that_is_not_taken_and_not_recorded_has_not_run(
    make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch, load: Any, state: str
) -> None:
    house = make_house(unpack_timeout_s=1.0)
    worker = house.start(load=load)

    def away(rec: Any) -> bool:
        raise Unavailable("The database can't be reached.")

    monkeypatch.setattr(worker_client, "_GRACE_S", 0.1)
    monkeypatch.setattr(calls, "record", away)
    with pytest.raises(Unavailable, match="database"):
        house.call()

    assert house.states() == {worker: state}
    nothing_left(house)


def test_while_the_storage_is_slow_a_call_waits_for_the_worker_of_another_one(house: House) -> None:
    class Slow:
        def read(self, key: str) -> bytes:
            Event().wait(30)
            raise AssertionError

    over = Event()
    worker = house.start(waits(over, succeeds("one")), succeeds("two"))
    warm = house.start()
    first = gevent.spawn(house.call)
    wait_until(lambda: "/execute" in house.workers[worker].paths())
    engine = Engine(house.pool, house.resolver, PackageCache(cast(Any, Slow()), 1 << 20), house.settings)
    second = gevent.spawn(engine.invoke, OWNER, Call(house.function_id))
    wait_until(lambda: int(house.connection.call("HGET", "qf:{pool}:waiting", "all") or 0) == 1)
    over.set()

    assert json.loads(second.get(timeout=10).result)["output"] == "two"
    assert first.get(timeout=10).status == "success"
    assert house.states() == {worker: "idle", warm: "warm"}
    nothing_left(house)


def test_a_target_that_was_changed_is_resolved_anew_before_it_runs(house: House) -> None:
    worker = house.start(succeeds(), succeeds())
    house.call()
    with house.pool.changing(f"function:{house.function_id}"):
        pass

    final = house.call()

    assert final.status == "success"
    assert house.workers[worker].paths() == ["/load", "/execute", "/execute"]
    nothing_left(house)


def test_a_deleted_function_does_not_run(house: House) -> None:
    worker = house.start(succeeds())
    house.call()
    with house.pool.changing(f"function:{house.function_id}"):
        function.delete(OWNER, house.function_id)

    with pytest.raises(NotFound):
        house.call()

    assert house.workers[worker].paths() == ["/load", "/execute"]
    nothing_left(house)


def test_a_killed_call_leaves_its_execution_to_be_recorded_as_lost(house: House) -> None:
    worker = house.start(waits(Event(), succeeds()))
    call = gevent.spawn(house.call)
    wait_until(lambda: "/execute" in house.workers[worker].paths())

    call.kill()

    assert house.states() == {worker: "draining"}
    wait_until(lambda: len(house.lost()) == 1)
    assert house.journal() == {}


def test_a_call_that_waits_gets_the_worker_of_the_one_before(house: House) -> None:
    over = Event()
    worker = house.start(waits(over, succeeds("one")), succeeds("two"))
    first = gevent.spawn(house.call)
    wait_until(lambda: "/execute" in house.workers[worker].paths())
    second = gevent.spawn(house.call)
    gevent.sleep(0.05)
    over.set()

    outputs = [json.loads(call.get(timeout=10).result)["output"] for call in (first, second)]

    assert outputs == ["one", "two"]
    assert house.states() == {worker: "idle"}
    nothing_left(house)


# Scaling


def test_scaling_loads_workers_and_calls_find_them(house: House) -> None:
    names = [house.start(succeeds()) for _ in range(3)]

    house.scaler.scale_up(OWNER, house.function_id, 0, 2)

    assert sorted(house.states().values()) == ["idle", "idle", "warm"]
    assert sum(house.workers[name].paths() == ["/load"] for name in names) == 2
    assert house.call().cold == "none"
    nothing_left(house)


def test_scaling_tries_another_worker_where_a_call_would(house: House) -> None:
    one, other = house.start(load=hangs_up()), house.start()

    house.scaler.scale_up(OWNER, house.function_id, 0, 1)

    assert house.states() == {one: "draining", other: "idle"}
    nothing_left(house)


@pytest.mark.parametrize(("code", "error"), [(422, Conflict), (507, Unavailable)])
def test_scaling_tells_why_a_package_is_not_taken(house: House, code: int, error: type[Exception]) -> None:
    worker = house.start(load=answers(code, error="The reason."))

    with pytest.raises(error, match="The reason"):
        house.scaler.scale_up(OWNER, house.function_id, 0, 1)

    assert house.states() == {worker: "warm"}
    assert house.workers[worker].paths() == ["/load"]
    nothing_left(house)


def test_a_worker_that_was_loaded_with_what_was_changed_meanwhile_is_not_kept(house: House) -> None:
    over = Event()
    one, other = house.start(load=waits(over, answers(200))), house.start()
    scaling = gevent.spawn(house.scaler.scale_up, OWNER, house.function_id, 0, 1)
    wait_until(lambda: house.workers[one].paths() == ["/load"])
    with house.pool.changing(f"function:{house.function_id}"):
        pass
    over.set()
    scaling.get(timeout=10)

    assert house.states() == {one: "draining", other: "idle"}
    nothing_left(house)
