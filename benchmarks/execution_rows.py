"""Executions as a busy service has them, for the benchmarks of lists: the same rows at each run."""

from __future__ import annotations

import datetime
import json
import random
import sqlite3
import string
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg2
from psycopg2.extras import execute_values

from qinling_falcon.models import clock
from qinling_falcon.models.migrate import migrate
from qinling_falcon.settings import Settings

PROJECT = "default"  # the tenant that is measured; most executions are its own
SMALL_PROJECT = "small"  # a tenant with few executions among however many
OTHERS = ("staging", "research", "batch")
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
DAYS = 60
_RANDOM_TEXT = "".join(random.Random(0).choices(string.ascii_letters + string.digits + "     ", k=1 << 16))


def _function_id(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


# Of PROJECT. `rare` has few executions at any size, `busy` most of them; `monthly` ran on a few days alone.
FUNCTIONS = {name: _function_id(name) for name in ("busy", "second", "third", "monthly", "rare")}
UNKNOWN = _function_id("unknown")
# Rows of PROJECT that are few in a table of any size.
FEW = 30
# Rows of PROJECT in a table of so many rows; `monthly` and failed ones are enough for a page after the middle one.
MONTHLY = {1_000: 240, 100_000: 3_000}
FAILED = {1_000: 240, 100_000: 2_500}
OWN = {1_000: 700, 100_000: 80_000}
SMALL = 250

COLUMNS = (
    "id", "project_id", "function_id", "function_version", "function_alias", "description", "input", "result", "log",
    "status", "status_reason", "sync", "cold", "queued_ms", "run_ms", "source", "created_at", "updated_at",
)  # fmt: skip


def rows(count: int) -> Iterator[tuple[Any, ...]]:
    """The executions of all projects, the oldest first."""
    dice = random.Random(1)
    own = OWN[count]
    projects = [PROJECT] * own + [SMALL_PROJECT] * SMALL
    projects += dice.choices(OTHERS, k=count - len(projects))
    dice.shuffle(projects)
    kinds = _kinds(own, MONTHLY[count], FAILED[count], dice)
    small = iter(["failed"] * 20 + ["error"] * 3 + ["success"] * SMALL)
    step_us = DAYS * 86_400_000_000 // count
    for number, project in enumerate(projects):
        created = START + datetime.timedelta(microseconds=number * step_us + dice.randrange(step_us))
        if project == PROJECT:
            function, status = next(kinds)
            function_id = FUNCTIONS[function]
        else:
            function_id = _function_id(f"{project} {dice.randrange(4)}")
            status = next(small) if project == SMALL_PROJECT else "success"
        yield _row(dice, project, function_id, status, created)


def _kinds(own: int, monthly: int, failed: int, dice: random.Random) -> Iterator[tuple[str, str]]:
    """(function, status) of each of PROJECT's executions."""
    functions = dice.choices(("busy", "second", "third"), (60, 30, 10), k=own)
    statuses = ["success"] * own
    # Failures come in incidents, and so do the runs of what is called once a month: one early, one late.
    for start in (own // 10, own * 3 // 4):
        for place in range(start, start + monthly // 2):
            functions[place] = "monthly"
    for start in (own // 5, own * 13 // 20):
        for place in range(start, start + failed // 2):
            statuses[place] = "failed"
    places = dice.sample(range(own), 3 * FEW + 5)
    for place in places[:FEW]:
        functions[place] = "rare"
    for place in places[FEW : 2 * FEW]:
        statuses[place] = "error"
    for place in places[2 * FEW : 3 * FEW]:
        statuses[place] = "cancelled"
    for place in places[3 * FEW :]:
        statuses[place] = "running"
    return iter(zip(functions, statuses, strict=True))


def _row(
    dice: random.Random, project: str, function_id: str, status: str, created: datetime.datetime
) -> tuple[Any, ...]:
    at = clock.to_micros(created)
    run_ms = round(dice.lognormvariate(4, 1.5), 3)
    number = at // 1000 << 80 | 0x7 << 76 | dice.getrandbits(12) << 64 | 0b10 << 62 | dice.getrandbits(62)
    execution_id = str(uuid.UUID(int=number))
    ended = status != "running"
    result = json.dumps({"duration": round(run_ms / 1000, 3), "output": _text(dice, 120, 8_000)}) if ended else None
    log = f"Start execution: {execution_id}\n{_text(dice, 400, 30_000)}\nFinished execution: {execution_id}\n"
    return (
        execution_id,
        project,
        function_id,
        0 if dice.random() < 0.7 else dice.randrange(1, 4),
        "prod" if dice.random() < 0.2 else None,
        "Created by Job 6ad1c2a5" if dice.random() < 0.1 else None,
        json.dumps({"key": _text(dice, 150, 16_000)}) if dice.random() < 0.9 else None,
        result,
        log if ended else None,
        status,
        "the worker was lost while it ran the function" if status == "error" else None,
        dice.random() < 0.8,
        "none",
        round(dice.lognormvariate(0, 1), 3),
        run_ms,
        "api",
        at,
        at + int(run_ms * 1000) + 2_000 if ended else None,
    )


def _text(dice: random.Random, median: int, most: int) -> str:
    length = min(most, int(median * dice.lognormvariate(0, 1)))
    start = dice.randrange(len(_RANDOM_TEXT) - length)
    return _RANDOM_TEXT[start : start + length]


def fill(settings: Settings, count: int) -> None:
    """Make the tables in an empty database, and put `count` executions there."""
    migrate(settings)
    names = ", ".join(COLUMNS)
    if settings.database_url is None:
        database = sqlite3.connect(settings.var_dir / "qinling.db")
        database.execute("PRAGMA synchronous=off")
        marks = ", ".join("?" * len(COLUMNS))
        database.executemany(f"INSERT INTO executions ({names}) VALUES ({marks})", rows(count))
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.close()
        return
    connection = psycopg2.connect(settings.database_url)
    with connection.cursor() as cursor:
        execute_values(cursor, f"INSERT INTO executions ({names}) VALUES %s", rows(count), page_size=500)
    connection.commit()
    # What autovacuum does within a minute of such a change.
    connection.autocommit = True
    connection.cursor().execute("VACUUM ANALYZE")
    connection.close()
