"""Jobs and webhooks belong to a project: other projects don't find them, and admins may only see them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from qinling_falcon.models.scope import Context
from tests.api.client import Client, assert_error


@pytest.mark.parametrize(
    ("kind", "fields", "change"),
    [
        ("job", {"pattern": "* * * * *"}, {"status": "cancelled"}),
        ("webhook", {}, {"description": "mine"}),
    ],
    ids=["job", "webhook"],
)
def test_other_projects_rows_are_not_found_and_admins_only_see_them(
    client: Client,
    function_id: str,
    act_as: Callable[[Context], None],
    kind: str,
    fields: dict[str, str],
    change: dict[str, str],
) -> None:
    body: dict[str, Any] = {"function_id": function_id} | fields
    path = f"/v1/{kind}s"
    made = client.simulate_post(path, json=body).json
    one = f"{path}/{made['id']}"

    act_as(Context("theirs"))
    assert client.simulate_get(path).json == []
    assert client.simulate_get(f"{path}?project_id=default").json == []
    refused = client.simulate_get(f"{path}?all_projects=true").json["faultstring"]
    assert refused == f"Operation not allowed: {kind}:get_all:all_projects."
    for method in ("GET", "PUT", "DELETE"):
        assert_error(client.send(method, one, json.dumps(change).encode() if method == "PUT" else b""), 404, kind)
    assert_error(client.send("PUT", one), 404, kind)
    assert_error(client.simulate_post(path, json=body), 404, "function_id")

    act_as(Context("admins", is_admin=True, roles=("admin",)))
    assert client.simulate_get(path).json == []
    for query in ("all_projects=true", "project_id=default"):
        assert client.simulate_get(path, query_string=query).json == [made]
    assert client.simulate_get(one).json == made
    assert_error(client.simulate_put(one, json=change), 403, "owner")
    assert_error(client.simulate_delete(one), 403, "owner")
    assert_error(client.simulate_post(path, json=body), 404, "function_id")
    assert client.simulate_get(one).json == made
