"""Prints the table of attempts for docs/defences.md: `python -m tests.escape.table`.

Its last column comes from what `ESCAPE_WITHOUT=1` has noted (`seen.py`).
"""

from __future__ import annotations

from tests.escape import seen
from tests.escape.attempt import Attempt
from tests.escape.attempts import ATTEMPTS
from tests.escape.defences import DEFENCES
from tests.escape.forms import FORMS


def table() -> list[str]:
    """The lines of the table."""
    seen_in = {form: set(seen.read(form)) for form in FORMS}
    rows = ["| attempt | stopped by each of | seen to succeed without them in |", "|---|---|---|"]
    for attempt in ATTEMPTS.values():
        forms = [form for form in FORMS if attempt.name in seen_in[form]]
        names = "all forms" if forms == list(FORMS) else ", ".join(forms) or "no form"
        rows.append(f"| {attempt.name} | {', '.join(attempt.defences)} | {'; '.join([names, *_tests(attempt)])} |")
    return rows


def _tests(attempt: Attempt) -> list[str]:
    """For the forms in which it can't be tried without its defences: the tests of these."""
    found = []
    for name in attempt.defences:
        defence = DEFENCES[name]
        if not defence.removal:
            where = ", ".join(form for form in FORMS if defence.is_in(form))
            path, _, test = defence.test.partition(" ")
            found.append(f"{where}: `tests/{path}` `{test}`")
    return found


if __name__ == "__main__":
    print("\n".join(table()))
