"""Attempts to escape from a worker, in each form of isolation that this host has; each must be refused.

With `ESCAPE_WITHOUT=1`, the defences against each attempt are removed from a copy of the program, and each attempt must
succeed. This shows that an attempt is refused because of its defences, and does not fail for another reason.
"""

from __future__ import annotations

import functools
import os

import pytest

from tests.escape.attempts import ATTEMPTS
from tests.escape.defences import DEFENCES
from tests.escape.forms import FORMS, Run, problem, run
from tests.escape.table import table
from tests.orchestrator.conftest import REPOSITORY

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

    @_each
    def test_attempt_succeeds_without_its_defences(form: str, name: str) -> None:
        defences = defences_in_force(form, name)
        if not all(DEFENCES[defence].removal for defence in defences):
            pytest.skip(f"can't be taken out: {', '.join(sorted(defences))}")
        assert run_without(form, defences, defences).outcomes[name] == "succeeded"

    @_each
    def test_each_of_several_defences_stops_an_attempt(form: str, name: str) -> None:
        defences = defences_in_force(form, name)
        for defence in defences:
            others = frozenset(other for other in defences - {defence} if DEFENCES[other].removal)
            if others:
                assert run_without(form, defences, others).outcomes[name] == "refused", defence


@pytest.mark.parametrize("name", DEFENCES)
def test_a_defence_can_be_taken_out(name: str) -> None:
    """The text to replace in `defences.py` must exist in the program, so that `ESCAPE_WITHOUT=1` works."""
    for removal in DEFENCES[name].removal:
        assert (REPOSITORY / removal.path).read_text().count(removal.old) == 1, removal


def test_the_table_in_the_documents_is_current() -> None:
    lines = (REPOSITORY / "docs" / "defences.md").read_text().splitlines()
    first = lines.index(table()[0])
    assert lines[first : first + len(table())] == table(), "python -m tests.escape.table"
