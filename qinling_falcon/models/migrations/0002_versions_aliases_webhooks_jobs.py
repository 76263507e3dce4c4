"""Versions, aliases, webhooks and jobs.

A version and an alias keep their function, a version its runtime. Webhooks and jobs name theirs by id or by
alias; what they name can't go while they need it, which the models see to (`references`), for a job that has
ended may name what is gone.
"""

from typing import Any

from peewee import (
    BigIntegerField,
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
    """Make the four tables and the indexes that lists and references use."""
    text: dict[str, Any] = {"collation": '"C"'} if isinstance(db, PostgresqlDatabase) else {}

    class Row(Model):
        id = CharField(max_length=36, primary_key=True, **text)
        project_id = CharField(**text)
        created_at = BigIntegerField()
        updated_at = BigIntegerField(null=True)

        class Meta:
            database = db

    class Runtime(Row):
        class Meta:
            table_name = "runtimes"

    class Function(Row):
        class Meta:
            table_name = "functions"

    class Version(Row):
        function = ForeignKeyField(Function, column_name="function_id", on_delete="CASCADE", index=False)
        version_number = IntegerField()
        description = CharField(null=True, **text)
        runtime = ForeignKeyField(Runtime, column_name="runtime_id", on_delete="RESTRICT")
        code = JSONField()
        entry = CharField(max_length=80, **text)
        cpu = IntegerField()
        memory_size = BigIntegerField()
        timeout = IntegerField()
        count = BigIntegerField()
        digest = CharField(max_length=64, **text)
        package_key = CharField(index=True, **text)

        class Meta:
            table_name = "function_versions"
            indexes = ((("function", "version_number"), True),)

    class Alias(Row):
        name = CharField(**text)
        function = ForeignKeyField(Function, column_name="function_id", on_delete="RESTRICT")
        function_version = IntegerField()
        description = CharField(null=True, **text)
        routing_version = IntegerField(null=True)
        routing_weight = DoubleField(null=True)

        class Meta:
            table_name = "function_aliases"
            indexes = ((("project_id", "name"), True),)

    class Named(Row):
        function_id = CharField(max_length=36, null=True, index=True, **text)
        function_version = IntegerField(null=True)
        function_alias = CharField(null=True, **text)

    class Webhook(Named):
        description = CharField(null=True, **text)

        class Meta:
            table_name = "webhooks"

    class Job(Named):
        name = CharField(null=True, **text)
        function_input = TextField(null=True, **text)
        pattern = CharField(null=True, **text)
        count = IntegerField(null=True)
        status = CharField(max_length=32, **text)
        first_execution_time = BigIntegerField()
        next_execution_time = BigIntegerField()

        class Meta:
            table_name = "jobs"

    db.create_tables([Version, Alias, Webhook, Job], safe=False)

    nulls = " NULLS FIRST" if isinstance(db, PostgresqlDatabase) else ""
    for table, columns in (
        ("function_versions", "function_id, created_at, id"),
        ("function_aliases", "project_id, created_at, id"),
        ("function_aliases", f"project_id, updated_at{nulls}, created_at, id"),
        ("webhooks", "project_id, created_at, id"),
        ("webhooks", f"project_id, updated_at{nulls}, created_at, id"),
        ("webhooks", "project_id, function_alias"),
        ("jobs", "project_id, created_at, id"),
        ("jobs", f"project_id, updated_at{nulls}, created_at, id"),
        ("jobs", f"project_id, name{nulls}, created_at, id"),
        ("jobs", "project_id, status, created_at, id"),
        ("jobs", "project_id, function_alias"),
        ("functions", "package_key"),
    ):
        name = "_".join([table, *(column.split()[0] for column in columns.split(", "))])
        db.execute_sql(f"CREATE INDEX {name} ON {table} ({columns})")
