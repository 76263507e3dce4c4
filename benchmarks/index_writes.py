"""What the indexes of executions cost each record that is written.

    python -m benchmarks.index_writes [--rounds 40] [--databases sqlite,postgresql]

Records go to a table of 100,000 by the way that calls take (`models.records`), in commits of 1 and of 16, to databases
that have all six indexes, only those by created_at, or none; the median over interleaved rounds counts.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2

from benchmarks import execution_rows as data
from benchmarks.lists import Remote
from benchmarks.measure import save
from qinling_falcon.models import clock, database, records
from qinling_falcon.settings import Settings
from tests.servers.postgres import running_postgres

SIZE = 100_000
INDEXES = {
    key: [f"executions_{prefix}status_{key}" for prefix in ("", "project_id_", "function_id_project_id_")]
    for key in ("created_at", "updated_at")
}
DROPPED = {
    "all six": [],
    "three by created_at": INDEXES["updated_at"],
    "none": [*INDEXES["created_at"], *INDEXES["updated_at"]],
}


class Writer:
    """One database, in this process."""

    def __init__(self, settings: Settings) -> None:
        database.connect(settings)
        self._rows = itertools.cycle(list(itertools.islice(data.rows(SIZE), 5_000)))

    def write(self, commits: int, size: int) -> tuple[float, float]:
        """Microseconds of wall clock and of this process's CPU for each record."""
        batches = [[self._record() for _ in range(size)] for _ in range(commits)]
        wall, cpu = time.perf_counter(), time.process_time()
        for batch in batches:
            database.transact_grouped(batch, _write_batches)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return wall * 1e6 / commits / size, cpu * 1e6 / commits / size

    def _record(self) -> tuple[Any, ...]:
        now = clock.now()
        row = dict(zip(data.COLUMNS, next(self._rows), strict=True))
        row |= {"id": clock.new_id(now), "created_at": clock.to_micros(now), "updated_at": clock.to_micros(now)}
        return tuple(row[name] for name in records._COLUMNS)


def _write_batches(batches: list[list[tuple[Any, ...]]]) -> list[int]:
    return [len(records.write(batch)) for batch in batches]


@contextlib.contextmanager
def databases(name: str, folder: Path) -> Iterator[dict[str, Settings]]:
    """A filled database for each set of indexes."""
    made = {}
    with running_postgres(durable=True) if name == "postgresql" else contextlib.nullcontext() as server:
        first = Settings(var_dir=folder / "all six", database_url=server.create_database() if server else None)
        first.var_dir.mkdir()
        data.fill(first, SIZE)
        for variant, dropped in DROPPED.items():
            drops = [f"DROP INDEX {index}" for index in dropped]
            if server is None:
                path = folder / variant
                path.mkdir(exist_ok=True)
                if path != first.var_dir:
                    shutil.copy(first.var_dir / "qinling.db", path)
                made[variant] = Settings(var_dir=path)
                with contextlib.closing(sqlite3.connect(path / "qinling.db")) as connection:
                    for drop in drops:
                        connection.execute(drop)
                continue
            url = server.create_database() if dropped else first.database_url
            if dropped:
                data.fill(Settings(database_url=url), SIZE)
            with contextlib.closing(psycopg2.connect(url)) as connection:
                for drop in drops:
                    connection.cursor().execute(drop)
                connection.commit()
            made[variant] = Settings(var_dir=folder, database_url=url)
        yield made


def run(made: dict[str, Settings], rounds: int) -> dict[str, Any]:
    remotes = {variant: Remote(settings, Writer) for variant, settings in made.items()}
    samples: dict[tuple[str, int], list[tuple[float, float]]] = {}
    try:
        for number in range(rounds + 1):
            for size, (variant, remote) in itertools.product((1, 16), remotes.items()):
                sample = remote.ask("write", 20, size)
                if number:
                    samples.setdefault((variant, size), []).append(sample)
    finally:
        for remote in remotes.values():
            remote.close()
    return {
        f"{variant}, {size} in a commit": [round(statistics.median(column)) for column in zip(*values, strict=True)]
        for (variant, size), values in samples.items()
    }


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=40)
    arguments.add_argument("--databases", default="sqlite,postgresql")
    options = arguments.parse_args()
    results = {}
    for name in options.databases.split(","):
        with tempfile.TemporaryDirectory(prefix="qf-bench-") as folder, databases(name, Path(folder)) as made:
            results[name] = run(made, options.rounds)
        print(f"\n{name}: microseconds for each record")
        for row, (wall, cpu) in results[name].items():
            print(f"{row:40} {wall:6} in all, {cpu:6} of this process's CPU")
    save("index_writes", results)


if __name__ == "__main__":
    main()
