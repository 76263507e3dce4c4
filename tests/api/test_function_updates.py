"""Updates of functions."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

import pytest

from qinling_falcon.pool.pool import Pool
from tests.api.client import PACKAGE_MD5, REFERENCE_CLIENT, Client, assert_error, package


def test_name_description_and_timeout_change_the_row_alone(client: Client) -> None:
    made = client.function()
    body = {"name": "n", "description": "d", "timeout": "7", "count": 99, "entry": None}
    answer = client.simulate_put(f"/v1/functions/{made['id']}", json=body)
    assert answer.status_code == 200, answer.text
    row = answer.json
    assert (row["name"], row["description"], row["timeout"], row["count"]) == ("n", "d", 7, 0)
    assert row["code"] == made["code"]
    assert row["updated_at"] is not None


def test_an_update_with_nothing_to_change_answers_with_the_function(client: Client) -> None:
    made = client.function()
    for content_type in (None, "application/json"):
        answer = client.send("PUT", f"/v1/functions/{made['id']}", content_type=content_type)
        assert (answer.status_code, answer.json) == (200, made)


def test_a_new_package_replaces_the_old_one(client: Client) -> None:
    made = client.function()
    before = client.stored()
    new = package("def main(): return 2")
    answer = client.form("PUT", f"/v1/functions/{made['id']}", [("package", new), ("entry", "main.other")])
    assert answer.status_code == 200, answer.text
    assert answer.json["code"] == {"source": "package", "md5sum": hashlib.md5(new).hexdigest()}
    assert answer.json["entry"] == "main.other"
    assert client.simulate_get(f"/v1/functions/{made['id']}?download=true").content == new
    assert len(client.stored()) == 1
    assert client.stored() != before


@pytest.mark.parametrize(
    "change", [{"entry": "main.other"}, {"cpu": 200}, {"memory": 67108864}, {"timeout": 9}, {"package": b""}]
)
def test_what_calls_depend_on_changes_the_generation(client: Client, pool: Pool, change: dict[str, Any]) -> None:
    made = client.function()
    what = f"function:{made['id']}"
    before = pool.generations([what])
    if "package" in change:
        change = {"package": package("def main(): return 3")}
    parts = [(name, value if isinstance(value, bytes) else str(value)) for name, value in change.items()]
    assert client.form("PUT", f"/v1/functions/{made['id']}", parts).status_code == 200
    assert pool.generations([what]) != before


def test_a_name_does_not_change_the_generation(client: Client, pool: Pool) -> None:
    made = client.function()
    before = pool.generations([f"function:{made['id']}"])
    client.simulate_put(f"/v1/functions/{made['id']}", json={"name": "other"})
    assert pool.generations([f"function:{made['id']}"]) == before


@pytest.mark.parametrize(
    ("parts", "word"),
    [
        ([("code", '{"source": "package"}')], "package"),
        ([("code", '{"source": "swift"}')], "source"),
        ([("code", '{"source": "package", "md5sum": "' + PACKAGE_MD5 + '"}'), ("package", package())], "not changed"),
        ([("code", '{"source": "package", "md5sum": "' + "0" * 32 + '"}'), ("package", package("x = 1"))], "md5sum"),
        ([("package", b"no zip")], "zip"),
        ([("cpu", "1"), ("package", package("x = 1"))], "cpu"),
        ([("latest_version", "4")], "latest_version"),
        ([("runtime_id", "7")], "uuid"),
    ],
)
def test_an_update_that_makes_no_sense_leaves_everything_as_it_was(
    client: Client, parts: list[tuple[str, str | bytes]], word: str
) -> None:
    made = client.function()
    shown, stored = client.simulate_get(f"/v1/functions/{made['id']}").json, client.stored()
    assert_error(client.form("PUT", f"/v1/functions/{made['id']}", parts), 400, word)
    assert client.simulate_get(f"/v1/functions/{made['id']}").json == shown
    assert client.stored() == stored


def test_another_runtime_follows_the_rules_of_a_new_function(client: Client) -> None:
    path = f"/v1/functions/{client.function()['id']}"
    other = client.runtime()
    assert client.simulate_put(path, json={"runtime_id": other}).json["runtime_id"] == other
    assert_error(client.simulate_put(path, json={"runtime_id": str(uuid.uuid4())}), 404, "runtime_id")
    assert_error(client.simulate_put(path, json={"runtime_id": client.runtime(available=False)}), 409)


def test_the_reference_client_puts_the_members_of_code_beside_it(client: Client) -> None:
    path = f"/v1/functions/{client.function()['id']}"
    new = package("def main(): return 4")
    parts: list[tuple[str, str | bytes]] = [("source", "package"), ("package", new)]
    answer = client.form("PUT", path, parts, headers=REFERENCE_CLIENT)
    assert answer.json["code"]["md5sum"] == hashlib.md5(new).hexdigest()
    form = b"source=swift&swift=container&swift=object"
    answer = client.send("PUT", path, form, "application/x-www-form-urlencoded", headers=REFERENCE_CLIENT)
    assert_error(answer, 400, "source")
    assert_error(client.form("PUT", path, parts), 400, "Unknown field: source")


def test_an_unknown_function_can_not_be_updated_and_keeps_no_package(client: Client) -> None:
    assert_error(client.form("PUT", f"/v1/functions/{uuid.uuid4()}", [("package", package())]), 404, "function")
    assert client.stored() == set()
