"""Two tenants and an admin, each with things of all kinds, and the requests that they try on one another's."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from unittest import mock

from falcon import testing

from qinling_falcon import api
from qinling_falcon.auth.identity import Identity
from qinling_falcon.invocation.calls import detail
from qinling_falcon.invocation.targets import alias_cache_key
from qinling_falcon.models import clock, database, execution_queue, rollout, runtime, tables
from qinling_falcon.models.records import ExecutionRecord
from qinling_falcon.models.scope import Context
from qinling_falcon.observability.health import Check
from qinling_falcon.orchestrators.base import WorkerInfo
from qinling_falcon.pool.leases import LeaseRequest
from qinling_falcon.pool.registry import Registry
from qinling_falcon.resources.services import Services
from tests.api.client import Client
from tests.models.factories import end_claimed

OWNER = Context("project-a")
STRANGER = Context("project-b")
ADMIN = Context("project-of-admins", is_admin=True, roles=("admin",))
CALLERS = {context.project_id: context for context in (OWNER, STRANGER, ADMIN)}


class ByHeader:
    """Believes the header in which a test says who it is."""

    def authenticate(self, environ: Mapping[str, Any]) -> Identity:
        return Identity(CALLERS[environ["HTTP_X_TEST_PROJECT"]])

    def checks(self) -> dict[str, Check]:
        return {}


@dataclass(frozen=True)
class Things:
    """What a project has, by the names of paths' parameters. The alias, the webhook and the job name `named_id`.

    The runtimes are private, and nothing is in the spare one. The live execution has no row.
    """

    project_id: str
    runtime_id: str
    spare_runtime_id: str
    function_id: str
    named_id: str
    alias_name: str
    execution_id: str
    live_id: str
    queued_id: str
    failed_id: str
    webhook_id: str
    job_id: str
    version_id: str
    alias_id: str
    version: str = "1"


NOTHING = Things(**{field.name: str(uuid.uuid4()) for field in fields(Things)} | {"version": "1"})
"""Names of what nobody has."""


@dataclass(frozen=True, kw_only=True)
class Act:
    """One request, and what comes of it.

    In its texts `{function_id}` and the like are the things that it is aimed at, `{my_function_id}` the caller's.

    Attributes:
        stranger: the status that a tenant gets who aims it at another's things.
        admin: likewise an admin of another project.
        owner: the status that the tenant itself gets who has the things.
        field: of the body; what the message of a 404 names.
        path: where it is not the route's own.
        body: JSON.
        form: the parts of a form instead.
    """

    stranger: int
    admin: int
    owner: int
    field: str = ""
    path: str = ""
    query: str = ""
    body: Mapping[str, Any] | None = None
    form: Mapping[str, str | bytes] | None = None


class World:
    """A service whose two tenants and admins have the same things each."""

    def __init__(self, services: Services, registry: Registry):
        with mock.patch.object(api, "make_authenticator", lambda settings, policy: ByHeader()):
            self.client = Client(api.create_app(services), services.settings)
        self._services = services
        self._registry = registry
        self.public_runtime_id = str(self._post(ADMIN, "/v1/runtimes", image="python3")["id"])
        assert rollout.promote(self.public_runtime_id, "python3")
        self.things = {context: self._make(context) for context in CALLERS.values()}

    def send(
        self, context: Context, method: str, path: str, query: str = "", headers: Mapping[str, str] | None = None
    ) -> testing.Result:
        """A request without a body."""
        more = {"query_string": query, "headers": _as(context) | dict(headers or {})}
        return self.client.simulate_request(method, path, **more)

    def act(self, context: Context, method: str, route: str, act: Act, target: Things) -> testing.Result:
        """What comes of `act` by `context`, aimed at `target`."""
        names: dict[str, Any] = {f"my_{name}": value for name, value in asdict(self.things[context]).items()}
        names |= asdict(target) | {"public_runtime_id": self.public_runtime_id}

        def filled(value: Any) -> Any:
            return value.format(**names) if isinstance(value, str) else value

        path = filled(act.path or route)
        more: Any = {"query_string": filled(act.query), "headers": _as(context)}
        if act.form is not None:
            parts = [(name, filled(value)) for name, value in act.form.items()]
            return self.client.form(method, path, parts, **more)
        body = b"" if act.body is None else json.dumps({k: filled(v) for k, v in act.body.items()}).encode()
        return self.client.send(method, path, body, **more)

    def rows(self, context: Context | None = None) -> dict[str, list[Any]]:
        """The rows of all tables, or those of one project."""
        condition, params = ("", ()) if context is None else ("WHERE project_id = ?", (context.project_id,))
        engine = database.engine()
        rows = {}
        with database.reading():
            for name in (table._meta.table_name for table in tables.ALL):
                sql = f"SELECT * FROM {name} {condition} ORDER BY id".replace("?", engine.param)
                rows[name] = engine.execute_sql(sql, params).fetchall()
        return rows

    def packages(self) -> dict[str, bytes]:
        """All files in the package store."""
        return {path.name: path.read_bytes() for path in Path(self.client.settings.var_dir, "packages").iterdir()}

    def pooled(self) -> Any:
        """What the pool knows of the owner's functions: what they were resolved under, and their workers."""
        pool, its = self._services.pool, self.things[OWNER]
        cache_keys = [f"function:{function_id}" for function_id in (its.function_id, its.named_id)]
        cache_keys.append(alias_cache_key(OWNER.project_id, its.alias_name))
        return pool.generations(cache_keys), pool.workers(its.function_id, 0)

    def _make(self, context: Context) -> Things:
        mark = f"of {context.project_id}"
        private = {"image": "python3", "is_public": False, "name": mark, "description": mark}
        runtime_id, spare_runtime_id = (runtime.create(context, **private).id for _ in range(2))
        for made in (runtime_id, spare_runtime_id):
            assert rollout.promote(made, "python3")
        self._registry.configure(runtime_id, warm=1)
        function_id, named_id = (self._function(context, runtime_id, mark) for _ in range(2))
        version = self._post(context, f"/v1/functions/{function_id}/versions", description=mark)
        # What a second version is made of.
        change = self.client.form("PUT", f"/v1/functions/{function_id}", [("timeout", "7")], headers=_as(context))
        assert change.status_code == 200, change.text
        named = {"function_id": named_id, "description": mark}
        alias = self._post(context, "/v1/aliases", name=f"alias-{context.project_id[-1]}", **named)
        webhook = self._post(context, "/v1/webhooks", **named)
        job = self._post(
            context, "/v1/jobs", name=mark, function_id=named_id, function_input=mark, pattern="0 0 * * *"
        )
        execution = self._post(context, "/v1/executions", function_id=function_id, input=mark, description=mark)
        return Things(
            project_id=context.project_id,
            runtime_id=runtime_id,
            spare_runtime_id=spare_runtime_id,
            function_id=function_id,
            named_id=named_id,
            alias_name=str(alias["name"]),
            execution_id=str(execution["id"]),
            live_id=self._lease(context, runtime_id, function_id),
            queued_id=self._accept(context, function_id),
            failed_id=self._fail(self._accept(context, function_id)),
            webhook_id=str(webhook["id"]),
            job_id=str(job["id"]),
            version_id=str(version["id"]),
            alias_id=str(alias["id"]),
        )

    def _function(self, context: Context, runtime_id: str, mark: str) -> str:
        made = self.client.upload(runtime_id=runtime_id, name=mark, description=mark, headers=_as(context))
        assert made.status_code == 201, made.text
        return str(made.json["id"])

    def _post(self, context: Context, path: str, **body: Any) -> Any:
        made = self.client.simulate_post(path, headers=_as(context), json=body)
        assert made.status_code == 201, made.text
        return made.json

    def _accept(self, context: Context, function_id: str) -> str:
        """An asynchronous execution that is queued."""
        return str(self._post(context, "/v1/executions", function_id=function_id, sync=False)["id"])

    def _fail(self, execution_id: str) -> str:
        """The same, after it has failed."""
        now = clock.now()
        [it] = execution_queue.claim([execution_id], now, now)
        ended = ExecutionRecord(
            it.id, it.project_id, it.function_id, "failed", it.created_at, attempt=it.attempt, updated_at=now
        )
        assert end_claimed(ended)
        return execution_id

    def _lease(self, context: Context, runtime_id: str, function_id: str) -> str:
        """An execution that runs on the runtime's one worker, and has no row yet."""
        worker = WorkerInfo(str(uuid.uuid4()), "127.0.0.1:1", "secret")
        assert self._registry.register(worker.worker_id, runtime_id)
        self._registry.mark_ready(worker, runtime_id)
        begun = ExecutionRecord(
            id=str(uuid.uuid4()),
            project_id=context.project_id,
            function_id=function_id,
            status="running",
            created_at=clock.now(),
        )
        request = LeaseRequest(
            target=f"{function_id}:0:digest",
            runtime_id=runtime_id,
            function_id=function_id,
            project_id=context.project_id,
            execution_id=begun.id,
            generations=(),
            run_s=600,
            detail=detail(begun),
        )
        self._services.pool.lease(request, 1.0)
        return begun.id


def _as(context: Context) -> dict[str, str]:
    return {"X-Test-Project": context.project_id}
