"""Logs the service's user in at Keystone, for the processes that act as this user: `release` and `make run`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qinling_falcon.openstack import credentials
from qinling_falcon.settings import Settings

if TYPE_CHECKING:
    from keystoneauth1.access import AccessInfo


class Away(Exception):
    """Keystone does not answer, so the API can't authenticate callers."""


class Refused(Exception):
    """Keystone refuses the service's own user, or there is no Keystone at that URL."""


def log_in(settings: Settings) -> AccessInfo:
    """Get a token of the service's user in its project.

    Raises:
        Away: Keystone does not answer, or another server answers at its URL.
        Refused: Keystone refuses the service's user. The service then can't validate tokens of users either.
    """
    from keystoneauth1 import exceptions, session  # a quarter of a second
    from keystoneauth1.identity import v3

    account = v3.Password(**credentials(settings), include_catalog=False)
    verify: str | bool = True if settings.os_cacert is None else str(settings.os_cacert)
    # No redirects, because they would send the password to another server.
    keystone = session.Session(account, verify=verify, timeout=settings.keystone_timeout_s, redirect=False)
    try:
        access: AccessInfo = account.get_access(keystone)
    except exceptions.HttpError as error:
        if error.http_status == 404:
            raise Refused(f"There is no Keystone at OS_AUTH_URL={settings.os_auth_url}: 404") from error
        if error.http_status >= 500:
            raise Away(f"Keystone at {settings.os_auth_url} answers {error.http_status}") from error
        raise Refused(
            f"Keystone at {settings.os_auth_url} refuses OS_USERNAME={settings.os_username} with"
            f" OS_PROJECT_NAME={settings.os_project_name}: {error.message}"
        ) from error
    except exceptions.InvalidResponse as error:
        status = error.response.status_code
        raise Away(f"The server at {settings.os_auth_url} is not a Keystone: it answered {status}") from error
    except exceptions.ClientException as error:
        raise Away(f"Keystone at {settings.os_auth_url} does not answer") from error
    return access
