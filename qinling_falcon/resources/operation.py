"""Describes the operations of the API: the policy of each, and its entry in the API document."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import falcon
from marshmallow import Schema

from qinling_falcon.models.listing import ListSpec
from qinling_falcon.schemas.base import RequestSchema

F = TypeVar("F", bound=Callable[..., None])

CrossSite = Literal["never", "navigation", "always"]

_METHODS = tuple(falcon.COMBINED_METHODS)


@dataclass(frozen=True, slots=True)
class Answer:
    """The successful answer of an operation.

    Attributes:
        status: the status code.
        shows: the schema of the JSON body, or of each row of a list; None: there is no JSON body.
        media_type: other media types of the body, separated by `, `; empty: none.
        headers: the headers that this answer always has, in addition to those of all answers.
        some_headers: the headers that it has in some cases.
        envelope: the name of a list in its envelope; empty: not a list.
        lists: for a list with pages: its filters and sort keys.
        all_projects: for a list: an admin can ask for the rows of all projects.
        cached: `If-None-Match` works: the answer is 304 if the content has not changed.
    """

    status: int = 204
    shows: type[Schema] | None = None
    media_type: str = ""
    headers: tuple[str, ...] = ()
    some_headers: tuple[str, ...] = ()
    envelope: str = ""
    lists: ListSpec[Any] | None = None
    all_projects: bool = False
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one route.

    Attributes:
        rule: the name of the policy rule; None: open to all callers.
        takes: the schema of the body; None: no body.
        form: the body may also be a form, with a package.
        any_body: the body may be anything.
        answers: the successful answer.
        otherwise: describes all other answers; empty: there are none.
        errors: error statuses in addition to those that follow from the other attributes (`openapi/answers.py`).
        query: parameters of the query string in addition to those of lists: names, and their JSON Schema, with
            `required: true` for one that must be given.
        headers: headers of the request that the operation reads: names, and their JSON Schema.
        is_documented: whether the API document has it.
        cross_site: what pages of other sites may do with `AUTH_MODE=noauth`: nothing, link to it, or call it.
    """

    rule: str | None
    takes: type[RequestSchema] | None = None
    form: bool = False
    any_body: bool = False
    answers: Answer = Answer()
    otherwise: str = ""
    errors: tuple[int, ...] = ()
    query: tuple[tuple[str, dict[str, Any]], ...] = ()
    headers: tuple[tuple[str, dict[str, Any]], ...] = ()
    cross_site: CrossSite = "never"
    is_documented: bool = True


def shows(schema: type[Schema], **more: Any) -> Answer:
    """200, and what is there."""
    return Answer(200, schema, **more)


def makes(schema: type[Schema], **more: Any) -> Answer:
    """201, what was made, and where it is."""
    return Answer(201, schema, headers=("Location", *more.pop("headers", ())), **more)


def accepts(schema: type[Schema] | None = None, **more: Any) -> Answer:
    """202, what it is now, and where it is."""
    return Answer(202, schema, headers=("Location",), **more)


def lists(envelope: str, schema: type[Schema], spec: ListSpec[Any] | None, *, all_projects: bool = False) -> Answer:
    """200, and a list, with pages if it has a `spec`."""
    links = ("Link",) if spec else ()
    return Answer(200, schema, some_headers=links, envelope=envelope, lists=spec, all_projects=all_projects)


def sends(media_type: str, *, cached: bool = False) -> Answer:
    """200, and a file."""
    return Answer(200, media_type=media_type, headers=("ETag", "Cache-Control") if cached else (), cached=cached)


def operation(rule: str | None, **about: Any) -> Callable[[F], F]:
    """Mark a responder as an operation of the API.

    Args:
        rule: the policy that guards it.
        about: the other attributes of `Operation`.
    """
    marked = Operation(rule, **about)

    def mark(responder: F) -> F:
        vars(responder)["operation"] = marked
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
