"""Versions and aliases, by the real library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.client.conftest import Maker
from tests.client.driver import Client, ClientError, output_of

pytestmark = pytest.mark.xdist_group("client")


def test_versions_are_made_shown_listed_and_deleted(
    client: Client, make: Maker, zipped: Callable[[str], Path], check_fields: Callable[..., None]
) -> None:
    function_id = make()["id"]
    assert client.function_versions.list(function_id) == []
    first = client.function_versions.create(function_id, description="die erste, schön")
    client.functions.update(
        function_id, code={"source": "package"}, package=zipped("def main():\n    return 'second'\n")
    )
    second = client.function_versions.create(function_id)

    assert [row["version_number"] for row in (first, second)] == [1, 2]
    assert (first["description"], second["description"]) == ("die erste, schön", "")
    assert first["function_id"] == function_id
    assert client.function_versions.list(function_id) == [first, second]
    assert client.function_versions.get(function_id, 1) == client.function_versions.get(function_id, "1") == first
    assert client.functions.get(function_id)["latest_version"] == 2
    check_fields("function_version", first, second, *client.function_versions.list(function_id))

    outputs = [output_of(client.function_executions.create(function_id, function_version=n)) for n in (1, 2)]
    assert outputs == ["Hello, World", "second"]
    assert client.function_versions.delete(function_id, 2) is None
    with pytest.raises(ClientError) as gone:
        client.function_versions.get(function_id, 2)
    assert gone.value.kind == "HTTPNotFound"
    assert [row["version_number"] for row in client.function_versions.list(function_id)] == [1]


def test_second_version_of_the_same_code_is_refused(client: Client, make: Maker) -> None:
    function_id = make()["id"]
    client.function_versions.create(function_id)
    with pytest.raises(ClientError, match="not changed") as refused:
        client.function_versions.create(function_id)
    assert (refused.value.kind, refused.value.code) == ("HTTPForbidden", 403)


def test_version_that_an_alias_names_stays(client: Client, make: Maker, name: str) -> None:
    function_id = make()["id"]
    client.function_versions.create(function_id)
    client.function_aliases.create(name, function_id, function_version=1)
    with pytest.raises(ClientError, match=name) as refused:
        client.function_versions.delete(function_id, 1)
    assert refused.value.kind == "HTTPForbidden"


@pytest.mark.parametrize("suffix", ["", " with space", "+plus", ".dot", "ünï-文", "%", "&=;,~'\"(é)"])
def test_alias_is_reached_by_any_name_in_the_path(
    client: Client, make: Maker, name: str, suffix: str, check_fields: Callable[..., None]
) -> None:
    function_id = make()["id"]
    client.function_versions.create(function_id)
    alias = name + suffix

    made = client.function_aliases.create(alias, function_id, function_version=1, description="für alle")
    assert (made["name"], made["function_id"], made["function_version"]) == (alias, function_id, 1)
    assert client.function_aliases.get(alias) == made
    assert made in client.function_aliases.list()

    unchanged = client.function_aliases.update(alias)
    assert unchanged["function_version"] == 1
    updated = client.function_aliases.update(alias, function_version="0", description="another")
    assert updated == made | {
        "function_version": 0,
        "description": "another",
        "updated_at": updated["updated_at"],
    }
    check_fields("function_alias", made, unchanged, updated, *client.function_aliases.list())

    assert client.function_aliases.delete(alias) is None
    with pytest.raises(ClientError) as gone:
        client.function_aliases.get(alias)
    assert gone.value.kind == "HTTPNotFound"


def test_alias_moves_to_another_function(client: Client, make: Maker, name: str) -> None:
    old, new = make()["id"], make("def main():\n    return 'new'\n")["id"]
    assert client.function_aliases.create(name, old)["function_version"] == 0
    assert output_of(client.function_executions.create(function_alias=name)) == "Hello, World"
    assert client.function_aliases.update(name, function_id=new)["function_id"] == new
    assert output_of(client.function_executions.create(function_alias=name)) == "new"
