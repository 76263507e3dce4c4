"""The Lua scripts beside this file: loaded once, run by their hash.

A script consists of `scripts/<name>.lua` and the parts (`scripts/parts/<name>.lua`) that its line `-- include:` names.
A part may name further parts. Each part is included once, before whatever includes it.
"""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

ANCHOR = "qf:{pool}"
"""The key that every script names. All keys of the pool have its hash tag, so they are on one node of a cluster."""

_FOLDER = Path(__file__).parent / "scripts"
_INCLUDE = re.compile(r"^-- include: (.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text, with its parts before it, and the hash that Redis knows it by."""

    name: str
    source: str
    sha: str


@functools.cache
def load(name: str) -> Script:
    """The script `scripts/<name>.lua` with its parts."""
    text = (_FOLDER / f"{name}.lua").read_text()
    source = "\n".join([*_included(["base", *_parts_of(text)]), text])
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


@functools.cache
def all_scripts() -> tuple[Script, ...]:
    """Every script, so that a new connection can load them all."""
    return tuple(load(path.stem) for path in sorted(_FOLDER.glob("*.lua")))


def _included(names: list[str]) -> list[str]:
    """The texts of the parts, each once. Each one comes after the parts that it includes."""
    texts: dict[str, str] = {}

    def include(name: str) -> None:
        if name not in texts:
            text = (_FOLDER / "parts" / f"{name}.lua").read_text()
            for other in _parts_of(text):
                include(other)
            texts[name] = text

    for name in names:
        include(name)
    return list(texts.values())


def _parts_of(text: str) -> list[str]:
    found = _INCLUDE.search(text)
    return found[1].split() if found else []
