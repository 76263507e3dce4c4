"""The policy in the API: each operation is held by its rule, each rule by docs/policy.md, and lists by their own."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qinling_falcon.api import ROUTES, create_app
from qinling_falcon.auth.policy import RULES, Policy
from qinling_falcon.models.scope import Context
from qinling_falcon.resources.operation import operations_of
from qinling_falcon.resources.services import Services
from tests.api.client import Client, assert_error
from tests.models.factories import make_function

ROOT = Path(__file__).parents[2]
LISTS = {
    "/v1/functions": "function:get_all:all_projects",
    "/v1/aliases": "function_alias:get_all:all_projects",
    "/v1/executions": "execution:get_all:all_projects",
    "/v1/webhooks": "webhook:get_all:all_projects",
    "/v1/jobs": "job:get_all:all_projects",
}
OPERATIONS = [
    (method, path, found.rule)
    for path, make in ROUTES
    for method, found in operations_of(make).items()
    if found.rule is not None
]
MEMBER = Context("default", user_id="mia", roles=("member",))
AUDITOR = Context("default", user_id="aud", roles=("auditor",))


@pytest.fixture
def client_under(services: Services, tmp_path: Path) -> Callable[[str], Client]:
    """A client of an app with these overrides."""

    def make(text: str) -> Client:
        path = tmp_path / "policy.yaml"
        path.write_text(text)
        return Client(create_app(replace(services, policy=Policy(path))), services.settings)

    return make


def test_every_rule_is_some_operations_and_the_other_way_round() -> None:
    helpers = {"context_is_admin", "admin_or_owner"}
    assert {rule for _, _, rule in OPERATIONS} | set(LISTS.values()) | helpers == RULES.keys()


def test_each_operation_is_held_by_its_rule(client_under: Callable[[str], Client]) -> None:
    for rule in sorted({rule for _, _, rule in OPERATIONS}):
        client = client_under(f'"{rule}": "!"')
        for method, path, own in OPERATIONS:
            filled = re.sub(r"\{\w+\}", str(uuid.uuid4()), path)
            answer = client.simulate_request(method, filled)
            refused = answer.status_code == 403 and "Operation not allowed" in answer.json["faultstring"]
            assert refused is (own == rule), (rule, method, path, answer.text)


@pytest.fixture
def two_projects(client: Client) -> None:
    """A function each, of projects `default` and `other`."""
    runtime_id = client.runtime(is_public=True)
    for project in ("default", "other"):
        make_function(Context(project), runtime_id, name=project)


def listed(client: Client, query: str) -> list[str]:
    answer = client.simulate_get(f"/v1/functions?{query}")
    assert answer.status_code == 200, answer.text
    return sorted(row["name"] for row in answer.json)


def test_whom_the_policy_lets_lists_all_projects_without_being_an_admin(
    two_projects: None, client_under: Callable[[str], Client], act_as: Callable[[Context], None]
) -> None:
    client = client_under("function:get_all:all_projects: role:auditor")
    act_as(AUDITOR)
    assert listed(client, "") == ["default"]
    assert listed(client, "all_projects=true") == ["default", "other"]
    assert listed(client, "all_projects=true&project_id=other") == ["other"]
    assert listed(client, "project_id=other") == ["other"]
    assert listed(client, "project_id=neq:other") == ["default"]
    other = client.simulate_get("/v1/functions?project_id=other").json[0]["id"]
    assert_error(client.simulate_get(f"/v1/functions/{other}"), 404, "")  # a list it is, and no more
    act_as(MEMBER)
    assert_error(client.simulate_get("/v1/functions?all_projects=true"), 403, "function:get_all:all_projects")
    assert listed(client, "project_id=other") == ["default"]


def test_an_admin_whom_the_policy_forbids_lists_its_own_project(
    two_projects: None, client_under: Callable[[str], Client]
) -> None:
    client = client_under('function:get_all:all_projects: "!"')
    assert_error(client.simulate_get("/v1/functions?all_projects=true"), 403, "function:get_all:all_projects")
    assert listed(client, "project_id=other") == []
    assert listed(client, "project_id=default") == ["default"]


@pytest.mark.parametrize(("path", "rule"), LISTS.items())
def test_each_list_of_all_projects_has_its_rule(
    client_under: Callable[[str], Client], act_as: Callable[[Context], None], path: str, rule: str
) -> None:
    client = client_under(f"{rule}: role:auditor")
    act_as(AUDITOR)
    for other in LISTS:
        answer = client.simulate_get(f"{other}?all_projects=true")
        assert answer.status_code == (200 if other == path else 403), answer.text


def test_runtimes_are_members_to_make_where_the_file_says_so(
    client_under: Callable[[str], Client], act_as: Callable[[Context], None]
) -> None:
    act_as(MEMBER)
    body: dict[str, Any] = {"json": {"image": "python3", "name": "mine"}}
    assert_error(client_under("").simulate_post("/v1/runtimes", **body), 403, "runtime:create")
    assert client_under("runtime:create: role:member").simulate_post("/v1/runtimes", **body).status_code == 201


def rows_of_the_table() -> dict[str, tuple[str, set[str]]]:
    """docs/policy.md: (default, operations) by rule."""
    rows = {}
    for line in (ROOT / "docs" / "policy.md").read_text().splitlines():
        if found := re.fullmatch(r"\| `([\w:]+)` \| `([^`]+)` \| (.*) \|", line):
            rows[found[1]] = found[2], {text.strip("` ") for text in found[3].split("<br>")} - {""}
    return rows


def test_the_document_has_each_rule_with_its_default_and_operations() -> None:
    expected = {name: (default, set[str]()) for name, default in RULES.items()}
    for method, path, rule in OPERATIONS:
        expected[rule][1].add(f"{method} {path}")
    for path, rule in LISTS.items():
        expected[rule][1].add(f"GET {path}?all_projects=true")
    assert rows_of_the_table() == expected


def test_the_sample_file_is_taken_as_it_is_and_with_all_of_its_lines(tmp_path: Path) -> None:
    sample = (ROOT / "config" / "policy.yaml.sample").read_text()
    path = tmp_path / "policy.yaml"
    for text in (sample, re.sub(r"(?m)^#(?=\S)", "", sample)):
        path.write_text(text)
        policy = Policy(path)
    reader = Context("p", roles=("reader",))
    assert policy.allows(reader, "function:get")
    assert not policy.allows(reader, "function:create")
    assert policy.allows(Context("p", roles=("auditor",)), "execution:get_all:all_projects")
