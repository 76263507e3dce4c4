"""The entry of a function: the module and the function in the package that a worker calls."""

from __future__ import annotations

import re
from typing import Any

from marshmallow import ValidationError

from qinling_falcon.schemas.fields import Text

DEFAULT_ENTRY = "main.main"
# Other runtimes than Python may allow names with dashes and the like, so the service does not check for identifiers.
_PART = r"""[^\s\x00-\x1f\x7f-\x9f/\\.:;,()\[\]{}<>'"`]+"""
_ENTRY = re.compile(rf"{_PART}(?:\.{_PART})+")
# An entry that ends with .py, or has it before its last part, names a file: `hello.py`, `hello.py.main`. Python could
# have such functions and modules, but does not in practice. Other endings are accepted: a function may be called `js`.
FILE_NAMED = r"\.py(\.[^.]+)?$"
_FILE_NAMED = re.compile(FILE_NAMED)
_FILE = re.compile(r"\.(?:py|js|mjs|cjs)(?=[:/\\]|$)")
_FORM = "must be module.function (the module without its file's ending), such as"


class Entry(Text):
    """`module.function`; the module may be in folders: `folder.module.function`."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        text = super()._deserialize(value, attr, data, **kwargs)
        if not _ENTRY.fullmatch(text) or _FILE_NAMED.search(text):
            raise ValidationError(f"{_FORM} {_suggest(text)}; not '{text}'.")
        return text


def _suggest(text: str) -> str:
    """The most likely correct form of an invalid entry such as `hello.py:main`, `src/hello.py`, `hello` or `main()`."""
    path = text.strip(" \t\r\n'\"")
    called = path.endswith("()")
    path = re.sub(r"\.py(?=\.[^.:/\\]+$)", "", path.removesuffix("()"))
    whole = ":" not in path and _FILE.search(path) is not None
    words = [word for word in re.split(r"[:/\\.]+", _FILE.sub("", path)) if re.fullmatch(_PART, word)]
    if not words or re.search(r"\s", path):
        return DEFAULT_ENTRY
    if len(words) == 1 and called:
        words.insert(0, "main")
    elif len(words) == 1 or whole:
        words.append("main")
    return ".".join(words)
