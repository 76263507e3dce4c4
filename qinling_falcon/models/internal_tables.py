"""The models of the service's own bookkeeping: queues, keys, limits, and what it has still to delete.

The API does not list these rows; the tables that it lists are in `tables.py`.

Times in fields of integers are microseconds since the epoch.
"""

from __future__ import annotations

import datetime

import peewee

from qinling_falcon.models import clock
from qinling_falcon.models.base import UtcTime, database


class DoomedTrust(peewee.Model):
    """A trust that no function uses any more; its row stays until Keystone has deleted it. No caller sees it.

    One with a `created_at` to come was made just now, for a function that is about to be written.
    """

    id = peewee.CharField(max_length=64, primary_key=True)
    created_at: UtcTime[datetime.datetime] = UtcTime(default=clock.now)

    class Meta:
        database = database
        legacy_table_names = False
        table_name = "doomed_trusts"


class ProjectQuota(peewee.Model):
    """The limits that an admin has set for one project, by kind; see `quotas`.

    The row is also a lock: a write that counts the project's rows locks this row first.
    """

    project_id = peewee.CharField(primary_key=True)
    limits = peewee.JSONField(default=dict)

    class Meta:
        database = database
        legacy_table_names = False
        table_name = "project_quotas"


class QueuedExecution(peewee.Model):
    """An execution that was accepted and has not ended.

    Claims and sweeps change this small row, and leave the indexes of `executions` alone.

    Attributes of a row:
        not_before: when it may be claimed next. Before its first claim it is due in any case.
        claimed_until: until when a process has claimed it; 0: it is not claimed.
        claim: the number of its latest claim, the only one that may end it. After a retry it starts at a random number.
        attempt: how often its function may have been started, the present claim included.
        failures: how many attempts are known to have failed.
        since: when a user had it retried; 0: it was not retried since it was accepted. Its age counts from then on.
        due_at: from when on it waits for its next attempt; 0: since it was accepted or retried. Unlike `not_before`, it
            stays while no worker is free.
    """

    id = peewee.CharField(max_length=36, primary_key=True)
    project_id = peewee.CharField()
    function_id = peewee.CharField(max_length=36, default="")
    not_before = peewee.BigIntegerField()
    claimed_until = peewee.BigIntegerField(default=0)
    claim = peewee.IntegerField(default=0)
    failures = peewee.IntegerField(default=0)
    since = peewee.BigIntegerField(default=0)
    due_at = peewee.BigIntegerField(default=0)
    attempt = peewee.IntegerField(default=0)

    class Meta:
        database = database
        legacy_table_names = False
        table_name = "execution_queue"


class DeletedFunction(peewee.Model):
    """A function that was deleted while it may have had queued executions; see `deleted_functions`."""

    id = peewee.CharField(max_length=36, primary_key=True)
    project_id = peewee.CharField()

    class Meta:
        database = database
        legacy_table_names = False
        table_name = "deleted_functions"


class IdempotencyKey(peewee.Model):
    """An `Idempotency-Key` that a project has sent, and the execution that it stands for; see `idempotency`.

    Some rows stand for no key: they remember failed executions, see `pruned_failures`.

    Attributes of a row:
        digest: SHA-256 of the request, as hexadecimal digits.
        execution_id: the execution. It may have no row yet, or no row any more.
        claimed_until: until when a process has claimed the key for an execution without a row; 0: it has had a row.
        expires_at: from when on the key counts as absent.
    """

    project_id = peewee.CharField()
    idempotency_key = peewee.CharField()
    digest = peewee.CharField(max_length=64)
    execution_id = peewee.CharField(max_length=36)
    claimed_until = peewee.BigIntegerField(default=0)
    expires_at = peewee.BigIntegerField()

    class Meta:
        database = database
        legacy_table_names = False
        table_name = "idempotency_keys"
        primary_key = peewee.CompositeKey("project_id", "idempotency_key")


class Callback(peewee.Model):
    """A request that is due because an asynchronous execution has ended, and that has not been delivered yet.

    Attributes of a row:
        id: that of the execution and the time of its end. It is the id of the request, the same for all attempts.
        execution_id: the execution. One that ends again, after a retry, has a new callback instead of this one.
        url: where the request goes; that of the function when the execution ended.
        event: `execution.success` or `execution.failure`.
        not_before: when the next attempt may start.
        claimed_until: until when a process has claimed it; 0: it is not claimed.
        attempt: how often it was claimed. Only the claim with this number may end it.
    """

    id = peewee.CharField(max_length=64, primary_key=True)
    execution_id = peewee.CharField(max_length=36, unique=True)
    project_id = peewee.CharField()
    function_id = peewee.CharField(max_length=36)
    url = peewee.TextField()
    event = peewee.CharField(max_length=32)
    not_before = peewee.BigIntegerField()
    claimed_until = peewee.BigIntegerField(default=0)
    attempt = peewee.IntegerField(default=0)
    created_at: UtcTime[datetime.datetime] = UtcTime(default=clock.now)

    class Meta:
        database = database
        legacy_table_names = False
        table_name = "callbacks"
