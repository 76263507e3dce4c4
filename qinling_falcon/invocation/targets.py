"""Resolution: finds the target (what a worker runs) for a function, version or alias.

A resolved target is cached in the process, so a warm call needs no SQL. A target carries the generation under which it
was read. The lease script compares it with the present one, so a stale target is never run. `Pool.changing` replaces
generations.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from qinling_falcon.bounded import BoundedCache
from qinling_falcon.errors import NotFound, NotSupported, Unavailable
from qinling_falcon.models.alias import draw_version
from qinling_falcon.models.database import reading
from qinling_falcon.models.references import alias_named, version_of
from qinling_falcon.models.rows import find_by_id
from qinling_falcon.models.runtime import not_available
from qinling_falcon.models.scope import Context, Scope, project_of, scoped
from qinling_falcon.models.states import Isolation, RuntimeStatus
from qinling_falcon.models.tables import Function, Runtime, Version
from qinling_falcon.pool.generations import may_cache
from qinling_falcon.pool.pool import Pool

if TYPE_CHECKING:
    from qinling_falcon.invocation.swift_sources import SwiftSources  # which needs `Target`

_CACHE_SIZE = 10_000
_MOST_CHANGES = 5

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class SwiftSource:
    """An object in Swift that a function's package is a copy of."""

    container: str
    object: str
    etag: str | None


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How the asynchronous executions of a function are retried.

    Attributes:
        max_attempts: an execution ends after this many failed attempts. Lost attempts do not count.
        backoff_s: the longest pause after the first failure, in seconds. It doubles with each further failure.
        max_age_s: an execution that is older than this is not started again, in seconds; None: `ASYNC_MAX_AGE_S`.
    """

    max_attempts: int = 1
    backoff_s: float = 1.0
    max_age_s: int | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """What is to run: one version of one function, with everything that a worker needs to load it.

    Attributes:
        key: names the code, entry point, limits and isolation. A worker that holds this key can serve the target.
        package: key of the package in the store.
        entry: the entry point.
        image: the image of a function with source `image`, which has no runtime, package or entry point. No worker
            loads it.
        memory_size: bytes.
        cpu: millicores.
        timeout_s: seconds that one execution may take.
        isolation: the stricter of the function's and its runtime's.
        concurrency: the most executions of this version at once; None: only the limits of the service apply.
        generations: pairs of (cache key, generation) that were current when the target was resolved.
        trust_id: the trust by which the function gets an OpenStack session.
        swift: the object of which `package` is a copy; None: the package was uploaded.
        retries: how asynchronous executions are retried.
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
    image: str | None = None
    trust_id: str | None = None
    swift: SwiftSource | None = None
    isolation: Isolation = Isolation.WARM
    concurrency: int | None = None
    retries: RetryPolicy = RetryPolicy()


@dataclass(frozen=True, slots=True)
class _ResolvedAlias:
    """A resolved alias.

    Attributes:
        function_id: the function that it names.
        version: the version that it names.
        routing: another version and its share of the calls.
        generation: (cache key, generation) of the alias.
        targets: by version, the target of the version and the one that also carries the alias's generation.
    """

    function_id: str
    version: int
    routing: tuple[int, float] | None
    generation: tuple[str, str]
    targets: dict[int, tuple[Target, Target]]


class Resolver:
    """Resolves functions, versions and aliases to targets, through caches of this process.

    Args:
        pool: reads the generations.
        sources: refreshes the copies of functions in Swift; None: the stored copies are used.
    """

    def __init__(self, pool: Pool, sources: SwiftSources | None = None):
        self._pool = pool
        self._sources = sources
        self._targets: BoundedCache[tuple[str, int], Target] = BoundedCache(_CACHE_SIZE)
        self._aliases: BoundedCache[str, _ResolvedAlias] = BoundedCache(_CACHE_SIZE)

    def resolve(self, context: Context, function_id: str, version: int) -> Target:
        """The target of (function, version), as the caller may see it.

        Raises:
            NotFound: unknown, or another project's.
            Conflict: the function's runtime is not available, or its object in Swift can't be used.
            Unavailable: the object changes again and again.
        """
        target = self._find(context, function_id, version)
        if target.swift is None or self._sources is None:
            return target
        for _ in range(_MOST_CHANGES):
            if self._sources.is_current(target):
                return target
            self.forget(target)
            target = self._find(context, function_id, version)
        message = f"The object in Swift of function {function_id} changes again and again; try again later."
        raise Unavailable(message, retry_after_s=1)

    def _find(self, context: Context, function_id: str, version: int) -> Target:
        key = (function_id, version)
        target = self._targets.get(key)
        if target is None:
            target = self._read(context, function_id, version)
            if target.image is None:  # with `process`, no lease would find out that a target with an image is stale
                _keep(self._targets, key, target, target.generations)
        if target.project_id != context.project_id and not context.is_admin:
            raise _unknown(function_id)
        return target

    def resolve_alias(self, context: Context, name: str) -> Target:
        """The target of an alias of the caller's project. With a routing, the version is drawn at each call.

        Raises:
            NotFound: unknown.
            Conflict, Unavailable: see `resolve`.
        """
        cache_key = alias_cache_key(context.project_id, name)
        alias = self._aliases.get(cache_key)
        if alias is None:
            alias = self._read_alias(context, name, cache_key)
            _keep(self._aliases, cache_key, alias, (alias.generation,))
        version = draw_version(alias.version, alias.routing)
        base = self.resolve(context, alias.function_id, version)
        if base.image is not None:
            self._aliases.pop(cache_key)  # as in `_find`
            return base
        made = alias.targets.get(version)
        if made is None or made[0] is not base:
            made = base, replace(base, generations=(*base.generations, alias.generation))
            alias.targets[version] = made
        return made[1]

    def forget(self, target: Target) -> None:
        """Drop the cached values from which a stale target was made."""
        self._targets.pop((target.function_id, target.version))
        for cache_key, _ in target.generations:
            self._aliases.pop(cache_key)

    def _read(self, context: Context, function_id: str, version: int) -> Target:
        cache_key = f"function:{function_id}"
        seen = scoped(context, by_id=True)
        find_by_id(Scope.functions, seen, function_id, "function_id")
        # Only existing functions get a generation. It is read before the row, so a change in between makes the lease
        # fail. Then both are read again.
        generation = self._pool.generations([cache_key])[cache_key]
        with reading():
            function = find_by_id(Scope.functions, seen, function_id, "function_id")
            scope = project_of(function)
            source: Function | Version = function
            if version != 0:
                source = version_of(scope, function_id, version, field="function_version")
            image = function.code.get("image")
            isolation = Isolation.WARM
            if image is None:
                isolation = stricter(_available_runtime(scope, source).isolation, source.isolation)
        return Target(
            key=target_key(function_id, version, source.digest, isolation),
            function_id=function_id,
            version=version,
            runtime_id=source.runtime_id or "",
            project_id=function.project_id,
            package=source.package_key or "",
            image=image,
            entry=source.entry or "",
            cpu=source.cpu,
            memory_size=source.memory_size,
            timeout_s=source.timeout,
            generations=((cache_key, generation),),
            trust_id=source.trust_id,
            swift=_swift_source(function),
            isolation=isolation,
            concurrency=source.concurrency,
            retries=retry_policy_of(function),
        )

    def _read_alias(self, context: Context, name: str, cache_key: str) -> _ResolvedAlias:
        alias_named(scoped(context), name, field="function_alias")  # as in `_read`
        generation = self._pool.generations([cache_key])[cache_key]
        with reading():
            alias = alias_named(scoped(context), name, field="function_alias")
        return _ResolvedAlias(alias.function_id, alias.function_version, alias.routing, (cache_key, generation), {})


def retry_policy_of(function: Function) -> RetryPolicy:
    """How the asynchronous executions of a function and of its versions are retried."""
    return RetryPolicy(function.max_attempts, function.backoff_s, function.max_age_s)


def target_key(function_id: str, version: int, digest: str, isolation: Isolation) -> str:
    """The key of a target. A worker that holds this key can serve the target."""
    return f"{function_id}:{version}:{digest}:{isolation}"


def stricter(runtime: str, source: str | None) -> Isolation:
    """The stricter one of a runtime's isolation and that of a function or version."""
    return Isolation.PER_CALL if Isolation.PER_CALL in (runtime, source) else Isolation.WARM


def alias_cache_key(project_id: str, name: str) -> str:
    """The cache key of an alias."""
    return f"alias:{len(project_id)}:{project_id}:{name}"  # both may contain colons


def _swift_source(function: Function) -> SwiftSource | None:
    where = function.code.get("swift")
    return None if where is None else SwiftSource(where["container"], where["object"], function.source_etag)


def _available_runtime(scope: Scope, source: Function | Version) -> Runtime:
    if source.runtime_id is None or source.package_key is None:
        raise NotSupported(f"Function {source.id} has no package: only functions with one can be run.")
    runtime = find_by_id(Scope.runtimes, scope, source.runtime_id)
    if runtime.status not in (RuntimeStatus.AVAILABLE, RuntimeStatus.UPGRADING):
        raise not_available(runtime)
    return runtime


def _keep(cache: BoundedCache[K, V], key: K, value: V, generations: Iterable[tuple[str, str]]) -> None:
    """Cache a value that was read under these generations, unless a change was in progress."""
    if all(may_cache(generation) for _, generation in generations):
        cache.put(key, value)


def _unknown(function_id: str) -> NotFound:
    """The error for a caller that may not see a cached function: the same as for a function that does not exist."""
    message = f"Function {function_id} not found."
    return NotFound(f"function_id: {message}", errors={"function_id": [message]})
