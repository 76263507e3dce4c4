"""The service's own account in OpenStack."""

from __future__ import annotations

from typing import Any

from qinling_falcon.settings import Settings

OBJECT_STORE = "object-store"


def credentials(settings: Settings) -> dict[str, Any]:
    """The service's own user, as keystoneauth's `v3.Password` takes it. Ids of domains count more than names."""
    account: dict[str, Any] = {
        "auth_url": settings.os_auth_url,
        "username": settings.os_username,
        "password": settings.os_password,
        "project_name": settings.os_project_name,
    }
    for whose in ("user", "project"):
        domain_id = getattr(settings, f"os_{whose}_domain_id")
        if domain_id is not None:
            account[f"{whose}_domain_id"] = domain_id
        else:
            account[f"{whose}_domain_name"] = getattr(settings, f"os_{whose}_domain_name")
    return account
