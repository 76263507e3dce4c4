"""Indexes for lists of executions, which are merged from a part for each status (`listing`).

They begin with what lists are filtered by and the status; then comes the order. So six serve every combination.
"""

from typing import Any

from peewee import PostgresqlDatabase

_OLD = (
    "project_id_created_at_id",
    "project_id_status_created_at_id",
    "project_id_updated_at_created_at_id",
    "function_id_created_at_id",
    "created_at_id",
    "running",
)
# What each begins with, and how many rows of 100,000 SQLite's planner shall expect to have the same first, first two
# and first three columns. A function's executions are all its project's.
_PREFIXES = (
    (("status",), "20000"),
    (("project_id", "status"), "10000 2000"),
    (("function_id", "project_id", "status"), "1000 1000 200"),
)


def up(migrator: Any, db: Any) -> None:
    """Put the new indexes in the place of the old ones."""
    postgresql = isinstance(db, PostgresqlDatabase)
    for name in _OLD:
        db.execute_sql(f"DROP INDEX executions_{name}")
    nulls = " NULLS FIRST" if postgresql else ""
    expected = {"sqlite_autoindex_executions_1": "100000 1"}
    for prefix, same in _PREFIXES:
        for key, order in (("created_at", "created_at, id"), ("updated_at", f"updated_at{nulls}, created_at, id")):
            name = "_".join(["executions", *prefix, key])
            db.execute_sql(f"CREATE INDEX {name} ON executions ({', '.join(prefix)}, {order})")
            expected[name] = " ".join(["100000", same, *"1" * len(order.split(","))])
    if not postgresql:
        _expect(db, expected)


def _expect(db: Any, rows: dict[str, str]) -> None:
    """Tell SQLite's planner once what the table looks like, for nobody gathers statistics.

    Without them every index with as many columns is as good to it, and one row of a list as rare as its project.
    """
    db.execute_sql("ANALYZE executions")  # makes the table of statistics
    db.execute_sql("DELETE FROM sqlite_stat1 WHERE tbl = 'executions'")
    for name, same in rows.items():
        db.execute_sql("INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES ('executions', ?, ?)", (name, same))
