"""A router for resources that take every HTTP method, also those that Falcon does not know."""

from __future__ import annotations

from typing import Any

from falcon import inspect
from falcon.routing import CompiledRouter


class _AnyMethod(dict[str, Any]):
    """The responders of a resource by method, with `on_other` for all methods without one."""

    def __init__(self, responders: dict[str, Any], other: Any):
        super().__init__(responders)
        self._other = other

    def __missing__(self, method: str) -> Any:
        return self._other


class Router(CompiledRouter):
    """Falcon's router, but `on_other` of a resource gets the methods that Falcon does not know and answers with 400."""

    def map_http_methods(self, resource: object, **kwargs: Any) -> Any:
        """The responders of a resource, by method."""
        responders: Any = super().map_http_methods(resource, **kwargs)
        other = getattr(resource, "on_other", None)
        return responders if other is None else _AnyMethod(responders, other)


# For `falcon-inspect-app` and the tests that walk all routes.
inspect.register_router(Router)(inspect.inspect_compiled_router)
