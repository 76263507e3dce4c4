"""Limits of projects, sizes of packages, and the indexes by which a project's packages and versions are counted.

The sizes of packages that are there already are not known to the database: the pool manager asks the storage for them.
"""

from typing import Any

from peewee import PostgresqlDatabase


def up(migrator: Any, db: Any) -> None:
    """Add them, empty."""
    collation = ' COLLATE "C"' if isinstance(db, PostgresqlDatabase) else ""
    db.execute_sql(
        f"CREATE TABLE project_quotas (project_id VARCHAR(255){collation} NOT NULL PRIMARY KEY, limits JSON NOT NULL)"
    )
    for table in ("functions", "function_versions"):
        db.execute_sql(f"ALTER TABLE {table} ADD COLUMN package_size BIGINT")
        db.execute_sql(f"CREATE INDEX {table}_packages ON {table} (project_id, package_key, package_size)")
