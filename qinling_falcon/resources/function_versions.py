"""`/v1/functions/{id}/versions`: numbered snapshots of a function."""

from __future__ import annotations

import contextlib
import re

import falcon

from qinling_falcon.errors import BadRequest, Unavailable
from qinling_falcon.models import function as functions
from qinling_falcon.models import version as versions
from qinling_falcon.models.listing import page
from qinling_falcon.resources.answers import answer, created
from qinling_falcon.resources.bodies import read_object
from qinling_falcon.resources.downloads import DOWNLOAD, ZIP, send_package, wants_download
from qinling_falcon.resources.lists import answer_page, list_params
from qinling_falcon.resources.operation import lists, makes, operation, shows
from qinling_falcon.resources.request import Request
from qinling_falcon.resources.services import Services
from qinling_falcon.resources.vouching import sweep_trusts
from qinling_falcon.schemas.function_versions import VersionCreate, VersionShown

_create = VersionCreate()
_shown = VersionShown()
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
VERSION = {"type": "string", "pattern": f"^(?:{_NUMBER.pattern})$", "description": "Number of a version."}


class FunctionVersions:
    """All versions of one function."""

    def __init__(self, services: Services):
        self._settings = services.settings

    @operation("function_version:create", takes=VersionCreate, answers=makes(VersionShown))
    def on_post(self, req: Request, resp: falcon.Response, function_id: str) -> None:
        """Make a version of the function as it is now.

        It shares the package, so that it is one row, there or not.
        """
        settings = self._settings
        values = _create.read(read_object(req, settings), lenient=req.reference_client)
        version = versions.create(req.caller, function_id, most=settings.max_versions, **values)
        path = f"/v1/functions/{function_id}/versions/{version.version_number}"
        created(req, resp, _shown.show(version), path, settings.public_endpoint)

    @operation("function_version:get_all", answers=lists("function_versions", VersionShown, versions.LISTS))
    def on_get(self, req: Request, resp: falcon.Response, function_id: str) -> None:
        """List the versions of a function."""
        functions.get(req.caller, function_id)
        params = list_params(req, self._settings, versions.LISTS)
        found = page(versions.of(req.caller, function_id), versions.LISTS, params)
        answer_page(req, resp, self._settings, "function_versions", found, _shown)


class OneVersion:
    """One version of a function."""

    def __init__(self, services: Services):
        self._services = services

    @operation("function_version:get", answers=shows(VersionShown, **ZIP), query=(DOWNLOAD,), errors=(405, 502))
    def on_get(self, req: Request, resp: falcon.Response, function_id: str, version: str) -> None:
        """Show a version, or with `download` send its package."""
        row = versions.get(req.caller, function_id, parse_version(version))
        if wants_download(req):
            send_package(req, resp, self._services, row, f"{function_id}_{row.version_number}.zip")
        else:
            answer(resp, _shown.show(row))

    @operation("function_version:delete")
    def on_delete(self, req: Request, resp: falcon.Response, function_id: str, version: str) -> None:
        """Delete a version, with its workers; its executions stay.

        A crash after the row is gone leaves workers that nobody can lease, which end when they have been idle
        for long enough, at most the package as an unnamed file, which the storage sweeps up, and a doomed trust.
        """
        services, number = self._services, parse_version(version)
        versions.get(req.caller, function_id, number)
        with services.pool.changing(f"function:{function_id}"):
            unused = versions.delete(req.caller, function_id, number)
            # The change is committed, and keeps calls from the old workers: draining only ends them sooner.
            with contextlib.suppress(Unavailable):
                services.pool.drain(function_id, number)
        for key in unused:
            services.packages.delete(key)
        sweep_trusts(services)
        resp.status = falcon.HTTP_204


def parse_version(text: str, field: str = "version") -> int:
    """The number of a version, from the part of a path or the parameter that is called `field`.

    Raises:
        BadRequest: it is none.
    """
    if not _NUMBER.fullmatch(text):
        message = f"Expected a version number but received {text[:80]}."
        raise BadRequest(f"{field}: {message}", errors={field: [message]})
    return int(text)
