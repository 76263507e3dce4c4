"""Heavy or blocking work, kept off the gevent hub."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")


def offload(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work` in a thread of gevent's pool while other greenlets go on; without gevent, right here."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("threading"):
        return work(*args, **kwargs)
    import gevent

    # An error that ends a task of gevent's pool is printed with its stack, though its caller handles it.
    result, error = gevent.get_hub().threadpool.apply(_outcome, (work, args, kwargs))
    if error is not None:
        raise error
    return cast(T, result)


def _outcome(work: Callable[..., T], args: Any, kwargs: Any) -> tuple[T | None, BaseException | None]:
    try:
        return work(*args, **kwargs), None
    except BaseException as error:
        return None, error
