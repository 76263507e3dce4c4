"""Open answers are limited by project and in total, and stalled ones are cut off first."""

from __future__ import annotations

import gc
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from falcon import testing

from qinling_falcon.errors import Unavailable
from qinling_falcon.models.scope import Context
from qinling_falcon.resources import open_answers
from qinling_falcon.resources.open_answers import PIECE, Cost, OpenAnswer, OpenAnswers
from qinling_falcon.resources.request import Request
from tests.integration.service import wait_until

NOTHING = Cost(0, 0, 0)


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_answers, "STALLED_S", 0.1)
    monkeypatch.setattr(open_answers, "WAIT_S", 0.4)


@pytest.fixture
def bounds() -> OpenAnswers:
    """The limits: four answers, two of one project."""
    return OpenAnswers(Cost(memory=100 * PIECE, disk=1000, answers=4))


def request(project_id: str = "a", connection: socket.socket | None = None) -> Request:
    made = Request(testing.create_environ())
    made.caller = Context(project_id)
    if connection is not None:
        made.env["gunicorn.socket"] = connection
    return made


def endless() -> Iterator[bytes]:
    while True:
        yield b"x" * PIECE


def read(bounds: OpenAnswers, project_id: str = "a", **cost: int) -> OpenAnswer:
    """An answer that is being sent: its client has been given a piece."""
    answer = OpenAnswer(bounds.open(request(project_id), **cost), endless())
    next(answer)
    return answer


def is_cut_off(answer: OpenAnswer) -> bool:
    try:
        next(answer)
    except BrokenPipeError:
        return True
    return False


@pytest.fixture
def keep_reading() -> Iterator[Callable[[OpenAnswer], None]]:
    """Lets a client read an answer quickly until the end of the test."""
    ended = threading.Event()
    readers = []

    def start(answer: OpenAnswer) -> None:
        def run() -> None:
            while not ended.wait(0.01) and not is_cut_off(answer):
                pass

        readers.append(threading.Thread(target=run))
        readers[-1].start()

    yield start
    ended.set()
    for reader in readers:
        reader.join()


def test_a_large_part_is_sent_in_pieces_and_the_rest_is_what_it_holds(bounds: OpenAnswers) -> None:
    parts = [b"a" * (2 * PIECE + 1), b"b" * PIECE, b"c"]
    answer = OpenAnswer(bounds.open(request()), iter(parts))
    held = []
    pieces = []
    for piece in answer:
        pieces.append(piece)
        held.append(bounds.held().memory)
    assert b"".join(pieces) == b"".join(parts)
    assert [len(piece) for piece in pieces] == [PIECE, PIECE, 1, PIECE, 1]
    assert held == [2 * PIECE + 1] * 3 + [PIECE] * 2
    answer.close()
    assert bounds.held() == NOTHING


def test_closing_twice_gives_back_once(bounds: OpenAnswers) -> None:
    closed = []
    first, second = (OpenAnswer(bounds.open(request()), endless(), lambda: closed.append(1)) for _ in range(2))
    first.close()
    first.close()
    assert (len(closed), bounds.held().answers) == (1, 1)
    second.close()
    assert (len(closed), bounds.held()) == (2, NOTHING)


def test_an_answer_that_never_reaches_the_server_gives_back_what_it_holds(bounds: OpenAnswers) -> None:
    closed = []
    answer = OpenAnswer(bounds.open(request()), endless(), lambda: closed.append(1))
    assert bounds.held().answers == 1
    del answer
    gc.collect()
    assert (len(closed), bounds.held()) == (1, NOTHING)


def test_the_stalled_answer_of_the_project_ends_for_a_new_one(bounds: OpenAnswers) -> None:
    stalled, other = read(bounds), read(bounds, "b")
    time.sleep(0.2)
    fresh = read(bounds)
    read(bounds)
    assert (is_cut_off(stalled), is_cut_off(fresh), is_cut_off(other)) == (True, False, False)


def test_a_new_answer_waits_for_one_that_ends(bounds: OpenAnswers, keep_reading: Callable[..., None]) -> None:
    answers = [read(bounds) for _ in range(2)]
    for answer in answers:
        keep_reading(answer)
    room = answers[0]._room
    threading.Timer(0.2, room.give_back).start()
    bounds.open(request()).give_back()


def test_a_new_answer_is_refused_while_all_others_are_read(
    bounds: OpenAnswers, keep_reading: Callable[..., None]
) -> None:
    for _ in range(2):
        keep_reading(read(bounds))
    with pytest.raises(Unavailable, match="large answers") as caught:
        bounds.open(request())
    assert caught.value.retry_after_s
    bounds.open(request("b")).give_back()


def test_few_answers_wait(
    bounds: OpenAnswers, keep_reading: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many answers may wait as may be open. One more is refused at once."""
    monkeypatch.setattr(open_answers, "WAIT_S", 5.0)
    answers = [read(bounds) for _ in range(2)]
    for answer in answers:
        keep_reading(answer)
    rooms: list[Any] = []

    def ask() -> None:
        rooms.append(bounds.open(request()))

    waiting = [threading.Thread(target=ask, daemon=True) for _ in range(2)]
    for thread in waiting:
        thread.start()
    wait_until("two wait", lambda: bounds._awaited.total("answers") == 2)
    began = time.monotonic()
    with pytest.raises(Unavailable):
        bounds.open(request())
    assert time.monotonic() - began < 1
    for answer in answers:
        answer._room.give_back()
    for thread in waiting:
        thread.join()
    assert len(rooms) == 2


def test_among_projects_the_one_that_holds_most_makes_room(bounds: OpenAnswers) -> None:
    few, many = [read(bounds, "a")], [read(bounds, "b"), read(bounds, "b")]
    few.append(read(bounds, "c"))
    time.sleep(0.2)
    read(bounds, "d")
    assert [is_cut_off(answer) for answer in few] == [False, False]
    assert sorted(is_cut_off(answer) for answer in many) == [False, True]


def test_a_project_that_holds_more_ends_no_answer_of_another(keep_reading: Callable[..., None]) -> None:
    six = OpenAnswers(Cost(memory=100 * PIECE, disk=1000, answers=6))
    others = [read(six, project_id) for project_id in "bcde"]
    mine = [read(six, "a"), read(six, "a")]
    for answer in mine:
        keep_reading(answer)
    time.sleep(0.2)
    with pytest.raises(Unavailable):
        six.open(request("a"))
    assert not any(is_cut_off(answer) for answer in others)


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_bytes_are_bounded_too(bounds: OpenAnswers, kind: str) -> None:
    half = {"memory": 50 * PIECE, "disk": 500}[kind]
    first = OpenAnswer(bounds.open(request(), **{kind: half}), iter([b"x" * 50 * PIECE]))
    next(first)
    time.sleep(0.2)
    bounds.open(request(), **{kind: half}).give_back()
    assert is_cut_off(first)


def test_what_is_larger_than_its_bound_is_sent_alone(bounds: OpenAnswers) -> None:
    room = bounds.open(request(), memory=1000 * PIECE)
    with pytest.raises(Unavailable):
        bounds.open(request())
    room.give_back()
    bounds.open(request()).give_back()


def test_a_part_that_finds_no_room_ends_its_answer(bounds: OpenAnswers, keep_reading: Callable[..., None]) -> None:
    large = OpenAnswer(bounds.open(request(), memory=49 * PIECE), iter([b"x" * 49 * PIECE]))
    answer = OpenAnswer(bounds.open(request()), iter([b"x", b"x" * 40 * PIECE]))
    next(answer)
    assert is_cut_off(answer)
    assert not is_cut_off(large)
    answer.close()
    large.close()
    assert bounds.held() == NOTHING


def test_cutting_off_ends_a_blocked_write(bounds: OpenAnswers) -> None:
    """Here with a native socket; tests/integration has the same with gevent's."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        ours, _ = listener.accept()
        answer = OpenAnswer(bounds.open(request(connection=ours)), endless())
        ended = threading.Event()

        def send() -> None:
            try:
                for piece in answer:
                    ours.sendall(piece)
            except BrokenPipeError:
                ended.set()
            finally:
                answer.close()
                ours.close()

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        wait_until("its write is blocked", lambda: answer._room.stalled_s(time.monotonic()) > 0.05)
        others = [read(bounds), read(bounds)]
        sender.join(10)
        assert ended.is_set()
        assert bounds.held().answers == len(others)
