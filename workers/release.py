"""The `release` step: migrates the database and registers the local runtimes. `python -m workers.release`.

It may run again and again, also twice at once: what is there stays as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from qinling_falcon.errors import QinlingError
from qinling_falcon.models import database, runtime
from qinling_falcon.models.migrate import MigrationFailed, migrate
from qinling_falcon.models.scope import Context
from qinling_falcon.orchestrators.process import images
from qinling_falcon.settings import Settings, SettingsError, get_settings
from workers.exit_codes import DATABASE_FAILED, REGISTRATION_FAILED
from workers.service_user import Away, Refused, log_in


def main() -> int:
    """Do both, and say what was done on standard output, and what could not be done on standard error."""
    try:
        settings = get_settings()
        wanted = images.registered(settings) if settings.register_runtimes else []
        applied = migrate(settings)
    except (MigrationFailed, SettingsError) as error:
        print(error, file=sys.stderr)
        return DATABASE_FAILED
    print(f"database: {', '.join(applied) or 'nothing to migrate'}", flush=True)
    try:
        made = register(settings, wanted)
    except Away as error:
        # A Keystone that is away for a moment must not fail a release.
        print(
            f"{error}. Local runtimes were not registered; a later release registers those that are missing.",
            file=sys.stderr,
        )
    except (Refused, QinlingError, SettingsError) as error:
        print(f"Local runtimes can't be registered: {error}", file=sys.stderr)
        return REGISTRATION_FAILED
    else:
        print(f"runtimes: {', '.join(made) or 'nothing to register'}")
    return 0


def register(settings: Settings, wanted: Sequence[tuple[str, str]]) -> list[str]:
    """Register the local runtimes that are missing, in the project of the service's own user.

    Args:
        settings: those of all processes.
        wanted: the local runtimes, as (name, image).

    Returns:
        The names of those that were registered now.

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
                    f" {settings.os_username or 'everybody'} do that. Whom it lets does it by:"
                    f" openstack runtime create {image} --name {name}",
                    file=sys.stderr,
                )
            return []
        return runtime.register(context, missing)
    finally:
        database.disconnect()


def _service_context(settings: Settings) -> Context:
    """Who registers: the service's own user, or everybody where nobody logs in."""
    if settings.auth_mode == "noauth":
        from qinling_falcon.auth.noauth import EVERYBODY

        return EVERYBODY.context
    access = log_in(settings)
    if access.project_id is None:
        raise Refused(f"Keystone at {settings.os_auth_url} gave a token of no project")
    return Context(access.project_id, user_id=access.user_id, roles=tuple(sorted(set(access.role_names or ()))))


if __name__ == "__main__":
    sys.exit(main())
