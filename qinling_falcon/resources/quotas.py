"""`/v1/quotas`: the limits of a project and their use."""

from __future__ import annotations

import contextlib
from typing import Any

import falcon

from qinling_falcon.errors import BadRequest, Forbidden, Unavailable
from qinling_falcon.models import function as functions
from qinling_falcon.models import quotas
from qinling_falcon.pool.pool import Pool
from qinling_falcon.resources.answers import answer
from qinling_falcon.resources.bodies import read_object
from qinling_falcon.resources.operation import operation, shows
from qinling_falcon.resources.request import Request
from qinling_falcon.resources.services import Services
from qinling_falcon.schemas.quotas import QuotasShown, QuotasUpdate
from qinling_falcon.schemas.strict_json import check_text

_update = QuotasUpdate()
_LONGEST = 255
_PROJECT = (
    "project_id",
    {"type": "string", "minLength": 1, "maxLength": _LONGEST, "description": "Another project; for admins."},
)


class Quotas:
    """The quotas of one project."""

    def __init__(self, services: Services):
        self._services = services

    @operation("quota:get", answers=shows(QuotasShown), query=(_PROJECT,))
    def on_get(self, req: Request, resp: falcon.Response) -> None:
        """Show the limits and the use of the caller's project. An admin may name another project."""
        answer(resp, self._show(_project_of(req, _named_in_query(req))))

    @operation("quota:update", takes=QuotasUpdate, answers=shows(QuotasShown))
    def on_put(self, req: Request, resp: falcon.Response) -> None:
        """Set some limits of a project; the other limits stay.

        A limit below the use deletes nothing. It only refuses further rows. After a crash between the write of the row
        and the refresh, other processes use the old limit of executions for about a second.
        """
        limits = _update.read(read_object(req, self._services.settings))
        project_id = _project_of(req, limits.pop("project_id", None))
        if limits:
            quotas.change(project_id, limits)
        if quotas.EXECUTIONS in limits:
            _have_limit_read(self._services.pool, project_id)
        answer(resp, self._show(project_id))

    def _show(self, project_id: str) -> dict[str, Any]:
        found = quotas.of_project(project_id, self._services.execution_quota.used)
        return {"quotas": {kind: {"limit": quota.limit, "used": quota.used} for kind, quota in found.items()}}


def _have_limit_read(pool: Pool, project_id: str) -> None:
    """Make the project's targets stale, so that each process reads the limit of executions again at the next call."""
    with contextlib.suppress(Unavailable):  # without Redis there are no calls
        for function_id in functions.ids_of(project_id):
            with pool.changing(f"function:{function_id}"):
                pass


def _named_in_query(req: Request) -> str | None:
    named = req.params.get("project_id")
    if named is None:
        return None
    if not isinstance(named, str) or not 1 <= len(named) <= _LONGEST:
        message = f"expected one id of a project, of at most {_LONGEST} characters."
        raise BadRequest(f"project_id: {message}", errors={"project_id": [message]})
    check_text(named, "Parameter 'project_id'")
    return named


def _project_of(req: Request, named: str | None) -> str:
    """The project that a request is about.

    Raises:
        Forbidden: the caller names another project and is not an admin.
    """
    if named is None or named == req.caller.project_id:
        return req.caller.project_id
    if not req.caller.is_admin:
        raise Forbidden("Operation not allowed: only an admin may name another project_id.")
    return named
