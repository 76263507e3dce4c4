"""The `release` step: migrates the database, checks `SECRET_KEYS` and registers the local runtimes.

python -m workers.release

It may run repeatedly, and several times at once. Existing runtimes stay as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from qinling_falcon.errors import QinlingError, Unavailable
from qinling_falcon.models import database, runtime, secrets_at_rest
from qinling_falcon.models.migrate import MigrationFailed, migrate
from qinling_falcon.models.scope import Context
from qinling_falcon.orchestrators import runtime_table
from qinling_falcon.settings import Settings, SettingsError
from qinling_falcon.settings_environment import get_settings
from workers.exit_codes import DATABASE_FAILED, REGISTRATION_FAILED, SECRETS_UNREADABLE
from workers.service_user import Away, Refused, log_in


def main() -> int:
    """Migrate, check and register. Results go to standard output, failures to standard error. Returns the status."""
    try:
        settings = get_settings()
        wanted = runtime_table.registered(settings) if settings.register_runtimes else []
        applied = migrate(settings)
    except (MigrationFailed, SettingsError) as error:
        print(error, file=sys.stderr)
        return DATABASE_FAILED
    print(f"database: {', '.join(applied) or 'nothing to migrate'}", flush=True)
    try:
        secrets_at_rest.check_at_start(settings)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return SECRETS_UNREADABLE
    except Unavailable as error:
        print(error, file=sys.stderr)
        return DATABASE_FAILED
    try:
        made = register(settings, wanted)
    except Away as error:
        # A release must not fail because Keystone is away for a moment.
        print(
            f"{error}. Local runtimes were not registered; the next release registers the missing ones.",
            file=sys.stderr,
        )
    except (Refused, QinlingError, SettingsError) as error:
        print(f"Local runtimes can't be registered: {error}", file=sys.stderr)
        return REGISTRATION_FAILED
    else:
        print(f"runtimes: {', '.join(made) or 'nothing to register'}")
    return 0


def register(settings: Settings, wanted: Sequence[tuple[str, str]]) -> list[str]:
    """Register the missing local runtimes in the project of the service's user.

    Args:
        settings: the settings.
        wanted: the local runtimes, as pairs of name and image.

    Returns:
        The names of the runtimes that were registered.

    Raises:
        Away, Refused: the service's user can't log in.
        QinlingError: the database went away.
    """
    if not wanted:
        return []
    context = _service_context(settings)
    database.connect(settings)
    try:
        missing = runtime.unregistered(context, wanted)
        if not missing:
            return []
        from qinling_falcon.auth.policy import Policy  # a quarter of a second

        if not Policy(settings.policy_file).allows(context, "runtime:create"):
            for name, image in missing:
                print(
                    f"Runtime {name} is not registered: the policy (runtime:create) does not let"
                    f" {settings.os_username or 'this user'} do that. A user with this permission can register it:"
                    f" openstack runtime create {image} --name {name}",
                    file=sys.stderr,
                )
            return []
        return runtime.register(context, missing)
    finally:
        database.disconnect()


def _service_context(settings: Settings) -> Context:
    """The context for registering: the service's user, or the admin of the only project with `AUTH_MODE=noauth`."""
    if settings.auth_mode == "noauth":
        from qinling_falcon.auth.noauth import EVERYBODY

        return EVERYBODY.context
    access = log_in(settings)
    if access.project_id is None:
        raise Refused(f"Keystone at {settings.os_auth_url} gave a token without a project")
    return Context(access.project_id, user_id=access.user_id, roles=tuple(sorted(set(access.role_names or ()))))


if __name__ == "__main__":
    sys.exit(main())
