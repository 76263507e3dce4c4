"""Heavy or blocking work, kept off the gevent hub."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def offload(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work` in a thread of gevent's pool while other greenlets go on; without gevent, right here."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("threading"):
        return work(*args, **kwargs)
    import gevent

    result: T = gevent.get_hub().threadpool.apply(work, args, kwargs)
    return result
