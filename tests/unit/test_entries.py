"""Which entries are accepted, and the suggestions for entries that are not."""

from __future__ import annotations

import re

import pytest
from marshmallow import ValidationError

from qinling_falcon.openapi.fields import describe
from qinling_falcon.schemas.base import RequestSchema
from qinling_falcon.schemas.entries import Entry

_WRONG = {
    "hello.py:main": "hello.main",
    "hello.py:main()": "hello.main",
    "hello.py::run": "hello.run",
    "hello.py": "hello.main",
    "hello.py.main": "hello.main",
    "src.hello.py.run": "src.hello.run",
    "./hello.py": "hello.main",
    "hello:main": "hello.main",
    "pkg.mod:run": "pkg.mod.run",
    "hello/main.py": "hello.main.main",
    "src/hello.py:run": "src.hello.run",
    "src/hello.run": "src.hello.run",
    "src\\hello.py:run": "src.hello.run",
    "hello.main()": "hello.main",
    "main()": "main.main",
    "hello": "hello.main",
    "hello.": "hello.main",
    ".main": "main.main",
    "a..b": "a.b",
    "index.mjs:handler": "index.handler",
    "python hello.py": "main.main",
    "'hello.main'": "hello.main",
    " hello.main": "hello.main",
    "hello.main\n": "hello.main",
    "": "main.main",
    ".": "main.main",
    "()": "main.main",
    "hello.main main.main": "main.main",
}
_RIGHT = [
    "main.main", "hello_world.main", "pkg.mod.func", "a.b.c.d.e", "grüße.größe", "模块.函数", "_m._f", "index.handler",
    "my-mod.handler", "@scope.x", "m1.f2", "py.main", "py.py.main.f", "hello.python", "$.x",
    "bundle.js",
]  # fmt: skip


class _Holder(RequestSchema):
    entry = Entry(longest=80)


@pytest.mark.parametrize(("text", "advised"), _WRONG.items())
def test_an_entry_in_another_form_is_refused_with_the_right_one(text: str, advised: str) -> None:
    with pytest.raises(ValidationError) as caught:
        _Holder().load({"entry": text})
    (message,) = caught.value.messages_dict["entry"]
    assert "module.function" in message
    assert f"such as {advised};" in message
    assert f"not '{text}'" in message


@pytest.mark.parametrize("text", _RIGHT)
def test_entries_of_any_runtime_are_taken(text: str) -> None:
    assert _Holder().load({"entry": text}) == {"entry": text}


@pytest.mark.parametrize("text", [*_WRONG, *_RIGHT])
def test_the_api_document_says_the_same(text: str) -> None:
    holder = _Holder()
    schema = describe(holder.fields["entry"], holder)
    pattern, file = (part["pattern"].replace("$", r"\Z") for part in (schema, schema["not"]))  # as ECMA means `$`
    refused = re.search(pattern, text) is None or re.search(file, text) is not None
    assert refused == (text in _WRONG)


def test_suggested_entries_are_accepted() -> None:
    for advised in set(_WRONG.values()):
        assert _Holder().load({"entry": advised}) == {"entry": advised}
