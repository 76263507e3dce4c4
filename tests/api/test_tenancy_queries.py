"""No query without a project scope: every statement that a tenant's requests make is looked at as it is made."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from qinling_falcon.models import database, tables
from qinling_falcon.models.scope import Context
from qinling_falcon.pool.registry import Registry
from qinling_falcon.resources.services import Services
from qinling_falcon.settings import Settings
from tests.api.client import REFERENCE_CLIENT
from tests.api.tenancy import NOTHING, OWNER, STRANGER, World
from tests.api.tenancy_acts import ACTS, LISTS
from tests.servers.postgres import PostgresServer

COUNT = "qinling_falcon.models.records.add_to_counts"
UNSCOPED = {
    "qinling_falcon.models.package_keys.unused": "a package goes when no row names it, whosever",
    "qinling_falcon.models.strays.delete": "looks at executions that the caller may retry",
    COUNT: "counts a call of a function that its caller has reached; with SQLite triggers do it",
}
"""Functions whose statements may see the rows of all projects in a tenant's request, and why."""

_MARKER = "limit=1&marker={}"
_NAMES = "|".join(table._meta.table_name for table in tables.ALL)
_USE = re.compile(rf'\b(FROM|JOIN|UPDATE|INTO)\s+"?({_NAMES})"?(?:\s+AS\s+"(\w+)")?')
_OWN = re.compile(r'"(\w+)"\."project_id" = (?:\?|%s)')
_KEY = re.compile(r'"\w+"\."(?:id|function_id)" = (?:\?|%s)')
_KEYS = re.compile(r'"\w+"\."id" IN \(((?:\?|%s)(?:, (?:\?|%s))*)\)')


class Watch:
    """Looks at the statements on the tables, while they are made for one caller.

    Attributes:
        faults: those that nothing keeps to the caller's project.
        excused: the functions of `UNSCOPED` that made such a statement.
        seen: what was done to which table.
    """

    def __init__(self, engine: Any, caller: Context):
        self._execute = engine.execute_sql
        self._param = engine.param
        self._caller = caller
        self._found: set[str] = set()
        self.faults: list[tuple[str, Any]] = []
        self.excused: set[str] = set()
        self.seen: set[tuple[str, str]] = set()

    def next_request(self) -> None:
        """What the last request found is not found any more."""
        self._found.clear()

    def execute_sql(self, sql: str, params: Sequence[Any] | None = None) -> Any:
        """In the place of the database's own."""
        uses = _USE.findall(sql)
        if uses:
            verb = sql.split(maxsplit=1)[0]
            self.seen.add((verb, uses[0][1]))
            if OWNER.project_id in (params or ()) or not self._is_kept(verb, sql, params or (), uses):
                self._judge(sql, params)
        return self._execute(sql, params)

    def _is_kept(self, verb: str, sql: str, params: Sequence[Any], uses: list[tuple[str, str, str]]) -> bool:
        """Whether the statement can see and change the caller's rows alone."""
        if verb == "INSERT":
            return self._caller.project_id in params
        if verb == "SELECT":
            mine = self._caller.project_id
            kept = [match[1] for match in _OWN.finditer(sql) if self._value(sql, params, match) == mine]
            if sorted(kept) != sorted(alias for _, _, alias in uses):
                return False
            self._found |= self._ids(sql, params)
            return True
        keys = [self._value(sql, params, match) for match in _KEY.finditer(sql)]
        for match in _KEYS.finditer(sql):
            first = sql.count(self._param, 0, match.start(1))
            keys += params[first : first + match[1].count(self._param)]
        return bool(keys) and self._found.issuperset(keys)

    def _value(self, sql: str, params: Sequence[Any], match: re.Match[str]) -> Any:
        return params[sql.count(self._param, 0, match.end()) - 1]

    def _ids(self, sql: str, params: Sequence[Any]) -> set[str]:
        """The ids that the statement gives; it is made once more for that."""
        cursor = self._execute(sql, params)
        columns = [column[0] for column in cursor.description]
        return {row[columns.index("id")] for row in cursor.fetchall()} if "id" in columns else set()

    def _judge(self, sql: str, params: Any) -> None:
        frame = sys._getframe(2)
        while frame is not None:
            name = f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}"
            if name in UNSCOPED:
                self.excused.add(name)
                return
            frame = frame.f_back
        self.faults.append((sql, params))


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> Settings:
    url = None
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.create_database()
    return Settings(var_dir=tmp_path, redis_url=redis_url, database_url=url)


@pytest.fixture
def world(services: Services, registry: Registry) -> World:
    return World(services, registry)


@pytest.fixture
def watch(world: World, monkeypatch: pytest.MonkeyPatch) -> Watch:
    engine = database.engine()
    watch = Watch(engine, STRANGER)
    monkeypatch.setattr(engine, "execute_sql", watch.execute_sql)
    return watch


def test_requests_that_read_and_write_keep_to_the_callers_project(
    world: World, watch: Watch, settings: Settings
) -> None:
    act_as_tenant(world, watch, "GET", "PUT", "POST")
    for route, headers in itertools.product(LISTS, ({}, REFERENCE_CLIENT)):
        for query in ("", "limit=1", "sort_key=updated_at&sort_dir=desc", f"project_id={OWNER.project_id}", _MARKER):
            for things in (world.things[STRANGER], world.things[OWNER]):
                watch.next_request()
                path = route.format(function_id=things.function_id)
                answer = world.send(STRANGER, "GET", path, query.format(getattr(things, LISTS[route])), headers)
                assert answer.status_code < 500, answer.text
    assert watch.faults == []
    assert watch.seen >= {("SELECT", table._meta.table_name) for table in tables.ALL}
    assert watch.seen >= {
        (verb, table._meta.table_name)
        for verb, table in itertools.product(("INSERT", "UPDATE"), (tables.Function, tables.Alias, tables.Webhook))
    }
    assert watch.excused == set(UNSCOPED) - ({COUNT} if settings.database_url is None else set())


def test_requests_that_delete_keep_to_the_callers_project(world: World, watch: Watch) -> None:
    act_as_tenant(world, watch, "DELETE")
    assert watch.faults == []
    assert watch.seen >= {("DELETE", table._meta.table_name) for table in tables.ALL if table is not tables.Runtime}
    assert watch.excused <= set(UNSCOPED)


def act_as_tenant(world: World, watch: Watch, *methods: str) -> None:
    """A tenant does all it can with what is its own, and tries the same with what is another's, or nobody's."""
    for method in methods:
        # What lies within comes first, for it goes with what it lies in.
        for route in sorted((route for its, route in ACTS if its == method), reverse=True):
            for act in ACTS[method, route]:
                for things in (world.things[OWNER], NOTHING):
                    watch.next_request()
                    assert world.act(STRANGER, method, route, act, things).status_code < 500
                watch.next_request()
                answer = world.act(STRANGER, method, route, act, world.things[STRANGER])
                assert answer.status_code == act.owner, (method, route, act, answer.text)
