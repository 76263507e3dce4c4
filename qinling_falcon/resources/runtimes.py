"""`/v1/runtimes`: language environments, each with a warm pool."""

from __future__ import annotations

import contextlib

import falcon

from qinling_falcon.errors import NotFound, Unavailable
from qinling_falcon.models import runtime as runtimes
from qinling_falcon.models.listing import page
from qinling_falcon.models.scope import scoped
from qinling_falcon.pool.pool import Pool
from qinling_falcon.resources.answers import answer, created
from qinling_falcon.resources.bodies import read_object
from qinling_falcon.resources.lists import answer_page, list_params
from qinling_falcon.resources.operation import lists, makes, operation, shows
from qinling_falcon.resources.request import Request
from qinling_falcon.resources.services import Services
from qinling_falcon.schemas.runtimes import PoolShown, RuntimeCreate, RuntimeShown, RuntimeUpdate

_create = RuntimeCreate()
_update = RuntimeUpdate()
_shown = RuntimeShown()


class Runtimes:
    """All runtimes that a project sees."""

    def __init__(self, services: Services):
        self._services = services

    @operation("runtime:create", takes=RuntimeCreate, answers=makes(RuntimeShown))
    def on_post(self, req: Request, resp: falcon.Response) -> None:
        """Make a runtime; the pool manager makes it available, or says why it can't.

        A crash after the row is written leaves a runtime in `creating`, which the
        manager's next pass finds.
        """
        settings = self._services.settings
        values = _create.read(read_object(req, settings), lenient=req.reference_client)
        runtime = runtimes.create(req.caller, **values)
        _wake(self._services.pool)
        created(req, resp, _shown.show(runtime), f"/v1/runtimes/{runtime.id}", settings.public_endpoint)

    @operation("runtime:get_all", answers=lists("runtimes", RuntimeShown, runtimes.LISTS))
    def on_get(self, req: Request, resp: falcon.Response) -> None:
        """List the project's own and the public runtimes."""
        settings = self._services.settings
        params = list_params(req, settings, runtimes.LISTS)
        found = page(scoped(req.caller).runtimes(), runtimes.LISTS, params)
        answer_page(req, resp, settings, "runtimes", found, _shown)


class OneRuntime:
    """One runtime."""

    def __init__(self, services: Services):
        self._services = services

    @operation("runtime:get", answers=shows(RuntimeShown))
    def on_get(self, req: Request, resp: falcon.Response, runtime_id: str) -> None:
        """Show a runtime."""
        answer(resp, _shown.show(runtimes.get(req.caller, runtime_id)))

    @operation("runtime:update", takes=RuntimeUpdate, answers=shows(RuntimeShown), errors=(409,))
    def on_put(self, req: Request, resp: falcon.Response, runtime_id: str) -> None:
        """Change a runtime. A new image is tried by the pool manager; until one worker answers, the old one serves."""
        changes = _update.read(read_object(req, self._services.settings), lenient=req.reference_client)
        if not changes:
            runtime = runtimes.get(req.caller, runtime_id)
        else:
            runtime = runtimes.update(req.caller, runtime_id, changes)
            _wake(self._services.pool)
        answer(resp, _shown.show(runtime))

    @operation("runtime:delete")
    def on_delete(self, req: Request, resp: falcon.Response, runtime_id: str) -> None:
        """Delete a runtime: it is `deleting` until its workers have ended.

        The pool manager ends them and removes the row, also after a crash here.
        """
        runtimes.delete(req.caller, runtime_id)
        _wake(self._services.pool)
        resp.status = falcon.HTTP_204


class RuntimePool:
    """The warm pool of one runtime."""

    def __init__(self, services: Services):
        self._pool = services.pool

    @operation("runtime_pool:get_all", answers=shows(PoolShown))
    def on_get(self, req: Request, resp: falcon.Response, runtime_id: str) -> None:
        """Count the workers of a runtime.

        Raises:
            NotFound: no such runtime, or it has no pool (yet).
        """
        runtimes.get(req.caller, runtime_id)
        capacity = self._pool.capacity(runtime_id)
        if capacity is None:
            raise NotFound(f"Runtime {runtime_id} has no pool.")
        counts = {"total": capacity.total, "available": capacity.available}
        answer(resp, {"name": runtime_id, "capacity": counts})


def _wake(pool: Pool) -> None:
    # The row is committed; without the hint the manager's next pass finds it.
    with contextlib.suppress(Unavailable):
        pool.wake()
