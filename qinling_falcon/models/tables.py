"""The models of the tables whose rows users make and see. Other modules access rows through `scope`.

Ids are UUIDs as text. `internal_tables.py` has the other tables. The migrations create the tables; the classes define
how rows are read and written.
"""

from __future__ import annotations

import datetime
from typing import Any

import peewee

from qinling_falcon.models import clock
from qinling_falcon.models.base import UtcTime, database
from qinling_falcon.models.states import Isolation, JobStatus, Misfire, Overlap, RuntimeStatus


class Row(peewee.Model):
    """The columns that all tables of API resources share."""

    id = peewee.CharField(max_length=36, primary_key=True)
    project_id = peewee.CharField()
    created_at: UtcTime[datetime.datetime] = UtcTime(default=clock.now)
    updated_at: UtcTime[datetime.datetime | None] = UtcTime(null=True)

    class Meta:
        database = database
        legacy_table_names = False


class Runtime(Row):
    """A language environment with a warm pool of its own.

    `image` is the one that was asked for last. `previous_image` is the one before while `image` is on trial, and
    `fallback_image` is the one before during the rollout that follows (see `models/rollout.py`).
    """

    name = peewee.CharField(null=True)
    description = peewee.CharField(null=True)
    image = peewee.CharField()
    previous_image = peewee.CharField(null=True)
    fallback_image = peewee.CharField(null=True)
    is_public = peewee.BooleanField(default=True)
    trusted = peewee.BooleanField(default=True)
    status = peewee.CharField(max_length=32, default=RuntimeStatus.CREATING.value)
    status_reason = peewee.TextField(null=True)
    isolation = peewee.CharField(max_length=32, default=Isolation.WARM.value)

    class Meta:
        table_name = "runtimes"


class Function(Row):
    """A function's current code, entry and limits (version 0). Users can change it.

    `digest` identifies what a worker loads: rows with the same digest load the same.
    `package_key` is the package's key in the storage. For a function in Swift the
    package is a copy, and `source_etag` is the etag of the copied object.
    `package_size` is in bytes; null: not measured yet, in rows older than this column.
    `trust_id` is the Keystone trust with which the function acts for the user who
    uploaded the code; null: the function has no session.
    `isolation` is what the function asks for; null: its runtime's applies. Calls get the stricter of the two.
    `concurrency` is the most executions at once; null: only the limits of the service apply. `min_warm` is how many
    workers are kept assigned.
    `max_attempts`, `backoff_s` and `max_age_s` say how its asynchronous executions are retried, also those of its
    versions; a `max_age_s` of null is that of the settings.
    `on_success` and `on_failure` are URLs that are called when an asynchronous execution of the function or of one of
    its versions has ended (see `callbacks`). `callback_secret` signs these requests; it is encrypted (see
    `secret_keys`).
    """

    name = peewee.CharField(null=True)
    description = peewee.CharField(null=True)
    runtime_id = peewee.CharField(max_length=36, null=True)
    code = peewee.JSONField()
    entry = peewee.CharField(max_length=80, null=True)
    cpu = peewee.IntegerField()
    memory_size = peewee.BigIntegerField()
    timeout = peewee.IntegerField()
    count = peewee.BigIntegerField(default=0)
    latest_version = peewee.IntegerField(default=0)
    digest = peewee.CharField(max_length=64)
    package_key = peewee.CharField(null=True)
    package_size = peewee.BigIntegerField(null=True)
    source_etag = peewee.CharField(null=True)
    trust_id = peewee.CharField(max_length=64, null=True)
    isolation = peewee.CharField(max_length=32, null=True)
    concurrency = peewee.IntegerField(null=True)
    min_warm = peewee.IntegerField(default=0)
    max_attempts = peewee.IntegerField(default=1)
    backoff_s = peewee.DoubleField(default=1.0)
    max_age_s = peewee.IntegerField(null=True)
    on_success = peewee.TextField(null=True)
    on_failure = peewee.TextField(null=True)
    callback_secret = peewee.TextField(null=True)

    class Meta:
        table_name = "functions"

    @property
    def has_callback_secret(self) -> bool:
        """Whether callbacks are signed."""
        return self.callback_secret is not None


class Version(Row):
    """A snapshot of a function, with a number that is never reused.

    The function and other versions may share its package (see `package_keys`) and its trust (see `trusts`). The trust
    belongs to the user who uploaded this version's code, even if the function has changed since.
    """

    function_id = peewee.CharField(max_length=36)
    version_number = peewee.IntegerField()
    description = peewee.CharField(null=True)
    runtime_id = peewee.CharField(max_length=36)
    code = peewee.JSONField()
    entry = peewee.CharField(max_length=80)
    cpu = peewee.IntegerField()
    memory_size = peewee.BigIntegerField()
    timeout = peewee.IntegerField()
    count = peewee.BigIntegerField(default=0)
    digest = peewee.CharField(max_length=64)
    package_key = peewee.CharField()
    package_size = peewee.BigIntegerField(null=True)
    trust_id = peewee.CharField(max_length=64, null=True)
    isolation = peewee.CharField(max_length=32, null=True)
    concurrency = peewee.IntegerField(null=True)
    min_warm = peewee.IntegerField(default=0)

    class Meta:
        table_name = "function_versions"


class Alias(Row):
    """A name, unique in its project, of one version of a function.

    `routing_weight` is the share of calls that go to `routing_version` instead; both are null without one.
    """

    name = peewee.CharField()
    function_id = peewee.CharField(max_length=36)
    function_version = peewee.IntegerField(default=0)
    description = peewee.CharField(null=True)
    routing_version = peewee.IntegerField(null=True)
    routing_weight = peewee.DoubleField(null=True)

    class Meta:
        table_name = "function_aliases"

    @property
    def routing(self) -> tuple[int, float] | None:
        """The other version and its share, if there is one."""
        if self.routing_version is None or self.routing_weight is None:
            return None
        return self.routing_version, self.routing_weight


class Webhook(Row):
    """A URL that runs a function: of (function, version), or of an alias, and then the other two are null.

    `methods` has the HTTP methods that it takes; `*` is any. `cors` has the origins whose pages may call it, if any.
    `signature_secrets` is the JSON text of a list, encrypted (see `secret_keys`), and `signature_secret_count` is its
    length. Null in `signature_scheme`: not signed. Null in `rate_per_minute`: not limited.
    """

    function_id = peewee.CharField(max_length=36, null=True)
    function_version = peewee.IntegerField(null=True)
    function_alias = peewee.CharField(null=True)
    description = peewee.CharField(null=True)
    methods = peewee.JSONField(default=lambda: ["POST"])
    subpaths = peewee.BooleanField(default=False)
    pass_request = peewee.BooleanField(default=False)
    sync = peewee.BooleanField(default=False)
    enabled = peewee.BooleanField(default=True)
    cors = peewee.JSONField(null=True)
    signature_scheme = peewee.CharField(max_length=32, null=True)
    signature_tolerance_s = peewee.IntegerField(null=True)
    signature_secrets = peewee.TextField(null=True)
    signature_secret_count = peewee.IntegerField(default=0)
    rate_per_minute = peewee.IntegerField(null=True)
    rate_burst = peewee.IntegerField(null=True)

    class Meta:
        table_name = "webhooks"

    @property
    def signature(self) -> dict[str, Any] | None:
        """How deliveries are signed, with the number of secrets."""
        if self.signature_scheme is None:
            return None
        return {
            "scheme": self.signature_scheme,
            "tolerance_s": self.signature_tolerance_s,
            "secrets": self.signature_secret_count,
        }

    @property
    def rate_limit(self) -> dict[str, int] | None:
        """How many deliveries are taken, if that is limited."""
        if self.rate_per_minute is None or self.rate_burst is None:
            return None
        return {"per_minute": self.rate_per_minute, "burst": self.rate_burst}


class Job(Row):
    """Times at which a function runs: of (function, version) or of an alias, as with webhooks.

    Without a `pattern` it fires once. A `count` of null is one without end. The pattern is read in `timezone`.
    `last_execution_id` is the execution that it has made last, by firing or on request. `input_size` is the length of
    `function_input` in bytes.
    """

    name = peewee.CharField(null=True)
    function_id = peewee.CharField(max_length=36, null=True)
    function_version = peewee.IntegerField(null=True)
    function_alias = peewee.CharField(null=True)
    function_input = peewee.TextField(null=True)
    pattern = peewee.CharField(null=True)
    count = peewee.IntegerField(null=True)
    status = peewee.CharField(max_length=32, default=JobStatus.RUNNING.value)
    first_execution_time: UtcTime[datetime.datetime] = UtcTime()
    next_execution_time: UtcTime[datetime.datetime] = UtcTime()
    misfire = peewee.CharField(max_length=16, default=Misfire.RUN_ONCE.value)
    overlap = peewee.CharField(max_length=16, default=Overlap.ALLOW.value)
    timezone = peewee.CharField(max_length=64, default="UTC")
    last_execution_id = peewee.CharField(max_length=36, null=True)
    input_size = peewee.IntegerField(default=0)

    class Meta:
        table_name = "jobs"


class Execution(Row):
    """One run of a function. `log` is loaded only where it is asked for.

    `attempt` is how often its function may have been started; 0: it was accepted and not claimed. `callback_depth` is
    the length of the chain of callbacks that led to it; null: no callback led to it.
    """

    function_id = peewee.CharField(max_length=36)
    function_version = peewee.IntegerField(default=0)
    function_alias = peewee.CharField(null=True)
    description = peewee.CharField(null=True)
    input = peewee.TextField(null=True)
    result = peewee.TextField(null=True)
    log = peewee.TextField(null=True)
    status = peewee.CharField(max_length=32)
    status_reason = peewee.TextField(null=True)
    sync = peewee.BooleanField(default=True)
    cold = peewee.CharField(max_length=16, null=True)
    queued_ms = peewee.DoubleField(null=True)
    run_ms = peewee.DoubleField(null=True)
    source = peewee.CharField(max_length=16, default="api")
    attempt = peewee.IntegerField(default=1)
    webhook_id = peewee.CharField(max_length=36, null=True)
    job_id = peewee.CharField(max_length=36, null=True)
    request_id = peewee.CharField(null=True)
    callback_depth = peewee.IntegerField(null=True)

    class Meta:
        table_name = "executions"


ALL: tuple[type[Row], ...] = (Runtime, Function, Version, Alias, Webhook, Job, Execution)
