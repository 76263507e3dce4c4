"""Rows and requests for tests of lists."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from qinling_falcon.models import execution, function
from qinling_falcon.models.listing import ListParams, page
from qinling_falcon.models.scope import Context, scoped

MOMENT = datetime.datetime(2019, 6, 6, 15, 33, 23, tzinfo=datetime.UTC)
SECOND = datetime.timedelta(seconds=1)


def names(context: Context, *filters: tuple[str, str], **params: Any) -> list[str | None]:
    asked = ListParams(limit=params.pop("limit", 100), filters=filters, **params)
    return [row.name for row in page(scoped(context).functions(), function.LISTS, asked).rows]


def scattered(count: int, functions: list[str]) -> list[dict[str, Any]]:
    """Rows of two projects in order of creation. Ids and update times have other orders; failed rows lie together."""
    rows = []
    for number in range(count):
        status = "failed" if number // 20 % 10 == 3 else "error" if number % 100 == 99 else "success"
        running = number % 50 == 48
        created = number // 2 * 20_000  # two each at the same time
        rows.append(
            {
                "id": str(uuid.UUID(int=number * 7919 % count)),
                "project_id": "project-a" if number % 5 else "project-b",
                "function_id": functions[number % len(functions)],
                "status": "running" if running else status,
                "created_at": created,
                "updated_at": None if running else number * 4001 % count // 2,
            }
        )
    return rows


def insert(rows: list[dict[str, Any]]) -> None:
    model = execution.Execution
    for start in range(0, len(rows), 1000):
        model.insert_many(rows[start : start + 1000]).execute()
