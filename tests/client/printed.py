"""What commands print, beside what the service says itself.

The commands print a column that an answer lacks as empty; so every printed column must be a field of the service's.
"""

from __future__ import annotations

from typing import Any

from tests.client.driver import Driver
from tests.integration.service import Service


def created(driver: Driver, *command: object) -> dict[str, Any]:
    """The row that a command prints which creates something; no column is empty for want of a field."""
    row = dict(driver.json(*command))
    assert "" not in row.values()
    return row


def shown(driver: Driver, service: Service, path: str, *command: object) -> dict[str, Any]:
    """The row that a command prints, which is what the service answers there."""
    row = dict(driver.json(*command))
    answer = service.request("GET", path).json()
    assert row == {column: answer[column] for column in row}
    return row


def listed(driver: Driver, service: Service, path: str, *command: object) -> list[str]:
    """The first column of what a command lists, which is what the service answers there."""
    rows = driver.json(*command)
    answer = service.request("GET", path).json()
    for row, fields in zip(rows, answer, strict=True):
        assert row == {column: fields[column.lower()] for column in row}
    return [next(iter(row.values())) for row in rows]
