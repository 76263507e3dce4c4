"""Webhooks: what they run, who may change it, and that it stays as long as they do."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from qinling_falcon.errors import BadRequest, Forbidden, NotFound
from qinling_falcon.models import alias, function, version, webhook
from qinling_falcon.models.database import engine, reading, transact
from qinling_falcon.models.scope import Context, system
from qinling_falcon.models.secret_keys import SecretKeys
from qinling_falcon.models.webhook import Webhook
from qinling_falcon.settings import Settings
from tests.models.factories import make_function, raced
from tests.support.secrets import fernet_key

NOBODY = str(uuid.uuid4())


@pytest.fixture
def prod(owner: Context, function_id: str) -> str:
    """An alias of version 1 of the function."""
    version.create(owner, function_id, most=10)
    return str(alias.create(owner, name="prod", function_id=function_id, function_version=1).name)


def target(row: Webhook) -> tuple[str | None, int | None, str | None]:
    return row.function_id, row.function_version, row.function_alias


def test_a_webhook_is_read_back_as_it_was_made(owner: Context, function_id: str) -> None:
    made = webhook.create(owner, function_id=function_id, description="d")
    row = webhook.get(owner, made.id)
    assert row.__data__ == made.__data__ | {"updated_at": None}
    assert (target(row), row.description, row.project_id) == ((function_id, 0, None), "d", owner.project_id)


def test_a_webhook_is_of_a_version_or_of_an_alias_alone(owner: Context, function_id: str, prod: str) -> None:
    assert target(webhook.create(owner, function_id=function_id, function_version=1)) == (function_id, 1, None)
    assert target(webhook.create(owner, function_alias=prod)) == (None, None, prod)
    both = webhook.create(owner, function_id=NOBODY, function_version=7, function_alias=prod)
    assert target(webhook.get(owner, both.id)) == (None, None, prod)


@pytest.mark.parametrize(
    ("named", "field"),
    [
        ({"function_id": NOBODY}, "function_id"),
        ({"function_id": "OURS", "function_version": 2}, "function_version"),
        ({"function_alias": "test"}, "function_alias"),
        ({"function_id": "OURS", "function_alias": "test"}, "function_alias"),
    ],
)
def test_what_a_webhook_names_has_to_be_there(
    owner: Context, function_id: str, prod: str, named: dict[str, Any], field: str
) -> None:
    fields = {name: function_id if value == "OURS" else value for name, value in named.items()}
    before = webhook.create(owner, function_alias=prod)
    with pytest.raises(NotFound, match=f"^{field}: ") as caught:
        webhook.create(owner, **fields)
    assert caught.value.errors is not None and set(caught.value.errors) == {field}
    with pytest.raises(NotFound, match=f"^{field}: "):
        webhook.update(owner, before.id, fields | {"description": "d"})
    with reading():
        assert [row.__data__ for row in system("test").webhooks()] == [before.__data__ | {"updated_at": None}]


def test_only_the_caller_s_own_can_be_named(
    stranger: Context, admin: Context, owner: Context, function_id: str, prod: str
) -> None:
    for context in (stranger, admin):
        with pytest.raises(NotFound, match="function_id"):
            webhook.create(context, function_id=function_id)
        with pytest.raises(NotFound, match="function_alias"):
            webhook.create(context, function_alias=prod)


@pytest.mark.parametrize(
    ("before", "changes", "after"),
    [
        (("ours", 1, None), {"function_alias": "prod"}, (None, None, "prod")),
        (("ours", 1, None), {"function_alias": "prod", "function_id": "other"}, (None, None, "prod")),
        (("ours", 1, None), {"function_alias": "prod", "function_version": 1}, (None, None, "prod")),
        (("ours", 0, None), {"function_version": 1}, ("ours", 1, None)),
        (("ours", 1, None), {"function_version": 0}, ("ours", 0, None)),
        (("ours", 1, None), {"function_id": "other"}, ("other", 0, None)),
        (("ours", 1, None), {"function_id": "ours"}, ("ours", 1, None)),
        (("other", 0, None), {"function_id": "ours", "function_version": 1}, ("ours", 1, None)),
        ((None, None, "prod"), {"function_id": "ours"}, ("ours", 0, None)),
        ((None, None, "prod"), {"function_id": "ours", "function_version": 1}, ("ours", 1, None)),
        ((None, None, "prod"), {"function_alias": "test"}, (None, None, "test")),
        ((None, None, "prod"), {"description": "new"}, (None, None, "prod")),
        (("ours", 1, None), {"description": "new"}, ("ours", 1, None)),
    ],
)
def test_an_update_names_a_function_or_an_alias(
    owner: Context,
    runtime_id: str,
    function_id: str,
    prod: str,
    before: tuple[str | None, int | None, str | None],
    changes: dict[str, Any],
    after: tuple[str | None, int | None, str | None],
) -> None:
    ids = {"ours": function_id, "other": make_function(owner, runtime_id).id, None: None}
    alias.create(owner, name="test", function_id=function_id)
    made = webhook.create(
        owner, function_id=ids[before[0]], function_version=before[1], function_alias=before[2], description="old"
    )
    if "function_id" in changes:
        changes = changes | {"function_id": ids[changes["function_id"]]}
    answered = webhook.update(owner, made.id, changes)
    row = webhook.get(owner, made.id)
    assert target(row) == target(answered) == (ids[after[0]], *after[1:])
    assert row.description == answered.description == changes.get("description", "old")
    assert row.updated_at == answered.updated_at is not None


def test_a_version_alone_is_of_no_function_where_there_was_an_alias(owner: Context, prod: str) -> None:
    made = webhook.create(owner, function_alias=prod)
    with pytest.raises(BadRequest, match="function_id: required with function_version"):
        webhook.update(owner, made.id, {"function_version": 1})
    assert target(webhook.get(owner, made.id)) == (None, None, prod)


def test_only_the_owner_changes_and_deletes_and_admins_see(
    owner: Context, stranger: Context, admin: Context, function_id: str
) -> None:
    made = webhook.create(owner, function_id=function_id)
    assert webhook.get(admin, made.id).id == made.id
    with pytest.raises(NotFound):
        webhook.get(stranger, made.id)
    for context, error in ((stranger, NotFound), (admin, Forbidden)):
        with pytest.raises(error):
            webhook.update(context, made.id, {"description": "mine"})
        with pytest.raises(error):
            webhook.delete(context, made.id)
    assert webhook.get(owner, made.id).description is None
    other = webhook.create(owner, function_id=function_id)
    webhook.delete(owner, made.id)
    for call in (webhook.get, webhook.delete):
        with pytest.raises(NotFound, match=made.id):
            call(owner, made.id)
    assert webhook.get(owner, other.id).id == other.id


def test_what_a_webhook_names_can_not_go(owner: Context, function_id: str, prod: str) -> None:
    by_alias = webhook.create(owner, function_alias=prod)
    with pytest.raises(Forbidden, match=by_alias.id):
        alias.delete(owner, prod)
    webhook.update(owner, by_alias.id, {"function_id": function_id, "function_version": 1})
    alias.delete(owner, prod)
    with pytest.raises(Forbidden, match=by_alias.id):
        version.delete(owner, function_id, 1)
    webhook.update(owner, by_alias.id, {"function_version": 0})
    version.delete(owner, function_id, 1)
    with pytest.raises(Forbidden, match=by_alias.id):
        function.delete(owner, function_id)
    webhook.delete(owner, by_alias.id)
    function.delete(owner, function_id)


def test_no_webhook_is_left_without_its_function(settings: Settings, owner: Context, runtime_id: str) -> None:
    targets = [make_function(owner, runtime_id).id for _ in range(20)]
    outcomes = raced(
        settings, "function.delete(context, target)", targets, lambda target: webhook.create(owner, function_id=target)
    )
    assert {one_of_both(*outcome) for outcome in outcomes} <= {"kept", "gone"}


def test_no_webhook_is_left_without_its_version(settings: Settings, owner: Context, runtime_id: str) -> None:
    targets = [make_function(owner, runtime_id).id for _ in range(20)]
    for function_id in targets:
        version.create(owner, function_id, most=10)
    outcomes = raced(
        settings,
        "version.delete(context, target, 1)",
        targets,
        lambda target: webhook.create(owner, function_id=target, function_version=1),
    )
    assert {one_of_both(*outcome) for outcome in outcomes} <= {"kept", "gone"}


def test_no_webhook_is_left_without_its_alias(settings: Settings, owner: Context, function_id: str) -> None:
    targets = [alias.create(owner, name=f"alias-{number}", function_id=function_id).name for number in range(20)]
    other = webhook.create(owner, function_id=function_id)
    outcomes = raced(
        settings,
        "alias.delete(context, target)",
        targets[:10],
        lambda target: webhook.create(owner, function_alias=target),
    )
    # The same by an update; what was named last is free again when the next is named.
    outcomes += raced(
        settings,
        "alias.delete(context, target)",
        targets[10:],
        lambda target: webhook.update(owner, other.id, {"function_alias": target}),
    )
    assert {one_of_both(*outcome) for outcome in outcomes} <= {"kept", "gone"}


def one_of_both(there: str, here: Any) -> str:
    """Which came first: the webhook, and what it names was kept, or the deletion."""
    if there == "Forbidden" and isinstance(here, Webhook):
        return "kept"
    return "gone" if there == "done" and isinstance(here, NotFound) else f"{there}, {here!r}"


def test_a_row_of_before_takes_unsigned_posts(owner: Context, function_id: str) -> None:
    """The defaults of the columns are those of the model."""
    made = webhook.create(owner, function_id=function_id)
    new_id = str(uuid.uuid4())
    columns = "project_id, created_at, function_id, function_version"
    with reading():
        (values,) = engine().execute_sql(f"SELECT {columns} FROM webhooks").fetchall()
    param = engine().param
    insert = f"INSERT INTO webhooks (id, {columns}) VALUES ({', '.join([param] * 5)})"
    transact(lambda: engine().execute_sql(insert, (new_id, *values)))
    assert webhook.get(owner, new_id).__data__ == made.__data__ | {"id": new_id, "updated_at": None}


def test_a_signature_keeps_what_an_update_of_its_scheme_leaves_out(
    settings: Settings, owner: Context, function_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "secret_keys", lambda: SecretKeys([fernet_key()]))
    signature = {"scheme": "github", "secrets": ["one"], "tolerance_s": 60}
    made = webhook.create(owner, function_id=function_id, signature=signature)

    def changed(**wanted: Any) -> tuple[Any, ...]:
        row = webhook.update(owner, made.id, {"signature": wanted})
        return row.signature_scheme, row.signature_tolerance_s, webhook.secrets_of(row)

    assert changed(scheme="github", tolerance_s=90) == ("github", 90, ("one",))
    assert changed(scheme="github", secrets=["two", "three"]) == ("github", 90, ("two", "three"))
    with pytest.raises(BadRequest, match="secrets are required"):
        changed(scheme="stripe")
    assert changed(scheme="stripe", secrets=["four"]) == ("stripe", 300, ("four",))
    assert changed(scheme="none") == (None, None, ())
    with pytest.raises(BadRequest, match="secrets are required"):
        changed(scheme="stripe")
