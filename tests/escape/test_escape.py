"""Attempts to escape from a worker, in each form of isolation that this host has; each must be refused.

With `ESCAPE_WITHOUT=1`, the defences against each attempt are removed from a copy of the program, and each attempt must
succeed. This shows that an attempt is refused because of its defences, and does not fail for another reason. What has
succeeded is noted in `seen/`, from which the table in docs/defences.md is made. `make soak` does this.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator

import pytest

from tests.escape import seen
from tests.escape.attempts import ATTEMPTS
from tests.escape.defences import DEFENCES
from tests.escape.forms import FORMS, Run, problem, run
from tests.escape.table import table
from tests.orchestrator.conftest import REPOSITORY

_CHANCES = 3  # some attempts need luck, such as to take memory between two looks at it

_each = pytest.mark.parametrize(
    ("form", "name"),
    [
        pytest.param(form, name, marks=pytest.mark.xdist_group(f"escape {form}"), id=f"{form}: {name}")
        for form in FORMS
        for name in ATTEMPTS
    ],
)


@functools.cache
def run_all(form: str) -> Run:
    """Run all attempts in one process, with all defences."""
    return run(form, ATTEMPTS.values())


@functools.cache
def run_without(form: str, defences: frozenset[str], out: frozenset[str]) -> Run:
    """Run the attempts that are stopped by exactly `defences`, in one process, with the defences in `out` removed."""
    with_all = run_all(form)
    stopped = [one for one in ATTEMPTS.values() if frozenset(with_all.in_force(form, one)) == defences]
    return run(form, stopped, sorted(out))


def defences_in_force(form: str, name: str) -> frozenset[str]:
    """The defences against an attempt that this form has on this host. Without any, the test is skipped."""
    if problem(form):
        pytest.skip(problem(form))
    found = frozenset(run_all(form).in_force(form, ATTEMPTS[name]))
    if not found:
        pytest.skip(f"this form has none of: {', '.join(ATTEMPTS[name].defences)}")
    return found


@_each
def test_attempt_is_refused(form: str, name: str) -> None:
    defences_in_force(form, name)
    assert run_all(form).outcomes[name] == "refused"


if os.environ.get("ESCAPE_WITHOUT"):

    @pytest.fixture(scope="module")
    def succeeded() -> Iterator[dict[str, dict[str, bool]]]:
        """Whether attempts have succeeded without their defences, by form and name. It is noted in the end.

        All tests of a form run in one process (`xdist_group`), which writes the form's file.
        """
        outcomes: dict[str, dict[str, bool]] = {form: {} for form in FORMS}
        yield outcomes
        for form, found in outcomes.items():
            if found:
                seen.note(form, found)

    @_each
    def test_attempt_succeeds_without_its_defences(
        form: str, name: str, succeeded: dict[str, dict[str, bool]]
    ) -> None:
        defences = defences_in_force(form, name)
        if not all(DEFENCES[defence].removal for defence in defences):
            pytest.skip(f"can't be taken out: {', '.join(sorted(defences))}")
        outcome = run_without(form, defences, defences).outcomes[name]
        for _ in range(_CHANCES):
            if outcome != "succeeded":
                outcome = run(form, [ATTEMPTS[name]], sorted(defences)).outcomes[name]
        succeeded[form][name] = outcome == "succeeded"
        assert outcome == "succeeded"

    @_each
    def test_each_of_several_defences_stops_an_attempt(form: str, name: str) -> None:
        defences = defences_in_force(form, name)
        for defence in defences:
            others = frozenset(other for other in defences - {defence} if DEFENCES[other].removal)
            if others:
                assert run_without(form, defences, others).outcomes[name] == "refused", defence


else:

    @pytest.mark.parametrize("name", ATTEMPTS)
    def test_an_attempt_was_seen_to_succeed(name: str) -> None:
        """In each form in which all of its defences can be taken out."""
        for form in FORMS:
            there = [DEFENCES[one] for one in ATTEMPTS[name].defences if DEFENCES[one].is_in(form)]
            if there and all(defence.removal for defence in there):
                assert name in seen.read(form), form


@pytest.mark.parametrize("name", DEFENCES)
def test_a_defence_can_be_taken_out(name: str) -> None:
    """The text to replace in `defences.py` must exist in the program, so that `ESCAPE_WITHOUT=1` works."""
    for removal in DEFENCES[name].removal:
        assert (REPOSITORY / removal.path).read_text().count(removal.old) == 1, removal


@pytest.mark.parametrize("name", [name for name, defence in DEFENCES.items() if not defence.removal])
def test_a_defence_that_stays_has_a_test_elsewhere(name: str) -> None:
    path, _, test = DEFENCES[name].test.partition(" ")
    assert f"def test_{test}(" in (REPOSITORY / "tests" / path).read_text()



def test_the_table_in_the_documents_is_current() -> None:
    lines = (REPOSITORY / "docs" / "defences.md").read_text().splitlines()
    first = lines.index(table()[0])
    assert lines[first : first + len(table())] == table(), "python -m tests.escape.table"
