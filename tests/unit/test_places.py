"""The places of a drain: no project and no function takes them all, and a new one always finds room."""

from __future__ import annotations

import pytest

from qinling_falcon.jobs.places import Places


def fill(places: Places, project_id: str, function_id: str) -> int:
    """Take as many places as there is room for. Returns how many."""
    count = 0
    while places.free:
        rooms = places.rooms()
        of_project = rooms.projects.get(project_id, rooms.project)
        of_function = rooms.functions.get(function_id, rooms.function)
        if not min(of_project, of_function):
            break
        places.take(project_id, function_id, None)
        count += 1
    return count


def test_one_function_leaves_room_for_others() -> None:
    places = Places(256)
    assert 256 * 0.45 < fill(places, "p", "f") <= 256 * 0.6
    assert fill(places, "p", "g") > 20, "of the same project"
    assert fill(places, "q", "h") > 20, "of another project"


@pytest.mark.parametrize("projects", [1, 3, 8])
@pytest.mark.parametrize("functions", [1, 4, 8])
def test_there_is_room_for_one_more_project_and_function(projects: int, functions: int) -> None:
    """At the latest when some of the executions that were there first have ended."""
    places = Places(256)
    names = [(f"p{project}", f"f{project} {function}") for project in range(projects) for function in range(functions)]
    held = dict.fromkeys(names, 0)
    for _ in range(20):
        for name in names:
            ended = held[name] // 2
            for _ in range(ended):
                places.give_back(*name, None)
            held[name] += fill(places, *name) - ended

    assert places.free > 0
    assert fill(places, "p0", "another function") > 0
    assert fill(places, "another project", "its function") > 0


def test_all_places_that_were_given_back_can_be_taken_again() -> None:
    places = Places(100)
    counts = []
    for _ in range(2):
        counts.append(fill(places, "p", "f"))
        for _ in range(counts[-1]):
            places.give_back("p", "f", None)
        assert places.free == 100
    assert counts[0] == counts[1]


def test_a_single_place_is_used() -> None:
    places = Places(1)
    assert fill(places, "p", "f") == 1
    assert places.rooms().project == 0


def test_a_function_with_large_inputs_gets_fewer_places() -> None:
    places = Places(256)
    count = 0
    while places.rooms().functions.get("f", 1):
        places.take("p", "f", "x" * 1024 * 1024)
        count += 1
    assert count < 25
    for _ in range(count):
        places.give_back("p", "f", "x" * 1024 * 1024)
    assert places.free == 256


def test_a_batch_of_large_inputs_leaves_room_for_others() -> None:
    places = Places(128)
    for _ in range(64):  # taken together, before their size was known
        places.take("p", "f", "x" * 1024 * 1024)
    assert places.rooms().projects["p"] == 0
    assert fill(places, "q", "g") > 20
