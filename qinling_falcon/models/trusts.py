"""Which trusts rows name, and those that none names any more.

A function and the versions that were made of it share a trust, so that the last row to name one decides. It is doomed
in the transaction that takes that name away, and its row in `doomed_trusts` goes when Keystone has deleted it: nothing
that ends in between, this process or Keystone, makes a trust outlive its function for ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from qinling_falcon.models import clock
from qinling_falcon.models.database import reading, transact
from qinling_falcon.models.internal_tables import DoomedTrust
from qinling_falcon.models.scope import system
from qinling_falcon.models.tables import Function, Version

# Longer than any request takes from its trust to its row.
_UNTIL_DOOMED = timedelta(hours=1)


def expect(trust_id: str) -> None:
    """A trust was made for a row that is about to be written. It is doomed, should none name it after an hour."""
    later = clock.now() + _UNTIL_DOOMED
    transact(lambda: DoomedTrust.insert(id=trust_id, created_at=later).execute())


def named(trust_id: str | None) -> None:
    """A row names it from now on; in the transaction that writes the row."""
    if trust_id is not None:
        DoomedTrust.delete().where(DoomedTrust.id == trust_id).execute()


def doom(trust_ids: Iterable[str | None]) -> None:
    """Note those that no row names, to be deleted; in the transaction that took a row's name away."""
    for trust_id in trust_ids:
        if trust_id is not None and not _is_named(trust_id):
            named(trust_id)
            DoomedTrust.insert(id=trust_id).execute()


def doom_unnamed(trust_id: str) -> None:
    """Note a trust that was made for a row that may not have come to be; without this, `expect` has it doomed later."""
    transact(lambda: doom([trust_id]))


def doomed() -> list[str]:
    """What is to be deleted. A trust that is named all the same, by a write whose outcome was unknown, is not."""
    with reading():
        rows = DoomedTrust.select().where(DoomedTrust.created_at <= clock.now()).order_by(DoomedTrust.created_at)
        return [row.id for row in rows if not _is_named(row.id)]


def deleted(trust_id: str) -> None:
    """Keystone doesn't know it any more. A crash before it has the trust asked for once more, which is no harm."""
    transact(lambda: DoomedTrust.delete().where(DoomedTrust.id == trust_id).execute())


def _is_named(trust_id: str) -> bool:
    scope = system("a trust is of the rows that name it")
    return bool(
        scope.functions().where(Function.trust_id == trust_id).exists()
        or scope.versions().where(Version.trust_id == trust_id).exists()
    )
