"""Adds the limits of projects, the sizes of packages, and indexes for counting a project's packages and versions.

The sizes of existing packages are not known to the database. The pool manager asks the storage for them later.
"""

from typing import Any

from peewee import PostgresqlDatabase


def up(migrator: Any, db: Any) -> None:
    """Add the table, the columns and the indexes."""
    collation = ' COLLATE "C"' if isinstance(db, PostgresqlDatabase) else ""
    db.execute_sql(
        f"CREATE TABLE project_quotas (project_id VARCHAR(255){collation} NOT NULL PRIMARY KEY, limits JSON NOT NULL)"
    )
    for table in ("functions", "function_versions"):
        db.execute_sql(f"ALTER TABLE {table} ADD COLUMN package_size BIGINT")
        db.execute_sql(f"CREATE INDEX {table}_packages ON {table} (project_id, package_key, package_size)")
