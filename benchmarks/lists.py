"""A page of 100 executions among 100,000, beside the same page among 1,000.

    python -m benchmarks.lists [--rounds 15] [--only WORD] [--plans] [--databases sqlite,postgresql]

Every filter by function_id, status or created_at is combined with every sort key and direction, as the first page and
as one in the middle, for a large tenant, a small one, and an admin who lists all projects. A process for each size
answers in turn; the median counts. The main ones go over HTTP as well, through the app. `--plans` says how the database
goes about each. Ends with status 1 when a combination misses the bound that is no EXCEPTION.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from falcon import testing

from benchmarks import execution_rows as data
from benchmarks.measure import save
from qinling_falcon.api import create_app
from qinling_falcon.auth.policy import Policy
from qinling_falcon.models import database, execution
from qinling_falcon.models.listing import ListParams, page
from qinling_falcon.models.scope import Context, scoped
from qinling_falcon.resources.services import Services
from qinling_falcon.settings import Settings
from tests.servers.postgres import running_postgres

SIZES = (1_000, 100_000)
LIMIT = 100
BOUND = 2.0
# Over HTTP too.
MAIN = {"none", "function eq, some", "function eq, few", "status eq, some", "status eq, few", "created gte, half"}
# What has to look at more the larger the table is: rows by one time, in the order of the other (README.md).
EXCEPTION = ("created", "updated_at")

CALLERS = {
    "tenant": (Context(data.PROJECT), False),
    "small tenant": (Context(data.SMALL_PROJECT), False),
    "admin": (Context("admins", is_admin=True), True),
}
# What is filtered, and about how much of it there is. `{first}` and the like are times of the caller's own rows.
FILTERS = {
    "none": [],
    "function eq, most": [("function_id", data.FUNCTIONS["busy"])],
    "function eq, some": [("function_id", data.FUNCTIONS["monthly"])],
    "function eq, few": [("function_id", data.FUNCTIONS["rare"])],
    "function eq, no row": [("function_id", data.UNKNOWN)],
    "function in, most": [("function_id", f"in:{data.FUNCTIONS['busy']},{data.FUNCTIONS['monthly']}")],
    "function in, few": [("function_id", f"in:{data.FUNCTIONS['rare']},{data.UNKNOWN}")],
    "function neq": [("function_id", f"neq:{data.FUNCTIONS['busy']}")],
    "function nin": [("function_id", f"nin:{data.FUNCTIONS['busy']},{data.FUNCTIONS['rare']}")],
    "status eq, most": [("status", "success")],
    "status eq, some": [("status", "failed")],
    "status eq, few": [("status", "error")],
    "status eq, no row": [("status", "dead")],
    "status in, some": [("status", "in:failed,error")],
    "status in, few": [("status", "in:running,cancelled")],
    "status neq, some": [("status", "neq:success")],
    "status neq, most": [("status", "neq:failed")],
    "status nin, few": [("status", "nin:success,failed")],
    "created gte, half": [("created_at", "gte:{middle}")],
    "created gt, few": [("created_at", "gt:{late}")],
    "created gt, no row": [("created_at", "gt:{after}")],
    "created lt, half": [("created_at", "lt:{middle}")],
    "created lte, few": [("created_at", "lte:{early}")],
    "created lt, no row": [("created_at", "lt:{before}")],
    "created between": [("created_at", "gte:{tenth}"), ("created_at", "lt:{middle}")],
    "created eq": [("created_at", "{middle}")],
    "created in": [("created_at", "in:{early},{middle},{late}")],
    "created neq": [("created_at", "neq:{middle}")],
    "created nin": [("created_at", "nin:{early},{middle}")],
}


@dataclass(frozen=True)
class Case:
    caller: str
    filter: str
    sort_key: str
    sort_dir: str
    middle: bool

    def __str__(self) -> str:
        where = "middle" if self.middle else "first"
        return f"{self.caller}: {self.filter}; {self.sort_key} {self.sort_dir}; {where}"


def cases() -> Iterator[Case]:
    for caller, name, key, way, middle in itertools.product(
        CALLERS, FILTERS, ("created_at", "updated_at", "status"), ("asc", "desc"), (False, True)
    ):
        if caller == "small tenant" and name.startswith("function") and "n" not in name.split()[1]:
            continue  # the functions are another tenant's: all of these are empty alike
        yield Case(caller, name, key, way, middle)


class Database:
    """One size, in this process."""

    def __init__(self, settings: Settings) -> None:
        database.connect(settings)
        self._client = testing.TestClient(make_app())
        self._times: dict[str, dict[str, str]] = {}
        self._params: dict[Case, ListParams] = {}
        self._counts: dict[tuple[str, str], int] = {}

    def params(self, case: Case) -> ListParams:
        if case not in self._params:
            filters = [(name, text.format(**self._times_of(case.caller))) for name, text in FILTERS[case.filter]]
            params = ListParams(limit=LIMIT, sort_key=case.sort_key, sort_dir=case.sort_dir, filters=filters)
            if case.middle and (half := self._count(case.caller, case.filter, params) // 2):
                before = page(_ids(case.caller), execution.LISTS, replace(params, limit=half))
                params = replace(params, marker=before.next_marker)
            self._params[case] = params
        return self._params[case]

    def _count(self, caller: str, filter_: str, params: ListParams) -> int:
        key = (caller, filter_)
        if key not in self._counts:
            spec = replace(execution.LISTS, chunk=max(SIZES))
            whole = replace(params, limit=None, sort_key="created_at", sort_dir="asc")
            self._counts[key] = sum(1 for _ in page(_ids(caller), spec, whole).rows)
        return self._counts[key]

    def _times_of(self, caller: str) -> dict[str, str]:
        if caller not in self._times:
            query = _ids(caller).select(execution.Execution.created_at).order_by(execution.Execution.created_at)
            with database.reading():
                times = [row.created_at for row in query]
            places = {
                "early": data.FEW, "tenth": len(times) // 10, "middle": len(times) // 2, "late": len(times) - data.FEW,
            }  # fmt: skip
            named = {name: times[place - 1] for name, place in places.items()}
            named |= {"before": data.START, "after": times[-1].replace(year=2030)}
            self._times[caller] = {name: f"{at:%Y-%m-%d %H:%M:%S}" for name, at in named.items()}
        return self._times[caller]

    def time(self, case: Case, http: bool) -> tuple[float, int]:
        """Milliseconds of one page, and its rows."""
        params = self.params(case)
        if http:
            return self._time_request(case, params)
        began = time.perf_counter()
        found = page(_select(case.caller), execution.LISTS, params)
        count = sum(1 for _ in found.rows)
        return (time.perf_counter() - began) * 1000, count

    def _time_request(self, case: Case, params: ListParams) -> tuple[float, int]:
        query = [("limit", LIMIT), ("sort_key", params.sort_key), ("sort_dir", params.sort_dir), *params.filters]
        query += [("marker", params.marker)] * (params.marker is not None)
        query += [("all_projects", "true")] * (case.caller == "admin")
        text = urlencode(query)
        began = time.perf_counter()
        answer = self._client.simulate_get("/v1/executions", query_string=text)
        content = answer.content
        taken = (time.perf_counter() - began) * 1000
        assert answer.status_code == 200, answer.text
        return taken, len(json.loads(content))

    def plans(self, case: Case) -> list[str]:
        """What the database says of each query of the page."""
        engine = database.engine()
        seen: list[tuple[str, Any]] = []
        execute = engine.execute_sql

        def spy(sql: str, params: Any = None) -> Any:
            seen.append((sql, params))
            return execute(sql, params)

        engine.execute_sql = spy
        try:
            list(page(_select(case.caller), execution.LISTS, self.params(case)).rows)
        finally:
            del engine.execute_sql
        explain = "EXPLAIN QUERY PLAN" if engine.position_function == "instr" else "EXPLAIN ANALYZE"
        plans = []
        with database.reading():
            for sql, params in seen:
                if sql.startswith("SELECT"):
                    rows = engine.execute_sql(f"{explain} {sql}", params).fetchall()
                    plans.append(sql[sql.find("FROM") :] + "\n" + "\n".join(str(row[-1]) for row in rows))
        return plans


def _select(caller: str) -> Any:
    context, all_projects = CALLERS[caller]
    return scoped(context, all_projects=all_projects).executions()


def _ids(caller: str) -> Any:
    model = execution.Execution
    return _select(caller).select(model.id, model.created_at, model.updated_at, model.status)


class _Nothing:
    """A collaborator that lists don't call."""


def make_app() -> Any:
    nothing: Any = _Nothing()
    return create_app(Services(Settings(), *[nothing] * 8, policy=Policy(None), alarms=nothing))


def serve(pipe: Connection, settings: Settings, about: Callable[[Settings], Any]) -> None:
    """Answer questions about one database."""
    served = about(settings)
    gc.freeze()
    while True:
        question = pipe.recv()
        if question is None:
            return
        method, *arguments = question
        pipe.send(getattr(served, method)(*arguments))


class Remote:
    """The process of one database."""

    def __init__(self, settings: Settings, about: Callable[[Settings], Any] = Database) -> None:
        self._pipe, other = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(target=serve, args=(other, settings, about))
        self._process.start()
        other.close()

    def ask(self, *question: Any) -> Any:
        self._pipe.send(question)
        return self._pipe.recv()

    def close(self) -> None:
        self._pipe.send(None)
        self._process.join(20)


def compare(small: Remote, large: Remote, case: Case, rounds: int, http: bool) -> dict[str, Any]:
    """Medians at both sizes. Far from the bound a few rounds are enough, beyond it there are three times as many."""
    samples: dict[str, list[float]] = {"small": [], "large": []}
    counts = {}
    for number in range(3 * rounds + 1):
        for name, remote in (("small", small), ("large", large)):
            took, counts[name] = remote.ask("time", case, http)
            if number:  # the first is to warm up
                samples[name].append(took)
        if number >= rounds // 3 and _ratio(samples) < (0.75 if number < rounds else 1) * BOUND:
            break
    return {
        "case": str(case) + " (HTTP)" * http,
        "filter": case.filter,
        "sort_key": case.sort_key,
        "http": http,
        "small_ms": round(statistics.median(samples["small"]), 3),
        "large_ms": round(statistics.median(samples["large"]), 3),
        "ratio": round(_ratio(samples), 2),
        "rows": [counts["small"], counts["large"]],
    }


def _ratio(samples: dict[str, list[float]]) -> float:
    return statistics.median(samples["large"]) / statistics.median(samples["small"])


def run(small: Settings, large: Settings, options: argparse.Namespace) -> list[dict[str, Any]]:
    remotes = [Remote(small), Remote(large)]
    results = []
    try:
        for case in cases():
            if options.only not in str(case):
                continue
            if options.plans:
                print(case, *remotes[1].ask("plans", case), sep="\n")
            over_http = case.filter in MAIN and case.caller != "small tenant"
            results += [compare(*remotes, case, options.rounds, http) for http in (False, True)[: 1 + over_http]]
    finally:
        for remote in remotes:
            remote.close()
    return results


def report(name: str, results: list[dict[str, Any]]) -> bool:
    """Print what was measured, a line for each filter; whether all that should hold does."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault(result["filter"], []).append(result)
    print(f"\n{name:22} {'pages':>6} {'1,000 ms':>9} {'100,000 ms':>11} {'ratio: median':>14} {'worst':>6}")
    for group, members in groups.items():
        worst = max(members, key=lambda result: result["ratio"])
        ms = [statistics.median(member[key] for member in members) for key in ("small_ms", "large_ms", "ratio")]
        print(f"{group:22} {len(members):6} {ms[0]:9.2f} {ms[1]:11.2f} {ms[2]:14.2f} {worst['ratio']:6.2f}")
    missed = [result for result in results if result["ratio"] > BOUND]
    for result in sorted(missed, key=lambda result: -result["ratio"]):
        known = (result["filter"].split()[0], result["sort_key"]) == EXCEPTION
        result["known"] = known
        print(
            f"over {BOUND}{' (known)' * known}: {result['ratio']:.2f} ({result['small_ms']:.2f} to"
            f" {result['large_ms']:.2f} ms) {result['case']}"
        )
    print(f"{name}: {len(results) - len(missed)} of {len(results)} within the bound")
    return all(result["known"] for result in missed)


@contextlib.contextmanager
def databases(name: str, folder: Path) -> Iterator[list[Settings]]:
    """Filled databases of both sizes."""
    folders = [folder / f"{name}-{size}" for size in SIZES]
    for path in folders:
        path.mkdir()
    with running_postgres(durable=True) if name == "postgresql" else contextlib.nullcontext() as server:
        urls = [server.create_database() if server else None for _ in SIZES]
        made = [Settings(var_dir=path, database_url=url) for path, url in zip(folders, urls, strict=True)]
        for settings, size in zip(made, SIZES, strict=True):
            data.fill(settings, size)
        yield made


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--only", default="")
    arguments.add_argument("--plans", action="store_true")
    arguments.add_argument("--databases", default="sqlite,postgresql")
    options = arguments.parse_args()
    held = True
    results = {}
    for name in options.databases.split(","):
        with tempfile.TemporaryDirectory(prefix="qf-bench-") as folder, databases(name, Path(folder)) as made:
            results[name] = run(*made, options)
        held = report(name, results[name]) and held
    save("lists", results)
    print("bounds hold" if held else "BOUNDS MISSED")
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
