"""The table of endpoints in docs/api-conformance.md names all that is served, and a test in this folder for each."""

from __future__ import annotations

import ast
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from qinling_falcon.api import ROUTES
from qinling_falcon.resources.operation import operations_of

HERE = Path(__file__).parent
DOCUMENT = HERE.parents[1] / "docs" / "api-conformance.md"
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH")
CALLERS = {"everybody", "any caller", "owner", "owner, admin", "admin"}


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    method: str
    path: str
    success: str
    caller: str
    test: str

    @property
    def endpoint(self) -> tuple[str, str]:
        return self.method, self.path

    @property
    def name(self) -> str:
        """What its test has to be called."""
        words = re.findall(r"\w+", self.path) or ["root"]
        return f"test_{self.method}_{'_'.join(words)}_answers_{self.success}"


def rows() -> list[Row]:
    table = re.findall(r"^\| ([A-Z]+) \| `([^`]+)` \| (\d+) \| ([^|]+) \| ([^|]+) \|$", DOCUMENT.read_text(), re.M)
    return [Row(*(cell.strip(" `") for cell in cells)) for cells in table]


def names_of_tests() -> Counter[str]:
    """How often each name of a test is used in this folder."""
    return Counter(
        node.name
        for path in HERE.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )


def served() -> set[tuple[str, str]]:
    """All methods and paths of the app, with parameters of no name. Webhooks can take all methods."""
    return {
        (method, re.sub(r"\{[\w:]+\}", "{}", path))
        for path, resource in ROUTES
        for method, operation in operations_of(resource).items()
        if operation.is_documented
    }


def test_every_row_names_a_test_of_this_folder() -> None:
    names = names_of_tests()
    there = rows()
    assert len(there) > 40
    for row in there:
        assert row.test == row.name
        assert names[row.name] == 1, row.name


def test_every_test_that_is_named_after_a_row_has_one() -> None:
    named = {name for name in names_of_tests() if re.fullmatch(rf"test_(?:{'|'.join(METHODS)})_\w+_answers_\d+", name)}
    assert named == {row.test for row in rows()}


def test_every_row_is_served_and_all_that_is_served_has_a_row() -> None:
    assert {(row.method, re.sub(r"\{\w+\}", "{}", row.path.partition("?")[0])) for row in rows()} == served()


def test_every_row_says_who_may() -> None:
    assert {row.caller for row in rows()} == CALLERS
