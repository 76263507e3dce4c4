"""Removes control groups that killed managers have left."""

from __future__ import annotations

from pathlib import Path

from qinling_falcon.orchestrators.process.cgroups import Group, groups_below


def remove_groups_of(folder: Path) -> None:
    """Remove the control groups of all installs whose VAR_DIR is `folder` or in it. Groups with processes stay."""
    for depth in ("", "*/", "*/*/", "*/*/*/"):
        for remembered in folder.glob(f"{depth}cgroups"):
            subtrees = [Path(line) for line in remembered.read_text().splitlines()]
            for group in [*groups_below(subtrees), *(Group([subtree]) for subtree in subtrees)]:
                group.remove()
