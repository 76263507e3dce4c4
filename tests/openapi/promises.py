"""What the API document promises of answers, held against real ones."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import jsonschema_rs

from qinling_falcon.api import ROUTES, canonical_path
from qinling_falcon.openapi.document import build
from qinling_falcon.settings import Settings

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@functools.cache
def _promises(settings: Settings) -> Promises:
    return Promises(build(ROUTES, settings))


def promises(settings: Settings) -> Promises:
    """Those of a service with these settings; of settings that differ only in where things are, the same."""
    return _promises(replace(settings, var_dir=Path("var"), redis_url=None, database_url=None))


class Promises:
    """An API document, and validators of the answers that it describes."""

    def __init__(self, document: dict[str, Any]):
        self.document = document
        self._paths = [
            (re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path).replace(r"\{path\}", ".+"))), path, item)
            for path, item in document["paths"].items()
        ]
        self._validators: dict[Any, jsonschema_rs.Validator] = {}

    def check(self, method: str, path: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Raise AssertionError, unless an answer is as the document says."""
        plain = canonical_path(unquote(path.partition("?")[0]))
        what = f"{method} {plain}: {status}"
        route, item = next(((name, item) for found, name, item in self._paths if found.fullmatch(plain)), ("", {}))
        operation = item.get("get" if method == "HEAD" else method.lower())
        if operation is None and "default" in item.get("post", {}).get("responses", {}):
            operation = item["post"]  # a webhook, which may take all methods
        headers = {name.lower(): value for name, value in headers.items()}
        if operation is None:
            assert method == "OPTIONS" or status >= 400, f"{what}: no operation of the document"
            if status >= 400:
                self._check_json((route, method, status), {"$ref": "#/components/schemas/Error"}, body, what)
            return
        answers = operation["responses"]
        response = self._resolved(answers.get(str(status), answers.get("default")))
        assert response is not None, f"{what} is not in the document"
        for name, header in response.get("headers", {}).items():
            given = headers.get(name.lower())
            assert given is not None or not header.get("required"), f"{what}: no {name}"
        content = response.get("content")
        if content == {"*/*": {}}:  # the answer of a function
            return
        if content is None:
            assert not body, f"{what}: a body"
            return
        media_type = headers["content-type"].partition(";")[0]
        described = content.get(media_type) or content.get("*/*")
        assert described is not None, f"{what}: {media_type} is not in the document"
        if media_type == "application/json" and method != "HEAD":
            self._check_json((route, method, status), described["schema"], body, what)

    def validator(self, schema: Mapping[str, Any]) -> jsonschema_rs.Validator:
        """A validator of a schema of the document."""
        whole = {**schema, "components": {"schemas": self.document["components"]["schemas"]}}
        formats = {"uuid": lambda text: UUID.fullmatch(text) is not None}
        return jsonschema_rs.Draft202012Validator(whole, validate_formats=True, formats=formats)

    def _check_json(self, key: Any, schema: Mapping[str, Any], body: bytes, what: str) -> None:
        validator = self._validators.get(key)
        if validator is None:
            validator = self._validators[key] = self.validator(schema)
        value = json.loads(body)
        wrong = [f"{list(error.instance_path)}: {error.message[:500]}" for error in validator.iter_errors(value)]
        assert not wrong, f"{what} is not as the document says: {wrong}"

    def _resolved(self, response: Any) -> Any:
        if response and "$ref" in response:
            return self.document["components"]["responses"][response["$ref"].rpartition("/")[2]]
        return response
