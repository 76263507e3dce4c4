"""Prints the table of attempts for docs/defences.md: `python -m tests.escape.table`."""

from __future__ import annotations

from tests.escape.attempt import Attempt
from tests.escape.attempts import ATTEMPTS
from tests.escape.defences import DEFENCES
from tests.escape.forms import FORMS


def table() -> list[str]:
    """The lines of the table."""
    rows = ["| attempt | stopped by each of | seen to succeed without them in |", "|---|---|---|"]
    for attempt in ATTEMPTS.values():
        forms = [form for form in FORMS if _can_be_tried(form, attempt)]
        seen = "all forms" if forms == list(FORMS) else ", ".join(forms) or "(tests of the sandbox)"
        rows.append(f"| {attempt.name} | {', '.join(attempt.defences)} | {seen} |")
    return rows


def _can_be_tried(form: str, attempt: Attempt) -> bool:
    """Whether the attempt has defences in this form, and all of them can be removed."""
    there = [DEFENCES[name] for name in attempt.defences if DEFENCES[name].is_in(form)]
    return bool(there) and all(defence.removal for defence in there)


if __name__ == "__main__":
    print("\n".join(table()))
