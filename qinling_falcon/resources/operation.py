"""What a responder is: the policy that guards it, and what the API document says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., None])

_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one route.

    Attributes:
        rule: name of the policy that a caller must pass; None: it is open to everybody.
    """

    rule: str | None


def operation(rule: str | None) -> Callable[[F], F]:
    """Mark a responder as an operation of the API."""

    def mark(responder: F) -> F:
        vars(responder)["operation"] = Operation(rule)
        return responder

    return mark


def operations_of(resource: Any) -> dict[str, Operation]:
    """The operations of a resource (or its class), by HTTP method.

    Raises:
        TypeError: a responder is not marked as one.
    """
    found = {}
    for method in _METHODS:
        responder = getattr(resource, f"on_{method.lower()}", None)
        if responder is not None:
            marked = getattr(responder, "operation", None)
            if not isinstance(marked, Operation):
                raise TypeError(f"{type(resource).__name__}: {method} is not marked as an operation")
            found[method] = marked
    return found
