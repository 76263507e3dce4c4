"""Chooses the database engine by the scheme of `DATABASE_URL`."""

from __future__ import annotations

from qinling_falcon.models.engines.base import Engine
from qinling_falcon.models.engines.postgres import Postgres
from qinling_falcon.models.engines.sqlite import Sqlite
from qinling_falcon.settings import Settings, SettingsError


def make_engine(settings: Settings) -> Engine:
    """The database of `DATABASE_URL`.

    Raises:
        SettingsError: a URL that names no database we know.
    """
    url = settings.effective_database_url
    if url.startswith("sqlite:///"):
        path = url.removeprefix("sqlite:///")
        if not path or ":memory:" in path:
            raise SettingsError(f"DATABASE_URL={url}: expected `sqlite:///` and the path of a file")
        return Sqlite(path, settings)
    if url.startswith(("postgresql://", "postgres://")):
        return Postgres(url, settings)
    raise SettingsError(f"DATABASE_URL={url.partition(':')[0]}:…: expected `postgresql://…` or `sqlite:///path`")
