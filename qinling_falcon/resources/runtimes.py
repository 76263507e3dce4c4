"""`/v1/runtimes`: language environments, each with a warm pool."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import falcon

from qinling_falcon.errors import NotFound, Unavailable
from qinling_falcon.models import function as functions
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
        """Change a runtime. A new image is tried by the pool manager; until one worker answers, the old one serves.

        A change of `isolation` applies to all calls that begin after the answer.
        """
        changes = _update.read(read_object(req, self._services.settings), lenient=req.reference_client)
        runtime = runtimes.get(req.caller, runtime_id)
        if changes:
            with contextlib.ExitStack() as marks:
                if changes.get("isolation", runtime.isolation) != runtime.isolation:
                    marks.enter_context(_targets_changing(self._services.pool, runtime_id))
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


@contextlib.contextmanager
def _targets_changing(pool: Pool, runtime_id: str) -> Iterator[None]:
    """Surround the commit of a change that replaces all targets of a runtime; then drain the workers of the old ones.

    If the process crashes after the commit, the marks of the changes expire, and no call leases the old workers.
    """
    known = functions.ids_in_runtime(runtime_id)
    with contextlib.ExitStack() as marks:
        for function_id in known:
            marks.enter_context(pool.changing(f"function:{function_id}"))
        yield
        # Functions that were made meanwhile may have been resolved before the commit.
        made = functions.ids_in_runtime(runtime_id)
        for function_id in set(made).difference(known):
            marks.enter_context(pool.changing(f"function:{function_id}"))
    for function_id in made:
        with contextlib.suppress(Unavailable):  # no call leases these workers any more; draining only ends them sooner
            pool.drain(function_id)


def _wake(pool: Pool) -> None:
    # The row is committed; without the hint the manager's next pass finds it.
    with contextlib.suppress(Unavailable):
        pool.wake()
