"""Two projects and an admin, by real tokens on a running service: the walk of `tests/api/tenancy_acts.py` again."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import asdict, fields, replace
from typing import Any

import pytest
import requests

from tests.api.tenancy import Act, Things
from tests.api.tenancy_acts import ACTS, LISTS
from tests.integration.openstack.cloud import Cloud
from tests.integration.service import package, wait_until

USERS = ("alice", "bob", "admin")
NOT_YET = Things(**{field.name: "" for field in fields(Things)})


class World:
    """Things of each user, made through the API; two private runtimes are put into alice's project by hand."""

    def __init__(self, cloud: Cloud):
        self.cloud = cloud
        self.tokens = {user: cloud.keystone.token(user) for user in USERS}
        self.projects = {user: cloud.keystone.state["users"][user]["project_id"] for user in USERS}
        self.public_runtime_id = cloud.service.runtime()
        own = [self._private_runtime() for _ in range(2)]
        self.things = {user: self._make(user, own if user == "alice" else []) for user in USERS}

    def act(self, user: str, method: str, route: str, act: Act, target: Things) -> requests.Response:
        """What comes of `act` by this user, aimed at `target`."""
        names: dict[str, Any] = {f"my_{name}": value for name, value in asdict(self.things[user]).items()}
        names |= asdict(target) | {"public_runtime_id": self.public_runtime_id}

        def filled(value: Any) -> Any:
            return value.format(**names) if isinstance(value, str) else value

        more: dict[str, Any] = {}
        if act.form is not None:
            parts = {name: filled(value) for name, value in act.form.items()}
            more["files"] = {
                name: ("p.zip", value) if name == "package" else (None, value) for name, value in parts.items()
            }
        elif act.body is not None:
            more["json"] = {name: filled(value) for name, value in act.body.items()}
        path = filled(act.path or route) + (f"?{filled(act.query)}" if act.query else "")
        return self.cloud.send(method, path, self.tokens[user], **more)

    def new_function(self, user: str, runtime_id: str) -> str:
        form = {"name": f"of {user}", "runtime_id": runtime_id, "code": json.dumps({"source": "package"})}
        files = {"package": ("f.zip", package(main="def main():\n    return 1\n"))}
        return str(self._post(user, "/v1/functions", data=form, files=files)["id"])

    def new_version(self, user: str, function_id: str) -> str:
        return str(self._post(user, f"/v1/functions/{function_id}/versions", json={})["id"])

    def new_alias(self, user: str, name: str, function_id: str) -> dict[str, Any]:
        return self._post(user, "/v1/aliases", json={"name": name, "function_id": function_id})

    def _make(self, user: str, runtimes: list[str]) -> Things:
        runtime_id, spare_runtime_id = runtimes or 2 * [self.public_runtime_id]
        function_id, named_id = (self.new_function(user, runtime_id) for _ in range(2))
        version_id = self.new_version(user, function_id)
        # What a second version is made of.
        path = f"/v1/functions/{function_id}"
        assert self.cloud.send("PUT", path, self.tokens[user], data={"timeout": "7"}).status_code == 200
        alias = self.new_alias(user, f"alias-of-{user}", named_id)
        job = {"function_id": named_id, "pattern": "0 0 * * *"}
        return replace(
            NOT_YET,
            project_id=self.projects[user],
            runtime_id=runtime_id,
            spare_runtime_id=spare_runtime_id,
            function_id=function_id,
            named_id=named_id,
            version="1",
            version_id=version_id,
            alias_name=str(alias["name"]),
            alias_id=str(alias["id"]),
            webhook_id=str(self._post(user, "/v1/webhooks", json={"function_id": named_id})["id"]),
            job_id=str(self._post(user, "/v1/jobs", json=job)["id"]),
            execution_id=str(self._post(user, "/v1/executions", json={"function_id": function_id})["id"]),
        )

    def _private_runtime(self) -> str:
        cloud = self.cloud
        runtime_id = str(self._post("admin", "/v1/runtimes", json={"image": "python3", "is_public": False})["id"])
        path = f"/v1/runtimes/{runtime_id}"
        wait_until("it is available", lambda: cloud.service.request("GET", path).json()["status"] == "available")
        with closing(sqlite3.connect(cloud.service.var_dir / "qinling.db", timeout=10)) as database, database:
            database.execute("UPDATE runtimes SET project_id = ? WHERE id = ?", (self.projects["alice"], runtime_id))
        return runtime_id

    def _post(self, user: str, path: str, **content: Any) -> dict[str, Any]:
        made = self.cloud.send("POST", path, self.tokens[user], **content)
        assert made.status_code == 201, made.text
        return dict(made.json())


# Executions that wait, run or have failed for as long as a test wants them to, which is so in tests/api alone.
_IN_THEIR_OWN_TIME = ("{live_id}", "{queued_id}", "{failed_id}")


@pytest.fixture(scope="module")
def world(cloud: Cloud) -> World:
    return World(cloud)


def test_lists_hold_the_rows_of_the_caller_s_project(world: World) -> None:
    for route, name in LISTS.items():
        its = getattr(world.things["alice"], name)
        path = route.format(**asdict(world.things["alice"]))
        rows = {user: world.cloud.get(world.tokens[user], path).json() for user in USERS}
        assert its in {row["id"] for row in rows["alice"]}
        if "{" in route:
            assert "faultstring" in rows["bob"]
            continue
        for user in ("bob", "admin"):
            public = world.public_runtime_id
            assert {row["project_id"] for row in rows[user] if row["id"] != public} <= {world.projects[user]}
        if route != "/v1/runtimes":
            everything = f"{path}?all_projects=true"
            assert its in {row["id"] for row in world.cloud.get(world.tokens["admin"], everything).json()}
            assert world.cloud.get(world.tokens["bob"], everything).status_code == 403


def test_every_route_as_each_of_them(world: World) -> None:
    """Strangers first; a function is changed before others name it; what others would name by then is made anew."""
    order = sorted(ACTS, key=lambda key: (key[0] == "DELETE", key != ("PUT", "/v1/functions/{function_id}"), key))
    for method, route in order:
        its = world.things["alice"]
        if (method, route) == ("DELETE", "/v1/aliases/{alias_name}"):
            its = replace(its, alias_name=world.new_alias("alice", "unused", its.named_id)["name"])
        if method == "DELETE" and route.startswith("/v1/functions/"):
            its = replace(its, function_id=world.new_function("alice", its.runtime_id))
            world.new_version("alice", its.function_id)
            if "versions" not in route:
                versions = f"/v1/functions/{its.function_id}/versions/1"
                assert world.cloud.send("DELETE", versions, world.tokens["alice"]).status_code == 204
        for user, role in (("bob", "stranger"), ("admin", "admin"), ("alice", "owner")):
            for act in ACTS[method, route]:
                if any(name in act.path for name in _IN_THEIR_OWN_TIME):
                    continue
                status = getattr(act, role)
                if status == 503:  # there are workers here
                    status = 202
                answer = world.act(user, method, route, act, its)
                assert answer.status_code == status, (user, method, route, act, answer.text)
                if status == 404 and act.field:
                    assert set(answer.json()["errors"]) == {act.field}
                if role == "stranger":
                    assert world.projects["alice"] not in answer.text
        if (method, route) == ("POST", "/v1/aliases"):  # of alice's alias's name, by which they now have their own
            for user in USERS[1:]:
                path = f"/v1/aliases/{its.alias_name}"
                assert world.cloud.send("DELETE", path, world.tokens[user]).status_code == 204
