"""Resolution: from a name that a caller used to what is to run.

A resolved target is cached in the process and costs no SQL when warm. It
carries the generation that it was read under; the lease script compares it, so
that a stale target is never run (see `Pool.changing` for the other side).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from qinling_falcon.errors import Conflict, NotFound, NotSupported
from qinling_falcon.models.database import reading
from qinling_falcon.models.rows import find
from qinling_falcon.models.scope import Context, system
from qinling_falcon.models.tables import RuntimeStatus
from qinling_falcon.pool.generations import lasting
from qinling_falcon.pool.pool import Pool

_CACHE_SIZE = 10_000


@dataclass(frozen=True, slots=True)
class Target:
    """What is to run: one version of one function, with everything that a worker needs to load it.

    Attributes:
        key: names the code, entry and limits; a worker that holds this key can serve the target.
        package: key of the package in the store.
        memory_size: bytes.
        cpu: millicores.
        timeout_s: seconds that one execution may take.
        generations: what the target was resolved under, for the lease script.
    """

    key: str
    function_id: str
    version: int
    runtime_id: str
    project_id: str
    package: str
    entry: str
    cpu: int
    memory_size: int
    timeout_s: int
    generations: tuple[tuple[str, str], ...]


class Resolver:
    """Resolves functions to targets, through a cache of this process."""

    def __init__(self, pool: Pool):
        self._pool = pool
        self._cache: OrderedDict[tuple[str, int], Target] = OrderedDict()

    def resolve(self, context: Context, function_id: str, version: int) -> Target:
        """The target of (function, version), as the caller may see it.

        Raises:
            NotFound: unknown, or another project's.
            Conflict: the function's runtime is not available.
        """
        key = (function_id, version)
        target = self._cache.get(key)
        if target is None:
            target = self._read(function_id, version)
            if all(lasting(generation) for _, generation in target.generations):
                self._cache[key] = target
                if len(self._cache) > _CACHE_SIZE:
                    self._cache.popitem(last=False)
        if target.project_id != context.project_id and not context.is_admin:
            raise _unknown(function_id)
        return target

    def forget(self, target: Target) -> None:
        """Drop a target that was found stale."""
        self._cache.pop((target.function_id, target.version), None)

    def _read(self, function_id: str, version: int) -> Target:
        if version != 0:
            raise NotFound(
                f"function_version: version {version} of function {function_id} not found.",
                errors={"function_version": ["Not found."]},
            )
        what = f"function:{function_id}"
        # Before the row is read: a change that comes in between makes the lease fail, and we read again.
        generation = self._pool.generations([what])[what]
        scope = system("a target is resolved for all its callers; resolve() compares their project")
        with reading():
            function = find(scope.functions(), function_id, field="function_id")
            if function.runtime_id is None or function.package_key is None or function.entry is None:
                raise NotSupported(f"Function {function_id} has no package: only functions with one can be run.")
            runtime = find(scope.runtimes(), function.runtime_id)
        if runtime.status not in (RuntimeStatus.AVAILABLE, RuntimeStatus.UPGRADING):
            raise Conflict(f"Runtime {runtime.id} of function {function_id} is not available: it is {runtime.status}.")
        return Target(
            key=f"{function.id}:{version}:{function.digest}",
            function_id=function.id,
            version=version,
            runtime_id=function.runtime_id,
            project_id=function.project_id,
            package=function.package_key,
            entry=function.entry,
            cpu=function.cpu,
            memory_size=function.memory_size,
            timeout_s=function.timeout,
            generations=((what, generation),),
        )


def _unknown(function_id: str) -> NotFound:
    return NotFound(f"function_id: function {function_id} not found.", errors={"function_id": ["Not found."]})
