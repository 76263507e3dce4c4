"""The functions and versions for which workers are kept."""

from __future__ import annotations

import pytest

from qinling_falcon.models import function, kept, version
from qinling_falcon.models.scope import Context
from tests.models.factories import make_function


@pytest.mark.usefixtures("settings")
def test_those_with_a_min_warm_are_found_in_all_projects(owner: Context, runtime_id: str) -> None:
    make_function(owner, runtime_id)
    other = Context("project-z")
    first = make_function(owner, runtime_id, min_warm=2, isolation="per_call")
    version.create(owner, first.id, most=9)
    function.update(owner, first.id, {"min_warm": 1})
    second = make_function(other, runtime_id, min_warm=3)

    found = {(row.function_id, row.version): row for row in kept.all_kept()}

    counts = {key: row.count for key, row in found.items()}
    assert counts == {(first.id, 0): 1, (first.id, 1): 2, (second.id, 0): 3}
    row = found[first.id, 1]
    assert (row.project_id, row.runtime_id, row.isolation) == (owner.project_id, runtime_id, "per_call")
    assert row.digest == first.digest


@pytest.mark.usefixtures("settings")
def test_they_are_read_in_pages(owner: Context, runtime_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_PAGE", 2)
    made = {make_function(owner, runtime_id, min_warm=1).id for _ in range(5)}

    rows = [row.function_id for row in kept.all_kept()]

    assert (len(rows), set(rows)) == (5, made)
