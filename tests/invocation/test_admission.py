"""A process admits fewer calls than it has connections, and keeps places for other functions and projects."""

from __future__ import annotations

import contextlib
from typing import Any, cast

import gevent
import pytest
from gevent.event import Event

from qinling_falcon.errors import Unavailable
from qinling_falcon.invocation.admission import Admission
from qinling_falcon.invocation.calls import Call
from qinling_falcon.invocation.engine import Engine
from qinling_falcon.invocation.scaling import Scaler
from qinling_falcon.models.scope import Context
from qinling_falcon.pool.limits import CallBounds, Limits
from qinling_falcon.setting_fields import MIB
from qinling_falcon.settings import Settings
from tests.pool.side import wait_until

# Without the bounds by function (2 + 4) and project (3 + 12): a process with 12 places for calls.
SMALL = Settings(
    web_connections=16, function_concurrency=2, function_queue_factor=2, project_concurrency=3, project_queue_factor=4
)
LARGE = Settings(
    web_connections=1000, function_concurrency=2, function_queue_factor=2, project_concurrency=3, project_queue_factor=4
)


def make_admission(settings: Settings) -> Admission:
    """Admission under the bounds that a manager with these settings and 100 workers writes."""
    return Admission(settings, lambda: Limits.of(settings, 100).calls)


class Process:
    """Calls in flight."""

    def __init__(self, settings: Settings):
        self.admission = make_admission(settings)
        self.held = contextlib.ExitStack()

    def fill(self, project: str, function: str, text: str | None = None) -> int:
        """Admit calls until one is refused. Returns their number."""
        for count in range(10_000):
            try:
                self.held.enter_context(self.admission.admit(project, function, text))
            except Unavailable:
                return count
        raise AssertionError("no bound")

    def refusal(self, project: str, function: str, text: str | None = None) -> Unavailable:
        with pytest.raises(Unavailable) as refused:
            self.admission.admit(project, function, text)
        return refused.value


def test_a_function_gets_as_many_places_as_its_calls_may_run_and_wait() -> None:
    process = Process(LARGE)

    assert process.fill("p", "f") == 2 + 4

    error = process.refusal("p", "f")
    assert (error.status, error.retry_after_s) == (503, 1)
    assert "function f" in error.message and "FUNCTION_QUEUE_FACTOR" in error.message
    assert "has not run" in error.message
    assert process.fill("p", "g") > 0


def test_a_project_gets_as_many_places_as_its_calls_may_run_and_wait() -> None:
    process = Process(LARGE)

    assert sum(process.fill("p", f"f{number}") for number in range(100)) == 3 + 12

    error = process.refusal("p", "another")
    assert "project p" in error.message and "PROJECT_QUEUE_FACTOR" in error.message
    assert process.fill("q", "f") == 6


def test_the_calls_of_a_process_are_fewer_than_its_connections() -> None:
    process = Process(SMALL)

    assert sum(process.fill(f"p{number}", f"f{place}") for number in range(100) for place in range(9)) == 12

    assert "WEB_CONNECTIONS" in process.refusal("new", "f").message


def test_no_function_and_no_project_takes_the_last_place() -> None:
    process = Process(Settings(web_connections=100, function_concurrency=1000, project_concurrency=1000))

    assert process.fill("p", "f") == 25
    assert process.fill("p", "g") == 9
    assert process.fill("q", "f") == 14
    assert "project p" in process.refusal("p", "h").message
    assert process.fill("r", "f") > 0


def test_inputs_are_bounded_by_their_memory() -> None:
    process = Process(Settings(max_held_input_size=96 * MIB, max_input_size=MIB))

    assert process.fill("p", "f", "x" * MIB) == 32

    error = process.refusal("p", "f", "x" * MIB)
    assert "MAX_HELD_INPUT_SIZE" in error.message and "has not run" in error.message
    assert process.fill("p", "g", "x" * MIB) > 0
    assert process.fill("q", "f", "x" * MIB) > 0
    assert process.fill("p", "f", "x" * 1000) > 0


def test_wide_characters_count_as_the_memory_that_they_take() -> None:
    process = Process(Settings(max_held_input_size=96 * MIB, max_input_size=MIB))

    assert process.fill("p", "f", "x" * MIB + "\U0001f600") == 8


def test_the_largest_input_is_admitted_however_small_the_bound() -> None:
    process = Process(Settings(max_held_input_size=0, max_input_size=4 * MIB))

    assert process.fill("p", "f", "x" * (4 * MIB - 4) + "\U0001f600") == 1


@pytest.mark.parametrize("error", [None, ZeroDivisionError, gevent.GreenletExit])
def test_a_call_that_has_ended_is_not_counted(error: type[BaseException] | None) -> None:
    process = Process(SMALL)
    with contextlib.suppress(ZeroDivisionError, gevent.GreenletExit), process.admission.admit("p", "f", "x" * 5000):
        assert (process.admission.calls, process.admission.input_size > 0) == (1, True)
        if error is not None:
            raise error

    assert (process.admission.calls, process.admission.input_size) == (0, 0)
    assert process.admission._projects == {}


def test_before_the_manager_has_written_limits_the_process_has_its_own() -> None:
    admission = Admission(SMALL, CallBounds)
    for _ in range(4):  # a third of the places of a process
        admission.admit("p", "f")

    with pytest.raises(Unavailable, match="WEB_CONNECTIONS"):
        admission.admit("p", "f")


def test_a_refused_call_is_not_counted() -> None:
    sizes = {"max_input_size": 1, "async_max_input_size": 1, "max_held_input_size": 4200}
    admission = make_admission(Settings(web_connections=8, **sizes))
    with pytest.raises(Unavailable):
        admission.admit("p", "f", "x" * 5000)

    assert (admission.calls, admission.input_size, admission._projects) == (0, 0, {})


class SlowResolver:
    """A fake for a database or a Redis that does not answer yet."""

    def __init__(self) -> None:
        self.asked = 0
        self.open = Event()

    def resolve(self, *about: object) -> Any:
        self.asked += 1
        self.open.wait()
        raise Unavailable("away", retry_after_s=1)

    resolve_alias = resolve


@pytest.mark.parametrize("how", ["calls", "calls by alias", "scale_up"])
def test_what_a_call_waits_for_is_not_asked_by_those_beyond_the_bound(how: str) -> None:
    resolver, admission = SlowResolver(), make_admission(SMALL)
    nothing = cast(Any, None)
    engine = Engine(nothing, cast(Any, resolver), nothing, SMALL, admission=admission)
    scaler = Scaler(engine, nothing, cast(Any, resolver), SMALL, admission)
    told: list[str] = []

    def ask() -> None:
        try:
            if how == "scale_up":
                scaler.scale_up(Context("p"), "f", 0, 1)
            else:
                called = Call("f") if how == "calls" else Call(None, function_alias="a")
                engine.invoke(Context("p"), called)
        except Unavailable as error:
            told.append(error.message)

    requests = [gevent.spawn(ask) for _ in range(20)]
    wait_until(lambda: len(told) == 16)

    assert resolver.asked == admission.calls == 4
    assert all("WEB_CONNECTIONS" in message for message in told)
    resolver.open.set()
    gevent.joinall(requests, timeout=10)
    assert told.count("away") == 4
    assert admission.calls == 0


def test_requests_that_wait_leave_half_of_the_places_to_calls_and_places_to_other_projects() -> None:
    admission = Admission(SMALL, CallBounds)
    with contextlib.ExitStack() as held:
        for project, most in (("a", 3), ("b", 2), ("c", 1), ("d", 0)):
            for _ in range(most):
                held.enter_context(admission.admit_wait(project))
            with pytest.raises(Unavailable, match="WEB_CONNECTIONS"):
                held.enter_context(admission.admit_wait(project))
        assert admission.waits == 6
        calls = [held.enter_context(admission.admit("a", "f")) for _ in range(2)]
        assert admission.calls == len(calls)
        with pytest.raises(Unavailable, match="WEB_CONNECTIONS"):
            admission.admit("a", "f")
    assert admission.waits == admission.calls == 0
