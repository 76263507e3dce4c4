"""Who is asking for rows. Nothing in `models/` can be queried without one of these."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Context:
    """The caller of one request: the project that owns what it makes, and whether it is an admin."""

    project_id: str
    is_admin: bool = False
