"""The Lua scripts beside this file: loaded once, run by their hash."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

ANCHOR = "qf:{pool}"
"""The key that every script names: its hash tag is that of all keys of the pool, so they are on one cluster node."""

_FOLDER = Path(__file__).parent / "scripts"


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text, with the shared functions before it, and the hash that Redis knows it by."""

    name: str
    source: str
    sha: str


@functools.cache
def load(name: str) -> Script:
    """The script `scripts/<name>.lua`."""
    source = (_FOLDER / "_common.lua").read_text() + (_FOLDER / f"{name}.lua").read_text()
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
