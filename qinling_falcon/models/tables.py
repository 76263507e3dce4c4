"""The tables. Rows are reached through `scope`, never by the classes themselves.

Times are whole microseconds since the epoch: they sort, compare and are indexed
alike on every database, and cost no parsing. Ids are UUIDs as text. The
migrations make the tables; the classes say how rows are read and written.
"""

from __future__ import annotations

import datetime
from enum import StrEnum
from typing import Any

import peewee

from qinling_falcon.models import clock

database: peewee.Proxy = peewee.DatabaseProxy()


class RuntimeStatus(StrEnum):
    """The states of a runtime; functions run in one that is available."""

    CREATING = "creating"
    AVAILABLE = "available"
    ERROR = "error"
    UPGRADING = "upgrading"
    DELETING = "deleting"


class ExecutionStatus(StrEnum):
    """The states of an execution; all but `running` are final."""

    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    ERROR = "error"
    CANCELLED = "cancelled"
    DEAD = "dead"


class UtcTime(peewee.BigIntegerField):  # type: ignore[misc]
    """A time in UTC with microseconds."""

    def db_value(self, value: datetime.datetime | int | None) -> int | None:
        """Microseconds since the epoch."""
        return clock.to_micros(value) if isinstance(value, datetime.datetime) else value

    def python_value(self, value: int | None) -> datetime.datetime | None:
        """An aware datetime in UTC."""
        return None if value is None else clock.from_micros(value)


class Row(peewee.Model):  # type: ignore[misc]
    """What all tables share."""

    id: str = peewee.CharField(max_length=36, primary_key=True)
    project_id: str = peewee.CharField()
    created_at: datetime.datetime = UtcTime(default=clock.now)
    updated_at: datetime.datetime | None = UtcTime(null=True)

    class Meta:
        database = database
        legacy_table_names = False


class Runtime(Row):
    """A language environment with a warm pool of its own.

    `image` is the one that was asked for last; while it is tried, `previous_image`
    is the one to go back to.
    """

    name: str | None = peewee.CharField(null=True)
    description: str | None = peewee.CharField(null=True)
    image: str = peewee.CharField()
    previous_image: str | None = peewee.CharField(null=True)
    is_public: bool = peewee.BooleanField(default=True)
    trusted: bool = peewee.BooleanField(default=True)
    status: str = peewee.CharField(max_length=32, default=RuntimeStatus.CREATING.value)
    status_reason: str | None = peewee.TextField(null=True)

    class Meta:
        table_name = "runtimes"


class Function(Row):
    """Code, entry and limits: the mutable head, version 0.

    `digest` names what a worker loads: two rows with one digest load the same.
    `package_key` is where the storage keeps the package.
    """

    name: str | None = peewee.CharField(null=True)
    description: str | None = peewee.CharField(null=True)
    runtime_id: str | None = peewee.CharField(max_length=36, null=True)
    code: dict[str, Any] = peewee.JSONField()
    entry: str | None = peewee.CharField(max_length=80, null=True)
    cpu: int = peewee.IntegerField()
    memory_size: int = peewee.BigIntegerField()
    timeout: int = peewee.IntegerField()
    count: int = peewee.BigIntegerField(default=0)
    latest_version: int = peewee.IntegerField(default=0)
    digest: str = peewee.CharField(max_length=64)
    package_key: str | None = peewee.CharField(null=True)

    class Meta:
        table_name = "functions"


class Execution(Row):
    """One run of a function. `log` is loaded only where it is asked for."""

    function_id: str = peewee.CharField(max_length=36)
    function_version: int = peewee.IntegerField(default=0)
    function_alias: str | None = peewee.CharField(null=True)
    description: str | None = peewee.CharField(null=True)
    input: str | None = peewee.TextField(null=True)
    result: str | None = peewee.TextField(null=True)
    log: str | None = peewee.TextField(null=True)
    status: str = peewee.CharField(max_length=32)
    status_reason: str | None = peewee.TextField(null=True)
    sync: bool = peewee.BooleanField(default=True)
    cold: str | None = peewee.CharField(max_length=16, null=True)
    queued_ms: float | None = peewee.DoubleField(null=True)
    run_ms: float | None = peewee.DoubleField(null=True)
    source: str = peewee.CharField(max_length=16, default="api")

    class Meta:
        table_name = "executions"


ALL: tuple[type[Row], ...] = (Runtime, Function, Execution)
