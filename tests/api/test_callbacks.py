"""`on_success`, `on_failure` and `callback_secret` of functions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qinling_falcon.models import database
from qinling_falcon.pool.pool import Pool
from qinling_falcon.settings import Settings
from tests.api.client import REFERENCE_CLIENT, Client, assert_error
from tests.support.secrets import SECRET

DONE, FAILED = "https://hooks.example/done?a=b", "http://hooks.example:8080"
IMAGE = {"name": "n", "code": {"source": "image", "image": "i"}}


def path_of(function_id: str) -> str:
    return f"/v1/functions/{function_id}"


def shown(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["on_success"], row["on_failure"], row["has_callback_secret"]


def stored_secret(function_id: str) -> str | None:
    with database.reading():
        rows = database.engine().execute_sql("SELECT id, callback_secret FROM functions").fetchall()
    stored = dict(rows)[function_id]
    return None if stored is None else database.secret_keys().decrypt(stored)


def test_a_function_has_no_callbacks_by_default(client: Client) -> None:
    assert shown(client.function()) == (None, None, False)


def test_callback_fields_are_read_from_forms_and_json(client: Client) -> None:
    made = client.function(on_success=DONE, callback_secret=SECRET)
    assert shown(made) == (DONE, None, True)
    assert stored_secret(made["id"]) == SECRET

    changed = client.simulate_put(path_of(made["id"]), json={"on_failure": FAILED}).json
    assert shown(changed) == (DONE, FAILED, True)

    fields = [("on_success", FAILED), ("on_failure", ""), ("callback_secret", "")]  # browsers send empty fields
    assert shown(client.form("PUT", path_of(made["id"]), fields).json) == (FAILED, FAILED, True)
    assert shown(client.simulate_get(path_of(made["id"])).json) == (FAILED, FAILED, True)
    assert stored_secret(made["id"]) == SECRET


def test_null_removes_callback_fields(client: Client) -> None:
    function_id = client.function(on_success=DONE, on_failure=FAILED, callback_secret=SECRET)["id"]

    nothing = dict.fromkeys(("on_success", "on_failure", "callback_secret"))
    changed = client.simulate_put(path_of(function_id), json=nothing).json

    assert shown(changed) == (None, None, False)
    assert stored_secret(function_id) is None


def test_a_new_function_may_have_null_callback_fields(client: Client) -> None:
    nothing = dict.fromkeys(("on_success", "on_failure", "callback_secret"))

    assert shown(client.simulate_post("/v1/functions", json=IMAGE | nothing).json) == (None, None, False)


def test_the_secret_is_shown_nowhere(client: Client) -> None:
    function_id = client.function(callback_secret=SECRET)["id"]

    answers = [
        client.simulate_get(path_of(function_id)),
        client.simulate_get("/v1/functions"),
        client.simulate_put(path_of(function_id), json={"name": "x"}),
        client.simulate_put(path_of(function_id), json={"callback_secret": SECRET}),
        client.simulate_put(path_of(function_id), json={"callback_secret": SECRET + "!"}),
        client.simulate_put(path_of(function_id), json={"callback_secret": [SECRET]}),
    ]

    for answer in answers:
        assert SECRET not in answer.text
    assert "callback_secret" not in answers[0].json
    assert_error(client.simulate_get(f"/v1/functions?callback_secret={SECRET}"), 400, "Unknown")


@pytest.mark.parametrize("field", ["on_success", "on_failure"])
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "printable ASCII"),
        ("hooks.example", "http:// or https://"),
        ("ftp://hooks.example", "http:// or https://"),
        ("https://", "has a host"),
        ("https://user:pass@hooks.example", "no user and no password"),
        ("https://hooks.example#x", "no fragment"),
        ("https://hooks.example/" + "x" * 2048, "2048"),
        ("http://127.0.0.1/", "127.0.0.1: it is not a public address"),
        ("http://10.1.2.3/", "not a public address"),
        ("http://169.254.169.254/latest/meta-data", "not a public address"),
        ("http://[::1]:7070/", "not a public address"),
        ("http://[::ffff:8.8.8.8]/", "not a public address"),
        (7, "must be text"),
        ([DONE], "must be text"),
    ],
)
def test_other_urls_are_refused(client: Client, field: str, url: object, said: str) -> None:
    answer = client.simulate_post("/v1/functions", json=IMAGE | {field: url})

    assert_error(answer, 400, field, said)
    assert list(answer.json["errors"]) == [field]


def test_a_setting_allows_more_addresses(client: Client, client_with: Any) -> None:
    wide = client_with(callback_networks="10.1.0.0/16")
    function_id = client.function()["id"]

    assert wide.simulate_put(path_of(function_id), json={"on_success": "http://10.1.2.3/"}).status_code == 200
    assert_error(wide.simulate_put(path_of(function_id), json={"on_success": "http://10.2.0.1/"}), 400, "on_success")


@pytest.mark.parametrize("secret", ["", "secret", "whsec_", "whsec_" + "A" * 28, "whsec_" + "A" * 100, 7, [SECRET]])
def test_other_secrets_are_refused(client: Client, secret: object) -> None:
    function_id = client.function()["id"]

    answer = client.simulate_put(path_of(function_id), json={"callback_secret": secret})

    assert_error(answer, 400, "callback_secret: must be whsec_ and 24 to 64 random bytes in base64")


def test_a_change_of_callbacks_keeps_the_generation(client: Client, pool: Pool) -> None:
    function_id = client.function()["id"]
    before = pool.generations([f"function:{function_id}"])

    changes = {"on_success": DONE, "callback_secret": SECRET}
    assert client.simulate_put(path_of(function_id), json=changes).status_code == 200

    assert pool.generations([f"function:{function_id}"]) == before


def test_callbacks_can_change_while_a_job_refers_to_the_function(client: Client) -> None:
    function_id = client.function()["id"]
    job = {"function_id": function_id, "pattern": "0 0 * * *", "name": "n"}
    assert client.simulate_post("/v1/jobs", json=job).status_code == 201

    assert client.simulate_put(path_of(function_id), json={"on_success": DONE}).status_code == 200


def test_a_function_from_an_image_can_have_callbacks(client: Client) -> None:
    made = client.simulate_post("/v1/functions", json=IMAGE | {"on_success": DONE}).json

    changed = client.simulate_put(path_of(made["id"]), json={"on_failure": FAILED, "callback_secret": SECRET}).json

    assert shown(changed) == (DONE, FAILED, True)


def test_functions_can_be_filtered_by_callback_url(client: Client) -> None:
    client.function()
    found = client.function(on_success=DONE)["id"]

    query = client.simulate_get("/v1/functions", params={"on_success": "has:hooks.example"})
    assert [row["id"] for row in query.json] == [found]


def test_the_reference_client_works_without_callback_fields(client: Client) -> None:
    made = client.upload(headers=REFERENCE_CLIENT).json

    answer = client.simulate_put(path_of(made["id"]), json={"timeout": 9}, headers=REFERENCE_CLIENT)

    assert (answer.status_code, *shown(answer.json)) == (200, None, None, False)


class TestWithoutKeys:
    """A service whose setting SECRET_KEYS is not set."""

    @pytest.fixture
    def settings(self, tmp_path: Path, redis_url: str) -> Settings:
        return replace(Settings(var_dir=tmp_path, redis_url=redis_url), secret_keys=None)

    def test_secrets_are_refused_and_nothing_is_stored(self, client: Client) -> None:
        assert_error(client.upload(callback_secret=SECRET), 501, "SECRET_KEYS is not set", "operator")
        assert client.stored() == set()
        assert client.simulate_get("/v1/functions").json == []

    def test_an_update_with_a_secret_changes_nothing(self, client: Client) -> None:
        function_id = client.function(on_success=DONE)["id"]

        answer = client.simulate_put(path_of(function_id), json={"on_success": FAILED, "callback_secret": SECRET})

        assert_error(answer, 501, "SECRET_KEYS is not set")
        assert shown(client.simulate_get(path_of(function_id)).json) == (DONE, None, False)
        assert client.simulate_put(path_of(function_id), json={"callback_secret": None}).status_code == 200
