"""Adds what webhooks accept and how: methods, paths, answers, signatures and rate limits."""

from typing import Any

from peewee import PostgresqlDatabase


def up(migrator: Any, db: Any) -> None:
    """Add the columns. Existing webhooks take unsigned POST requests and run their functions later."""
    is_postgresql = isinstance(db, PostgresqlDatabase)
    collation = ' COLLATE "C"' if is_postgresql else ""
    json, yes, no = ("JSONB", "TRUE", "FALSE") if is_postgresql else ("JSON", "1", "0")
    for column in (
        f"methods {json} NOT NULL DEFAULT '[\"POST\"]'",
        f"subpaths BOOLEAN NOT NULL DEFAULT {no}",
        f"pass_request BOOLEAN NOT NULL DEFAULT {no}",
        f"sync BOOLEAN NOT NULL DEFAULT {no}",
        f"enabled BOOLEAN NOT NULL DEFAULT {yes}",
        f"cors {json}",
        f"signature_scheme VARCHAR(32){collation}",
        "signature_tolerance_s INTEGER",
        f"signature_secrets TEXT{collation}",
        "signature_secret_count INTEGER NOT NULL DEFAULT 0",
        "rate_per_minute INTEGER",
        "rate_burst INTEGER",
    ):
        db.execute_sql(f"ALTER TABLE webhooks ADD COLUMN {column}")
    # The fingerprints of the keys that encrypted the secrets (see models/secret_keys.py).
    db.execute_sql(
        "CREATE INDEX webhooks_signature_secrets ON webhooks (substr(signature_secrets, 1, 16))"
        " WHERE signature_secrets IS NOT NULL"
    )
