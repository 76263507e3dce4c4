"""`/v1/quotas`: the limits of a project and their use."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.service import User, error
from tests.contract.shapes import QUOTA, check

pytestmark = pytest.mark.xdist_group("contract")

KINDS = ["functions", "package_bytes", "versions", "aliases", "webhooks", "jobs", "executions", "kept_workers"]


@pytest.fixture
def elsewhere() -> str:
    """The id of a project without rows."""
    return f"project-{uuid.uuid4()}"


@pytest.fixture
def limit_of_aliases(user: User) -> Iterator[int]:
    """The number of aliases of the caller's project. After the test the limit of aliases is restored."""
    before = quotas_of(user)["aliases"]
    yield before["used"]
    assert user.put("/v1/quotas", aliases=before["limit"]).status_code == 200


def quotas_of(user: User, **query: str) -> dict[str, Any]:
    answer = user.get("/v1/quotas", params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["quotas"])


def test_GET_v1_quotas_answers_200(user: User, function_id: str) -> None:
    answer = user.get("/v1/quotas")
    assert answer.status_code == 200
    assert answer.json().keys() == {"quotas"}
    assert list(answer.json()["quotas"]) == KINDS
    for quota in answer.json()["quotas"].values():
        check(QUOTA, quota)
    before = quotas_of(user)
    user.made("/v1/executions", function_id=function_id)
    name = user.alias(function_id)
    after = quotas_of(user)
    assert after["aliases"]["used"] == before["aliases"]["used"] + 1
    assert after["executions"]["used"] == before["executions"]["used"] + 1
    assert user.delete(f"/v1/aliases/{name}").status_code == 204
    assert quotas_of(user)["aliases"] == before["aliases"]


def test_PUT_v1_quotas_answers_200(user: User, elsewhere: str) -> None:
    answer = user.put("/v1/quotas", project_id=elsewhere, jobs=5, functions=0, executions=-1)
    assert answer.status_code == 200
    shown = answer.json()["quotas"]
    assert shown == quotas_of(user, project_id=elsewhere)
    assert [shown[kind] for kind in ("jobs", "functions", "executions")] == [
        {"limit": 5, "used": 0}, {"limit": 0, "used": 0}, {"limit": -1, "used": 0},
    ]  # fmt: skip
    assert shown["webhooks"] == {"limit": quotas_of(user)["webhooks"]["limit"], "used": 0}


@pytest.mark.parametrize("body", [{"colours": 1}, {"jobs": -2}, {"jobs": "some"}, {"jobs": 0.5}])
def test_unknown_kinds_and_invalid_limits_are_refused(user: User, elsewhere: str, body: dict[str, Any]) -> None:
    error(user.put("/v1/quotas", project_id=elsewhere, aliases=1, **body), 400, field=next(iter(body)))
    assert quotas_of(user, project_id=elsewhere)["aliases"]["limit"] != 1


def test_over_a_quota_is_403_with_kind_limit_and_use(user: User, function_id: str, limit_of_aliases: int) -> None:
    assert user.put("/v1/quotas", aliases=limit_of_aliases).status_code == 200
    answer = user.post("/v1/aliases", name=f"alias-{uuid.uuid4()}", function_id=function_id)
    error(answer, 403, f"aliases: limit {limit_of_aliases}, used {limit_of_aliases}")
    assert user.put("/v1/quotas", aliases=limit_of_aliases + 1).status_code == 200
    assert user.delete(f"/v1/aliases/{user.alias(function_id)}").status_code == 204
