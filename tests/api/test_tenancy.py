"""Tenancy, by a walk over every method of every route: what is a project's is nothing to another one.

A method that is served and has no acts in `tenancy_acts` fails the walk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from falcon import inspect, testing

from qinling_falcon.api import create_app
from qinling_falcon.models import clock
from qinling_falcon.models.scope import Context
from qinling_falcon.pool.registry import Registry
from qinling_falcon.resources.services import Services
from qinling_falcon.settings import Settings
from tests.api.client import REFERENCE_CLIENT, assert_error
from tests.api.tenancy import ADMIN, NOTHING, OWNER, STRANGER, Act, Things, World
from tests.api.tenancy_acts import ACTS, DELIVERED, LISTS, OPEN
from tests.servers.postgres import PostgresServer


@pytest.fixture
def settings(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> Settings:
    """On SQLite unless a test says otherwise. Without patience: no worker comes."""
    url = None
    if getattr(request, "param", "sqlite") == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.create_database()
    return Settings(var_dir=tmp_path, redis_url=redis_url, database_url=url, invoke_queue_timeout_s=0.01)


@pytest.fixture
def world(services: Services, registry: Registry) -> World:
    return World(services, registry)


def test_every_method_of_every_route_is_walked(services: Services) -> None:
    served = {
        (method.method, route.path)
        for route in inspect.inspect_routes(create_app(services))
        for method in route.methods
        if not method.internal and method.method != "HEAD" and route.path not in DELIVERED
    }
    assert served == ACTS.keys() | OPEN | {("GET", route) for route in LISTS}


@pytest.mark.parametrize(("method", "route"), sorted(ACTS))
def test_it_is_not_there_for_others_and_an_admin_sees_it(world: World, method: str, route: str) -> None:
    for act in ACTS[method, route]:
        try_as_stranger(world, method, route, act)
    for act in ACTS[method, route]:
        try_as_admin(world, method, route, act)
    others = world.rows(STRANGER), world.rows(ADMIN)
    for act in ACTS[method, route]:
        check_status(world.act(OWNER, method, route, act, world.things[OWNER]), act.owner, act)
    assert (world.rows(STRANGER), world.rows(ADMIN)) == others


@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
def test_on_postgresql_it_is_not_there_for_another_tenant_either(world: World) -> None:
    for (method, route), acts in ACTS.items():
        for act in acts:
            if act.stranger >= 400:
                try_as_stranger(world, method, route, act)
    for route in LISTS:
        check_list(world, route)


def test_what_is_open_tells_of_no_project(world: World) -> None:
    for method, route in OPEN:
        answer = world.client.simulate_request(method, route.format(file_name="start.js"))
        assert answer.status_code == 200, route
        assert not told(answer, world)


@pytest.mark.parametrize("sender", [OWNER, STRANGER])
def test_a_delivery_runs_in_the_project_of_its_webhook_whoever_sends_it(world: World, sender: Context) -> None:
    its = world.things[OWNER]
    other = world.rows(STRANGER), world.rows(ADMIN)
    for route in DELIVERED:
        path = route.replace("{path:path}", "a").format(**asdict(its))
        answer = world.send(sender, "POST", path)
        if route.endswith("invoke"):
            assert answer.status_code == 202, answer.text
            execution = world.send(OWNER, "GET", f"/v1/executions/{answer.json['execution_id']}").json
            assert (execution["project_id"], execution["webhook_id"]) == (OWNER.project_id, its.webhook_id)
        assert not {OWNER.project_id, its.function_id, its.job_id} & set(answer.text.split('"'))
    assert (world.rows(STRANGER), world.rows(ADMIN)) == other


@pytest.mark.parametrize("route", LISTS)
def test_lists_hold_the_rows_of_the_caller_alone(world: World, route: str) -> None:
    check_list(world, route)


def try_as_stranger(world: World, method: str, route: str, act: Act) -> None:
    """Another tenant aims the act at the owner's things: it is told what it would be told if there were none."""
    its = world.things[OWNER]
    everything = world.rows(), world.packages(), world.pooled()
    owned = world.rows(OWNER)
    answer = world.act(STRANGER, method, route, act, its)
    check_status(answer, act.stranger, act)
    assert not told(answer, world), act
    if act.stranger < 400:
        assert world.rows(OWNER) == owned, act
        assert everything[1].items() <= world.packages().items(), act
        return
    assert (world.rows(), world.packages(), world.pooled()) == everything, act
    nothing = world.act(STRANGER, method, route, act, NOTHING)
    assert (answer.status, unnamed(answer, its)) == (nothing.status, unnamed(nothing, NOTHING)), act
    if method == "GET":
        assert world.act(STRANGER, "HEAD", route, act, its).status == answer.status


def try_as_admin(world: World, method: str, route: str, act: Act) -> None:
    """The admin of another project aims the act at the owner's things."""
    before = world.rows(), world.packages()
    check_status(world.act(ADMIN, method, route, act, world.things[OWNER]), act.admin, act)
    if act.admin >= 400 or method == "GET":
        assert (world.rows(), world.packages()) == before, act


def check_status(answer: testing.Result, status: int, act: Act) -> None:
    assert answer.status_code == status, (act, answer.text)
    if status == 404 and act.field:
        assert_error(answer, 404, f"{act.field}: ")
        assert set(answer.json["errors"]) == {act.field}


def told(answer: testing.Result, world: World) -> set[str]:
    """What an answer to the stranger, which is no list, tells of the owner."""
    its = world.things[OWNER]
    secrets = {OWNER.project_id, its.version_id}
    if answer.status_code < 400:  # else it may repeat what was asked for
        secrets |= {its.runtime_id, its.function_id, its.execution_id, its.webhook_id, its.job_id}
    return {word for word in secrets if word in answer.text or word in str(answer.headers)}


def unnamed(answer: testing.Result, things: Things) -> str:
    """An error without what names the things in it."""
    text = json.dumps(answer.json | {"request_id": None})
    for name in asdict(things).values():
        text = text.replace(name, "…") if name != things.version else text
    return text


def listed(world: World, context: Context, path: str, query: str = "", **headers: str) -> dict[str, Any]:
    """The rows of a list by their ids; none when it is refused."""
    answer = world.send(context, "GET", path, query, headers)
    assert answer.status_code in (200, 400), (query, answer.text)
    if answer.status_code == 400:
        return {}
    rows = answer.json if isinstance(answer.json, list) else next(iter(answer.json.values()))
    return {row["id"]: row for row in rows}


def check_list(world: World, route: str) -> None:
    """`GET route` holds the caller's rows alone, whatever is asked of it."""
    path, its_path = (route.format(**asdict(world.things[context])) for context in (STRANGER, OWNER))
    public = {world.public_runtime_id} if route == "/v1/runtimes" else set()
    its = {key: row for key, row in listed(world, OWNER, its_path).items() if key not in public}
    mine = listed(world, STRANGER, path)
    assert getattr(world.things[OWNER], LISTS[route]) in its
    assert {getattr(world.things[STRANGER], LISTS[route])} | public <= mine.keys()
    assert {row["project_id"] for key, row in mine.items() if key not in public} == {STRANGER.project_id}

    for query in _queries(its, mine):
        for headers in ({}, REFERENCE_CLIENT):
            assert not listed(world, STRANGER, path, query, **headers).keys() & its.keys(), query
    for key in its:
        page = world.send(STRANGER, "GET", path, f"marker={key}")
        moment = clock.read_id(key)
        if moment is not None:  # such an id stands for its moment, also when there is no such row
            assert page.json == world.send(STRANGER, "GET", path, f"marker={clock.new_id(moment)}").json
            assert not {row["id"] for row in page.json} & its.keys()
            continue
        unknown = world.send(STRANGER, "GET", path, f"marker={NOTHING.function_id}")
        assert_error(page, 400, "marker")
        assert page.json["errors"] == json.loads(unknown.text.replace(NOTHING.function_id, key))["errors"]

    for query in ("all_projects=true", f"project_id={OWNER.project_id}"):
        if route in _ALL_PROJECTS:
            assert listed(world, ADMIN, path, query).keys() >= its.keys()
        else:
            assert not listed(world, ADMIN, path, query).keys() & its.keys()
    if route in _ALL_PROJECTS:
        assert_error(world.send(STRANGER, "GET", path, "all_projects=true"), 403, "not allowed")
    if path == its_path:
        assert not listed(world, ADMIN, path).keys() & its.keys()
    else:
        assert listed(world, ADMIN, its_path).keys() == its.keys()
        for query in ("", "all_projects=true", f"project_id={OWNER.project_id}"):
            assert_error(world.send(STRANGER, "GET", its_path, query), 404, "function")


def _queries(its: dict[str, Any], mine: dict[str, Any]) -> Iterator[str]:
    """What a tenant may ask of its list to get at another one's rows."""
    yield from ("limit=10000", f"project_id={OWNER.project_id}", f"project_id=in:{OWNER.project_id}")
    yield from (f"id=neq:{key}" for key in mine)
    yield f"id=in:{','.join([*its, *mine])}"
    for row in its.values():
        yield from (f"{name}=eq:{value}" for name, value in row.items() if value is not None)
    for key in ("created_at", "updated_at", "name", "status"):
        yield from (f"sort_key={key}&sort_dir={way}" for way in ("asc", "desc"))


_ALL_PROJECTS = {"/v1/functions", "/v1/aliases", "/v1/executions", "/v1/webhooks", "/v1/jobs"}
