"""The attempts that were seen to succeed without their defences: a file for each form, which `make soak` rewrites.

They are in the repository, so that the table in docs/defences.md shows what has happened, and not what should.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tests.escape.attempts import ATTEMPTS

_FOLDER = Path(__file__).with_name("seen")


def read(form: str) -> list[str]:
    """The names of the attempts that were seen to succeed in this form."""
    path = _path(form)
    return list(json.loads(path.read_text())) if path.exists() else []


def note(form: str, outcomes: Mapping[str, bool]) -> None:
    """Note which attempts have succeeded, of those that were made now. What is known of all others stays."""
    before = set(read(form))
    names = [name for name in ATTEMPTS if outcomes.get(name, name in before)]
    _path(form).parent.mkdir(exist_ok=True)
    _path(form).write_text(json.dumps(names, indent=1) + "\n")


def _path(form: str) -> Path:
    return _FOLDER / f"{form.replace(' ', '-')}.json"
