"""Runtimes, functions and executions.

The models are frozen copies: what this migration does must not change with the
code. Text that is sorted or compared uses byte order on every database.
"""

from typing import Any

from peewee import (
    BigIntegerField,
    BooleanField,
    CharField,
    DoubleField,
    ForeignKeyField,
    IntegerField,
    JSONField,
    Model,
    PostgresqlDatabase,
    TextField,
)


def up(migrator: Any, db: Any) -> None:
    """Make the three tables and the indexes that lists and sweeps use."""
    text: dict[str, Any] = {"collation": '"C"'} if isinstance(db, PostgresqlDatabase) else {}

    class Row(Model):
        id = CharField(max_length=36, primary_key=True, **text)
        project_id = CharField(**text)
        created_at = BigIntegerField()
        updated_at = BigIntegerField(null=True)

        class Meta:
            database = db

    class Runtime(Row):
        name = CharField(null=True, **text)
        description = CharField(null=True, **text)
        image = CharField(**text)
        previous_image = CharField(null=True, **text)
        is_public = BooleanField()
        trusted = BooleanField()
        status = CharField(max_length=32, **text)
        status_reason = TextField(null=True)

        class Meta:
            table_name = "runtimes"

    class Function(Row):
        name = CharField(null=True, **text)
        description = CharField(null=True, **text)
        runtime = ForeignKeyField(Runtime, null=True, column_name="runtime_id", on_delete="RESTRICT")
        code = JSONField()
        entry = CharField(max_length=80, null=True, **text)
        cpu = IntegerField()
        memory_size = BigIntegerField()
        timeout = IntegerField()
        count = BigIntegerField()
        latest_version = IntegerField()
        digest = CharField(max_length=64, **text)
        package_key = CharField(null=True, **text)

        class Meta:
            table_name = "functions"

    class Execution(Row):
        function_id = CharField(max_length=36, **text)
        function_version = IntegerField()
        function_alias = CharField(null=True, **text)
        description = CharField(null=True, **text)
        input = TextField(null=True, **text)
        result = TextField(null=True, **text)
        log = TextField(null=True)
        status = CharField(max_length=32, **text)
        status_reason = TextField(null=True, **text)
        sync = BooleanField()
        cold = CharField(max_length=16, null=True, **text)
        queued_ms = DoubleField(null=True)
        run_ms = DoubleField(null=True)
        source = CharField(max_length=16, **text)

        class Meta:
            table_name = "executions"

    db.create_tables([Runtime, Function, Execution], safe=False)

    nulls = " NULLS FIRST" if isinstance(db, PostgresqlDatabase) else ""
    for table, columns in (
        ("runtimes", "project_id, created_at, id"),
        ("functions", "project_id, created_at, id"),
        ("functions", f"project_id, name{nulls}, created_at, id"),
        ("functions", f"project_id, updated_at{nulls}, created_at, id"),
        ("functions", "created_at, id"),
        ("executions", "project_id, created_at, id"),
        ("executions", "project_id, status, created_at, id"),
        ("executions", f"project_id, updated_at{nulls}, created_at, id"),
        ("executions", "function_id, created_at, id"),
        ("executions", "created_at, id"),
    ):
        name = "_".join([table, *(column.split()[0] for column in columns.split(", "))])
        db.execute_sql(f"CREATE INDEX {name} ON {table} ({columns})")
    # What is not final is a handful of rows among millions: the sweeps must find it at once.
    db.execute_sql("CREATE INDEX executions_running ON executions (created_at, id) WHERE status = 'running'")
