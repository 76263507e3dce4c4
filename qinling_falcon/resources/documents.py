"""`/openapi.json`, and `/docs`: the API document, and a page that shows it."""

from __future__ import annotations

import functools
import hashlib
import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import falcon
from swagger_ui_bundle import swagger_ui_path

from qinling_falcon.errors import NotFound
from qinling_falcon.resources.answers import JSON, base_url
from qinling_falcon.resources.operation import operation, sends
from qinling_falcon.resources.request import Request
from qinling_falcon.resources.services import Services

_OURS = Path(__file__).parent / "docs"
_SWAGGER_UI = Path(str(swagger_ui_path))
# What the page is made of, and no other file.
FILES: Mapping[str, tuple[Path, str]] = {
    "swagger-ui.css": (_SWAGGER_UI, "text/css; charset=utf-8"),
    "swagger-ui-bundle.js": (_SWAGGER_UI, "text/javascript; charset=utf-8"),
    "favicon-32x32.png": (_SWAGGER_UI, "image/png"),
    "start.js": (_OURS, "text/javascript; charset=utf-8"),
}
_TYPES = ", ".join(sorted({media_type.partition(";")[0] for _, media_type in FILES.values()}))
# The style sheets have images in them (data:). No style needs to be inline: scripts may set styles of elements.
_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
)
_ASK_AGAIN = "no-cache"
_FOR_EVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class _Content:
    data: bytes
    tag: str

    @classmethod
    def of(cls, data: bytes) -> _Content:
        return cls(data, hashlib.sha256(data).hexdigest()[:32])


class ApiDocument:
    """The API document.

    Args:
        write: makes it; called when it is first asked for.
    """

    def __init__(self, write: Callable[[], bytes]):
        self._content = functools.cache(lambda: _Content.of(write()))

    @operation(None, answers=sends("application/json", cached=True))
    def on_get(self, req: Request, resp: falcon.Response) -> None:
        """Send this document: the API as OpenAPI 3.1."""
        _send(req, resp, self._content(), JSON, _ASK_AGAIN)


class DocsPage:
    """A page that shows the API document."""

    def __init__(self, services: Services):
        self._public_endpoint = services.settings.public_endpoint

    @operation(None, answers=sends("text/html", cached=True), cross_site="navigation")
    def on_get(self, req: Request, resp: falcon.Response) -> None:
        """Send a page that shows this document, and can try its operations."""
        # `/docs` and `/docs/` are one page, so that links can't be relative to it.
        base = urlsplit(base_url(req, self._public_endpoint)).path
        resp.set_header("Content-Security-Policy", _POLICY)
        _send(req, resp, _Content.of(_page(base).encode()), "text/html; charset=utf-8", _ASK_AGAIN)


class DocsFile:
    """A file of that page."""

    def __init__(self, services: Services):
        pass

    @operation(None, answers=sends(_TYPES, cached=True))
    def on_get(self, req: Request, resp: falcon.Response, file_name: str) -> None:
        """Send a script, style sheet or image of the page that shows this document."""
        if file_name not in FILES:
            raise NotFound(f"There is no file {file_name[:80]}.")
        content = _file(file_name)
        # The page names the content that it means: what is kept under such an address never changes.
        meant = req.get_param("v", default="") == content.tag
        _send(req, resp, content, FILES[file_name][1], _FOR_EVER if meant else _ASK_AGAIN)


def _send(req: Request, resp: falcon.Response, content: _Content, media_type: str, caching: str) -> None:
    resp.set_header("Referrer-Policy", "no-referrer")
    resp.set_header("Cache-Control", caching)
    resp.etag = content.tag
    known = req.if_none_match or ()
    if any(tag in ("*", content.tag) for tag in known):
        resp.status = falcon.HTTP_304
        return
    resp.content_type = media_type
    resp.data = content.data


@functools.cache
def _file(name: str) -> _Content:
    return _Content.of((FILES[name][0] / name).read_bytes())


@functools.lru_cache(maxsize=8)
def _page(base: str) -> str:
    def link(name: str) -> str:
        return html.escape(f"{base}/docs/{name}?v={_file(name).tag}")

    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Qinling-Falcon: API</title>
<link rel="icon" type="image/png" href="{link("favicon-32x32.png")}">
<link rel="stylesheet" href="{link("swagger-ui.css")}">
<script src="{link("swagger-ui-bundle.js")}" defer></script>
<script src="{link("start.js")}" defer></script>
</head>
<body>
<main id="document" data-url="{html.escape(f"{base}/openapi.json")}"></main>
</body>
</html>
"""
