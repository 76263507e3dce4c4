"""Secrets in the database: encrypted, checked at the start, and encrypted anew after a change of keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from cryptography.fernet import Fernet

from qinling_falcon.errors import NotSupported
from qinling_falcon.models import database, function, secrets_at_rest, webhook
from qinling_falcon.models.scope import Context
from qinling_falcon.models.secret_keys import SecretKeys, SecretUnreadable
from qinling_falcon.settings import Settings, SettingsError
from tests.models.factories import make_function, make_runtime
from tests.support.secrets import SECRET, fernet_key

OLD, NEW = fernet_key(1), fernet_key(2)


@pytest.fixture
def connected(migrated: Settings) -> Iterator[Settings]:
    """Connected to the database with the key OLD."""
    settings = replace(migrated, secret_keys=OLD)
    database.connect(settings)
    yield settings
    database.disconnect()


def reconnect(settings: Settings, *keys: str) -> Settings:
    """As after a restart of the process with other keys."""
    database.disconnect()
    changed = replace(settings, secret_keys=",".join(keys))
    database.connect(changed)
    return changed


def secret_function(owner: Context, secret: str = SECRET) -> str:
    return make_function(owner, make_runtime(owner).id, callback_secret=secret).id


def stored(function_id: str) -> str:
    with database.reading():
        rows = database.engine().execute_sql("SELECT id, callback_secret FROM functions").fetchall()
    return str(dict(rows)[function_id])


def plain(function_id: str) -> str:
    return database.secret_keys().decrypt(stored(function_id))


def test_the_database_holds_no_plain_secret(connected: Settings, owner: Context) -> None:
    function_id = secret_function(owner)

    assert SECRET not in stored(function_id)
    assert Fernet(OLD).decrypt(stored(function_id).partition(".")[2]).decode() == SECRET
    assert function.get(owner, function_id).has_callback_secret


def test_an_update_replaces_or_removes_the_secret(connected: Settings, owner: Context) -> None:
    function_id = secret_function(owner)

    function.update(owner, function_id, {"callback_secret": SECRET[::-1]})
    assert plain(function_id) == SECRET[::-1]

    function.update(owner, function_id, {"callback_secret": None})
    assert not function.get(owner, function_id).has_callback_secret


def test_without_keys_no_secret_is_stored(connected: Settings, owner: Context) -> None:
    function_id = secret_function(owner)
    reconnect(connected)

    with pytest.raises(NotSupported, match="SECRET_KEYS is not set"):
        secret_function(owner)
    with pytest.raises(NotSupported, match="SECRET_KEYS is not set"):
        function.update(owner, function_id, {"callback_secret": SECRET})
    function.update(owner, function_id, {"callback_secret": None})


def test_the_first_key_encrypts_and_all_keys_decrypt() -> None:
    both = SecretKeys([NEW, OLD])

    assert both.decrypt(SecretKeys([OLD]).encrypt("x")) == "x"
    assert SecretKeys([NEW]).decrypt(both.encrypt("ü\n")) == "ü\n"
    with pytest.raises(SecretUnreadable, match="fingerprint"):
        SecretKeys([OLD]).decrypt(both.encrypt("x"))


def test_a_damaged_secret_is_unreadable() -> None:
    keys = SecretKeys([OLD])
    whole = keys.encrypt("x")

    for damaged in (whole[:-1], whole[:-5] + "AAAAA", "", "x", whole.replace(".", "")):
        with pytest.raises(SecretUnreadable):
            keys.decrypt(damaged)


def test_the_check_names_the_missing_keys_and_shows_no_key(connected: Settings, owner: Context) -> None:
    secrets_at_rest.check()
    secret_function(owner)
    secrets_at_rest.check()

    reconnect(connected, NEW, OLD)
    secrets_at_rest.check()
    for keys in ([], [NEW]):
        reconnect(connected, *keys)
        with pytest.raises(SettingsError, match=r"^SECRET_KEYS: .*VAR_DIR/secret.key") as caught:
            secrets_at_rest.check()
        assert SecretKeys([OLD]).fingerprints[0] in str(caught.value)
        assert OLD not in str(caught.value)


def test_the_check_reads_an_index_only(connected: Settings) -> None:
    if connected.database_url:
        pytest.skip("the plan of PostgreSQL depends on the size of the table")
    with database.reading():
        plan = database.engine().execute_sql(
            "EXPLAIN QUERY PLAN SELECT DISTINCT substr(callback_secret, 1, 16) FROM functions"
            " WHERE callback_secret IS NOT NULL"
        )
        assert "functions_callback_secret" in str(plan.fetchall())


def test_all_secrets_get_the_first_key(
    connected: Settings, owner: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets_at_rest, "_PAGE", 2)
    ids = [secret_function(owner, f"secret {number}") for number in range(5)]
    reconnect(connected, NEW, OLD)

    assert secrets_at_rest.reencrypt() == (5, 0)
    assert secrets_at_rest.reencrypt() == (0, 0)

    reconnect(connected, NEW)
    secrets_at_rest.check()
    assert [plain(function_id) for function_id in ids] == [f"secret {number}" for number in range(5)]


def test_secrets_of_webhooks_are_checked_and_get_the_first_key(connected: Settings, owner: Context) -> None:
    function_id = make_function(owner, make_runtime(owner).id).id
    signature = {"scheme": "github", "secrets": ["one", "two"]}
    made = webhook.create(owner, function_id=function_id, signature=signature)
    reconnect(connected, NEW)
    with pytest.raises(SettingsError, match="SECRET_KEYS"):
        secrets_at_rest.check()
    reconnect(connected, NEW, OLD)

    assert secrets_at_rest.reencrypt() == (1, 0)

    reconnect(connected, NEW)
    secrets_at_rest.check()
    row = webhook.get(owner, made.id)
    assert webhook.secrets_of(row) == ("one", "two")
    assert row.signature == {"scheme": "github", "tolerance_s": 300, "secrets": 2}


@pytest.mark.parametrize(
    ("table", "column"), [("functions", "callback_secret"), ("webhooks", "signature_secrets")]
)
def test_each_column_of_secrets_has_an_index(connected: Settings, table: str, column: str) -> None:
    assert (table, column) in secrets_at_rest._STORED
    with database.reading():
        indexes = [index.name for index in database.engine().get_indexes(table)]
    assert f"{table}_{column}" in indexes


def test_an_interrupted_change_of_keys_goes_on(
    connected: Settings, owner: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets_at_rest, "_PAGE", 2)
    ids = [secret_function(owner) for _ in range(5)]
    reconnect(connected, NEW, OLD)
    replace_page = secrets_at_rest._replace
    pages = iter(range(5))

    def interrupted(*page: object) -> int:
        if next(pages):
            raise KeyboardInterrupt
        return replace_page(*page)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(secrets_at_rest, "_replace", interrupted)
        secrets_at_rest.reencrypt()

    assert {plain(function_id) for function_id in ids} == {SECRET}
    assert secrets_at_rest.reencrypt() == (3, 0)


def test_a_secret_that_changes_meanwhile_is_left_alone(
    connected: Settings, owner: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    function_id = secret_function(owner)
    reconnect(connected, NEW, OLD)
    replace_page = secrets_at_rest._replace

    def after_a_change(*page: object) -> int:
        function.update(owner, function_id, {"callback_secret": "another"})
        return replace_page(*page)

    monkeypatch.setattr(secrets_at_rest, "_replace", after_a_change)

    assert secrets_at_rest.reencrypt() == (0, 0)
    assert plain(function_id) == "another"


def test_unreadable_secrets_are_counted_and_kept(connected: Settings, owner: Context) -> None:
    function_id = secret_function(owner)
    before = stored(function_id)
    reconnect(connected, NEW)

    assert secrets_at_rest.reencrypt() == (0, 1)
    assert stored(function_id) == before


def test_keys_can_be_changed_only_with_keys(connected: Settings) -> None:
    reconnect(connected)

    with pytest.raises(NotSupported, match="SECRET_KEYS"):
        secrets_at_rest.reencrypt()
