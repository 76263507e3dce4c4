"""The Lua scripts beside this file, as one library of Redis functions.

Each script (`scripts/<name>.lua`) is the body of one function, which the command FCALL runs. The functions share the
code in `scripts/parts/`. Redis runs the text of the library once, when it loads it, and keeps what the parts define.
EVALSHA would define them again for each run of a script, which took about half of the server's time for a renewal.

The names of the library and of its functions have a hash of the library's text, so that the libraries of several
releases can be in one Redis.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ANCHOR = "qf:{pool}"
"""The key that every script names. All keys of the pool have its hash tag, so they are on one node of a cluster."""
OF_ANY_RELEASE = re.compile(r"qf_[0-9a-f]{12}")
"""The name of the library of any release."""

_FOLDER = Path(__file__).parent / "scripts"
_INCLUDE = re.compile(r"^-- include: (.*)$", re.MULTILINE)
_WRITES = re.compile(r"^-- writes\s", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Library:
    """The scripts as Redis loads them.

    Attributes:
        name: the name by which Redis knows the library.
        text: what `FUNCTION LOAD` gets.
        functions: the name of each script's function.
    """

    name: str
    text: str
    functions: Mapping[str, str]


@functools.cache
def library() -> Library:
    """The library of this release."""
    scripts = {path.stem: path.read_text() for path in sorted(_FOLDER.glob("*.lua"))}
    body = "\n".join([*_parts(), *(_registered(name, text) for name, text in scripts.items())])
    name = f"qf_{hashlib.sha256(body.encode()).hexdigest()[:12]}"
    text = f"#!lua name={name}\nlocal LIBRARY = '{name}'\n\n{body}"
    return Library(name, text, {script: f"{name}_{script}" for script in scripts})


def _parts() -> list[str]:
    """The texts of all parts, the base first. Each one comes after the parts that its line `-- include:` names."""
    texts: dict[str, str] = {}

    def include(name: str) -> None:
        if name not in texts:
            text = (_FOLDER / "parts" / f"{name}.lua").read_text()
            found = _INCLUDE.search(text)
            for other in found[1].split() if found else ():
                include(other)
            texts[name] = text

    for name in ["base", *sorted(path.stem for path in (_FOLDER / "parts").glob("*.lua"))]:
        include(name)
    return list(texts.values())


def _registered(name: str, text: str) -> str:
    """The Lua code that makes a script a function.

    Redis refuses writes of a script whose header names none. Scripts that write may also run when Redis has reached its
    `maxmemory`. Otherwise no lease could end then, and no execution could leave the journals.
    """
    flag = "allow-oom" if _WRITES.search(text) else "no-writes"
    return f"register('{name}', '{flag}', function(ARGV)\n{text}end)\n"
