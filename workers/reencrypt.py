"""Encrypts all stored secrets with the first key of `SECRET_KEYS`: `python -m workers.reencrypt`.

It may run while the service runs, and repeatedly. Afterwards the other keys can be removed from `SECRET_KEYS`.
"""

from __future__ import annotations

import sys

from qinling_falcon.errors import QinlingError
from qinling_falcon.models import database, secrets_at_rest
from qinling_falcon.settings import SettingsError
from qinling_falcon.settings_environment import get_settings


def main() -> int:
    """Re-encrypt. Returns the exit status: 1 if a secret could not be read, or the database is away."""
    try:
        database.connect(get_settings())
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 1
    try:
        outcome = secrets_at_rest.reencrypt()
    except QinlingError as error:
        print(error.message, file=sys.stderr)
        return 1
    finally:
        database.disconnect()
    print(f"secrets encrypted with the first key: {outcome.changed}")
    if outcome.unreadable:
        print(f"secrets that no key of SECRET_KEYS can read: {outcome.unreadable}", file=sys.stderr)
    return 1 if outcome.unreadable else 0


if __name__ == "__main__":
    sys.exit(main())
