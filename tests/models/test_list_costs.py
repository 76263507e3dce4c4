"""How many rows a page reads in a large table."""

from __future__ import annotations

import itertools
import uuid
from dataclasses import replace
from typing import Any

import pytest

from qinling_falcon.models import execution
from qinling_falcon.models.database import engine, reading, transact
from qinling_falcon.models.listing import ListParams, page
from qinling_falcon.models.scope import Context, scoped
from tests.models.lists import insert, scattered

STEPS_OF_A_ROW = 40


def test_a_page_of_executions_costs_the_same_in_a_large_table(
    owner: Context, admin: Context, function_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a table of 3,000 rows, a page of 10 reads few: one part of an index, in its order."""
    busy, rare = function_id, str(uuid.UUID(int=7))
    transact(lambda: insert(scattered(3000, [busy] * 60 + [rare])))
    if engine().for_update:
        transact(lambda: engine().execute_sql("ANALYZE executions") and None)
    counts: dict[tuple[Any, ...], int] = {}
    queries: list[tuple[str, Any]] = []
    execute = engine().execute_sql

    def spy(sql: str, params: Any = None) -> Any:
        queries.append((sql, params))
        return execute(sql, params)

    filters = [
        [],
        [("function_id", busy)],
        [("function_id", rare)],
        [("function_id", f"in:{busy},{rare}")],
        [("status", "success")],
        [("status", "error")],
        [("status", "dead")],
        [("status", "neq:success")],
    ]
    values = ("gte:1970-01-01 00:00:29", "lt:1970-01-01 00:00:01", "in:1970-01-01 00:00:20,1970-01-01 00:00:25.5")
    times = [[("created_at", value)] for value in values]
    for context, sort_key, sort_dir in itertools.product(
        (owner, Context("a stranger"), admin), execution.LISTS.sort_keys, ("asc", "desc")
    ):
        select = scoped(context, all_projects=context.is_admin).executions()
        # In order of another time than they are filtered by, rows that don't pass have to be passed over.
        for chosen in filters + (times if sort_key != "updated_at" else []):
            if context.project_id == "a stranger" and chosen != [("function_id", busy)]:
                continue
            params = ListParams(limit=10, sort_key=sort_key, sort_dir=sort_dir, filters=chosen)
            if (found := (context, *chosen)) not in counts:  # in whatever order
                counts[found] = sum(1 for _ in page(select, execution.LISTS, replace(params, limit=None)).rows)
            half = counts[found] // 2
            marker = page(select, execution.LISTS, replace(params, limit=half)).next_marker if half else None
            for place in (None, marker):
                del queries[:]
                with monkeypatch.context() as patched:
                    patched.setattr(engine(), "execute_sql", spy)
                    rows = list(page(select, execution.LISTS, replace(params, marker=place)).rows)
                read = sum(rows_read(sql, values) for sql, values in queries if sql.startswith("SELECT"))
                assert read < 150, (read, len(rows), context, params, place, queries[-1])


def rows_read(sql: str, params: Any) -> int:
    """About how many rows and index entries a query reads."""
    with reading():
        if engine().for_update:
            # Reading so small a table as a whole would be as quick; a large one it must not come to.
            engine().execute_sql("SET enable_seqscan = off")
            plan = engine().execute_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", params).fetchone()[0][0]["Plan"]
            engine().execute_sql("SET enable_seqscan = on")
            return scanned(plan)
        steps = itertools.count()
        connection = engine().connection()
        connection.set_progress_handler(lambda: next(steps) < 0, STEPS_OF_A_ROW)
        try:
            engine().execute_sql(sql, params).fetchall()
        finally:
            connection.set_progress_handler(None, 0)
        return next(steps)


def scanned(node: dict[str, Any]) -> int:
    own = 0
    if "Scan" in node["Node Type"] and node["Node Type"] != "Subquery Scan":
        rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        own = rows * node["Actual Loops"]
    return int(own + sum(scanned(child) for child in node.get("Plans", [])))
