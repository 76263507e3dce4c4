"""Uploads of functions, as curl sends them."""

from __future__ import annotations

from typing import Any

import requests

from tests.contract.service import HELLO, User
from tests.integration.service import package

MIB = 1024 * 1024
IMAGE = {"source": "image", "image": "docker-registry/hello-world"}
SWIFT = {"source": "swift", "swift": {"container": "functions", "object": "hello_world.py"}}


def form(user: User, method: str, path: str, archive: bytes | None = None, **fields: Any) -> requests.Response:
    """As curl's -F sends it."""
    files: dict[str, Any] = {name: (None, str(value)) for name, value in fields.items()}
    if archive is not None:
        files["package"] = ("hello_world.zip", archive, "application/zip")
    return user.send(method, path, files=files)


def fields_of(user: User, **changes: Any) -> dict[str, Any]:
    """The fields that make a function, with changes; one that becomes None is left out."""
    fields = {"name": "hello_world", "runtime_id": user.runtime_id(), "code": '{"source": "package"}'}
    fields |= {"entry": "hello_world.main"} | changes
    return {name: value for name, value in fields.items() if value is not None}


def create(user: User, **changes: Any) -> requests.Response:
    """POST a function from a package."""
    return form(user, "POST", "/v1/functions", package(hello_world=HELLO), **fields_of(user, **changes))


def image_function(user: User, **fields: Any) -> dict[str, Any]:
    return user.made("/v1/functions", **{"name": "from an image", "code": IMAGE} | fields)
