"""What tenants and admins try on what another tenant has: for every method of every route, the requests that matter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.api.client import package
from tests.api.tenancy import Act

OPEN = {
    ("GET", path)
    for path in ("/", "/v1", "/healthz", "/readyz", "/openapi.json", "/docs", "/docs/{file_name}")
}
"""Served to everybody, and about no project."""

DELIVERED = frozenset({"/v1/webhooks/{webhook_id}/invoke", "/v1/webhooks/{webhook_id}/invoke/{path:path}"})
"""Routes of senders, who need no token."""

LISTS: Mapping[str, str] = {
    "/v1/runtimes": "runtime_id",
    "/v1/functions": "function_id",
    "/v1/functions/{function_id}/versions": "version_id",
    "/v1/aliases": "alias_id",
    "/v1/executions": "execution_id",
    "/v1/webhooks": "webhook_id",
    "/v1/jobs": "job_id",
}
"""Routes whose GET is a list of rows, and which thing is one of its rows."""

_FUNCTION = "/v1/functions/{function_id}"
_CODE = '{{"source": "package"}}'
_NEW = {"name": "new", "code": _CODE, "package": package()}


def _seen(**more: Any) -> Act:
    return Act(stranger=404, admin=200, owner=200, **more)


def _owners(owner: int, **more: Any) -> Act:
    return Act(stranger=404, admin=403, owner=owner, **more)


def _own_only(owner: int, **more: Any) -> Act:
    return Act(stranger=404, admin=404, owner=owner, **more)


def _admins(admin: int, **more: Any) -> Act:
    return Act(stranger=403, admin=admin, owner=403, **more)


def _naming(owner: int, path: str = "", **body: Any) -> list[Act]:
    """Bodies that name a function, a version of it, or an alias: the caller's own project's alone."""
    targets: list[dict[str, Any]] = [
        {"function_id": "{function_id}"},
        {"function_id": "{function_id}", "function_version": 1},
        {"function_alias": "{alias_name}"},
    ]
    return [_own_only(owner, path=path, field=next(iter(target)), body=target | body) for target in targets]


ACTS: Mapping[tuple[str, str], list[Act]] = {
    ("POST", "/v1/runtimes"): [_admins(201, body={"image": "python3"})],
    ("GET", "/v1/runtimes/{runtime_id}"): [
        _seen(),
        Act(stranger=200, admin=200, owner=200, path="/v1/runtimes/{public_runtime_id}"),
    ],
    ("PUT", "/v1/runtimes/{runtime_id}"): [
        _admins(200, body={"name": "mine"}),
        _admins(200, body={}),
        _admins(200, path="/v1/runtimes/{public_runtime_id}", body={"name": "mine"}),
    ],
    ("DELETE", "/v1/runtimes/{runtime_id}"): [_admins(204, path="/v1/runtimes/{spare_runtime_id}"), _admins(403)],
    ("GET", "/v1/runtimes/{runtime_id}/pool"): [_admins(200)],
    ("GET", "/v1/pool"): [_admins(200)],
    ("GET", "/v1/pool/workers"): [_admins(200)],
    ("GET", "/v1/pool/queues"): [_admins(200)],
    ("GET", "/v1/pool/events"): [_admins(200)],
    ("GET", "/v1/pool/executions/{execution_id}"): [
        _admins(200),
        _admins(200, path="/v1/pool/executions/{live_id}"),
    ],
    ("POST", "/v1/functions"): [
        _own_only(201, field="runtime_id", form=_NEW | {"runtime_id": "{runtime_id}"}),
        Act(stranger=201, admin=201, owner=201, form=_NEW | {"runtime_id": "{public_runtime_id}"}),
    ],
    ("GET", _FUNCTION): [_seen(), _seen(query="download=true")],
    ("PUT", _FUNCTION): [
        _owners(200, form={"name": "mine"}),
        _owners(200, form={"timeout": "9"}),
        _owners(200, form={"code": _CODE, "package": package("mine = 1")}),
        _owners(200, form={"runtime_id": "{public_runtime_id}"}),
        _owners(200, body={}),
        _own_only(200, path="/v1/functions/{my_function_id}", field="runtime_id", form={"runtime_id": "{runtime_id}"}),
        Act(
            stranger=200,
            admin=200,
            owner=200,
            path="/v1/functions/{my_function_id}",
            form={"runtime_id": "{public_runtime_id}"},
        ),
    ],
    ("DELETE", _FUNCTION): [_owners(204)],
    ("GET", f"{_FUNCTION}/workers"): [_admins(200), _admins(200, query="function_version=1")],
    ("POST", f"{_FUNCTION}/versions"): [_owners(201, body={"description": "mine"})],
    ("GET", f"{_FUNCTION}/versions/{{version}}"): [_seen(), _seen(query="download=true")],
    ("DELETE", f"{_FUNCTION}/versions/{{version}}"): [_owners(204)],
    # No worker takes it in time here: what matters is that an admin may ask.
    ("POST", f"{_FUNCTION}/scale_up"): [_admins(503)],
    ("POST", f"{_FUNCTION}/scale_down"): [_admins(202)],
    ("POST", f"{_FUNCTION}/detach"): [_admins(202)],
    ("POST", f"{_FUNCTION}/versions/{{version}}/scale_up"): [_admins(503)],
    ("POST", f"{_FUNCTION}/versions/{{version}}/scale_down"): [_admins(202)],
    ("POST", f"{_FUNCTION}/versions/{{version}}/detach"): [_admins(202)],
    ("POST", "/v1/aliases"): [
        _own_only(201, field="function_id", body={"name": "one", "function_id": "{function_id}"}),
        _own_only(
            201, field="function_id", body={"name": "two", "function_id": "{function_id}", "function_version": 1}
        ),
        _own_only(
            201, field="function_id", body={"name": "three", "function_id": "{function_id}", "routing": {"1": 0.5}}
        ),
        # Names are unique in a project, not beyond it.
        Act(stranger=201, admin=201, owner=409, body={"name": "{alias_name}", "function_id": "{my_function_id}"}),
    ],
    ("GET", "/v1/aliases/{alias_name}"): [_own_only(200)],
    ("PUT", "/v1/aliases/{alias_name}"): [
        _own_only(202, body={"description": "mine"}),
        _own_only(202, body={}),
        _own_only(202, body={"function_id": "{my_function_id}"}),
        _own_only(
            202, path="/v1/aliases/{my_alias_name}", field="function_id", body={"function_id": "{function_id}"}
        ),
    ],
    ("DELETE", "/v1/aliases/{alias_name}"): [_own_only(204)],
    ("POST", "/v1/executions"): [
        Act(stranger=404, admin=201, owner=201, field="function_id", body={"function_id": "{function_id}"}),
        Act(
            stranger=404,
            admin=201,
            owner=201,
            field="function_id",
            body={"function_id": "{function_id}", "function_version": 1},
        ),
        # Also when its function is asked for with a version that it doesn't have.
        Act(
            stranger=404,
            admin=404,
            owner=404,
            body={"function_id": "{function_id}", "function_version": 99},
        ),
        _own_only(201, field="function_alias", body={"function_alias": "{alias_name}"}),
    ],
    ("GET", "/v1/executions/{execution_id}"): [_seen(), _seen(path="/v1/executions/{live_id}")],
    ("PUT", "/v1/executions/{execution_id}"): [
        Act(stranger=404, admin=403, owner=409, body={"status": "cancelled"}),
        _owners(202, path="/v1/executions/{queued_id}", body={"status": "cancelled"}),
    ],
    ("POST", "/v1/executions/{execution_id}/retry"): [
        Act(stranger=404, admin=403, owner=409),
        _owners(202, path="/v1/executions/{failed_id}/retry"),
    ],
    ("POST", "/v1/executions/retry"): [Act(stranger=200, admin=200, owner=200, body={"status": "failed"})],
    ("DELETE", "/v1/executions"): [Act(stranger=200, admin=200, owner=200, query="status=failed")],
    ("DELETE", "/v1/executions/{execution_id}"): [
        _owners(204, path="/v1/executions/{live_id}"),
        _owners(204, path="/v1/executions/{queued_id}"),
        _owners(204),
    ],
    ("GET", "/v1/executions/{execution_id}/log"): [_seen(), _seen(path="/v1/executions/{live_id}/log")],
    ("POST", "/v1/webhooks"): _naming(201),
    ("GET", "/v1/webhooks/{webhook_id}"): [_seen()],
    ("PUT", "/v1/webhooks/{webhook_id}"): [
        _owners(202, body={"description": "mine"}),
        _owners(202, body={"function_id": "{my_function_id}"}),
        _owners(202, body={}),
        *_naming(202, path="/v1/webhooks/{my_webhook_id}"),
    ],
    ("DELETE", "/v1/webhooks/{webhook_id}"): [_owners(204)],
    ("GET", "/v1/webhooks/{webhook_id}/deliveries"): [_seen()],
    ("POST", "/v1/jobs"): _naming(201, pattern="0 0 * * *"),
    ("GET", "/v1/jobs/{job_id}"): [_seen()],
    ("PUT", "/v1/jobs/{job_id}"): [
        _owners(202, body={"name": "mine"}),
        _owners(202, body={"status": "paused"}),
        _owners(202, body={}),
    ],
    ("POST", "/v1/jobs/{job_id}/run"): [_owners(202)],
    ("DELETE", "/v1/jobs/{job_id}"): [_owners(204)],
    ("GET", "/v1/quotas"): [
        Act(stranger=200, admin=200, owner=200),
        Act(stranger=403, admin=200, owner=200, query="project_id={project_id}"),
    ],
    ("PUT", "/v1/quotas"): [
        _admins(200, body={"aliases": 5}),
        _admins(200, body={"aliases": 5, "project_id": "{project_id}"}),
        _admins(200, body={}),
    ],
}
