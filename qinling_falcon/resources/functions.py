"""`/v1/functions`: code, entry point and limits."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import falcon

from qinling_falcon.errors import Unavailable
from qinling_falcon.models import function as functions
from qinling_falcon.models.listing import page
from qinling_falcon.models.rows import check_owner
from qinling_falcon.models.scope import scoped
from qinling_falcon.pool.pool import Pool
from qinling_falcon.resources.answers import answer, created
from qinling_falcon.resources.downloads import DOWNLOAD, ZIP, send_file, send_package, wants_download
from qinling_falcon.resources.forms import read_upload
from qinling_falcon.resources.lists import answer_page, list_params, may_list_all
from qinling_falcon.resources.operation import lists, makes, operation, shows
from qinling_falcon.resources.packages import changes_of, columns_of_new, taken_back
from qinling_falcon.resources.request import Request
from qinling_falcon.resources.services import Services
from qinling_falcon.resources.swift_code import SwiftCode
from qinling_falcon.resources.vouching import sweep_trusts, vouched
from qinling_falcon.schemas.functions import FunctionCreate, FunctionMade, FunctionShown, FunctionUpdate

_made = FunctionMade()
_shown = FunctionShown()
# What no worker and no resolved target knows of.
_UNSEEN = frozenset({"name", "description"}) | functions.CALLBACKS


class Functions:
    """All functions of a project."""

    def __init__(self, services: Services):
        self._policy = services.policy
        self._services = services
        self._create = FunctionCreate(services.settings)
        self._swift = SwiftCode(services.settings, services.packages)

    @operation(
        "function:create",
        takes=FunctionCreate,
        form=True,
        answers=makes(FunctionMade),
        errors=(404, 409, 501, 502),
    )
    def on_post(self, req: Request, resp: falcon.Response) -> None:
        """Make a function of an uploaded package, of an object in Swift, or of an image.

        A package, or the copy of an object, is durable before the row is written, and so is the caller's trust. A
        crash in between leaves a file that no row names, which the storage sweeps up, and a trust that nobody uses.
        """
        services = self._services
        upload = read_upload(req, services.packages, services.settings, self._create.fields)
        with taken_back(services.packages, upload):
            values = self._create.read(upload.fields, lenient=req.reference_client)
            values = columns_of_new(values, upload, functools.partial(self._swift.take, req.identity))
            with vouched(services, req, values["code"]["source"]) as trust_id, upload.handed_over():
                function = functions.create(req.caller, **values, trust_id=trust_id)
        path = f"/v1/functions/{function.id}"
        created(req, resp, _made.show(function), path, services.settings.public_endpoint)

    @operation(
        "function:get_all",
        answers=lists("functions", FunctionShown, functions.LISTS, all_projects=True),
    )
    def on_get(self, req: Request, resp: falcon.Response) -> None:
        """List the project's functions, or for an admin those of all."""
        settings = self._services.settings
        all_projects = may_list_all(req, self._policy, "function:get_all:all_projects")
        params = list_params(req, settings, functions.LISTS, all_projects=all_projects)
        found = page(scoped(req.caller, all_projects=all_projects).functions(), functions.LISTS, params)
        answer_page(req, resp, settings, "functions", found, _shown)


class OneFunction:
    """One function."""

    def __init__(self, services: Services):
        self._services = services
        self._update = FunctionUpdate(services.settings)
        self._swift = SwiftCode(services.settings, services.packages)

    @operation("function:get", answers=shows(FunctionShown, **ZIP), query=(DOWNLOAD,), errors=(405, 413, 501, 502))
    def on_get(self, req: Request, resp: falcon.Response, function_id: str) -> None:
        """Show a function, or with `download` send its package."""
        function = functions.get(req.caller, function_id)
        if wants_download(req):
            self._send(req, resp, function)
        else:
            answer(resp, _shown.show(function))

    @operation("function:update", takes=FunctionUpdate, form=True, answers=shows(FunctionMade), errors=(409, 501, 502))
    def on_put(self, req: Request, resp: falcon.Response, function_id: str) -> None:
        """Change a function. Calls that run go on with the old code; none that starts after the answer does.

        Whoever changes what runs vouches for it: new code, another entry or runtime come with a trust of the caller,
        or with none. A crash before the row is written leaves an unnamed file and trust at most. One after it
        leaves the change done, and the replaced package as an unnamed file: the storage sweeps both up. The
        replaced trust is doomed with the write, and swept by the pool manager. The mark of the change expires by
        itself; until then nobody caches the function.
        """
        services = self._services
        upload = read_upload(req, services.packages, services.settings, self._update.fields)
        with taken_back(services.packages, upload):
            function = functions.get(req.caller, function_id)
            check_owner(req.caller, function, "change")  # before transfers and trusts, and also when nothing changes
            values = self._update.read(_flattened(upload.fields, req), lenient=req.reference_client)
            changes = changes_of(function, values, upload, functools.partial(self._swift.take, req.identity))
            if changes.keys() - _UNSEEN:
                with self._vouched(req, function, changes), services.pool.changing(f"function:{function_id}"):
                    with upload.handed_over():
                        moved_from = function.code.get("swift") if "code" in changes else None
                        updated = functions.update(req.caller, function_id, changes, moved_from=moved_from)
                    if updated.reload:
                        _drain(services.pool, function_id, 0)
                function = updated.function
                sweep_trusts(services)
                for key in updated.unused:
                    services.packages.delete(key)
            elif changes:
                function = functions.update(req.caller, function_id, changes).function
        answer(resp, _made.show(function))

    @contextlib.contextmanager
    def _vouched(self, req: Request, function: functions.Function, changes: dict[str, Any]) -> Iterator[None]:
        """Let the row name a trust of the caller when it says what runs, and none of somebody else's."""
        if not changes.keys() & functions.VOUCHED:
            yield
            return
        with vouched(self._services, req, function.code["source"]) as trust_id:
            changes["trust_id"] = trust_id
            yield

    @operation("function:delete")
    def on_delete(self, req: Request, resp: falcon.Response, function_id: str) -> None:
        """Delete a function, with its package and workers; its executions stay.

        A crash after the row is gone leaves workers that nobody can lease, which end when they have been
        idle for long enough, the package as an unnamed file, which the storage sweeps up, and a doomed trust.
        """
        services = self._services
        # A change of what the caller can't see would be felt by its owner's calls.
        functions.get(req.caller, function_id)
        with services.pool.changing(f"function:{function_id}"):
            unused = functions.delete(req.caller, function_id)
            _drain(services.pool, function_id, None)
        for key in unused:
            services.packages.delete(key)
        sweep_trusts(services)
        resp.status = falcon.HTTP_204

    def _send(self, req: Request, resp: falcon.Response, function: functions.Function) -> None:
        """Send the function's package; of one in Swift what is there now, with the caller's rights."""
        name = f"{function.id}.zip"
        if "swift" in function.code:
            package, etag = self._swift.open(req.identity, function)
            send_file(req, resp, self._services.settings, package, name, etag)
        else:
            send_package(req, resp, self._services, function, name)


def _drain(pool: Pool, function_id: str, version: int | None) -> None:
    # The change is committed, and its new generation keeps calls from the old workers: draining only ends them sooner.
    with contextlib.suppress(Unavailable):
        pool.drain(function_id, version)


def _flattened(fields: dict[str, Any], req: Request) -> dict[str, Any]:
    """The reference client puts the members of `code` beside it."""
    if not req.reference_client or fields.get("code") is not None or fields.get("source") is None:
        return fields
    members = {name: fields[name] for name in ("source", "md5sum") if name in fields}
    return {name: value for name, value in fields.items() if name not in members} | {"code": members}
