"""Lists: parses the query string and answers with a page of rows."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import urlencode

import falcon

from qinling_falcon.auth.policy import Policy
from qinling_falcon.errors import BadRequest
from qinling_falcon.models.chunks import Chunk
from qinling_falcon.models.listing import ListParams, ListSpec, Page
from qinling_falcon.resources.answers import JSON, answer, base_url, encode
from qinling_falcon.resources.open_answers import OpenAnswer
from qinling_falcon.resources.request import Request
from qinling_falcon.schemas.base import Shown, unknown_fields
from qinling_falcon.schemas.fields import parse_flag
from qinling_falcon.schemas.strict_json import check_text
from qinling_falcon.settings import Settings

logger = logging.getLogger(__name__)

_PAGING = frozenset({"limit", "marker", "sort_key", "sort_dir"})
_SCOPE = frozenset({"all_projects", "project_id"})
# An answer up to this size is put together before it is sent; a larger one is sent while its rows are read.
_WHOLE = 256 * 1024
_MOST_FILTERS = 50


def list_params(
    req: Request, settings: Settings, spec: ListSpec[Any], *, all_projects: bool = False
) -> ListParams:
    """What the query string of a list request asks for.

    Args:
        req: the request.
        settings: bounds.
        spec: what the list can be filtered by.
        all_projects: rows of all projects are listed; then, and for admins, `project_id` filters.

    Raises:
        BadRequest: a parameter that can't be used.
    """
    pairs = _pairs(req)
    paging = {name: text for name, text in pairs if name in _PAGING}
    filters = [(name, text) for name, text in pairs if name not in _PAGING and name not in _SCOPE]
    if req.reference_client:
        filters = [(name, text) for name, text in filters if name in spec.filters]
    if "project_id" in req.params and (all_projects or req.caller.is_admin):
        filters += [(name, text) for name, text in pairs if name == "project_id"]
    if len(filters) > _MOST_FILTERS:
        raise BadRequest(f"There are {len(filters)} filters; at most {_MOST_FILTERS} can be given.")
    return ListParams(
        limit=_limit(paging.get("limit"), req, settings),
        marker=paging.get("marker"),
        sort_key=paging.get("sort_key", "created_at"),
        sort_dir=paging.get("sort_dir", "asc"),
        filters=filters,
    )


def may_list_all(req: Request, policy: Policy, rule: str) -> bool:
    """Whether all projects' rows are listed: `all_projects` asks for them, and `project_id` where the policy lets it.

    Args:
        req: the request.
        policy: decides.
        rule: who may see rows of all projects.

    Raises:
        BadRequest: `all_projects` is neither true nor false.
        Forbidden: it is true, and the policy doesn't let the caller.
    """
    asked = parse_flag(dict(_pairs(req)).get("all_projects", "false"))
    if asked is None:
        raise BadRequest("all_projects must be true or false.", errors={"all_projects": ["Must be true or false."]})
    if asked:
        policy.enforce(req.caller, rule)
    return asked or ("project_id" in req.params and policy.allows(req.caller, rule))


def answer_page(
    req: Request, resp: falcon.Response, settings: Settings, key: str, page: Page[Any], shown: Shown
) -> None:
    """Answer with a page of rows.

    Args:
        req: the request.
        resp: the answer.
        settings: `LIST_ENVELOPE`.
        key: the name of the list in its envelope.
        page: the rows. They are read in chunks while they are sent.
        shown: the schema of a row.

    Raises:
        Unavailable: the database is away, or too many answers are open.
    """
    # The answer is counted before the first chunk is read, because the chunk takes memory.
    room = req.open_answers.open(req)
    read = functools.partial(page.read, lambda row: encode(shown.show(row)))
    first = read()
    size = sum(map(len, first.items))
    room.hold(memory=size)
    following = None
    if page.next_marker is not None:
        following = _next_url(req, settings, page.next_marker)
        resp.set_header("Link", f'<{following}>; rel="next"')
    head, tail = b"[", b"]"
    if _wants_envelope(req, settings):
        head = b'{"%s": [' % key.encode()
        tail = b'], "next": %s}' % encode(following) if following else b"]}"
    if first.last and size <= _WHOLE:
        room.give_back()
        resp.data = head + b", ".join(first.items) + tail
        return
    resp.content_type = JSON
    if req.method == "HEAD":
        room.give_back()
        resp.stream = iter(())
        return
    resp.stream = OpenAnswer(room, _parts(head, first, read, tail, req.request_id))


MARKED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("limit", {"type": "integer", "minimum": 1, "description": "The most rows of a page; a page may have fewer."}),
    ("marker", {"type": "string", "description": "Where the page begins, as in the link to it."}),
)
"""The query of a list without an order, whose pages begin where a marker says."""


def marked_params(req: Request, settings: Settings, *, most: int) -> tuple[str | None, int]:
    """The marker of the page that is asked for, and how many rows it may have.

    Args:
        req: the request, of a list with the query `MARKED`.
        settings: bounds.
        most: the most rows of a page.

    Raises:
        BadRequest: a parameter is unknown, or can't be used.
    """
    given = dict(_pairs(req))
    unknown = sorted(given.keys() - {name for name, _ in MARKED})
    if unknown and not req.reference_client:
        raise unknown_fields(unknown, [name for name, _ in MARKED])
    return given.get("marker") or None, min(_limit(given.get("limit"), req, settings) or most, most)


def answer_marked(
    req: Request,
    resp: falcon.Response,
    settings: Settings,
    key: str,
    rows: Iterable[object],
    shown: Shown,
    next_marker: str | None,
) -> None:
    """Answer with a short page of rows, and with the link to the page that begins at `next_marker`.

    Other arguments as for `answer_page`.
    """
    listed: Any = [shown.show(row) for row in rows]
    following = None if next_marker is None else _next_url(req, settings, next_marker)
    if following is not None:
        resp.set_header("Link", f'<{following}>; rel="next"')
    if _wants_envelope(req, settings):
        listed = {key: listed} | ({} if following is None else {"next": following})
    answer(resp, listed)


def answer_list(
    req: Request, resp: falcon.Response, settings: Settings, key: str, rows: Iterable[object], shown: Shown
) -> None:
    """Answer with a short list that has no pages. Arguments as for `answer_page`."""
    listed = [shown.show(row) for row in rows]
    answer(resp, {key: listed} if _wants_envelope(req, settings) else listed)


def _wants_envelope(req: Request, settings: Settings) -> bool:
    return settings.list_envelope == "always" or (settings.list_envelope == "auto" and req.reference_client)


def _parts(
    head: bytes, first: Chunk[bytes], read: Callable[[], Chunk[bytes]], tail: bytes, request_id: str
) -> Iterator[bytes]:
    """Yield the body of a list, one chunk at a time. Only the chunk that is being sent is in memory."""
    chunk: Chunk[bytes] | None = first
    start = head
    try:
        while chunk is not None:
            if chunk.items:
                chunk.items[0] = start + chunk.items[0]
                start = b", "
            items, last = chunk.items, chunk.last
            del chunk
            part = b", ".join(items)
            items.clear()
            if part:
                yield part
            del part
            chunk = None if last else read()
    except Exception:
        # The status has been sent. The answer must break off, so that the client does not take it for complete.
        logger.exception("a list broke off", extra={"request_id": request_id})
        raise
    yield tail if start != head else head + tail


def _pairs(req: Request) -> list[tuple[str, str]]:
    pairs = []
    for name, value in req.params.items():
        check_text(name, "A parameter's name")
        for text in value if isinstance(value, list) else [value]:
            check_text(text, f"Parameter '{name}'", name)
            pairs.append((name, text))
    return pairs


def _limit(text: str | None, req: Request, settings: Settings) -> int | None:
    if text is None:
        # The reference client never pages: without a limit it gets all rows.
        return None if req.reference_client else settings.list_limit
    if not text.isascii() or not text.isdigit() or int(text[:10]) < 1:
        raise BadRequest("limit must be a whole number from 1 on.", errors={"limit": ["Must be from 1 on."]})
    return min(int(text[:10]), settings.list_limit_max)


def _next_url(req: Request, settings: Settings, marker: str) -> str:
    pairs = [(name, text) for name, text in _pairs(req) if name != "marker"]
    return f"{base_url(req, settings.public_endpoint)}{req.path}?{urlencode([*pairs, ('marker', marker)])}"
