"""Makes `docs/settings.md`: `python -m qinling_falcon.settings_reference` prints the table of all settings."""

from __future__ import annotations

import dataclasses

from qinling_falcon.settings import Settings


def reference() -> str:
    """The table of all settings, in Markdown."""
    lines = [
        "# Settings",
        "",
        "Each is an environment variable; an empty one counts as unset. Sizes are bytes, durations seconds,",
        "cpu millicores. A wrong value stops the start with its name and what was expected.",
        "",
        "<!-- made by `make docs` from qinling_falcon/settings.py -->",
        "",
        "| variable | default | meaning |",
        "|---|---|---|",
    ]
    # Those of the base class come first otherwise, and a new user needs none of them.
    for field in sorted(dataclasses.fields(Settings), key=lambda field: field.name.startswith("kubernetes_")):
        default = "unset" if field.default is None else f"`{field.default}`"
        doc = field.metadata["doc"].replace("|", "\\|")
        lines.append(f"| `{field.name.upper()}` | {default.replace('|', chr(92) + '|')} | {doc} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
