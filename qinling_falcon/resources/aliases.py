"""`/v1/aliases`: names of versions of functions."""

from __future__ import annotations

import falcon

from qinling_falcon.errors import BadRequest
from qinling_falcon.invocation.targets import alias_cache_key
from qinling_falcon.models import alias as aliases
from qinling_falcon.models.listing import page
from qinling_falcon.models.scope import scoped
from qinling_falcon.resources.answers import accepted, answer, created
from qinling_falcon.resources.bodies import read_object
from qinling_falcon.resources.lists import answer_page, list_params, may_list_all
from qinling_falcon.resources.operation import accepts, lists, makes, operation, shows
from qinling_falcon.resources.request import Request
from qinling_falcon.resources.services import Services
from qinling_falcon.schemas.aliases import AliasCreate, AliasShown, AliasUpdate

_create = AliasCreate()
_update = AliasUpdate()
_shown = AliasShown()


class Aliases:
    """All aliases of a project."""

    def __init__(self, services: Services):
        self._policy = services.policy
        self._settings = services.settings

    @operation("function_alias:create", takes=AliasCreate, answers=makes(AliasShown), errors=(404, 409))
    def on_post(self, req: Request, resp: falcon.Response) -> None:
        """Make an alias.

        It is one row: after a crash it is there or not.
        """
        values = _create.read(read_object(req, self._settings), lenient=req.reference_client)
        alias = aliases.create(req.caller, **values)
        created(req, resp, _shown.show(alias), _path(alias.name), self._settings.public_endpoint)

    @operation(
        "function_alias:get_all",
        answers=lists("function_aliases", AliasShown, aliases.LISTS, all_projects=True),
    )
    def on_get(self, req: Request, resp: falcon.Response) -> None:
        """List the project's aliases, or for an admin those of all."""
        all_projects = may_list_all(req, self._policy, "function_alias:get_all:all_projects")
        params = list_params(req, self._settings, aliases.LISTS, all_projects=all_projects)
        found = page(scoped(req.caller, all_projects=all_projects).aliases(), aliases.LISTS, params)
        answer_page(req, resp, self._settings, "function_aliases", found, _shown)


class OneAlias:
    """One alias of the caller's project, by its name."""

    def __init__(self, services: Services):
        self._settings = services.settings
        self._pool = services.pool

    @operation("function_alias:get", answers=shows(AliasShown))
    def on_get(self, req: Request, resp: falcon.Response, alias_name: str) -> None:
        """Show an alias."""
        answer(resp, _shown.show(aliases.get(req.caller, alias_name)))

    @operation("function_alias:update", takes=AliasUpdate, answers=accepts(AliasShown))
    def on_put(self, req: Request, resp: falcon.Response, alias_name: str) -> None:
        """Change an alias; every call by its name that begins after the answer follows.

        A crash before the row is written changes nothing. After it, the mark of the change stands until it
        expires by itself, and until then nobody caches what the alias means.
        """
        changes = _update.read(read_object(req, self._settings), lenient=req.reference_client)
        if changes.pop("name", alias_name) != alias_name:
            message = "an alias keeps its name."
            raise BadRequest(f"name: {message}", errors={"name": [message]})
        alias = aliases.get(req.caller, alias_name)
        if changes:
            with self._pool.changing(alias_cache_key(req.caller.project_id, alias_name)):
                alias = aliases.update(req.caller, alias_name, changes)
        accepted(req, resp, _path(alias.name), self._settings.public_endpoint, _shown.show(alias))

    @operation("function_alias:delete")
    def on_delete(self, req: Request, resp: falcon.Response, alias_name: str) -> None:
        """Delete an alias.

        A crash leaves what one in `on_put` leaves.
        """
        aliases.get(req.caller, alias_name)
        with self._pool.changing(alias_cache_key(req.caller.project_id, alias_name)):
            aliases.delete(req.caller, alias_name)
        resp.status = falcon.HTTP_204


def _path(name: str) -> str:
    return f"/v1/aliases/{falcon.uri.encode_value(name)}"
