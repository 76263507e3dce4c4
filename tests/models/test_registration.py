"""The local runtimes are registered once, even if several processes register them at the same time."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from typing import Any

import psycopg2

from qinling_falcon.models import database, runtime
from qinling_falcon.models.scope import Context
from qinling_falcon.settings import Settings
from tests.models.connections import ROOT
from tests.models.factories import make_runtime

WANTED = [("python3", "image-a"), ("python3-old", "image-b")]


def test_missing_runtimes_are_made_in_the_project_that_registers_them(settings: Settings, owner: Context) -> None:
    assert runtime.unregistered(owner, WANTED) == WANTED
    assert runtime.register(owner, WANTED[:1]) == ["python3"]
    assert runtime.unregistered(owner, WANTED) == WANTED[1:]
    assert runtime.register(owner, WANTED) == ["python3-old"]
    assert runtime.register(owner, WANTED) == []
    made = {row.name: row for row in runtime.everything()}
    assert {name: row.image for name, row in made.items()} == dict(WANTED)
    assert all(row.project_id == owner.project_id and row.is_public for row in made.values())
    assert all(row.status == "creating" for row in made.values())


def test_public_runtimes_of_others_count_and_private_ones_do_not(
    settings: Settings, owner: Context, stranger: Context
) -> None:
    make_runtime(stranger, name="python3", is_public=True)
    make_runtime(stranger, name="python3-old", is_public=False)
    assert runtime.register(owner, WANTED) == ["python3-old"]


def test_a_registration_waits_for_the_uncommitted_one_of_another_release(settings: Settings, owner: Context) -> None:
    make_runtime(owner, name="draft")
    if settings.database_url:
        other: Any = psycopg2.connect(settings.database_url)
        cursor = other.cursor()
    else:
        other = sqlite3.connect(settings.var_dir / "qinling.db", isolation_level=None)
        cursor = other.cursor()
        cursor.execute("BEGIN IMMEDIATE")
    cursor.execute("UPDATE runtimes SET name = 'python3' WHERE name = 'draft'")
    made: list[list[str]] = []
    release = threading.Thread(target=lambda: made.append(runtime.register(owner, WANTED[:1])))
    release.start()
    release.join(0.5)
    assert release.is_alive()
    cursor.execute("COMMIT")
    release.join(10)
    other.close()
    assert made == [[]]


def test_releases_at_once_register_once(empty_database: Settings) -> None:
    url = empty_database.database_url or ""
    environ = os.environ | {"VAR_DIR": str(empty_database.var_dir), "DATABASE_URL": url, "TZ": "UTC"}
    command = [sys.executable, "-m", "workers.release"]
    releases = [
        subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(3)
    ]
    said = [release.communicate(timeout=90)[0] for release in releases]
    assert [release.returncode for release in releases] == [0] * 3, said
    assert sum("runtimes: python3" in text for text in said) == 1, said
    database.connect(empty_database)
    try:
        assert [row.name for row in runtime.everything()] == ["python3"]
    finally:
        database.disconnect()
