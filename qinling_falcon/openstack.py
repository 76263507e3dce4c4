"""The service's own account in OpenStack, and where Swift is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qinling_falcon.settings import Settings

if TYPE_CHECKING:
    from keystoneauth1.access import AccessInfo

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


def identity_url(url: str) -> str:
    """Keystone's URL with the version of its API that is used; users often leave it out."""
    url = url.rstrip("/")
    return url if url.endswith("/v3") else f"{url}/v3"


def object_store_url(access: AccessInfo, settings: Settings) -> str | None:
    """The account of a token's project in Swift, by `OS_REGION_NAME` and `OS_INTERFACE`; None: there is none."""
    urls = access.service_catalog.get_urls(
        OBJECT_STORE, interface=settings.os_interface, region_name=settings.os_region_name
    )
    return urls[0] if urls else None
