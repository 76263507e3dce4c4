"""Quotas over HTTP: showing and setting them, and the requests that they refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from falcon import testing

from qinling_falcon.models.scope import Context
from qinling_falcon.settings import QUOTAS, Settings
from tests.api.client import REFERENCE_CLIENT, Client, assert_error, package

ADMIN = Context("default", is_admin=True, roles=("admin",))
USER = Context("project-a", roles=("member",))


def shown(client: Client, project_id: str | None = None) -> dict[str, dict[str, int]]:
    answer = client.simulate_get("/v1/quotas", params={} if project_id is None else {"project_id": project_id})
    assert answer.status_code == 200, answer.text
    assert answer.json.keys() == {"quotas"}
    assert list(answer.json["quotas"]) == list(QUOTAS)
    return dict(answer.json["quotas"])


def put(client: Client, **body: Any) -> testing.Result:
    return client.simulate_put("/v1/quotas", json=body)


def test_a_project_sees_its_limits_and_its_use(client: Client, settings: Settings) -> None:
    assert shown(client) == {kind: {"limit": settings.quotas[kind], "used": 0} for kind in QUOTAS}
    function_id = client.function()["id"]
    assert client.simulate_post(f"/v1/functions/{function_id}/versions").status_code == 201
    for path, fields in (("aliases", {"name": "a"}), ("webhooks", {}), ("jobs", {"pattern": "0 0 * * *"})):
        assert client.simulate_post(f"/v1/{path}", json={"function_id": function_id, **fields}).status_code == 201
    for _ in range(2):
        assert client.simulate_post("/v1/executions", json={"function_id": function_id}).status_code == 201
    used = {kind: quota["used"] for kind, quota in shown(client).items()}
    assert used == dict.fromkeys(QUOTAS, 1) | {"package_bytes": len(package()), "executions": 2, "kept_workers": 0}


def test_an_admin_sets_limits_and_those_not_named_stay(client: Client, settings: Settings) -> None:
    answer = put(client, aliases=3, executions=-1)
    assert answer.status_code == 200
    assert answer.json["quotas"] == shown(client)
    assert put(client, jobs="0", aliases=None).status_code == 200  # numbers may come as text; null is not given
    limits = {kind: quota["limit"] for kind, quota in shown(client).items()}
    assert limits == settings.quotas | {"aliases": 3, "executions": -1, "jobs": 0}
    assert put(client).json["quotas"] == shown(client)


def test_an_admin_names_another_project(client: Client, act_as: Callable[[Context], None]) -> None:
    assert put(client, project_id="project-a", webhooks=7).json["quotas"]["webhooks"] == {"limit": 7, "used": 0}
    assert shown(client, "project-a")["webhooks"]["limit"] == 7
    assert shown(client)["webhooks"]["limit"] == 1000
    act_as(USER)
    assert shown(client)["webhooks"]["limit"] == 7
    assert shown(client, "project-a")["webhooks"]["limit"] == 7


def test_only_admins_set_limits_and_see_those_of_others(client: Client, act_as: Callable[[Context], None]) -> None:
    act_as(USER)
    assert_error(put(client, webhooks=7), 403, "quota:update")
    assert_error(client.simulate_get("/v1/quotas", params={"project_id": "default"}), 403, "only an admin")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"colours": 3}, "colours"),
        ({"functions": -2}, "functions"),
        ({"functions": 1.5}, "functions"),
        ({"functions": True}, "functions"),
        ({"functions": "many"}, "functions"),
        ({"package_bytes": 2**53}, "package_bytes"),
        ({"project_id": ""}, "project_id"),
        ({"project_id": "x" * 256}, "project_id"),
        ({"project_id": 7}, "project_id"),
    ],
)
@pytest.mark.parametrize("headers", [{}, REFERENCE_CLIENT])
def test_limits_that_make_no_sense_are_refused(
    client: Client, body: dict[str, Any], field: str, headers: dict[str, str]
) -> None:
    before = shown(client)
    answer = client.simulate_put("/v1/quotas", json={"jobs": 1} | body, headers=headers)
    assert_error(answer, 400, field)
    assert shown(client) == before


@pytest.mark.parametrize("query", ["project_id=a&project_id=b", f"project_id={'x' * 256}", "project_id=%00"])
def test_an_invalid_project_id_is_refused(client: Client, query: str) -> None:
    assert_error(client.simulate_get("/v1/quotas", query_string=query), 400, "project_id")


@pytest.mark.parametrize("kind", ["functions", "versions", "aliases", "webhooks", "jobs"])
def test_what_is_over_a_quota_is_refused_with_limit_and_use(client: Client, kind: str) -> None:
    function_id = client.function()["id"]
    assert client.simulate_post(f"/v1/functions/{function_id}/versions").status_code == 201
    client.form("PUT", f"/v1/functions/{function_id}", [("timeout", "9")])
    for path, fields in (("aliases", {"name": "a"}), ("webhooks", {}), ("jobs", {"pattern": "0 0 * * *"})):
        assert client.simulate_post(f"/v1/{path}", json={"function_id": function_id, **fields}).status_code == 201
    assert put(client, **{kind: 1}).status_code == 200
    stored = client.stored()
    body: dict[str, Any] = {"function_id": function_id}
    requests: dict[str, Callable[[], testing.Result]] = {
        "functions": client.upload,
        "versions": lambda: client.simulate_post(f"/v1/functions/{function_id}/versions"),
        "aliases": lambda: client.simulate_post("/v1/aliases", json=body | {"name": "b"}),
        "webhooks": lambda: client.simulate_post("/v1/webhooks", json=body),
        "jobs": lambda: client.simulate_post("/v1/jobs", json=body | {"pattern": "0 0 * * *"}),
    }
    answer = requests[kind]()
    assert_error(answer, 403, f"Quota exceeded for {kind}: limit 1, used 1.", "ask an admin")
    assert shown(client)[kind] == {"limit": 1, "used": 1}
    assert client.stored() == stored
    assert put(client, **{kind: 2}).status_code == 200
    assert requests[kind]().status_code == 201


def test_a_package_over_the_quota_is_refused_and_leaves_nothing(client: Client, tmp_path: Path) -> None:
    function = client.function()
    size = len(package())
    assert put(client, package_bytes=size + 10).status_code == 200
    stored = client.stored()
    assert_error(client.upload(), 403, f"package_bytes: limit {size + 10}, used {size}, and this request adds {size}.")
    larger = package("def main():\n    return 'Hello, whoever calls this function'\n")
    path, code = f"/v1/functions/{function['id']}", ("code", '{"source": "package"}')
    assert_error(client.form("PUT", path, [code, ("package", larger)]), 403, "package_bytes", f"used {size}")
    assert client.stored() == stored
    assert client.simulate_get(path).json["updated_at"] is None
    assert client.form("PUT", path, [code, ("package", package("main = int\n"))]).status_code == 200
    assert shown(client)["package_bytes"]["used"] == len(package("main = int\n"))
