"""Checks which keys the stored secrets need, and re-encrypts them with the first key of `SECRET_KEYS`.

Release, web and tasks call `check_at_start` (or `check`), so that a missing key is noticed before a secret is needed.
`python -m workers.reencrypt` calls `reencrypt`, after which older keys are not needed any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import peewee

from qinling_falcon.errors import Unavailable
from qinling_falcon.models import database
from qinling_falcon.models.secret_keys import FINGERPRINT_LENGTH, SecretUnreadable
from qinling_falcon.settings import Settings, SettingsError

# Every column that holds secrets: table and column. Each one has an index on the fingerprints (see its migration).
_STORED = (("functions", "callback_secret"), ("webhooks", "signature_secrets"))
_PAGE = 100


class Reencrypted(NamedTuple):
    """The outcome of `reencrypt`.

    Attributes:
        changed: how many secrets were encrypted anew.
        unreadable: how many stayed as they were, because no key decrypts them.
    """

    changed: int
    unreadable: int


def check_at_start(settings: Settings) -> None:
    """Connect to the database, run `check`, and disconnect. For processes that have no connection at this point.

    Raises:
        SettingsError, Unavailable: as `check`.
    """
    database.connect(settings)
    try:
        check()
    finally:
        database.disconnect()


def check() -> None:
    """Check that `SECRET_KEYS` has the key of each stored secret. This reads an index and decrypts nothing.

    Raises:
        SettingsError: keys are missing; the message names their fingerprints.
        Unavailable: the database is away, or not migrated yet.
    """
    needed: set[str] = set()
    try:
        with database.reading():
            for table, column in _STORED:
                rows = database.engine().execute_sql(
                    f"SELECT DISTINCT substr({column}, 1, {FINGERPRINT_LENGTH}) FROM {table}"
                    f" WHERE {column} IS NOT NULL"
                )
                needed |= {fingerprint for (fingerprint,) in rows.fetchall()}
    except peewee.DatabaseError as error:
        raise Unavailable(f"The stored secrets can't be checked: {error}") from error
    missing = sorted(needed.difference(database.secret_keys().fingerprints))
    if missing:
        raise SettingsError(
            "SECRET_KEYS: the database holds secrets that none of these keys can read. They were encrypted with the"
            f" key{'s' if len(missing) > 1 else ''} with the fingerprint {', '.join(missing)}. Add it at the end of"
            " SECRET_KEYS (`make run` kept its key in VAR_DIR/secret.key)"
        )


def reencrypt() -> Reencrypted:
    """Encrypt all stored secrets with the first key, a page at a time.

    An interrupted call leaves each secret readable, and the next call goes on. A secret that a request changes
    meanwhile is left as the request has written it.

    Raises:
        NotSupported: `SECRET_KEYS` is not set.
        Unavailable: see `transact`.
    """
    changed = unreadable = 0
    keys = database.secret_keys()
    keys.encrypt("")  # which raises without keys
    for table, column in _STORED:
        for page in _pages(table, column):
            renewed = []
            for row_id, stored in page:
                try:
                    if not keys.is_current(stored):
                        renewed.append((keys.encrypt(keys.decrypt(stored)), row_id, stored))
                except SecretUnreadable:
                    unreadable += 1
            changed += _replace(table, column, renewed)
    return Reencrypted(changed, unreadable)


def _pages(table: str, column: str) -> Iterator[list[tuple[str, str]]]:
    last = ""
    while True:
        with database.reading():
            engine = database.engine()
            page = engine.execute_sql(
                f"SELECT id, {column} FROM {table} WHERE {column} IS NOT NULL AND id > {engine.param}"
                f" ORDER BY id LIMIT {_PAGE}",
                (last,),
            ).fetchall()
        if not page:
            return
        yield page
        last = page[-1][0]


def _replace(table: str, column: str, renewed: list[tuple[str, str, str]]) -> int:
    """Write new texts of secrets, each a tuple of the new text, the row's id and the old text."""

    def write() -> int:
        engine = database.engine()
        sql = f"UPDATE {table} SET {column} = {engine.param} WHERE id = {engine.param} AND {column} = {engine.param}"
        return sum(engine.execute_sql(sql, change).rowcount for change in renewed)

    return database.transact(write) if renewed else 0
