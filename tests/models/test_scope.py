"""No query without a scope: the tables' own queries are used in the models alone."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLES = {"Runtime", "Function", "Version", "Alias", "Webhook", "Job", "Execution"}
QUERIES = {"select", "get", "get_or_none", "get_by_id", "filter", "raw", "update", "delete", "insert", "create"}


def test_tables_are_queried_in_the_models_alone() -> None:
    found = []
    for path in [*ROOT.glob("qinling_falcon/**/*.py"), *ROOT.glob("workers/**/*.py"), ROOT / "app.py"]:
        if not path.exists() or "models" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Attribute)
                and node.attr in QUERIES
                and isinstance(node.value, ast.Name | ast.Attribute)
                and (node.value.id if isinstance(node.value, ast.Name) else node.value.attr) in TABLES
            ):
                found.append(f"{path}:{node.lineno}")
    assert found == []
